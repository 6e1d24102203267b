"""The two articles' code as they print it: one process, one image after the other.

    python benchmarks/contestants/seed.py --cores 1

Three faults are mended, since it does not run with them: ``skimage.transform.flip`` does not exist,
``connectedComponentsWithStats`` returns four values, and OpenCV's filters do not take the floats that scikit-image's
resizing returns. Numbers come out as conf/seed.toml names them, so that they can be compared.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
from typing import Any

import cv2
import numpy as np
import pandas as pd
import skimage.feature
import skimage.transform
import skimage.util

Image = np.ndarray[Any, np.dtype[Any]]


def read_image(file_path: str) -> Image:
    img = cv2.imread(file_path, cv2.IMREAD_GRAYSCALE)
    if img is None:
        raise ValueError("cv2.imread, with which the articles read, does not know DICOM and what is no image")
    return img


def preprocess(image: Image) -> Image:
    image = skimage.transform.resize(image, (256, 256))
    image = skimage.transform.rotate(image, 45)
    image = np.flip(image, axis=1)  # was skimage.transform.flip(image, False, True)
    return skimage.util.img_as_ubyte(image)  # was missing: medianBlur and Canny refuse float64


def filter_image(img: Image) -> Image:
    return cv2.medianBlur(img, 5)


def edge_detection(img: Image) -> Image:
    return cv2.Canny(img, 100, 200)


def image_segmentation(img: Image) -> tuple[Image, int, Image]:
    num_regions, labels, stats, _ = cv2.connectedComponentsWithStats(img, connectivity=8)  # was labels, num_regions
    return labels, num_regions, stats


def features_of(file_path: str) -> dict[str, float | str]:
    """Return the numbers of an image."""
    image = filter_image(preprocess(read_image(file_path)))
    edges = edge_detection(image)
    _, num_regions, stats = image_segmentation(edges)
    areas = stats[1:, cv2.CC_STAT_AREA] if num_regions > 1 else np.zeros(1)
    codes = skimage.feature.local_binary_pattern(image, 8, 1)
    shares = np.bincount(codes.astype(int).ravel(), minlength=256) / codes.size
    return {
        "path": file_path,
        "edges_density": np.count_nonzero(edges) / edges.size,
        "edges_n_regions": num_regions - 1,
        "edges_region_area_mean": areas.mean(),
        "edges_region_area_std": areas.std(),
        "edges_region_area_min": areas.min(),
        "edges_region_area_median": np.median(areas),
        "edges_region_area_max": areas.max(),
        "edges_region_area_share": areas.sum() / edges.size,
        **{f"lbp_p8_r1_default_{code:03}": share for code, share in enumerate(shares)},
    }


def run(paths: list[str], out: str) -> int:
    """Write a row for each file and return their number."""
    table = pd.DataFrame([features_of(path) for path in paths])
    table.to_parquet(out, index=False)
    return len(table)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=1, help="not used: the articles' code knows one")
    options.parse_args()
    turns.take(run)
