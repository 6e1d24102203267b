"""Gradient: which way the edges of an image run, and where."""

import numpy as np
from skimage.feature import hog as skimage_hog

from medspark.errors import StepError
from medspark.features.first_order import require_grayscale
from medspark.frame import Image

__all__ = ["hog"]


def hog(image: Image, *, orientations: int = 9, cells: int = 4) -> dict[str, float]:
    """Return a histogram of oriented gradients with the same length for images of every size.

    ``hog_000``, ``hog_001`` ... (as many digits as needed): ``cells`` x ``cells`` x ``orientations`` values, row by row
    of a grid of cells laid over the image, and in each cell by orientation from 0 to 180 degrees. A cell is
    ``rows // cells`` x ``columns // cells`` pixels; the last ``rows % cells`` rows and ``columns % cells`` columns are
    left out. All cells are one block, normalised by L2-Hys: contrast between the cells is kept, that of the image is
    not. A constant image gives zeros.

    Takes rows x columns of uint8, uint16, int16, float32 or float64, at least ``cells`` x ``cells`` pixels. Raises
    StepError for anything else, NaN and infinity. Equals ``skimage.feature.hog`` of the image as float64
    with these cells and ``cells_per_block=(cells, cells)``. Dalal and Triggs, CVPR 2005, 886-893.
    """
    if orientations < 1 or cells < 1:
        raise StepError(f"hog: orientations and cells must be 1 or more, got {orientations} and {cells}")
    require_grayscale(image, "hog")
    height, width = (side // cells for side in image.shape)
    if not height or not width:
        raise StepError(
            f"hog: {cells} x {cells} cells need at least as many pixels, got {image.shape}; ask for fewer cells"
        )
    values = skimage_hog(
        image[: height * cells, : width * cells].astype(np.float64),
        orientations=orientations,
        pixels_per_cell=(height, width),
        cells_per_block=(cells, cells),
    )
    digits = len(str(values.size - 1))
    return {f"hog_{number:0{digits}}": float(value) for number, value in enumerate(values)}
