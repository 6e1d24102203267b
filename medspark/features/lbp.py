"""Local binary patterns: how the grey levels on a circle around each pixel compare with the pixel itself.

The kernel equals scikit-image's to the last pixel, ties included, because it does the same float64 operations in the
same order. It is faster because a row is interpolated between columns once for each distinct column offset, and then
serves every sample and every centre row that needs it from a ring of ``2 * reach + 1`` rows.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from medspark.compiled import compiled
from medspark.errors import StepError, did_you_mean
from medspark.features.first_order import require_grayscale
from medspark.frame import Image

__all__ = ["lbp"]

METHODS = ("default", "ror", "uniform", "nri_uniform", "var")
DEFAULT, ROR, UNIFORM, _, _ = range(len(METHODS))  # the kernel knows them by number
MAX_POINTS = {"default": 31, "ror": 31, "uniform": 63, "nri_uniform": 63, "var": 63}  # bits of an int32, of an int64
MAX_RADIUS = 100  # pixels; the ring of rows grows with it
MAX_COLUMNS = 256


def lbp(image: Image, *, points: int = 8, radius: float = 1, method: str = "uniform") -> dict[str, float]:
    """Return the share of the pixels that have each local binary pattern.

    Takes rows x columns of uint8, uint16, int16, float32 or float64; outside the image counts as 0. The columns are
    called ``lbp_p8_r1_00``, ``lbp_p8_r1_01`` ...; a method other than ``uniform`` stands before the number
    (``lbp_p8_r1_5_ror_007`` has radius 1.5), and the number is the code in `local_binary_pattern`:

    - ``uniform``: the number of samples not darker than the pixel, 0 .. points; points + 1 for every other pattern
    - ``nri_uniform``: the same, told apart by rotation: points * (points - 1) + 3 columns
    - ``default``: every pattern, 2 ** points columns
    - ``ror``: the patterns that are the least of their rotations, 36 columns for 8 points
    - ``var``: not shares but ``mean``, ``std``, ``p10``, ``p50`` and ``p90`` of the variance on the circle, in squared
      grey levels; where scikit-image has NaN (no variance at all) it counts as 0

    Raises StepError for what `local_binary_pattern` refuses and for more than 256 columns.

    Source: Ojala, Pietikainen, Maenpaa 2002, doi:10.1109/TPAMI.2002.1017623, as in
    ``skimage.feature.local_binary_pattern``.
    """
    circle = _circle(points, radius, method)
    if method == "var":
        stem = _stem(points, radius)
        return {f"{stem}_var_{name}": value for name, value in _summary(_variances(image, circle)).items()}
    names, bins = _columns(points, radius, method)
    codes = _codes(image, circle, method, np.uint16)
    shares = _count(codes, int(bins[-1]) + 1)[bins] / codes.size
    return dict(zip(names, shares.tolist(), strict=True))


def local_binary_pattern(image: Image, *, points: int, radius: float, method: str = "uniform") -> Image:
    """Return the code of the pattern around each pixel, float64, rows x columns as the image.

    ``method`` is default, ror, uniform, nri_uniform or var (the variance on the circle, NaN where it is 0).
    Takes rows x columns of uint8, uint16, int16, float32 or float64; up to 31 ``points`` for default and ror, 63 for
    the others; ``radius`` above 0 and up to 100 pixels. Raises StepError beyond these, and for NaN and infinity.

    Equals ``skimage.feature.local_binary_pattern(image, points, radius, method)`` of scikit-image 0.26.
    """
    circle = _circle(points, radius, method)
    return _variances(image, circle) if method == "var" else _codes(image, circle, method, np.float64)


class _Circle(NamedTuple):
    """The samples around a pixel: ``down`` rows and, on line ``plane`` of the ring, ``right`` whole columns."""

    down: Image
    right: Image
    plane: Image  # 0 is the image itself, 1 .. are the values between columns
    between: Image  # the distinct column offsets that are not whole, one for each plane from 1
    reach: int  # rows and columns of zeros that the samples may ask for around the image


def _circle(points: object, radius: object, method: object) -> _Circle:
    if not isinstance(method, str) or method not in METHODS:
        raise StepError(f"lbp: no method is called {method!r}; {did_you_mean(str(method), METHODS)}")
    if isinstance(points, bool) or not isinstance(points, int) or not 1 <= points <= MAX_POINTS[method]:
        raise StepError(f"lbp: points must be a whole number 1 .. {MAX_POINTS[method]} for {method!r}, got {points!r}")
    if isinstance(radius, bool) or not isinstance(radius, (int, float)) or not 0 < radius <= MAX_RADIUS:
        raise StepError(f"lbp: radius must be a number above 0 and at most {MAX_RADIUS}, got {radius!r}")
    return _samples(points, float(radius))


@cache
def _samples(points: int, radius: float) -> _Circle:
    angle = 2 * np.pi * np.arange(points, dtype=np.float64) / points
    down = np.round(-radius * np.sin(angle), 5)
    right = np.round(radius * np.cos(angle), 5)
    is_whole = right == np.floor(right)
    between = np.unique(right[~is_whole])
    plane = np.where(is_whole, 0, 1 + np.searchsorted(between, right))
    return _Circle(down, np.where(is_whole, right, 0).astype(np.int64), plane, between, math.ceil(radius))


def _codes(image: Image, circle: _Circle, method: str, dtype: type[np.generic]) -> Image:
    codes = np.empty(np.shape(image), dtype)
    _encode(_plain(image), circle, METHODS.index(method), codes)
    return codes


def _variances(image: Image, circle: _Circle) -> Image:
    variances = np.empty(np.shape(image))
    _vary(_plain(image), circle, variances)
    return variances


def _plain(image: Image) -> Image:
    """Return the image as one of the three array types that the kernels are compiled for."""
    require_grayscale(image, "lbp")
    dtype = image.dtype if image.dtype in (np.uint8, np.uint16) else np.float64
    return np.require(image, dtype, ["C", "A", "W"])  # a read-only array would be one more type


@cache
def _columns(points: int, radius: float, method: str) -> tuple[tuple[str, ...], Image]:
    """Return the names of the columns and the code that each counts; raises StepError if they are too many."""
    width = _width(points, method)
    if width > MAX_COLUMNS:
        raise StepError(
            f"lbp: method {method!r} with points={points} makes {width} columns, the limit is {MAX_COLUMNS}; "
            f"use fewer points or method 'uniform' ({points + 2} columns)"
        )
    bins = _least_rotations(points) if method == "ror" else np.arange(width)
    stem = _stem(points, radius) + ("" if method == "uniform" else f"_{method}")
    digits = max(2, len(str(bins[-1])))
    return tuple(f"{stem}_{code:0{digits}}" for code in bins), bins


def _stem(points: int, radius: float) -> str:
    return f"lbp_p{points}_r{np.format_float_positional(radius, trim='-').replace('.', '_')}"


def _width(points: int, method: str) -> int:
    if method == "uniform":
        return points + 2
    if method == "nri_uniform":
        return points * (points - 1) + 3
    if method == "ror":  # Burnside's lemma: the patterns that differ by more than a rotation
        return sum(1 << math.gcd(turn, points) for turn in range(points)) // points
    return 1 << points


def _least_rotations(points: int) -> Image:
    pattern = np.arange(2**points)
    least = pattern
    for _ in range(points - 1):
        pattern = pattern >> 1 | (pattern & 1) << (points - 1)
        least = np.minimum(least, pattern)
    return np.unique(least)


def _summary(variances: Image) -> dict[str, float]:
    known = np.nan_to_num(variances, nan=0.0)
    p10, p50, p90 = np.percentile(known, (10, 50, 90)).tolist()
    return {"mean": float(known.mean()), "std": float(known.std()), "p10": p10, "p50": p50, "p90": p90}


@compiled
def _encode(image: Image, circle: _Circle, method: int, codes: Image) -> None:
    rows, columns = image.shape
    points = len(circle.down)
    ring, weights = _ring(columns, circle)
    lines = ring.reshape(-1)
    patterns = np.empty(columns, np.int64)
    for row in range(-circle.reach, rows):
        _enter(image, row + circle.reach, circle, weights, ring)
        if row >= 0:
            patterns[:] = 0
            centre = _place(ring, 0, row, circle.reach)
            for i in range(0, points, 2):  # two at a time halve the traffic of the centre and the patterns
                j = min(i + 1, points - 1)
                _compare(lines, _sample(ring, row, circle, i), _sample(ring, row, circle, j), centre, patterns)
            _name(patterns, points, method, codes[row])


@compiled
def _vary(image: Image, circle: _Circle, variances: Image) -> None:
    rows, columns = image.shape
    points = len(circle.down)
    ring, weights = _ring(columns, circle)
    lines = ring.reshape(-1)
    total = np.empty(columns)
    squares = np.empty(columns)
    for row in range(-circle.reach, rows):
        _enter(image, row + circle.reach, circle, weights, ring)
        if row >= 0:
            total[:] = 0
            squares[:] = 0
            for i in range(points):
                above, below, weight, _ = _sample(ring, row, circle, i)
                for column in range(np.uint64(columns)):
                    value = (1 - weight) * lines[above + column] + weight * lines[below + column]
                    total[column] += value
                    squares[column] += value * value
            for column in range(columns):
                variance = (squares[column] - total[column] * total[column] / points) / points
                variances[row, column] = variance if variance != 0 else np.nan


@compiled
def _ring(columns: int, circle: _Circle) -> tuple[Image, Image]:
    planes = len(circle.between)
    height = 1
    while height < 2 * circle.reach + 1:  # a power of two: the place of a row is the last bits of its number
        height *= 2
    ring = np.zeros((planes + 1, height, columns + 2 * circle.reach))
    weights = np.empty((planes, columns))
    for i in range(planes):
        for column in range(columns):
            # From the absolute position, as in scikit-image: the last bits of the fraction change along the row.
            position = column + circle.between[i]
            weights[i, column] = position - np.floor(position)
    return ring, weights


@compiled
def _place(ring: Image, plane: int, row: int, column: int) -> np.uint64:
    """Return where a line of the ring goes on from a column, as an index of the ring laid flat.

    Numbers instead of slices, whose references are counted, and without a sign, which would be looked at each time.
    """
    _, height, width = ring.shape
    return np.uint64((plane * height + (row & (height - 1))) * width + column)


@compiled
def _enter(image: Image, row: int, circle: _Circle, weights: Image, ring: Image) -> None:
    """Put a row of the image, and its values between columns, in the place of the row that leaves the ring."""
    rows, columns = image.shape
    if row >= rows:
        ring[:, row & (ring.shape[1] - 1)] = 0
        return
    lines = ring.reshape(-1)
    line = _place(ring, 0, row, circle.reach)
    for column in range(np.uint64(columns)):
        lines[line + column] = image[row, column]
    for i in range(len(circle.between)):
        left = _place(ring, 0, row, circle.reach + int(np.floor(circle.between[i])))
        out = _place(ring, i + 1, row, circle.reach)
        for column in range(np.uint64(columns)):
            weight = weights[i, column]
            right = lines[left + column + np.uint64(1)]
            lines[out + column] = (1 - weight) * lines[left + column] + weight * right


@compiled
def _sample(ring: Image, row: int, circle: _Circle, i: int) -> tuple[np.uint64, np.uint64, float, int]:
    """Return the places above and below sample i of a row of centres, the weight of the one below, and its bit."""
    position = row + circle.down[i]
    top = np.floor(position)
    start = circle.reach + circle.right[i]
    above = _place(ring, circle.plane[i], int(top), start)
    below = _place(ring, circle.plane[i], int(np.ceil(position)), start)
    return above, below, position - top, 1 << i


@compiled
def _compare(
    lines: Image,
    first: tuple[np.uint64, np.uint64, float, int],
    second: tuple[np.uint64, np.uint64, float, int],
    centre: np.uint64,
    patterns: Image,
) -> None:
    above, below, weight, bit = first
    above_2, below_2, weight_2, bit_2 = second
    for column in range(np.uint64(len(patterns))):
        value = (1 - weight) * lines[above + column] + weight * lines[below + column]
        value_2 = (1 - weight_2) * lines[above_2 + column] + weight_2 * lines[below_2 + column]
        found = bit if value >= lines[centre + column] else 0
        patterns[column] |= found | (bit_2 if value_2 >= lines[centre + column] else 0)


@compiled
def _name(patterns: Image, points: int, method: int, codes: Image) -> None:
    """Write the code of each pattern; bit i of a pattern says that sample i is not darker than the centre."""
    steps = (1 << (points - 1)) - 1  # P - 1 transitions: the last sample is not compared with the first
    for column in range(len(patterns)):
        pattern = patterns[column]
        if method == DEFAULT:
            codes[column] = pattern
        elif method == ROR:
            codes[column] = _least_rotation(pattern, points)
        else:
            is_uniform = _ones((pattern ^ (pattern >> 1)) & steps) <= 2
            if method == UNIFORM:
                codes[column] = _ones(pattern) if is_uniform else points + 1
            else:
                codes[column] = _turned(pattern, points) if is_uniform else points * (points - 1) + 2


@compiled
def _ones(pattern: int) -> int:
    # Unsigned and ending in a product, the form that LLVM knows as a population count.
    pairs = np.uint64(pattern) - ((np.uint64(pattern) >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(np.int64((bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)))


@compiled
def _least_rotation(pattern: int, points: int) -> int:
    least = pattern
    for _ in range(points - 1):
        pattern = (pattern >> 1) | ((pattern & 1) << (points - 1))
        least = min(least, pattern)
    return least


@compiled
def _turned(pattern: int, points: int) -> int:
    """Return the code of a uniform pattern: its ones, and how far they are turned from the start."""
    ones = _ones(pattern)
    if ones == 0:
        return 0
    if ones == points:
        return points * (points - 1) + 1
    leading = _ones((pattern & -pattern) - 1)  # zeros before the first one
    turn = points - leading if leading else ones - _ones((~pattern & (pattern + 1)) - 1)
    return 1 + (ones - 1) * points + turn


@compiled
def _count(codes: Image, bins: int) -> Image:
    counts = np.zeros((4, bins), np.int64)  # four, or a flat background would wait for its own last increment
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            counts[column & 3, codes[row, column]] += 1
    total: Image = counts.sum(axis=0)
    return total
