import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medspark.errors import StepError
from medspark.steps.denoise import bilateral, gaussian, median, non_local_means

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))


def noise(dtype, shape=(40, 50), top=250):
    return np.random.default_rng(4).integers(0, top, shape).astype(dtype)


def test_median_removes_a_lone_bright_pixel():
    image = np.full((9, 9), 10, np.uint8)
    image[4, 4] = 255
    assert (median(image, size=3) == 10).all()


@given(arrays(np.uint8, shapes), st.sampled_from([1, 3, 5, 7, 9]))
def test_median_equals_opencv_on_8_bit(image, size):
    np.testing.assert_array_equal(median(image, size=size), cv2.medianBlur(image, size))


@given(arrays(np.uint16, shapes), st.sampled_from([1, 3, 5]))
def test_median_equals_opencv_and_scipy_on_16_bit(image, size):
    result = median(image, size=size)
    np.testing.assert_array_equal(result, cv2.medianBlur(image, size))
    np.testing.assert_array_equal(result, ndimage.median_filter(image, size=size, mode="nearest"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_median_keeps_the_dtype(dtype):
    assert median(noise(dtype)).dtype == dtype


def test_median_above_5_says_that_it_needs_8_bit():
    with pytest.raises(StepError, match=r"median of size 7 takes 8-bit images, got uint16: put to_uint8 before it"):
        median(noise(np.uint16), size=7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.3])
def test_gaussian_equals_opencv(dtype, sigma):
    image = noise(dtype)
    result = gaussian(image, sigma=sigma)
    assert result.dtype == dtype
    assert (result != image).any()
    np.testing.assert_array_equal(result, cv2.GaussianBlur(image, (0, 0), sigma))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("size", "sigma_color", "sigma_space"), [(5, 25.0, 5.0), (9, 80.0, 2.0), (3, 100.0, 100.0)])
def test_bilateral_equals_opencv(dtype, size, sigma_color, sigma_space):
    image = noise(dtype)
    result = bilateral(image, size=size, sigma_color=sigma_color, sigma_space=sigma_space)
    assert (result != image).any()
    np.testing.assert_array_equal(result, cv2.bilateralFilter(image, size, sigma_color, sigma_space))


def test_bilateral_keeps_an_edge_that_gaussian_blurs():
    image = np.zeros((20, 20), np.uint8)
    image[:, 10:] = 200
    np.testing.assert_array_equal(bilateral(image), image)
    assert (gaussian(image) != image).any()


@pytest.mark.parametrize(("strength", "patch", "search"), [(10.0, 7, 21), (30.0, 3, 9)])
def test_non_local_means_equals_opencv_on_8_bit(strength, patch, search):
    image = noise(np.uint8, top=60)
    result = non_local_means(image, strength=strength, patch=patch, search=search)
    assert (result != image).any()
    np.testing.assert_array_equal(result, cv2.fastNlMeansDenoising(image, None, strength, patch, search))


def test_non_local_means_equals_opencv_with_the_l1_norm_on_16_bit():
    image = noise(np.uint16, top=4000)
    result = non_local_means(image, strength=900.0, search=11)
    expected = cv2.fastNlMeansDenoising(
        image, h=[900.0], templateWindowSize=7, searchWindowSize=11, normType=cv2.NORM_L1
    )
    assert result.dtype == np.uint16
    assert (result != image).any()
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        (median, {"size": 4}, "median: size must be odd and positive, got 4"),
        (median, {"size": -3}, "median: size must be odd and positive, got -3"),
        (median, {"size": 0}, "median: size must be odd and positive, got 0"),
        (gaussian, {"sigma": 0}, "gaussian: sigma must be above 0, got 0"),
        (gaussian, {"sigma": -1.0}, "gaussian: sigma must be above 0, got -1.0"),
        (gaussian, {"sigma": np.nan}, "gaussian: sigma must be above 0, got nan"),
        (bilateral, {"size": 6}, "bilateral: size must be odd and at least 3, got 6"),
        (bilateral, {"size": 1}, "bilateral: size must be odd and at least 3, got 1"),
        (bilateral, {"sigma_color": 0}, "sigma_color and sigma_space must be above 0, got 0 and 5.0"),
        (bilateral, {"sigma_space": -2}, "sigma_color and sigma_space must be above 0, got 25.0 and -2"),
        (non_local_means, {"strength": 0}, "non_local_means: strength must be above 0, got 0"),
        (non_local_means, {"patch": 6}, "patch and search must be odd and positive, got 6 and 21"),
        (non_local_means, {"search": 20}, "patch and search must be odd and positive, got 7 and 20"),
        (non_local_means, {"search": -1}, "patch and search must be odd and positive, got 7 and -1"),
    ],
)
def test_bad_parameters_are_named(step, params, message):
    with pytest.raises(StepError, match=message):
        step(noise(np.uint8), **params)


@pytest.mark.parametrize(
    ("step", "dtype"), [(median, np.int32), (gaussian, np.int32), (bilateral, np.uint16), (non_local_means, np.int16)]
)
def test_other_dtypes_are_told_what_to_put_before(step, dtype):
    with pytest.raises(StepError, match=f"^{step.__name__} takes .* got {np.dtype(dtype)}: put to_uint8 before it"):
        step(noise(dtype))
