import cv2
import numpy as np
import pytest
from scipy import ndimage

from medspark.errors import StepError
from medspark.steps.edges import canny, canny_auto, laplacian, sobel

SMALL = [np.uint8, np.uint16, np.int16, np.float32]


def disc(dtype=np.uint8, brightness=180):
    rows, columns = np.mgrid[0:60, 0:70]
    inside = (rows - 30) ** 2 + (columns - 35) ** 2 < 400
    grain = np.random.default_rng(5).integers(0, 20, inside.shape)
    return (inside * brightness + grain).astype(dtype)


@pytest.mark.parametrize(("low", "high"), [(100, 200), (20.5, 60.5), (0, 0)])
def test_canny_equals_opencv(low, high):
    result = canny(disc(), low=low, high=high)
    assert set(result.flat) == {0, 255}
    np.testing.assert_array_equal(result, cv2.Canny(disc(), low, high))


def test_canny_draws_the_edge_of_a_square_and_nothing_else():
    image = np.zeros((20, 20), np.uint8)
    image[5:15, 5:15] = 200
    edges = canny(image) > 0
    border = ndimage.binary_dilation(image > 0) & ~ndimage.binary_erosion(image > 0)
    assert edges.any()
    assert not edges[~border].any()


def test_canny_auto_takes_its_thresholds_from_the_median():
    image = disc(brightness=100) + np.uint8(60)
    middle = float(np.median(image))
    assert 0 < middle < 191
    np.testing.assert_array_equal(canny_auto(image), cv2.Canny(image, (1 - 0.33) * middle, (1 + 0.33) * middle))
    assert (canny_auto(image, sigma=1) != canny_auto(image, sigma=0)).any()


def test_canny_auto_clips_the_upper_threshold_at_255():
    image = 255 - disc(brightness=65)
    assert np.median(image) * 1.8 > 255
    expected = cv2.Canny(image, (1 - 0.8) * np.median(image), 255)
    assert expected.any()
    np.testing.assert_array_equal(canny_auto(image, sigma=0.8), expected)


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("brightness", [180, 30_000])
def test_sobel_is_the_magnitude_of_opencv_derivatives_to_the_last_bit(dtype, size, brightness):
    image = disc(dtype, 180 if dtype == np.uint8 else brightness)
    across = cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=size)
    down = cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=size)
    exact = np.hypot(across.astype(np.float64), down.astype(np.float64))
    result = sobel(image, size=size)
    assert result.dtype == np.float32
    np.testing.assert_array_max_ulp(result, exact.astype(np.float32), maxulp=1)
    np.testing.assert_array_max_ulp(result, cv2.magnitude(across, down), maxulp=2)


@pytest.mark.parametrize("size", [1, 3])
def test_sobel_of_8_bit_images_is_rounded_once(size):
    across, down = (cv2.Sobel(disc(), cv2.CV_64F, *order, ksize=size) for order in [(1, 0), (0, 1)])
    np.testing.assert_array_equal(sobel(disc(), size=size), np.sqrt(across**2 + down**2).astype(np.float32))


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_laplacian_equals_opencv(dtype, size):
    result = laplacian(disc(dtype), size=size)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, cv2.Laplacian(disc(dtype), cv2.CV_32F, ksize=size))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_a_step_of_16_bit_is_not_cut_off(dtype):
    image = np.zeros((9, 9), dtype)
    image[:, 5:] = 65535
    assert sobel(image).max() == 4 * 65535  # the kernel weighs 1 + 2 + 1
    assert (laplacian(image, size=1).min(), laplacian(image, size=1).max()) == (-65535, 65535)


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.bool_])  # OpenCV 5.0 corrupts memory on bool
@pytest.mark.parametrize("step", [sobel, laplacian])
def test_derivatives_take_what_opencv_cannot_by_way_of_float64(step, dtype):
    image = disc(dtype)
    result = step(image)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, step(image.astype(np.float32)))


def test_small_differences_of_large_32_bit_values_are_kept():
    image = np.full((5, 6), 2**30, np.int32)
    image[:, 3:] += 1  # float32 cannot tell the two apart
    assert sobel(image).max() == 4
    assert laplacian(image, size=1).max() == 1


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        (canny, {"low": -1}, "canny: thresholds must be 0 <= low <= high, got low -1 and high 200.0"),
        (canny, {"low": 300}, "canny: thresholds must be 0 <= low <= high, got low 300 and high 200.0"),
        (canny, {"high": np.inf}, "got low 100.0 and high inf"),
        (canny_auto, {"sigma": -0.1}, "canny_auto: sigma must be 0 to 1, got -0.1"),
        (canny_auto, {"sigma": 33}, "canny_auto: sigma must be 0 to 1, got 33"),
        (sobel, {"size": 4}, "sobel: size must be 1, 3, 5 or 7, got 4"),
        (laplacian, {"size": -3}, "laplacian: size must be 1, 3, 5 or 7, got -3"),
    ],
)
def test_bad_parameters_are_named(step, params, message):
    with pytest.raises(StepError, match=message):
        step(disc(), **params)


@pytest.mark.parametrize("step", [canny, canny_auto])
def test_canny_says_what_to_put_before_it(step):
    with pytest.raises(StepError, match=f"^{step.__name__} takes 8-bit images, got uint16: put to_uint8 before it$"):
        step(disc(np.uint16))
