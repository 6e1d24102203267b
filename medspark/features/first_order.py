"""First-order statistics: what can be said of the grey levels without looking where they are."""

import cv2
import numpy as np

from medspark.errors import StepError
from medspark.frame import Image

__all__ = ["first_order"]

_GRAYSCALE = {np.dtype(name): name for name in ("uint8", "uint16", "int16", "float32", "float64")}
_PERCENTS = np.array([10, 25, 50, 75, 90])


def first_order(image: Image) -> dict[str, float]:
    """Return 15 statistics of the grey levels of the whole image.

    Intensity-based statistics of IBSI 1 (section 3.3): ``mean``, ``std`` (of the population), ``minimum``,
    ``percentile_10``, ``median``, ``percentile_90``, ``maximum``, ``interquartile_range``,
    ``mean_absolute_deviation`` (from the mean), ``skewness``, ``kurtosis`` (excess: 0 for a normal distribution),
    ``energy`` (sum of squares) and ``root_mean_square``, each with ``first_order_`` before it. Percentiles are
    interpolated linearly, as by ``numpy.percentile``.

    Intensity histogram (section 3.4): ``first_order_entropy`` in bits and ``first_order_uniformity``, of 256 equal
    bins from the smallest to the largest value of the image. For 8 bit that is a bin for each grey level, so that the
    entropy equals ``skimage.measure.shannon_entropy``.

    A constant image has ``std``, ``skewness``, ``kurtosis`` and ``entropy`` 0 and ``uniformity`` 1.

    Takes rows x columns of uint8, uint16, int16, float32 or float64, in any unit; values that are equal as numbers
    give equal results in every dtype. Raises StepError for anything else, NaN and infinity.
    """
    require_grayscale(image, "first_order")
    values, counts = _histogram(image)
    n = counts.sum()
    above = values - values[0]  # from the minimum: an offset such as -1024 HU takes no digits from the moments
    mean_above = (above * counts).sum() / n
    deviations = above - mean_above
    std = np.sqrt((deviations * deviations * counts).sum() / n)
    z = deviations / std if std > 0 else np.zeros_like(deviations)
    cubes = z * z * z  # not z**3: pow() rounds differently from one processor to the next
    p10, p25, median, p75, p90 = _percentiles(values, counts)
    energy = (values * values * counts).sum()
    shares = _shares(above, counts)
    found = {
        "mean": values[0] + mean_above,
        "std": std,
        "minimum": values[0],
        "percentile_10": p10,
        "median": median,
        "percentile_90": p90,
        "maximum": values[-1],
        "interquartile_range": p75 - p25,
        "mean_absolute_deviation": (np.abs(deviations) * counts).sum() / n,
        "skewness": (cubes * counts).sum() / n,
        "kurtosis": (cubes * z * counts).sum() / n - 3 if std > 0 else 0,
        "energy": energy,
        "root_mean_square": np.sqrt(energy / n),
        "entropy": np.abs((shares * np.log2(shares)).sum()),  # abs: a single bin would give -0.0
        "uniformity": (shares * shares).sum(),
    }
    return {f"first_order_{name}": float(value) for name, value in found.items()}


def require_plane(image: Image, feature: str) -> None:
    """Raise StepError unless the image is rows x columns with at least one pixel."""
    if image.ndim != 2 or not image.size:
        raise StepError(f"{feature}: takes rows x columns, got shape {image.shape}; convert it to grayscale first")


def require_grayscale(image: Image, feature: str) -> None:
    """Raise StepError unless the image is rows x columns of 8 or 16 bit or of finite floats."""
    require_plane(image, feature)
    if image.dtype not in _GRAYSCALE:
        raise StepError(f"{feature}: takes {', '.join(_GRAYSCALE.values())}, got {image.dtype}; put to_uint8 before it")
    limit = np.finfo(np.float32).max  # beyond it fourth powers overflow float64
    if image.dtype.kind == "f" and not (image.min() >= -limit and image.max() <= limit):
        raise StepError(f"{feature}: the image holds NaN, infinity or values beyond float32; clip or mask them first")


def _histogram(image: Image) -> tuple[Image, Image]:
    """Return the distinct values, ascending, and how often each occurs: exact, and blind to the order of pixels."""
    if image.dtype.kind == "f":
        whole = _as_whole_numbers(image)
        if whole is None:
            values, counts = np.unique(image, return_counts=True)
            return values.astype(np.float64), counts.astype(np.float64)
        image = whole
    start = 0
    if image.dtype == np.int16:
        start = -(2**15)
        image = image.view(np.uint16) ^ np.uint16(2**15)
    counts = _counts(image)
    levels = np.flatnonzero(counts)
    return (levels + start).astype(np.float64), counts[levels].astype(np.float64)


def _as_whole_numbers(image: Image) -> Image | None:
    """Return the same values as int16 if they are, as HU in floats mostly are: a histogram is 10 times a sort."""
    if image.min() < -(2**15) or image.max() >= 2**15:
        return None
    whole = image.astype(np.int16)
    return whole if np.array_equal(whole, image) else None


def _counts(image: Image) -> Image:
    levels = 256**image.itemsize
    rows = max(1, 2**24 // image.shape[1])  # OpenCV counts in float32, exactly up to 2**24
    counts = np.zeros(levels, np.int64)
    for top in range(0, image.shape[0], rows):
        part = cv2.calcHist([image[top : top + rows]], [0], None, [levels], [0, levels])
        counts += part.ravel().astype(np.int64)
    return counts


def _percentiles(values: Image, counts: Image) -> Image:
    up_to = counts.cumsum()
    last = up_to[-1] - 1
    rank, hundredths = np.divmod(last * _PERCENTS, 100)
    lower = values[np.searchsorted(up_to, rank, side="right")]
    upper = values[np.searchsorted(up_to, np.minimum(rank + 1, last), side="right")]
    return np.asarray(lower + (upper - lower) * (hundredths / 100))


def _shares(above: Image, counts: Image) -> Image:
    """Return the share of the pixels in each of 256 equal bins that is not empty."""
    span = above[-1] or 1.0
    bins = np.minimum((256 * above / span).astype(np.int64), 255)
    filled = np.bincount(bins, weights=counts)
    return np.asarray(filled[filled > 0] / counts.sum())
