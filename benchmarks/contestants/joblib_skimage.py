"""What a researcher would write: joblib over the files, scikit-image for all that the default recipe does.

    python benchmarks/contestants/joblib_skimage.py --cores 2

Every number has the name that conf/extract.toml gives it. scikit-image's Canny smooths first and measures a
gradient by another norm, so ``edges_density`` is of the same kind, not the same number.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import turns  # isort: skip

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pydicom
from joblib import Parallel, delayed
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from scipy import stats
from skimage.color import rgb2gray
from skimage.exposure import rescale_intensity
from skimage.feature import canny, local_binary_pattern
from skimage.filters import median, threshold_otsu
from skimage.io import imread
from skimage.measure import label, regionprops_table, shannon_entropy
from skimage.util import img_as_ubyte

Image = np.ndarray[Any, np.dtype[Any]]
CIRCLES = (8, 1), (16, 2), (24, 3)


def measure(path: str) -> list[dict[str, Any]]:
    """Return a row for each frame of a file: its numbers, or what went wrong."""
    try:
        with Path(path).open("rb") as file:
            return [{"path": path, "frame": frame, **features(image)} for frame, image in enumerate(read(file))]
    except Exception as error:  # noqa: BLE001 - a loop over an archive must not end at its first bad file
        return [{"path": path, "error": type(error).__name__}]


def read(file: BinaryIO) -> Iterator[Image]:
    """Yield the frames of a file as 8-bit grayscale."""
    is_dicom = file.read(132).endswith(b"DICM")
    file.seek(0)
    if is_dicom:
        yield from read_dicom(file)
    else:
        image = imread(file)
        yield to_8_bit(image if image.ndim == 2 else rgb2gray(image[..., :3]))


def read_dicom(file: BinaryIO) -> Iterator[Image]:
    """Yield the frames as the file wants them displayed."""
    dataset = pydicom.dcmread(file)
    pixels = dataset.pixel_array
    if dataset.SamplesPerPixel > 1:
        pixels = rgb2gray(pixels)
    for frame in pixels if pixels.ndim == 3 else [pixels]:
        image = apply_modality_lut(frame, dataset)
        if "WindowWidth" in dataset or "VOILUTSequence" in dataset:
            image = apply_voi_lut(image, dataset)
            image = img_as_ubyte(rescale_intensity(image.astype(float), out_range=(0, 1)))
        else:
            image = to_8_bit(image)
        yield 255 - image if dataset.PhotometricInterpretation == "MONOCHROME1" else image


def to_8_bit(image: Image) -> Image:
    """Return 8 bits, those of the file or else what lies between the percentiles 1 and 99."""
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (1, 99))
    return rescale_intensity(image, in_range=(low, high), out_range=(0, 255)).round().astype(np.uint8)


def features(image: Image) -> dict[str, float]:
    """Return the numbers of an image."""
    image = smooth(image)
    found = {**statistics(image), **density(edges(image)), **regions(foreground(image))}
    for points, radius in CIRCLES:
        found |= patterns(image, points, radius)
    return found


def smooth(image: Image) -> Image:
    """Return the median of 5 x 5 pixels around each."""
    return median(image, np.ones((5, 5)))


def edges(image: Image) -> Image:
    """Return where an edge is."""
    return canny(image, low_threshold=100, high_threshold=200)


def density(found: Image) -> dict[str, float]:
    """Return the share of pixels that are on an edge."""
    return {"edges_density": found.mean()}


def foreground(image: Image) -> Image:
    """Return the number of the region that each pixel is in, 0 for the dark ones."""
    return label(image > threshold_otsu(image), connectivity=2)


def patterns(image: Image, points: int, radius: int) -> dict[str, float]:
    """Return the shares of the local binary patterns."""
    codes = local_binary_pattern(image, points, radius, method="uniform")
    shares, _ = np.histogram(codes, bins=np.arange(points + 3))
    return {f"lbp_p{points}_r{radius}_{code:02}": share for code, share in enumerate(shares / codes.size)}


def statistics(image: Image) -> dict[str, float]:
    """Return the statistics of the intensities."""
    values = image.ravel().astype(float)
    p10, p25, p50, p75, p90 = np.percentile(values, (10, 25, 50, 75, 90))
    is_constant = values.min() == values.max()
    shares = np.bincount(image.ravel()) / image.size
    found = {
        "mean": values.mean(),
        "std": values.std(),
        "minimum": values.min(),
        "percentile_10": p10,
        "median": p50,
        "percentile_90": p90,
        "maximum": values.max(),
        "interquartile_range": p75 - p25,
        "mean_absolute_deviation": np.abs(values - values.mean()).mean(),
        "skewness": 0.0 if is_constant else stats.skew(values),
        "kurtosis": 0.0 if is_constant else stats.kurtosis(values),
        "energy": np.square(values).sum(),
        "root_mean_square": np.sqrt(np.square(values).mean()),
        "entropy": shannon_entropy(image),
        "uniformity": np.square(shares).sum(),
    }
    return {f"first_order_{name}": value for name, value in found.items()}


def regions(labels: Image) -> dict[str, float]:
    """Return the number of regions and how large they are."""
    areas = regionprops_table(labels, properties=("area",))["area"]
    sizes = areas if areas.size else np.zeros(1)
    return {
        "mask_n_regions": areas.size,
        "mask_region_area_mean": sizes.mean(),
        "mask_region_area_std": sizes.std(),
        "mask_region_area_min": sizes.min(),
        "mask_region_area_median": np.median(sizes),
        "mask_region_area_max": sizes.max(),
        "mask_region_area_share": sizes.sum() / labels.size,
    }


def run(paths: list[str], out: str, *, cores: int) -> int:
    """Write a row for each frame and return their number."""
    found = Parallel(n_jobs=cores)(delayed(measure)(path) for path in paths)
    table = pd.DataFrame([row for rows in found for row in rows])
    table.to_parquet(out, index=False)
    return len(table)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cores", type=int, default=2)
    turns.take(partial(run, cores=options.parse_args().cores))
