"""Whether two images that look alike from afar are one: their fine detail, laid over each other.

Bodies are alike and fingerprints are coarse. What no two images share is their grain, edges and noise, and a copy keeps
much of it: of copies of chest X-rays, cropped by 8 pixels, halved or compressed to quality 30, the least had 0.91, and
of images of two patients the most had 0.49; of synthetic ones, which are smoother, 0.70.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medspark.frame import Image

COPY = 0.86
"""Two images of at least this likeness are copies of one."""

Floats = npt.NDArray[np.float32]

_SIDE = 128  # rows and columns at which images are compared, whatever their own size
_FINE, _COARSE = 1.0, 3.0  # pixels: detail is what lies between two blurs
_MARGIN = 9  # pixels at the border that know of what lies beyond it
_SEARCH = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)


def likeness(a: Image, b: Image) -> float:
    """Return the correlation of the detail of two grayscale images, laid over each other as well as can be: -1 to 1.

    ``a`` and ``b`` are rows x columns of any size and real dtype. Their detail is cut off at twice its median, so that
    one strong edge, such as that of a body, does not decide. Images without any detail are 1 if they can be laid over
    each other; images that cannot be are 0.

    Source: enhanced correlation coefficient, Evangelidis and Psarakis, IEEE PAMI 30 (2008) 1858, of OpenCV.
    """
    one, other = (_standardised(image) for image in (a, b))
    try:
        warp: Any = np.eye(2, 3, dtype=np.float32)
        first, second = (cv2.GaussianBlur(image, (0, 0), _FINE) for image in (one, other))
        _, warp = cv2.findTransformECC(first, second, warp, cv2.MOTION_AFFINE, _SEARCH)
    except cv2.error:  # it did not converge
        return 0.0
    is_known = cv2.erode(_warped(np.ones_like(other), warp), np.ones((_MARGIN, _MARGIN)), borderValue=0) > 0.99
    details = [_detail(image)[is_known] for image in (one, _warped(other, warp))]
    if not is_known.any() or any(detail.std() < 1e-6 for detail in details):
        return 1.0 if is_known.any() else 0.0
    limits = [2 * np.median(np.abs(detail)) for detail in details]
    clipped = [np.clip(detail, -limit, limit) for detail, limit in zip(details, limits, strict=True)]
    if any(detail.std() == 0 for detail in clipped):  # hardly anything but single edges
        clipped = details
    return float(np.corrcoef(clipped[0], clipped[1])[0, 1])


def _standardised(image: Image) -> Floats:
    values = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
    shrinks = min(image.shape) >= _SIDE
    small = cv2.resize(values, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    deviation = small.std()
    return np.asarray((small - small.mean()) / (deviation or 1.0), np.float32)


def _detail(image: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _FINE) - cv2.GaussianBlur(image, (0, 0), _COARSE))


def _warped(image: Floats, warp: Any) -> Floats:
    return np.asarray(cv2.warpAffine(image, warp, image.shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
