"""Grey values: windows, stretches and normalisation."""

from collections.abc import Callable

import cv2
import numpy as np

from medspark.errors import StepError
from medspark.frame import Image, VoiLut, Window

__all__ = ["clahe", "rescale_percentile", "to_uint8", "window", "zscore"]


_METHODS = ("percentile", "high_byte")
_BLOCK_PIXELS = 1 << 18


def to_uint8(
    image: Image,
    *,
    window: Window | VoiLut | None = None,
    is_inverted: bool = False,
    modality: str | None = None,
    method: str = "percentile",
    low: float = 1.0,
    high: float = 99.0,
) -> Image:
    """Return the image as it is displayed: uint8, 0 black to 255 white, rounded to the nearest (halves to even).

    With a ``window``, the VOI transform of DICOM PS3.3 C.11.2.1.2. Without: uint8 stays as it is, all else is stretched
    between its ``low`` and ``high`` percentiles (0 to 100); a constant image becomes 0. A mask of bool becomes 0 and
    255 either way. ``is_inverted`` (MONOCHROME1) returns 255 minus that. A recipe takes ``window``, ``is_inverted`` and
    ``modality`` from the file when it leaves them open.

    With the ``method`` "high_byte", uint16 without a window becomes its upper byte, unless it has a ``modality`` and so
    comes from DICOM: the range of a 16-bit PNG or TIFF is that of the display. Equals
    ``cv2.imread(path, cv2.IMREAD_GRAYSCALE)``; of colours in TIFF, JPEG 2000 and PNM, which OpenCV reduces to 8 bits
    before it mixes them, within 1.

    Raises ``StepError`` for NaN or infinite pixels and for a window that the standard does not allow.
    """
    _require_percentiles("to_uint8", low, high)
    if method not in _METHODS:
        raise StepError(f"to_uint8: method must be one of {', '.join(_METHODS)}, got {method!r}")
    if image.dtype == np.bool_:
        shown = image * np.uint8(255)
    elif window is not None:
        shown = _windowed("to_uint8", image, window)
    elif image.dtype == np.uint8:
        shown = image
    elif method == "high_byte" and image.dtype == np.uint16 and modality is None:
        shown = (image >> 8).astype(np.uint8)
    else:
        shown = _stretched("to_uint8", image, low, high)
    return 255 - shown if is_inverted else shown


def window(image: Image, *, center: float, width: float, is_inverted: bool = False) -> Image:
    """Return uint8: the grey values of a window as 0 to 255, rounded to the nearest (halves to even).

    The LINEAR VOI transform of DICOM PS3.3 C.11.2.1.2.1 with ``center`` and ``width`` (at least 1) in the image's own
    values, HU for CT. ``is_inverted`` (MONOCHROME1) gives 255 - result.
    """
    shown = _windowed("window", image, Window(center, width))
    return 255 - shown if is_inverted else shown


def rescale_percentile(image: Image, *, low: float = 1.0, high: float = 99.0) -> Image:
    """Return the same dtype with its ``low`` to ``high`` percentiles (0 to 100) spread over the dtype's full range.

    Equals ``skimage.exposure.rescale_intensity(image, in_range=tuple(np.percentile(image, (low, high))))``, with all
    that it decides: integers are cut off, not rounded; signed integers and floats use their range from 0 (to 1 for
    floats) when the ``low`` percentile is not negative; an image whose percentiles coincide is not spread.
    """
    from skimage.exposure import rescale_intensity  # slow to import

    _require_percentiles("rescale_percentile", low, high)
    _require_finite("rescale_percentile", image)
    limits = tuple(np.percentile(image, (low, high)))
    return _pointwise(image, lambda values: rescale_intensity(values, in_range=limits))


def zscore(image: Image) -> Image:
    """Return float32 with mean 0 and (population) standard deviation 1; a constant image becomes 0.

    Equals ``scipy.stats.zscore(image, axis=None)``, computed in float64.
    """
    _require_finite("zscore", image)
    if image.min() == image.max():  # the rounding of the mean would leave a deviation that is not 0
        return np.zeros(image.shape, np.float32)
    values = image.astype(np.float64, order="C")  # sums depend on the order in memory
    scores: Image = (values - values.mean()) / values.std()
    return scores.astype(np.float32)


def clahe(image: Image, *, clip_limit: float = 2.0, tiles: int = 8) -> Image:
    """Return the image, uint8 or uint16, with its histogram equalised locally in ``tiles`` x ``tiles`` tiles.

    Equals ``cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(image)``: contrast limited adaptive histogram
    equalisation (Zuiderveld, Graphics Gems IV, 1994). ``clip_limit`` is relative to a flat histogram.
    """
    if not 0 < clip_limit < np.inf:
        raise StepError(f"clahe: clip_limit must be above 0, got {clip_limit}")
    if tiles < 1:
        raise StepError(f"clahe: tiles must be at least 1, got {tiles}")
    if image.dtype not in (np.uint8, np.uint16):
        raise StepError(f"clahe takes uint8 and uint16 images, got {image.dtype}: put to_uint8 before it")
    return cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(image)


def _windowed(step: str, image: Image, window: Window | VoiLut) -> Image:
    if isinstance(window, VoiLut):
        return _looked_up(step, image, window)
    center, width = window.center, window.width
    if window.function not in _VOI:
        raise StepError(f"{step}: a window's function must be one of {', '.join(_VOI)}, got {window.function!r}")
    if not (np.isfinite(center) and np.isfinite(width)):
        raise StepError(f"{step}: a window needs finite numbers, got center {center} and width {width}")
    if width <= 0 or (window.function == "LINEAR" and width < 1):
        limit = "at least 1" if window.function == "LINEAR" else "above 0"
        raise StepError(
            f"{step}: the width of a {window.function} window must be {limit}, got {width}; "
            "the step 'window' takes center and width from the configuration"
        )
    _require_finite(step, image)
    voi = _VOI[window.function]
    return _pointwise(image, lambda values: _to_grey(voi(values.astype(np.float64), center, width)))


def _looked_up(step: str, image: Image, lut: VoiLut) -> Image:
    _require_finite(step, image)
    shown = _to_grey(lut.table.astype(np.float64) / (2**lut.bits - 1))

    def show(values: Image) -> Image:
        place = np.clip(np.rint(values.astype(np.float64)) - lut.first, 0, len(shown) - 1)
        found: Image = shown[place.astype(np.intp)]
        return found

    return _pointwise(image, show)


def _linear(values: Image, center: float, width: float) -> Image:
    if width == 1:
        return _above(values, center - 0.5)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _linear_exact(values: Image, center: float, width: float) -> Image:
    return (values - center) / width + 0.5


def _sigmoid(values: Image, center: float, width: float) -> Image:
    return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)  # 1 / (1 + exp(-4 (x - c) / w)) without its overflow


_VOI = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _stretched(step: str, image: Image, low: float, high: float) -> Image:
    _require_finite(step, image)
    black, white = np.percentile(image, (low, high)).tolist()

    def stretch(values: Image) -> Image:
        wide = values.astype(np.float64)
        return _to_grey(_above(wide, white) if black == white else (wide - black) / (white - black))

    return _pointwise(image, stretch)


def _above(values: Image, edge: float) -> Image:
    return np.where(values > edge, 1.0, 0.0)


def _to_grey(fraction: Image) -> Image:
    grey: Image = np.rint(np.clip(fraction, 0, 1) * 255)
    return grey.astype(np.uint8)


def _pointwise(image: Image, function: Callable[[Image], Image]) -> Image:
    """Apply a function of the grey value; integers with fewer values than pixels look it up in a table."""
    if image.dtype.kind in "iu":
        least, most = int(image.min()), int(image.max())
        if most - least < image.size:
            table = function(np.arange(least, most + 1).astype(image.dtype))
            n_rows = max(1, _BLOCK_PIXELS * len(image) // image.size)  # an index has eight bytes
            blocks = (image[start : start + n_rows] for start in range(0, len(image), n_rows))
            found = [table.take(np.subtract(block, least, dtype=np.intp)) for block in blocks]
            return found[0] if len(found) == 1 else np.concatenate(found)
    return function(image)


def _require_percentiles(step: str, low: float, high: float) -> None:
    if not 0 <= low < high <= 100:
        raise StepError(f"{step}: percentiles must be 0 <= low < high <= 100, got low {low} and high {high}")


def _require_finite(step: str, image: Image) -> None:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise StepError(f"{step}: the image has NaN or infinite pixels; replace them before this step")
