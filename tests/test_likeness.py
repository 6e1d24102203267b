"""Copies are like each other, and images that only look alike from afar are not."""

import cv2
import numpy as np
import pytest

from medspark.likeness import COPY, likeness


def chest(seed):
    """A body that is the same in all, with structures of its own and noise."""
    rng = np.random.default_rng(seed)
    body = np.zeros((256, 256), np.float32)
    cv2.ellipse(body, (128, 128), (100, 80), 0, 0, 360, 120, -1)
    for centre in ((90, 128), (166, 128)):
        cv2.ellipse(body, centre, (30, 50), 0, 0, 360, 60, -1)
    own = cv2.GaussianBlur(rng.normal(size=body.shape).astype(np.float32), (0, 0), 2)
    return np.clip(body + 60 * own + rng.normal(0, 2, body.shape) + 40, 0, 255).astype(np.uint8)


CHANGES = {
    "same": lambda image: image,
    "12 bits and a window": lambda image: 13 * image.astype(np.uint16) + 200,
    "float": lambda image: image / 255 - 3,
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "double": lambda image: cv2.resize(image, None, fx=2, fy=2),
    "quality 30": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0),
    "crop": lambda image: image[8:-3, 2:-8],
    "crop and half": lambda image: cv2.resize(image[8:-3, 2:-8], (123, 123), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_copy_is_known_after_what_happens_to_copies(change, seed):
    image = chest(seed)
    copy = CHANGES[change](image)
    assert likeness(image, copy) >= COPY
    assert likeness(copy, image) >= COPY


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_bodies_are_not_one_image(seed):
    first, second = chest(seed), chest(seed + 100)
    coarse = [cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).ravel() for image in (first, second)]
    assert np.corrcoef(*coarse)[0, 1] > 0.93  # from afar they are
    assert likeness(first, second) < COPY - 0.1


def test_the_same_image_is_one():
    assert likeness(chest(1), chest(1)) == pytest.approx(1, abs=1e-6)


def test_images_without_detail_have_nothing_to_tell_them_apart():
    flat = np.full((200, 200), 7, np.uint8)
    assert likeness(flat, flat) == pytest.approx(1)
    assert likeness(chest(1), flat) < COPY


def test_values_that_are_no_numbers_do_no_harm():
    image = chest(1).astype(float)
    hole = image.copy()
    hole[100, 100] = np.nan
    assert likeness(image, hole) >= COPY


def test_the_images_given_are_left_as_they_are():
    one, other = chest(1), chest(2)
    before = one.copy(), other.copy()
    likeness(one, other)
    np.testing.assert_array_equal((one, other), before)
