"""Texture: how grey levels stand beside each other."""

import numpy as np
from skimage.feature import graycomatrix, graycoprops

from medspark.errors import StepError
from medspark.features.first_order import require_grayscale
from medspark.frame import Image

__all__ = ["glcm"]

_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "ASM", "energy", "correlation", "entropy")


def glcm(image: Image, *, levels: int = 32, distance: int = 1) -> dict[str, float]:
    """Return seven Haralick features of the grey-level co-occurrence matrix.

    ``glcm_contrast``, ``_dissimilarity``, ``_homogeneity``, ``_asm`` (angular second moment), ``_energy`` (its square
    root), ``_correlation`` and ``_entropy`` (in nats), each the mean over the directions 0, 45, 90 and 135 degrees.
    The matrices are symmetric and normed, of pixels ``distance`` apart (a diagonal step is rounded to whole pixels).

    The image is first cut into ``levels`` equal bins, 2 to 256: of the range of the dtype for integers, so that equal
    values are equal levels in every image; of the image's own minimum to maximum for floats. 12 bits stored in 16 fill
    few of these bins: window such an image to 8 bit first.

    In a constant image the correlation is 1, and a direction without pairs (in a single row, say) counts as an empty
    matrix: correlation 1, all else 0.

    Takes rows x columns of uint8, uint16, int16, float32 or float64; raises StepError for anything else, NaN,
    infinity, and parameters out of range. Equals ``skimage.feature.graycomatrix`` and
    ``skimage.feature.graycoprops``. Haralick, Shanmugam and Dinstein, IEEE Trans. SMC-3 (1973), 610-621.
    """
    if not 2 <= levels <= 256:
        raise StepError(f"glcm: levels must be 2 to 256, got {levels}")
    if distance < 1:
        raise StepError(f"glcm: distance must be 1 pixel or more, got {distance}")
    require_grayscale(image, "glcm")
    binned = _into_levels(image, levels)
    matrices = graycomatrix(binned, [distance], _ANGLES, levels, symmetric=True, normed=True)
    found = {name.lower(): graycoprops(matrices, name).mean() for name in _PROPERTIES}
    return {f"glcm_{name}": float(value) for name, value in found.items()}


def _into_levels(image: Image, levels: int) -> Image:
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        scaled = (image.astype(np.float64) - low) / ((high - low) or 1.0) * levels
        return np.minimum(scaled, levels - 1).astype(np.uint8)
    bits = 8 * image.itemsize
    above = image.astype(np.int32) - np.iinfo(image.dtype).min
    return (above * levels >> bits).astype(np.uint8)
