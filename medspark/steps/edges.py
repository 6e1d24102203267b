"""Edges: where grey values change."""

import cv2
import numpy as np

from medspark.errors import StepError
from medspark.frame import Image

__all__ = ["canny", "canny_auto", "laplacian", "sobel"]


def canny(image: Image, *, low: float = 100.0, high: float = 200.0) -> Image:
    """Return edges one pixel wide as a uint8 mask of 0 and 255.

    An edge begins where the gradient exceeds ``high`` and is followed while it exceeds ``low``. Takes uint8. Equals
    ``cv2.Canny`` (Canny, PAMI 1986).
    """
    if not 0 <= low <= high < np.inf:
        raise StepError(f"canny: thresholds must be 0 <= low <= high, got low {low} and high {high}")
    _require_8_bit("canny", image)
    return cv2.Canny(image, low, high)


def canny_auto(image: Image, *, sigma: float = 0.33) -> Image:
    """Return Canny edges as a uint8 mask of 0 and 255, with thresholds that follow the brightness of the image.

    The thresholds are (1 - sigma) and (1 + sigma) times the median grey value, clipped to 0 to 255; ``sigma`` is 0 to
    1. A median of 0, as of an image that is mostly background, makes every change an edge. Takes uint8.
    """
    if not 0 <= sigma <= 1:
        raise StepError(f"canny_auto: sigma must be 0 to 1, got {sigma}")
    _require_8_bit("canny_auto", image)
    middle = float(np.median(image))
    return cv2.Canny(image, (1 - sigma) * middle, min((1 + sigma) * middle, 255.0))


def sobel(image: Image, *, size: int = 3) -> Image:
    """Return the magnitude of the gradient as float32, in grey values times the weight of the kernel.

    ``size`` is 1, 3, 5 or 7. The derivatives equal ``cv2.Sobel``; ``cv2.magnitude`` of them differs in the last bit.
    """
    _require_kernel("sobel", size)
    source, depth = _widened(image)
    across, down = cv2.Sobel(source, depth, 1, 0, ksize=size), cv2.Sobel(source, depth, 0, 1, ksize=size)
    # Not cv2.magnitude: its last bit depends on where the arrays lie in memory.
    magnitude: Image = np.sqrt(np.square(across) + np.square(down))
    return magnitude.astype(np.float32, copy=False)


def laplacian(image: Image, *, size: int = 3) -> Image:
    """Return the sum of the second derivatives as float32: negative on bright spots, positive on dark ones.

    ``size`` is 1, 3, 5 or 7. Equals ``cv2.Laplacian``.
    """
    _require_kernel("laplacian", size)
    source, depth = _widened(image)
    return cv2.Laplacian(source, depth, ksize=size).astype(np.float32, copy=False)


def _widened(image: Image) -> tuple[Image, int]:
    """Return what OpenCV can differentiate and the depth of the result, one in which 16 bit do not saturate."""
    if image.dtype in (np.uint8, np.uint16, np.int16, np.float32):
        return image, cv2.CV_32F
    return image.astype(np.float64), cv2.CV_64F


def _require_8_bit(step: str, image: Image) -> None:
    if image.dtype != np.uint8:
        raise StepError(f"{step} takes 8-bit images, got {image.dtype}: put to_uint8 before it")


def _require_kernel(step: str, size: int) -> None:
    if size not in (1, 3, 5, 7):
        raise StepError(f"{step}: size must be 1, 3, 5 or 7, got {size}")
