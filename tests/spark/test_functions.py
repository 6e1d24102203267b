"""Steps and features as functions on a column give what the kernels give on the decoded pixels."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from builders import make_dicom, make_pixels, make_png
from pyspark.sql import functions as F

import medspark.spark.functions as image_functions
from medspark.errors import ConfigError
from medspark.features import FEATURES
from medspark.readers import read_image
from medspark.readers.raster import encode
from medspark.steps import STEPS

PARAMETERS = {
    "window": {"center": 100, "width": 150},
    "resize": {"rows": 20, "columns": 33},
    "rotate": {"degrees": 10},
    "median": {"size": 3},
    "lbp": {"points": 16, "radius": 2},
}
PIXELS = make_pixels()


@pytest.fixture(scope="module")
def applied(spark):
    """Each function of the catalogue, called once on an image and on something that is none."""
    contents = [("image", bytearray(make_png(PIXELS))), ("text", bytearray(b"no image")), ("null", None)]
    images = spark.createDataFrame(contents, "name string, content binary")
    columns = [
        getattr(image_functions, name)("content", **PARAMETERS.get(name, {})).alias(name)
        for name in image_functions.__all__
    ]
    return {row["name"]: row for row in images.select("name", *columns).collect()}


def test_every_step_and_feature_is_there_and_nothing_else():
    assert image_functions.__all__ == sorted([*STEPS, *FEATURES]) == dir(image_functions)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_gives_the_image_that_its_kernel_makes(applied, name):
    expected = STEPS[name](PIXELS, **PARAMETERS.get(name, {}))
    (frame,) = read_image(bytes(applied["image"][name]), raw=True)
    assert frame.pixels.shape == expected.shape
    np.testing.assert_array_equal(frame.pixels, expected * 255 if expected.dtype == np.bool_ else expected)


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_gives_the_numbers_of_its_kernel_under_their_names(applied, name):
    assert applied["image"][name].asDict() == FEATURES[name](PIXELS, **PARAMETERS.get(name, {}))


@pytest.mark.parametrize("name", sorted([*STEPS, *FEATURES]))
def test_what_is_no_image_gives_null(applied, name):
    for row in (applied["text"], applied["null"]):
        assert row[name] is None or set(row[name]) == {None}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, np.bool_])
def test_an_encoded_image_reads_back_as_it_was(dtype):
    image = (make_pixels() % 2).astype(dtype) if dtype is np.bool_ else make_pixels().astype(dtype) - dtype(3)
    (frame,) = read_image(encode(image), raw=True)
    np.testing.assert_array_equal(frame.pixels, image * 255 if dtype is np.bool_ else image)


def test_functions_chain_and_take_columns_too(spark):
    images = spark.createDataFrame([(bytearray(make_png(PIXELS)),)], "content binary")
    blurred = image_functions.median(F.col("content"), size=5)
    (row,) = images.select(
        image_functions.density(image_functions.canny(blurred, low=100, high=200)).alias("edges")
    ).collect()
    assert row["edges"].asDict() == {
        "density": np.count_nonzero(cv2.Canny(cv2.medianBlur(PIXELS, 5), 100, 200)) / PIXELS.size
    }


def test_the_header_of_a_dicom_object_is_known_to_the_step(spark):
    content = make_dicom(PIXELS.astype(np.uint16), WindowCenter=100, WindowWidth=50)
    images = spark.createDataFrame([(bytearray(content),)], "content binary")
    (row,) = images.select(image_functions.to_uint8("content").alias("shown")).collect()
    (frame,) = read_image(bytes(row["shown"]))
    assert frame.pixels[PIXELS < 75].max() == 0
    assert frame.pixels[PIXELS >= 125].min() == 255


def test_of_several_frames_the_first_is_taken(spark):
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([make_pixels(seed=seed) for seed in (5, 6)]), photometric="minisblack")
    images = spark.createDataFrame([(bytearray(file.getvalue()),)], "content binary")
    (row,) = images.select(image_functions.flip("content", axis="horizontal").alias("flipped")).collect()
    np.testing.assert_array_equal(read_image(bytes(row["flipped"]))[0].pixels, make_pixels(seed=5)[:, ::-1])


def test_functions_carry_the_words_of_their_kernels():
    assert image_functions.lbp.__name__ == "lbp"
    assert image_functions.lbp.__doc__ == FEATURES["lbp"].__doc__


def test_an_unknown_name_is_told_with_the_nearest_one():
    with pytest.raises(AttributeError, match=r"no step or feature is called 'medain'; did you mean 'median'\?"):
        image_functions.medain  # noqa: B018


@pytest.mark.usefixtures("spark")
def test_a_wrong_parameter_is_told_before_anything_runs():
    with pytest.raises(ConfigError, match=r"median: no parameter 'sise'; did you mean 'size'\?"):
        image_functions.median("content", sise=5)
    with pytest.raises(ConfigError, match="recipe, lbp: lbp: points"):
        image_functions.lbp("content", points=0, radius=1)
