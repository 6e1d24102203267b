"""Masks and labels: which pixels belong together."""

from typing import Literal

import cv2
import numpy as np

from medspark.errors import StepError
from medspark.frame import Image

__all__ = ["adaptive_threshold", "closing", "components", "dilate", "erode", "opening", "otsu", "watershed_split"]

Shape = Literal["ellipse", "square"]


def otsu(image: Image) -> Image:
    """Return a uint8 mask: 255 above the threshold that best parts dark from bright, 0 elsewhere.

    Takes uint8 and uint16. Equals ``cv2.threshold`` with ``THRESH_BINARY + THRESH_OTSU`` (Otsu, IEEE SMC 1979).
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise StepError(f"otsu takes uint8 and uint16 images, got {image.dtype}: put to_uint8 before it")
    _, mask = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return mask.astype(np.uint8, copy=False)


def adaptive_threshold(image: Image, *, size: int = 51, offset: float = 0.0) -> Image:
    """Return a uint8 mask: 255 where a pixel exceeds the mean of its neighbourhood minus ``offset``, 0 elsewhere.

    The neighbourhood is ``size`` x ``size`` pixels, odd and at least 3. Takes uint8. Equals ``cv2.adaptiveThreshold``
    with ``ADAPTIVE_THRESH_MEAN_C`` and ``THRESH_BINARY``.
    """
    if size < 3 or size % 2 == 0:
        raise StepError(f"adaptive_threshold: size must be odd and at least 3, got {size}")
    if not np.isfinite(offset):
        raise StepError(f"adaptive_threshold: offset must be a finite number, got {offset}")
    if image.dtype != np.uint8:
        raise StepError(f"adaptive_threshold takes 8-bit images, got {image.dtype}: put to_uint8 before it")
    return cv2.adaptiveThreshold(image, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, size, offset)


def components(image: Image, *, connectivity: int = 8) -> Image:
    """Return int32 labels: 0 where the image is 0, and 1, 2, ... for each connected group of other pixels.

    ``connectivity`` is 8, or 4 for neighbours that share a side. Equals the labels of
    ``cv2.connectedComponentsWithStats(image != 0)``.
    """
    if connectivity not in (4, 8):
        raise StepError(f"components: connectivity must be 4 or 8, got {connectivity}")
    labels: Image = cv2.connectedComponents((image != 0).astype(np.uint8), connectivity=connectivity)[1]
    return labels


def watershed_split(image: Image, *, distance: int = 10) -> Image:
    """Return int32 labels of the pixels that are not 0, with objects that touch split at their necks.

    Seeds are the peaks, at least ``distance`` pixels apart, of the Euclidean distance to the background, which begins
    outside the image; each 8-connected object has at least one. Equals ``skimage.segmentation.watershed`` of the
    negative distance from the seeds that ``skimage.feature.peak_local_max`` finds.
    """
    if distance < 1:
        raise StepError(f"watershed_split: distance must be at least 1, got {distance}")
    from skimage.feature import peak_local_max  # slow to import
    from skimage.segmentation import watershed

    mask = np.pad(image != 0, 1).astype(np.uint8)
    distances = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Their last bit depends on where the arrays lie in memory, but their squares are whole numbers in the same order.
    depth = np.rint(np.square(distances, dtype=np.float64))
    _, objects = cv2.connectedComponents(mask)
    peaks = peak_local_max(depth, min_distance=distance, exclude_border=False, labels=objects)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, seeds, mask=mask, connectivity=2)
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def erode(image: Image, *, size: int = 3, shape: Shape = "ellipse") -> Image:
    """Return the minimum under an odd ``size`` x ``size`` ellipse or square at each pixel, in the same dtype.

    Takes uint8, uint16, int16, float32 and float64. Equals ``cv2.erode``.
    """
    return _morphology("erode", cv2.MORPH_ERODE, image, size, shape)


def dilate(image: Image, *, size: int = 3, shape: Shape = "ellipse") -> Image:
    """Return the maximum under an odd ``size`` x ``size`` ellipse or square at each pixel, in the same dtype.

    Takes uint8, uint16, int16, float32 and float64. Equals ``cv2.dilate``.
    """
    return _morphology("dilate", cv2.MORPH_DILATE, image, size, shape)


def opening(image: Image, *, size: int = 3, shape: Shape = "ellipse") -> Image:
    """Return the image without bright spots smaller than the kernel: ``erode``, then ``dilate``.

    Takes what they take. Equals ``cv2.morphologyEx`` with ``MORPH_OPEN``.
    """
    return _morphology("opening", cv2.MORPH_OPEN, image, size, shape)


def closing(image: Image, *, size: int = 3, shape: Shape = "ellipse") -> Image:
    """Return the image without dark spots smaller than the kernel: ``dilate``, then ``erode``.

    Takes what they take. Equals ``cv2.morphologyEx`` with ``MORPH_CLOSE``.
    """
    return _morphology("closing", cv2.MORPH_CLOSE, image, size, shape)


_SHAPES = {"ellipse": cv2.MORPH_ELLIPSE, "square": cv2.MORPH_RECT}


def _morphology(step: str, operation: int, image: Image, size: int, shape: Shape) -> Image:
    if size < 1 or size % 2 == 0:
        raise StepError(f"{step}: size must be odd and positive, got {size}")
    if shape not in _SHAPES:
        raise StepError(f"{step}: shape must be one of {', '.join(_SHAPES)}, got {shape!r}")
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
        raise StepError(
            f"{step} takes uint8, uint16, int16, float32 and float64 images, got {image.dtype}: put to_uint8 before it"
        )
    return cv2.morphologyEx(image, operation, cv2.getStructuringElement(_SHAPES[shape], (size, size)))
