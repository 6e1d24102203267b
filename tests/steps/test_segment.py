import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage import filters, measure, morphology
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from medspark.errors import StepError
from medspark.steps.segment import (
    adaptive_threshold,
    closing,
    components,
    dilate,
    erode,
    opening,
    otsu,
    watershed_split,
)

masks = arrays(np.bool_, st.tuples(st.integers(1, 25), st.integers(1, 25)))
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
NEIGHBOURS = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}


def two_tone(dtype, dark, bright):
    random = np.random.default_rng(6)
    image = random.normal(dark, dark / 8, (50, 60))
    image[10:30, 20:50] = random.normal(bright, dark / 8, (20, 30))
    return image.clip(0, np.iinfo(dtype).max).astype(dtype)


def discs(*centres, radius=12, shape=(60, 90)):
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    return np.any([(rows - r) ** 2 + (columns - c) ** 2 <= radius**2 for r, c in centres], axis=0)


def same_partition(labels, others):
    """Whether two labellings differ in their numbers only."""
    pairs = np.unique(np.stack([labels.ravel(), others.ravel()]), axis=1)
    return len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize(("dtype", "dark", "bright"), [(np.uint8, 60, 170), (np.uint16, 6000, 17000)])
def test_otsu_equals_opencv_and_finds_the_bright_square(dtype, dark, bright):
    image = two_tone(dtype, dark, bright)
    mask = otsu(image)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, cv2.threshold(image, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1])
    expected = np.zeros(image.shape)
    expected[10:30, 20:50] = 255
    np.testing.assert_array_equal(mask, expected)


def test_otsu_puts_the_threshold_where_scikit_image_does():
    image = np.random.default_rng(8).integers(0, 256, (64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(otsu(image) > 0, image > filters.threshold_otsu(image))


@pytest.mark.parametrize(("size", "offset"), [(51, 0.0), (3, 4.5), (11, -7.0)])
def test_adaptive_threshold_equals_opencv(size, offset):
    image = two_tone(np.uint8, 60, 170)
    expected = cv2.adaptiveThreshold(image, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, size, offset)
    result = adaptive_threshold(image, size=size, offset=offset)
    assert set(result.flat) == {0, 255}
    np.testing.assert_array_equal(result, expected)


def test_adaptive_threshold_finds_a_spot_on_either_side_of_a_shadow():
    image = np.full((40, 80), 30, np.uint8)
    image[:, 40:] = 130
    image[20, 20], image[20, 60] = 60, 160
    mask = adaptive_threshold(image, size=11, offset=-10)
    assert (mask[20, 20], mask[20, 60], mask[10, 20], mask[10, 60]) == (255, 255, 0, 0)


@given(masks, st.sampled_from([4, 8]))
def test_components_equal_the_labels_of_opencv_and_the_groups_of_scipy(mask, connectivity):
    image = mask.astype(np.uint8)
    labels = components(image, connectivity=connectivity)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, cv2.connectedComponentsWithStats(image, connectivity=connectivity)[1])
    assert same_partition(labels, ndimage.label(mask, NEIGHBOURS[connectivity])[0])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_components_count_every_value_but_0(dtype):
    image = np.array([[0, 1, 0, 0, 256, 65536 + 256]]).astype(dtype)
    image[0, 0] = -0.25 if np.dtype(dtype).kind == "f" else 0
    np.testing.assert_array_equal(components(image) > 0, image != 0)


def test_pixels_that_touch_at_a_corner_are_one_object_or_two():
    image = np.eye(2, dtype=np.uint8)
    assert (components(image).max(), components(image, connectivity=4).max()) == (1, 2)


def split_by_scikit_image(mask, distance):
    depth = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(depth, min_distance=distance, exclude_border=False, labels=measure.label(mask))
    seeds = np.zeros(mask.shape, int)
    seeds[tuple(peaks.T)] = range(1, len(peaks) + 1)
    return watershed(-depth, seeds, mask=mask, connectivity=2)


def test_watershed_splits_touching_discs_where_scikit_image_does():
    mask = discs((20, 25), (20, 45), (44, 35))
    labels = watershed_split(mask.astype(np.uint8) * 255, distance=6)
    assert (labels.dtype, labels.max()) == (np.int32, 3)
    np.testing.assert_array_equal(labels, split_by_scikit_image(mask, 6))


@given(masks, st.integers(1, 12))
def test_watershed_parts_any_mask_as_scikit_image_does_with_background_around_it(mask, distance):
    expected = split_by_scikit_image(np.pad(mask, 1), distance)[1:-1, 1:-1]
    assert same_partition(watershed_split(mask, distance=distance), expected)


def test_watershed_of_thick_objects_is_that_of_exact_distances():
    mask = np.random.default_rng(13).random((200, 300)) > 0.0005
    expected = split_by_scikit_image(np.pad(mask, 1), 10)[1:-1, 1:-1]
    assert expected.max() > 10
    assert same_partition(watershed_split(mask), expected)


def test_watershed_keeps_a_single_disc_whole():
    assert watershed_split(discs((30, 40))).max() == 1


def test_watershed_keeps_a_speck_beside_a_large_disc():
    mask = discs((30, 40))
    mask[30, 54] = True  # within ``distance`` of the disc, yet an object of its own
    labels = watershed_split(mask, distance=20)
    assert labels.max() == 2
    assert labels[30, 54] != labels[30, 40]


@given(masks, st.integers(1, 12))
def test_watershed_labels_each_pixel_of_the_mask_and_never_joins_objects(mask, distance):
    labels = watershed_split(mask, distance=distance)
    objects, count = ndimage.label(mask, NEIGHBOURS[8])
    np.testing.assert_array_equal(labels > 0, mask)
    assert labels.shape == mask.shape
    assert set(labels.flat) - {0} == set(range(1, labels.max() + 1))
    assert labels.max() >= count
    for label in range(1, labels.max() + 1):
        assert len(set(objects[labels == label])) == 1


def test_watershed_of_a_mask_that_fills_the_image_is_one_object():
    assert (watershed_split(np.full((30, 30), 255, np.uint8)) == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (erode, morphology.erosion),
        (dilate, morphology.dilation),
        (opening, morphology.opening),
        (closing, morphology.closing),
    ],
)
@pytest.mark.parametrize(
    ("params", "kernel"), [({}, CROSS), ({"size": 5, "shape": "square"}, np.ones((5, 5), np.uint8))]
)
def test_morphology_equals_scikit_image_away_from_the_border(step, expected, params, kernel, dtype):
    image = np.random.default_rng(9).integers(0, 250, (40, 50)).astype(dtype)
    result = step(image, **params)
    assert result.dtype == dtype
    inside = np.s_[8:-8, 8:-8]
    np.testing.assert_array_equal(result[inside], expected(image, kernel)[inside])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_morphology_equals_opencv(dtype, size):
    image = np.random.default_rng(10).integers(0, 250, (40, 50)).astype(dtype)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    np.testing.assert_array_equal(erode(image, size=size), cv2.erode(image, kernel))
    np.testing.assert_array_equal(dilate(image, size=size), cv2.dilate(image, kernel))
    np.testing.assert_array_equal(opening(image, size=size), cv2.morphologyEx(image, cv2.MORPH_OPEN, kernel))
    np.testing.assert_array_equal(closing(image, size=size), cv2.morphologyEx(image, cv2.MORPH_CLOSE, kernel))


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        (adaptive_threshold, {"size": 50}, "adaptive_threshold: size must be odd and at least 3, got 50"),
        (adaptive_threshold, {"size": 1}, "adaptive_threshold: size must be odd and at least 3, got 1"),
        (adaptive_threshold, {"offset": np.nan}, "adaptive_threshold: offset must be a finite number, got nan"),
        (components, {"connectivity": 6}, "components: connectivity must be 4 or 8, got 6"),
        (watershed_split, {"distance": 0}, "watershed_split: distance must be at least 1, got 0"),
        (erode, {"size": 2}, "erode: size must be odd and positive, got 2"),
        (dilate, {"size": -1}, "dilate: size must be odd and positive, got -1"),
        (opening, {"shape": "star"}, "opening: shape must be one of ellipse, square, got 'star'"),
        (closing, {"size": 0}, "closing: size must be odd and positive, got 0"),
    ],
)
def test_bad_parameters_are_named(step, params, message):
    with pytest.raises(StepError, match=message):
        step(np.zeros((9, 9), np.uint8), **params)


@pytest.mark.parametrize(
    ("step", "dtype"), [(otsu, np.int16), (adaptive_threshold, np.uint16), (erode, np.int32), (closing, np.bool_)]
)
def test_other_dtypes_are_told_what_to_put_before(step, dtype):
    with pytest.raises(StepError, match=f"^{step.__name__} takes .* got {np.dtype(dtype)}: put to_uint8 before it$"):
        step(np.zeros((9, 9), dtype))
