import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from skimage.measure import regionprops

from medspark.errors import StepError
from medspark.features.regions import density, regions

MASKS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements={"max_value": 1})


@given(MASKS)
def test_the_density_is_the_share_that_opencv_counts(mask):
    assert density(mask) == {"density": cv2.countNonZero(mask) / mask.size}


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
def test_the_density_of_any_dtype_is_that_of_what_is_not_zero(dtype):
    assert density(np.array([[0, 1, 0, 0], [1, 0, 0, 1]], dtype)) == {"density": 3 / 8}


@given(MASKS)
def test_the_areas_are_those_of_opencv_and_scikit_image(mask):
    n_labels, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    assert sorted(areas) == sorted(region.area for region in regionprops(labels))
    found = regions(labels)
    assert found["n_regions"] == n_labels - 1
    assert found["region_area_share"] == mask.mean()
    if n_labels > 1:
        assert found["region_area_mean"] == pytest.approx(areas.mean())
        assert found["region_area_std"] == pytest.approx(areas.std())
        assert found["region_area_min"] == areas.min()
        assert found["region_area_median"] == np.median(areas)
        assert found["region_area_max"] == areas.max()


def test_two_regions_worked_out_by_hand():
    labels = np.array([[1, 1, 0, 2], [1, 0, 0, 0]], np.int32)
    assert regions(labels) == {
        "n_regions": 2,
        "region_area_mean": 2,
        "region_area_std": 1,
        "region_area_min": 1,
        "region_area_median": 2,
        "region_area_max": 3,
        "region_area_share": 0.5,
    }


def test_without_a_region_all_values_are_zero():
    assert set(regions(np.zeros((4, 5), np.int32)).values()) == {0.0}


def test_the_borders_of_a_watershed_are_background():
    markers = np.zeros((9, 9), np.int32)
    markers[1, 1], markers[7, 7] = 1, 2
    labels = cv2.watershed(np.zeros((9, 9, 3), np.uint8), markers)
    assert (labels == -1).any()
    found = regions(labels)
    assert found["n_regions"] == 2
    assert found["region_area_share"] == (labels > 0).mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int64])
def test_labels_of_every_integer_dtype_are_taken(dtype):
    labels = np.array([[0, 3, 3], [9, 0, 3]], dtype)
    assert regions(labels) == regions(labels.astype(np.int32))


def test_a_number_left_out_is_no_region():
    assert regions(np.array([[0, 1, 1, 3]])) == regions(np.array([[0, 1, 1, 2]]))


def test_labels_far_apart_need_no_memory_for_the_gap():
    near = np.array([[0, 1, 1, 2]])
    assert regions(near * 10**12) == regions(near)


@pytest.mark.parametrize("dtype", [np.float32, np.uint64])
def test_labels_that_cannot_be_counted_are_refused(dtype):
    with pytest.raises(StepError, match="label image of integers"):
        regions(np.zeros((2, 2), dtype))


@pytest.mark.parametrize("feature", [density, regions])
def test_three_samples_a_pixel_are_refused(feature):
    with pytest.raises(StepError, match=r"\(2, 2, 3\)"):
        feature(np.zeros((2, 2, 3), np.uint8))
