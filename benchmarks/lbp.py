"""Local binary patterns, ours against scikit-image's: ms for one 512 x 512 image on one thread, and whether equal.

    python benchmarks/lbp.py

The two take turns in one run, so that a busy machine slows both; the figures are medians. Ours is the whole feature,
from the image to the histogram; scikit-image's is the code image with ``numpy.bincount``.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np
from skimage.feature import local_binary_pattern as by_skimage

from medspark.features.lbp import lbp
from medspark.frame import Image

ROUNDS = 15


def main() -> None:
    print(f"{'image':8} {'circle':8} {'medspark':>9} {'skimage':>9} {'ratio':>7}  equal")
    for dtype in (np.uint8, np.uint16):
        image = _smooth_noise(dtype)
        for points, radius in ((8, 1), (16, 2), (24, 3)):
            equal, ours, theirs = _race(image, points, radius)
            circle = f"({points}, {radius})"
            print(f"{image.dtype!s:8} {circle:8} {ours:9.2f} {theirs:9.2f} {theirs / ours:6.1f}x  {equal}")


def _smooth_noise(dtype: type[np.unsignedinteger]) -> Image:
    """Return structures of a few pixels after a median filter, which makes ties as in a real recipe."""
    blurred = cv2.GaussianBlur(np.random.default_rng(0).random((512, 512), np.float32), (0, 0), 3)
    stretched = (blurred - blurred.min()) / np.ptp(blurred) * np.iinfo(dtype).max
    return np.asarray(cv2.medianBlur(stretched.astype(dtype), 5))


def _race(image: Image, points: int, radius: float) -> tuple[bool, float, float]:
    def ours() -> list[float]:
        return list(lbp(image, points=points, radius=radius).values())

    def theirs() -> list[float]:
        codes = by_skimage(image, points, radius, "uniform").astype(np.uint8)
        return list(np.bincount(codes.ravel(), minlength=points + 2) / codes.size)

    equal = ours() == theirs()  # the first call compiles
    times = np.array([(_milliseconds(ours), _milliseconds(theirs)) for _ in range(ROUNDS)])
    return equal, *np.median(times, axis=0).tolist()


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
