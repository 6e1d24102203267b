"""Shape: how large the image is and how it lies."""

from typing import Literal

import numpy as np

from medspark.errors import StepError
from medspark.frame import Image

__all__ = ["flip", "resize", "rotate"]


def resize(image: Image, *, rows: int, columns: int) -> Image:
    """Return ``rows`` x ``columns`` pixels in the same dtype, smoothed first where the image shrinks.

    Equals ``skimage.transform.resize(image, (rows, columns), preserve_range=True)``, integers rounded to the nearest
    (halves to even). It mixes neighbours, so labels do not survive it: label after it.
    """
    if rows < 1 or columns < 1:
        raise StepError(f"resize: rows and columns must be at least 1, got {rows} and {columns}")
    from skimage import transform  # slow to import

    return _as_before(transform.resize(image, (rows, columns), preserve_range=True), image.dtype)


def rotate(image: Image, *, degrees: float) -> Image:
    """Return the image turned counter-clockwise about its centre, same shape and dtype; what comes in is 0.

    Equals ``skimage.transform.rotate(image, degrees, preserve_range=True)``, integers rounded to the nearest (halves
    to even). 0 is water in HU, not air: put to_uint8 before it for CT.
    """
    if not np.isfinite(degrees):
        raise StepError(f"rotate: degrees must be a finite number, got {degrees}")
    from skimage import transform  # slow to import

    writeable = np.require(image, requirements="W")  # scikit-image asks for it, though it does not write
    return _as_before(transform.rotate(writeable, degrees, preserve_range=True), image.dtype)


def flip(image: Image, *, axis: Literal["horizontal", "vertical"] = "horizontal") -> Image:
    """Return the image mirrored: left and right swapped when ``horizontal``, top and bottom when ``vertical``.

    Equals ``numpy.fliplr`` and ``numpy.flipud``, but owns its pixels.
    """
    if axis not in _AXES:
        raise StepError(f"flip: axis must be one of {', '.join(_AXES)}, got {axis!r}")
    return np.ascontiguousarray(np.flip(image, _AXES[axis]))


_AXES = {"vertical": 0, "horizontal": 1}


def _as_before(values: Image, dtype: np.dtype[np.generic]) -> Image:
    # scikit-image has clipped to the range of the input, so integers cannot leave their dtype
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype, copy=False)
