import io

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import Dataset
from pydicom.pixels import apply_windowing
from scipy import stats
from skimage.exposure import rescale_intensity

from medspark.errors import StepError
from medspark.frame import Frame, Window
from medspark.ops import Op, bind
from medspark.readers import read_image
from medspark.steps import STEPS
from medspark.steps.intensity import clahe, rescale_percentile, to_uint8, window, zscore

NUMBERS = [np.uint16, np.int16, np.int32, np.float32, np.float64]
windows = st.builds(
    Window,
    st.integers(-15000, 15000).map(lambda tenths: tenths / 10),  # as many digits as DICOM's decimal string takes
    st.integers(10, 50000).map(lambda tenths: tenths / 10),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
ct = arrays(np.int16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(-2048, 4095))


def noise(dtype, shape=(60, 50), scale=900):
    signed = np.dtype(dtype).kind != "u"
    return (
        np.random.default_rng(3).normal(0 if signed else 3 * scale, scale, shape).clip(0 - signed * 2**15).astype(dtype)
    )


def as_pydicom_displays(image, shown):
    """Grey values 0 to 255, not rounded."""
    file = Dataset()
    file.PhotometricInterpretation = "MONOCHROME2"
    file.BitsStored, file.PixelRepresentation = 16, 1
    file.RescaleSlope, file.RescaleIntercept = 1, 0
    file.WindowCenter, file.WindowWidth, file.VOILUTFunction = (
        shown.center,
        shown.width,
        shown.function,
    )
    with np.errstate(over="ignore"):  # pydicom's sigmoid, far from the center
        return (apply_windowing(image, file) + 2**15) / (2**16 - 1) * 255


# The examples of PS3.3 C.11.2.1.2.1 and C.11.2.1.3.2: at and beyond the ends, and in the middle.
@pytest.mark.parametrize(
    ("center", "width", "function", "values", "shown"),
    [
        (2048, 4096, "LINEAR", [-1, 0, 1, 2047, 2048, 4095, 4096], [0, 0, 0, 127, 128, 255, 255]),
        (2048, 1, "LINEAR", [2046, 2047, 2048, 2049], [0, 0, 255, 255]),
        (0, 100, "LINEAR", [-51, -50, -49, 0, 48, 49, 50], [0, 0, 3, 129, 252, 255, 255]),
        (0, 1, "LINEAR", [-1, 0], [0, 255]),
        (2048, 4096, "LINEAR_EXACT", [0, 1024, 2048, 3072, 4096], [0, 64, 128, 191, 255]),
        (0, 100, "LINEAR_EXACT", [-51, -50, -49, 0, 49, 50], [0, 0, 3, 128, 252, 255]),
        (0, 0.5, "LINEAR_EXACT", [-1, 0, 1], [0, 128, 255]),
        (0, 100, "SIGMOID", [-32000, -50, 0, 50, 32000], [0, 30, 128, 225, 255]),
    ],
)
def test_windows_give_what_the_standard_computes_by_hand(center, width, function, values, shown):
    image = np.array([values], np.int16)
    result = to_uint8(image, window=Window(center, width, function))
    assert result.dtype == np.uint8
    assert result.tolist() == [shown]


def test_the_window_of_all_8_bit_values_changes_nothing():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_uint8(image, window=Window(128, 256)), image)


@given(ct, windows)
def test_windows_are_those_of_pydicom_rounded_to_the_nearest(image, shown):
    exact = as_pydicom_displays(image, shown)
    assert abs(to_uint8(image, window=shown) - exact).max() <= 0.5 + 1e-6


@given(ct, windows)
def test_the_table_for_integers_gives_what_floats_give_without_one(image, shown):
    np.testing.assert_array_equal(to_uint8(image, window=shown), to_uint8(image.astype(np.float64), window=shown))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32])
def test_a_window_takes_the_ends_of_integer_dtypes(dtype):
    ends = np.iinfo(dtype)
    image = np.array([[ends.min, ends.max]] * 40_000, dtype)  # 16 bit: by table; 32 bit: without
    assert np.unique(to_uint8(image, window=Window(100, 50)), axis=0).tolist() == [[0, 255]]


def test_a_recipe_takes_window_and_inversion_from_the_file():
    image = np.array([[-160, 40, 239]], np.int16)
    frame = Frame(image, window=Window(40, 400), is_inverted=True)
    assert bind(Op("to_uint8"), STEPS)(image, frame).tolist() == [[255, 127, 0]]
    assert bind(Op("to_uint8", {"is_inverted": False}), STEPS)(image, frame).tolist() == [[0, 128, 255]]


@given(ct, windows)
def test_inverted_means_255_minus_the_grey_value(image, shown):
    np.testing.assert_array_equal(to_uint8(image, window=shown, is_inverted=True), 255 - to_uint8(image, window=shown))


def test_8_bit_images_stay_as_they_are_without_a_window():
    image = np.array([[3, 5], [200, 7]], np.uint8)
    np.testing.assert_array_equal(to_uint8(image), image)
    np.testing.assert_array_equal(to_uint8(image, is_inverted=True), [[252, 250], [55, 248]])


@pytest.mark.parametrize("shown", [None, Window(40, 400)])
def test_a_mask_of_bool_becomes_0_and_255(shown):
    result = to_uint8(np.array([[True, False]]), window=shown)
    assert (result.dtype, result.tolist()) == (np.uint8, [[255, 0]])


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(("low", "high"), [(1, 99), (0, 100), (25, 60.5)])
def test_all_else_is_stretched_between_percentiles_as_scikit_image_does_and_rounded(dtype, low, high):
    image = noise(dtype)
    limits = tuple(np.percentile(image, (low, high)))
    exact = rescale_intensity(image.astype(np.float64), in_range=limits, out_range=(0, 255))
    result = to_uint8(image, low=low, high=high)
    assert result.dtype == np.uint8
    assert {0, 255} <= set(result.flat)
    np.testing.assert_array_equal(result, np.rint(exact))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("value", [0, 700])
def test_constant_images_become_0(dtype, value):
    assert not to_uint8(np.full((4, 5), value, dtype)).any()


def test_a_few_bright_pixels_stay_visible_where_the_percentiles_coincide():
    image = np.zeros((30, 30), np.uint16)
    image[4, 5] = 9
    np.testing.assert_array_equal(to_uint8(image), np.where(image, 255, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [to_uint8, rescale_percentile, zscore, lambda image: window(image, center=0, width=9)])
def test_pixels_that_are_no_numbers_are_refused(step, value):
    with pytest.raises(StepError, match="NaN or infinite pixels"):
        step(np.array([[1, value, 3]], np.float32))


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (Window(40, 0), "to_uint8: the width of a LINEAR window must be at least 1, got 0"),
        (Window(40, 0.5), "to_uint8: the width of a LINEAR window must be at least 1, got 0.5"),
        (Window(40, 0, "SIGMOID"), "to_uint8: the width of a SIGMOID window must be above 0, got 0"),
        (Window(40, -3, "LINEAR_EXACT"), "to_uint8: the width of a LINEAR_EXACT window must be above 0, got -3"),
        (Window(np.nan, 400), "to_uint8: a window needs finite numbers, got center nan and width 400"),
        (Window(40, np.inf), "to_uint8: a window needs finite numbers, got center 40 and width inf"),
        (Window(40, 400, "CUBIC"), "must be one of LINEAR, LINEAR_EXACT, SIGMOID, got 'CUBIC'"),
    ],
)
def test_windows_that_the_standard_does_not_allow_are_refused(shown, message):
    with pytest.raises(StepError, match=message):
        to_uint8(np.zeros((2, 2), np.int16), window=shown)


@pytest.mark.parametrize("step", [to_uint8, rescale_percentile])
@pytest.mark.parametrize(("low", "high"), [(-1, 99), (1, 101), (50, 50), (99, 1), (np.nan, 99)])
def test_percentiles_out_of_order_are_refused_on_any_image(step, low, high):
    with pytest.raises(StepError, match=rf"{step.__name__}: percentiles must be .* got low {low} and high {high}"):
        step(np.zeros((2, 2), np.uint8), low=low, high=high)


@given(ct, st.floats(-1500, 1500), st.floats(1, 5000))
def test_window_is_the_linear_window_of_to_uint8(image, center, width):
    np.testing.assert_array_equal(
        window(image, center=center, width=width), to_uint8(image, window=Window(center, width))
    )


def test_window_refuses_a_width_below_1():
    with pytest.raises(StepError, match="window: the width of a LINEAR window must be at least 1, got 0"):
        window(np.zeros((2, 2), np.uint8), center=40, width=0)


@pytest.mark.parametrize("dtype", [np.uint8, *NUMBERS])
@pytest.mark.parametrize("shift", [0, 5000])  # all above 0: signed dtypes then use half their range
def test_rescale_percentile_equals_scikit_image(dtype, shift):
    image = noise(dtype, scale=30) if dtype == np.uint8 else noise(dtype) + np.array(shift, dtype)
    expected = rescale_intensity(image, in_range=tuple(np.percentile(image, (2, 98))))
    result = rescale_percentile(image, low=2, high=98)
    assert result.dtype == image.dtype
    assert expected.max() > expected.min()
    np.testing.assert_array_equal(result, expected)


def test_rescale_percentile_spreads_16_bit_over_all_of_16_bit():
    result = rescale_percentile(noise(np.uint16))
    assert (result.min(), result.max()) == (0, 65535)


@pytest.mark.parametrize("dtype", [np.uint8, *NUMBERS])
def test_zscore_equals_scipy_and_has_mean_0_and_deviation_1(dtype):
    image = noise(dtype, scale=20)
    result = zscore(image)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, stats.zscore(image.astype(np.float64), axis=None).astype(np.float32))
    assert abs(result.mean(dtype=np.float64)) < 1e-6
    assert abs(result.std(dtype=np.float64) - 1) < 1e-6


@pytest.mark.parametrize("value", [0, 7, 0.1])
def test_zscore_of_a_constant_image_is_0(value):
    result = zscore(np.full((31, 17), value))
    assert result.dtype == np.float32
    assert not result.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("clip_limit", "tiles"), [(2.0, 8), (0.5, 3), (40.0, 1)])
def test_clahe_equals_opencv(dtype, clip_limit, tiles):
    image = noise(dtype, scale=40)
    expected = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles)).apply(image)
    assert (expected != image).any()
    np.testing.assert_array_equal(clahe(image, clip_limit=clip_limit, tiles=tiles), expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"clip_limit": 0}, "clahe: clip_limit must be above 0, got 0"),
        ({"clip_limit": -1.5}, "clahe: clip_limit must be above 0, got -1.5"),
        ({"tiles": 0}, "clahe: tiles must be at least 1, got 0"),
    ],
)
def test_clahe_names_a_bad_parameter(params, message):
    with pytest.raises(StepError, match=message):
        clahe(np.zeros((9, 9), np.uint8), **params)


def test_clahe_says_what_to_do_with_hounsfield_units():
    with pytest.raises(StepError, match="clahe takes uint8 and uint16 images, got int16: put to_uint8 before it"):
        clahe(np.zeros((9, 9), np.int16))


DEEP = np.random.default_rng(1).integers(0, 2**16, (40, 50, 3)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jp2", ".pgm"])
def test_the_high_byte_of_a_16_bit_file_is_what_the_articles_read(suffix):
    content = cv2.imencode(suffix, DEEP[..., 0])[1]
    (frame,) = read_image(content.tobytes())
    shown = bind(Op("to_uint8", {"method": "high_byte"}), STEPS)(frame.pixels, frame)
    np.testing.assert_array_equal(shown, cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), strict=True)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".tiff", 1), (".jp2", 1), (".ppm", 1)])
def test_of_16_bit_colours_it_is_too_within_a_level(suffix, tolerance):
    content = cv2.imencode(suffix, DEEP)[1]
    (frame,) = read_image(content.tobytes())
    shown = to_uint8(frame.pixels, method="high_byte").astype(int)
    assert np.abs(shown - cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)).max() <= tolerance


def test_the_high_byte_where_zero_is_white_is_what_the_articles_read():
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP[..., 0], photometric="miniswhite")
    (frame,) = read_image(file.getvalue())
    shown = bind(Op("to_uint8", {"method": "high_byte"}), STEPS)(frame.pixels, frame)
    expected = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("facts", [{"modality": "CR"}, {"window": Window(2000, 4000)}])
def test_what_comes_from_dicom_is_not_cut_to_its_high_byte(facts):
    image = noise(np.uint16)
    np.testing.assert_array_equal(to_uint8(image, method="high_byte", **facts), to_uint8(image, **facts))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_only_uint16_has_a_high_byte(dtype):
    image = noise(dtype, scale=20)
    np.testing.assert_array_equal(to_uint8(image, method="high_byte"), to_uint8(image))


def test_an_unknown_method_is_refused():
    with pytest.raises(StepError, match="method must be one of percentile, high_byte, got 'low_byte'"):
        to_uint8(noise(np.uint16), method="low_byte")


def test_an_image_larger_than_a_block_is_shown_as_its_pieces_are():
    image = noise(np.int16, (700, 900))
    shown = Window(40, 400)
    pieces = [to_uint8(image[row : row + 7], window=shown) for row in range(0, 700, 7)]
    np.testing.assert_array_equal(to_uint8(image, window=shown), np.concatenate(pieces), strict=True)
