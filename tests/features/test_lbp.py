import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from skimage.feature import local_binary_pattern as by_skimage

from medspark.errors import StepError
from medspark.features import lbp as module
from medspark.features.lbp import METHODS, lbp, local_binary_pattern

CIRCLES = [(1, 1), (2, 0.3), (4, 1), (7, 1.3), (8, 1), (8, 1.5), (12, 2.5), (16, 2), (24, 3), (31, 4.2), (5, 50)]
# scikit-image warns that float images may give noisy codes: the comparison is about just those.
pytestmark = pytest.mark.filterwarnings("ignore:Applying `local_binary_pattern` to floating-point:UserWarning")

any_shape = st.tuples(st.integers(1, 40), st.integers(1, 40))
any_circle = st.sampled_from(CIRCLES) | st.tuples(st.integers(1, 31), st.floats(1e-6, 20))
any_image = st.one_of(
    npst.arrays(np.uint8, any_shape),
    npst.arrays(np.uint16, any_shape),
    npst.arrays(np.int16, any_shape),
    npst.arrays(np.float32, any_shape, elements=st.floats(-1e6, 1e6, width=32)),
    npst.arrays(np.float64, any_shape, elements=st.floats(-1e6, 1e6)),
)


def noise(dtype, *, shape=(61, 47), seed=0):
    high = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return (np.random.default_rng(seed).random(shape) * high).astype(dtype)


def median_filtered():
    return cv2.medianBlur(noise(np.uint8), 5)


def three_levels(dtype=np.uint8):
    return (np.random.default_rng(1).integers(0, 3, (61, 47)) * 97 + 11).astype(dtype)


def blocks(dtype):
    return np.kron(noise(dtype, shape=(10, 8)), np.ones((6, 6))).astype(dtype)


TIES = {
    "median-filtered": median_filtered(),
    "three levels": three_levels(),
    "three levels of floats": three_levels(np.float64) / 7,
    "blocks of 16 bits": blocks(np.uint16),
    "blocks of floats": blocks(np.float32),
    "constant": np.full((61, 47), 201, np.uint8),
    "constant 16 bits": np.full((61, 47), 65535, np.uint16),
    "black": np.zeros((61, 47), np.uint8),
}


def assert_equals_skimage(image, points, radius, method):
    ours = local_binary_pattern(image, points=points, radius=radius, method=method)
    assert ours.dtype == np.float64
    np.testing.assert_array_equal(ours, by_skimage(image, points, radius, method))


@settings(deadline=None, max_examples=300)
@given(any_image, any_circle, st.sampled_from(METHODS))
def test_codes_equal_those_of_scikit_image_for_any_image(image, circle, method):
    assert_equals_skimage(image, *circle, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("circle", CIRCLES, ids=str)
@pytest.mark.parametrize("name", TIES)
def test_ties_are_decided_as_in_scikit_image(name, circle, method):
    assert_equals_skimage(TIES[name], *circle, method)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("circle", [(8, 1), (16, 2), (24, 3)], ids=str)
def test_codes_equal_those_of_scikit_image_far_from_the_origin(dtype, circle):
    assert_equals_skimage(blocks(dtype).repeat(4, axis=0).repeat(9, axis=1)[:, :500], *circle, "uniform")


@pytest.mark.parametrize("method", ["uniform", "nri_uniform", "var"])
def test_sixty_three_points_are_as_exact_as_eight(method):
    assert_equals_skimage(median_filtered(), 63, 5.5, method)


def test_a_radius_is_not_rounded_to_single_precision():
    assert_equals_skimage(noise(np.uint16, shape=(90, 90)), 16, 40.123456789, "var")


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_images_smaller_than_the_circle_are_taken(shape, method):
    assert_equals_skimage(noise(np.uint8, shape=shape), 24, 3, method)


def test_views_and_read_only_images_give_the_codes_of_a_plain_copy():
    whole = noise(np.uint16)
    view = whole[::2, ::-3]
    expected = by_skimage(view, 8, 1, "uniform")
    locked = view.copy()
    locked.flags.writeable = False
    for image in (view, np.asfortranarray(view), locked):
        np.testing.assert_array_equal(local_binary_pattern(image, points=8, radius=1), expected)


def test_the_image_is_left_as_it_was():
    image = noise(np.float64)
    before = image.copy()
    lbp(image)
    np.testing.assert_array_equal(image, before)


def test_four_samples_of_a_3_x_3_image_worked_by_hand():
    image = np.array([[9, 1, 9], [7, 5, 3], [9, 5, 9]], np.uint8)
    # Right 3 < 5, up 1 < 5, left 7 >= 5, below 5 >= 5: bits 2 and 3.
    assert local_binary_pattern(image, points=4, radius=1, method="default")[1, 1] == 4 + 8
    assert local_binary_pattern(image, points=4, radius=1, method="ror")[1, 1] == 1 + 2
    assert local_binary_pattern(image, points=4, radius=1)[1, 1] == 2
    # The mean of the four is 4, their squared distances from it are 1, 9, 9 and 1.
    assert local_binary_pattern(image, points=4, radius=1, method="var")[1, 1] == 5


@settings(deadline=None, max_examples=100)
@given(any_image, st.sampled_from([(1, 1), (7, 1.3), (8, 1), (8, 2.5)]), st.sampled_from(METHODS[:4]))
def test_shares_equal_the_histogram_of_the_codes_of_scikit_image(image, circle, method):
    points, radius = circle
    codes = by_skimage(image, points, radius, method).astype(int)
    found = lbp(image, points=points, radius=radius, method=method)
    bins = [int(name.rsplit("_", 1)[1]) for name in found]
    assert bins == sorted(bins)
    counts = np.bincount(codes.ravel(), minlength=bins[-1] + 1)
    assert list(found.values()) == (counts[bins] / codes.size).tolist()
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("circle", [(16, 2), (24, 3), (63, 8)], ids=str)
def test_shares_of_many_points_equal_the_histogram_too(circle):
    image = median_filtered()
    counts = np.bincount(by_skimage(image, *circle, "uniform").astype(int).ravel(), minlength=circle[0] + 2)
    assert list(lbp(image, points=circle[0], radius=circle[1]).values()) == (counts / image.size).tolist()


def test_variance_is_summed_up_in_five_numbers_with_nan_as_none():
    image = np.pad(noise(np.uint8, shape=(9, 9)), 9)
    variances = by_skimage(image, 8, 1, "var")
    assert np.isnan(variances).any()
    known = np.nan_to_num(variances)
    assert lbp(image, method="var") == {
        "lbp_p8_r1_var_mean": known.mean(),
        "lbp_p8_r1_var_std": known.std(),
        "lbp_p8_r1_var_p10": np.quantile(known, 0.1),
        "lbp_p8_r1_var_p50": np.quantile(known, 0.5),
        "lbp_p8_r1_var_p90": np.quantile(known, 0.9),
    }


def test_columns_are_named_by_points_radius_method_and_code():
    image = noise(np.uint8)
    assert list(lbp(image)) == [f"lbp_p8_r1_{code:02}" for code in range(10)]
    assert next(iter(lbp(image, radius=1.5))) == "lbp_p8_r1_5_00"
    assert next(iter(lbp(image, radius=0.00001))) == "lbp_p8_r0_00001_00"
    assert list(lbp(image, method="nri_uniform")) == [f"lbp_p8_r1_nri_uniform_{code:02}" for code in range(59)]
    assert list(lbp(image, method="default"))[-1] == "lbp_p8_r1_default_255"
    assert len(lbp(image, method="ror")) == 36


def test_no_two_settings_share_a_column():
    image = noise(np.uint8, shape=(5, 5))
    settings_ = [(p, r, m) for p in (4, 8) for r in (1, 1.5, 1.05, 5, 0.1, 10) for m in METHODS]
    names = [name for p, r, m in settings_ for name in lbp(image, points=p, radius=r, method=m)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_a_whole_float_radius_has_the_columns_of_the_integer():
    image = noise(np.uint8)
    assert lbp(image, radius=2.0) == lbp(image, radius=2)


@pytest.mark.parametrize(
    ("method", "points", "columns"), [("default", 9, 512), ("ror", 12, 352), ("nri_uniform", 17, 275)]
)
def test_more_than_256_columns_are_refused_with_the_method_to_use_instead(method, points, columns):
    with pytest.raises(StepError, match=rf"{columns} columns, the limit is 256.*'uniform' \({points + 2} columns\)"):
        lbp(noise(np.uint8), points=points, method=method)


@pytest.mark.parametrize(("method", "points"), [("default", 8), ("ror", 11), ("nri_uniform", 16)])
def test_the_most_points_that_stay_within_256_columns_are_taken(method, points):
    assert len(lbp(noise(np.uint8), points=points, method=method)) <= 256


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "unifrom"}, "did you mean 'uniform'"),
        ({"method": None}, "known are: default, nri_uniform, ror, uniform, var"),
        ({"points": 0}, r"1 \.\. 63 for 'uniform', got 0"),
        ({"points": 64}, "got 64"),
        ({"points": 32, "method": "ror"}, r"1 \.\. 31 for 'ror', got 32"),
        ({"points": 8.0}, r"whole number.*got 8\.0"),
        ({"points": True}, "got True"),
        ({"radius": 0}, "above 0 and at most 100, got 0"),
        ({"radius": 101}, "got 101"),
        ({"radius": float("nan")}, "got nan"),
        ({"radius": "1"}, "got '1'"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_refused_with_what_is_allowed(params, message):
    with pytest.raises(StepError, match=message):
        lbp(noise(np.uint8), **params)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4), np.complex128),
        np.full((4, 4), np.nan),
        np.full((4, 4), np.inf, np.float32),
    ],
    ids=["colour", "empty", "complex", "nan", "infinite"],
)
def test_an_image_without_a_pattern_is_refused(image):
    with pytest.raises(StepError, match="lbp: "):
        lbp(image)


def test_the_kernel_works_where_no_compiled_code_can_be_kept(tmp_path):
    source = tmp_path / "medspark"
    shutil.copytree(Path(module.__file__).parents[1], source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "features" / "__pycache__").touch()  # a file in its place: nothing can be written beside the module
    nowhere = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull, "PATH": os.environ["PATH"]}
    code = """
import numpy as np
from medspark.features import lbp
print(lbp.__file__, lbp.lbp(np.zeros((3, 3), np.uint8))["lbp_p8_r1_08"])
"""
    command = [sys.executable, "-c", code]  # -c: the working directory stands first on the path
    done = subprocess.run(command, cwd=tmp_path, env=nowhere, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(source / "features" / "lbp.py"), "1.0"]
