"""Planes of an image, small enough to look at side by side."""

import cv2
import numpy as np

from medspark.frame import Image

WIDEST = 160


def thumbnail(image: Image) -> Image:
    """Return a plane as uint8, at most 160 on a side: labels and masks in black and white, the rest stretched."""
    is_mask = image.dtype in {np.dtype(np.int32), np.dtype(np.bool_)}
    gray = (image != 0).astype(np.uint8) * 255 if is_mask else image
    if gray.dtype != np.uint8:
        low, high = float(gray.min()), float(gray.max())
        gray = ((gray.astype(np.float32) - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    scale = WIDEST / max(gray.shape)
    if scale >= 1:
        return gray
    rows, columns = (max(1, round(side * scale)) for side in gray.shape)
    return cv2.resize(gray, (columns, rows), interpolation=cv2.INTER_AREA)
