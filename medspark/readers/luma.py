"""Colours into gray, with OpenCV's weights for every depth."""

import cv2
import numpy as np

from medspark.frame import Image


def luma(colours: Image) -> Image:
    """Return rows x columns of gray from rows x columns x RGB[A]: the same dtype for 8 and 16 bits, else float64."""
    if colours.dtype in (np.uint8, np.uint16):
        return cv2.cvtColor(np.ascontiguousarray(colours[..., :3]), cv2.COLOR_RGB2GRAY)
    gray: Image = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    return gray
