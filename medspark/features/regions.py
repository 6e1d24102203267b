"""Regions: how much of a mask is set, how many regions a label image has and how large they are."""

import numpy as np

from medspark.errors import StepError
from medspark.features.first_order import require_plane
from medspark.frame import Image

__all__ = ["density", "regions"]


def density(image: Image) -> dict[str, float]:
    """Return the share of pixels that are not zero, 0 to 1, as ``density``.

    Takes rows x columns of any dtype: an edge image, a mask. Raises StepError for any other shape.
    Equals ``cv2.countNonZero(image) / image.size``.
    """
    require_plane(image, "density")
    return {"density": float(np.count_nonzero(image) / image.size)}


def regions(image: Image) -> dict[str, float]:
    """Return the number of regions of a label image and statistics of their areas in pixels.

    ``n_regions``; ``region_area_mean``, ``_std`` (of the population), ``_min``, ``_median``, ``_max``; and
    ``region_area_share``, the share of all pixels that lies in a region. Without a region all are 0.

    Takes rows x columns of integers: each number above 0 is a region, 0 the background, and so are the -1 that
    ``cv2.watershed`` puts on borders. Numbers may be left out. Raises StepError for floats.
    The areas are ``CC_STAT_AREA`` of ``cv2.connectedComponentsWithStats``.
    """
    require_plane(image, "regions")
    if not np.can_cast(image.dtype, np.int64):
        raise StepError(
            f"regions: takes a label image of integers, got {image.dtype}; label connected components first"
        )
    areas = _areas(image)
    n_regions = areas.size
    if not n_regions:
        areas = np.zeros(1, np.int64)
    ascending, middle = np.sort(areas), areas.size // 2
    found = {
        "n_regions": n_regions,
        "region_area_mean": areas.mean(),
        "region_area_std": areas.std(),
        "region_area_min": ascending[0],
        "region_area_median": (ascending[~middle] + ascending[middle]) / 2,
        "region_area_max": ascending[-1],
        "region_area_share": areas.sum() / image.size,
    }
    return {name: float(value) for name, value in found.items()}


def _areas(image: Image) -> Image:
    labels = np.maximum(image, 0).ravel()
    if labels.max() > labels.size:  # labels far apart: a bin for each number could fill the memory
        return np.unique(labels[labels > 0], return_counts=True)[1]
    areas = np.bincount(labels)[1:]
    return areas[areas > 0]
