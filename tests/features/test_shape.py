import cv2
import numpy as np
import pytest
from skimage.measure import moments_central, moments_hu, moments_normalized

from medspark.errors import StepError
from medspark.features.shape import hu_moments


def blob(dtype=np.float64):
    rows, columns = np.mgrid[:60, :50]
    bright = np.exp(-((rows - 25) ** 2) / 90 - ((columns - 20) ** 2) / 40) + (rows > 30) * (columns > 35) * 0.5
    return (bright * 200).astype(dtype)


def as_array(moments):
    return np.array(list(moments.values()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_the_moments_are_those_of_scikit_image(dtype):
    image = blob(dtype)
    expected = moments_hu(moments_normalized(moments_central(image.astype(np.float64))))
    np.testing.assert_allclose(as_array(hu_moments(image)), expected, rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_the_moments_are_those_of_opencv(dtype):
    image = blob(dtype)
    expected = cv2.HuMoments(cv2.moments(image)).ravel()
    assert hu_moments(image) == {f"hu_{number}": expected[number - 1] for number in range(1, 8)}


def test_all_16_bits_weigh():
    image = blob(np.uint16) * 300
    assert image.max() > 2**15
    assert hu_moments(image) == pytest.approx(hu_moments(image.astype(np.float64)), rel=1e-9)


def test_two_columns_of_floats_are_an_image_and_not_a_contour():
    image = np.random.default_rng(5).integers(0, 99, (40, 2)).astype(np.float32)
    assert hu_moments(image) == pytest.approx(hu_moments(image.astype(np.uint8)), rel=1e-9)


def test_shift_and_rotation_change_nothing_and_a_mirror_only_the_sign_of_the_seventh():
    image = blob()
    expected = as_array(hu_moments(image))
    assert expected[6] != 0
    np.testing.assert_allclose(as_array(hu_moments(np.pad(image, ((9, 0), (0, 31))))), expected, rtol=1e-6)
    np.testing.assert_allclose(as_array(hu_moments(np.rot90(image))), expected, rtol=1e-6)
    np.testing.assert_allclose(as_array(hu_moments(image[:, ::-1])), expected * [1, 1, 1, 1, 1, 1, -1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_black_image_has_no_moments(dtype):
    assert set(hu_moments(np.zeros((6, 7), dtype)).values()) == {0.0}


def test_values_that_cancel_are_refused_with_the_way_out():
    image = np.zeros((1, 60_000))
    image[0, 0], image[0, -1] = -1, 1 + 4e-16
    with pytest.raises(StepError, match="clip at 0"):
        hu_moments(image)
