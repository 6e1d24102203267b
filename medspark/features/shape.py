"""Shape: where the mass of an image lies, whatever its position, size and rotation."""

import cv2
import numpy as np

from medspark.errors import StepError
from medspark.features.first_order import require_grayscale
from medspark.frame import Image

__all__ = ["hu_moments"]


def hu_moments(image: Image) -> dict[str, float]:
    """Return the seven moment invariants of Hu, ``hu_1`` to ``hu_7``, of the raw values and without a logarithm.

    They do not change when the image is shifted, scaled or rotated; ``hu_7`` changes its sign in a mirror. An image
    whose values add up to 0, such as a black one, has 0 for all.

    Takes rows x columns of uint8, uint16, int16, float32 or float64. Values weigh as mass, so negative ones are taken
    but mean little: clip or window HU first. Raises StepError for anything else, NaN, infinity, and an image
    whose negative and positive values cancel so far that the moments overflow. Equals
    ``cv2.HuMoments(cv2.moments(image))``. Hu, IRE Trans. IT-8 (1962), 179-187.
    """
    require_grayscale(image, "hu_moments")
    if image.dtype == np.float32:
        image = image.astype(np.float64)  # cv2.moments takes two columns of float32 for the points of a contour
    moments = cv2.HuMoments(cv2.moments(image)).ravel()
    if not np.isfinite(moments).all():
        raise StepError("hu_moments: negative and positive values cancel and the moments overflow; clip at 0 first")
    return {f"hu_{number}": float(moment) for number, moment in enumerate(moments, start=1)}
