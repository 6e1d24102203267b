import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import transform

from medspark.errors import StepError
from medspark.steps.geometry import flip, resize, rotate

INTEGERS = [np.uint8, np.uint16, np.int16, np.int32]
FLOATS = [np.float32, np.float64]


def noise(dtype, shape=(40, 30)):
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.iinfo(np.int16)
    return np.random.default_rng(11).integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shape", [(20, 15), (17, 64), (40, 30), (1, 1)])
def test_resize_equals_scikit_image_rounded(dtype, shape):
    result = resize(noise(dtype), rows=shape[0], columns=shape[1])
    assert (result.dtype, result.shape) == (dtype, shape)
    np.testing.assert_array_equal(result, np.rint(transform.resize(noise(dtype), shape, preserve_range=True)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_resize_equals_scikit_image_on_floats(dtype):
    result = resize(noise(dtype), rows=25, columns=64)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, transform.resize(noise(dtype), (25, 64), preserve_range=True))


def test_resize_averages_before_it_drops_pixels():
    chequered = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)
    assert abs(resize(chequered, rows=16, columns=16).astype(int) - 100).max() < 10


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("degrees", [0, 10, 90, -33.3])
def test_rotate_equals_scikit_image_rounded(dtype, degrees):
    result = rotate(noise(dtype), degrees=degrees)
    assert (result.dtype, result.shape) == (dtype, (40, 30))
    np.testing.assert_array_equal(result, np.rint(transform.rotate(noise(dtype), degrees, preserve_range=True)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotate_equals_scikit_image_on_floats(dtype):
    result = rotate(noise(dtype), degrees=20)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, transform.rotate(noise(dtype), 20, preserve_range=True))


def test_rotate_turns_a_square_image_counter_clockwise():
    image = noise(np.uint16, (15, 15))
    np.testing.assert_array_equal(rotate(image, degrees=90), np.rot90(image))


@pytest.mark.parametrize(
    "step", [lambda image: resize(image, rows=9, columns=90), lambda image: rotate(image, degrees=7)]
)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_ends_of_the_dtype_do_not_wrap_around(step, dtype):
    ends = np.iinfo(dtype)
    image = np.full((20, 30), ends.max, dtype)
    image[:, :15] = ends.min
    result = step(image)
    assert (result[4, 2], result[4, -3]) == (ends.min, ends.max)


def test_flip_swaps_left_and_right_or_top_and_bottom():
    image = np.array([[1, 2], [3, 4]], np.int16)
    assert flip(image).tolist() == [[2, 1], [4, 3]]
    assert flip(image, axis="vertical").tolist() == [[3, 4], [1, 2]]


@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.sampled_from(["horizontal", "vertical"]))
def test_flipping_twice_gives_the_image_back_in_memory_of_its_own(image, axis):
    once = flip(image, axis=axis)
    np.testing.assert_array_equal(flip(once, axis=axis), image)
    assert once.flags.c_contiguous


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        (resize, {"rows": 0, "columns": 5}, "resize: rows and columns must be at least 1, got 0 and 5"),
        (resize, {"rows": 5, "columns": -2}, "resize: rows and columns must be at least 1, got 5 and -2"),
        (rotate, {"degrees": np.nan}, "rotate: degrees must be a finite number, got nan"),
        (flip, {"axis": "x"}, "flip: axis must be one of vertical, horizontal, got 'x'"),
    ],
)
def test_bad_parameters_are_named(step, params, message):
    with pytest.raises(StepError, match=message):
        step(noise(np.uint8), **params)
