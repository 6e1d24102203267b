import numpy as np
import pytest
from builders import make_pixels

from medspark.report.thumbnail import WIDEST, thumbnail


def test_a_small_8_bit_image_stays_as_it_is():
    image = make_pixels()
    np.testing.assert_array_equal(thumbnail(image), image)


@pytest.mark.parametrize(
    ("shape", "small"),
    [((320, 320), (160, 160)), ((1000, 500), (160, 80)), ((500, 1000), (80, 160)), ((161, 161), (160, 160))],
)
def test_a_large_image_is_made_small_and_keeps_its_proportions(shape, small):
    assert thumbnail(make_pixels(*shape)).shape == small


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
def test_a_line_stays_at_least_a_pixel_wide(shape):
    assert thumbnail(np.zeros(shape, np.uint8)).shape == tuple(min(side, WIDEST) for side in shape)


def test_shrinking_takes_the_mean_of_the_area():
    image = np.kron(np.ones((160, 160), np.uint8), np.array([[0, 100], [20, 80]], np.uint8))
    np.testing.assert_array_equal(thumbnail(image), np.full((160, 160), 50))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_other_depths_are_stretched_from_black_to_white(dtype):
    image = np.array([[-1000, 0], [1000, 3000]]) + (1000 if dtype == np.uint16 else 0)
    np.testing.assert_array_equal(thumbnail(image.astype(dtype)), [[0, 63], [127, 255]])


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_is_black(value):
    assert not thumbnail(np.full((4, 4), value, np.uint16)).any()


def test_masks_and_labels_are_black_and_white():
    labels = np.array([[0, 1, 1], [2, 0, 70_000]], np.int32)
    shown = [[0, 255, 255], [255, 0, 255]]
    np.testing.assert_array_equal(thumbnail(labels), shown)
    np.testing.assert_array_equal(thumbnail(labels > 0), shown)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64, np.bool_])
def test_the_image_itself_is_not_touched(dtype):
    image = (make_pixels(300, 200) > 100).astype(dtype)
    before = image.copy()
    assert thumbnail(image).dtype == np.uint8
    np.testing.assert_array_equal(image, before)
