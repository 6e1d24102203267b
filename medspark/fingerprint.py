"""Fingerprints of images: coarse pictures by which copies of one image are found, and keys that bring copies together.

A fingerprint is 16 x 16 numbers of one byte, row by row: the image averaged, blurred, its mean taken away, and divided
by its standard deviation. Size, file format, quality and window of the copy do not count; a crop of some pixels is
undone by ``distance``. It is a picture: too coarse to read a name from or to tell a face, good enough to tell a chest
from a head, and to recognise an image that one has. Keep it where the features are kept.

Copies are not looked for among all pairs: ``keys`` gives each fingerprint a few numbers, and copies nearly always have
one in common. What a crop changes is learnt from the fingerprints themselves (``moments``, ``axes``), so that the keys
look where distinct images differ and copies do not: linear discriminant analysis, then locality-sensitive hashing with
a grid of random offset for each key (Datar et al., SCG 2004).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medspark.errors import ContractError, StepError
from medspark.frame import Image

SIDE = 16
"""Rows and columns of a fingerprint."""

THRESHOLD = 0.008
"""Two images within this distance show the same thing."""

KEYS = 48
"""How many keys a fingerprint has at most."""

Floats = npt.NDArray[np.float32]
Directions = npt.NDArray[np.float64]
Fingerprints = npt.NDArray[np.int8]

_LEVELS = 32  # of a standard deviation
_SAMPLES = 192  # in each direction are enough: 12 x 12 of them for one number
_FINE = 4 * SIDE
_BLUR = 0.65  # of a cell: without it a crop by part of a cell could not be undone from the cells
_FLAT = 1e-6  # of the range: cells that differ by less differ by rounding

_STEP = 0.0025  # of a side
_MOST = 0.05  # of a side: a larger crop is another image
_ROUNDS = 5
_HOPELESS = 5 * THRESHOLD  # after the first round: copies were below 0.022 then
_BORDER = 1  # cell at each side, which knows too little of what was beyond it
_DETAIL = 2.0  # weight of differences between neighbours: chests agree in the large
_BLOCK = 256  # pairs at a time: what they need stays in the cache

_COARSE = SIDE // 2
_AXES = 10
_BANDS = KEYS // 2
_WIDTH = 13.0  # of a cell of the grid, in standard deviations of what a crop changes
_USUAL = np.full(4, 7)  # steps at the top, bottom, left and right: half of what may be gone
_SPREAD = (15**2 - 1) / 12 / 7**2  # variance of 0 to 14 steps, by the square of what was learnt from


def fingerprint(image: Image) -> bytes | None:
    """Return 256 bytes by which copies of a grayscale image are found; None if it is flat, which is like nothing.

    ``image`` is rows x columns of any real dtype. Values that are no numbers count as the mean of the others. Raises
    StepError for anything else.
    """
    if image.ndim != 2 or not image.size or image.dtype.kind not in "buif":
        raise StepError(f"fingerprint: takes rows x columns of real numbers, got {image.dtype} {image.shape}")
    every_row, every_column = (max(1, length // _SAMPLES) for length in image.shape)
    values = image[::every_row, ::every_column].astype(np.float64)
    if image.dtype.kind == "f":
        values = _numbers(values)
    values -= values.min()  # so that rounding is measured by what the image has, not by where its values lie
    fine = cv2.resize(values, (_FINE, _FINE), interpolation=cv2.INTER_AREA)
    cells = _blurring() @ fine @ _blurring().T
    is_flat = cv2.meanStdDev(cells)[1].item() <= _FLAT * values.max()
    return None if is_flat else _quantised(cells[None]).tobytes()


def unpack(fingerprints: Sequence[bytes]) -> Fingerprints:
    """Return fingerprints as n x 16 x 16 int8; raises ContractError for one of another length."""
    strange = next((len(one) for one in fingerprints if len(one) != SIDE * SIDE), None)
    if strange is not None:
        raise ContractError(f"a fingerprint has {strange} bytes, not {SIDE * SIDE}; extract the features again")
    return np.frombuffer(b"".join(fingerprints), np.int8).reshape(-1, SIDE, SIDE)


def distance(a: Fingerprints, b: Fingerprints) -> npt.NDArray[np.float64]:
    """Return how far each fingerprint of ``a`` is from that of ``b`` in its place: 0 the same, 1 nothing in common.

    Both are n x 16 x 16, the result has n values, the same for (a, b) and (b, a). It is 1 minus the correlation of the
    values and their differences to the neighbours, at the best of the crops tried: up to 5 % at each side of either
    image, found by Gauss-Newton steps that linearise about the mean of both (Malis, ICRA 2004). Up to ``THRESHOLD``
    two images are copies; beyond five times that it is an upper bound, for the search ends early.
    """
    starts = range(0, len(a), _BLOCK)
    blocks = [_registered(a[start : start + _BLOCK], b[start : start + _BLOCK]) for start in starts]
    return np.concatenate(blocks) if blocks else np.zeros(0)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over fingerprints, as whole numbers: they are the same in whatever order and parts they were summed.

    ``values`` is 65 x 65: products of the 8 x 8 sums of cells, and of a 1 that counts. ``changes`` is 64 x 64: products
    of what a margin at each side changes in them.
    """

    values: npt.NDArray[np.float64]
    changes: npt.NDArray[np.float64]

    def to_bytes(self) -> bytes:
        """Return the sums as bytes."""
        return self.values.tobytes() + self.changes.tobytes()


def moments(fingerprints: Fingerprints) -> Moments:
    """Return the sums from which ``axes`` learns, over fingerprints (n x 16 x 16)."""
    usual = _coarse(_cropped(fingerprints, _USUAL))
    changes = np.zeros((_COARSE**2, _COARSE**2))
    for side in np.eye(4, dtype=np.int64):
        change = _coarse(_cropped(fingerprints, _USUAL * (1 + side))) - usual
        changes += change.T @ change
    values = np.column_stack([_coarse(fingerprints), np.ones(len(fingerprints))])
    return Moments(values.T @ values, changes)


def summed(parts: Iterable[bytes]) -> Moments:
    """Return the sums of parts, each from ``Moments.to_bytes``."""
    size = _COARSE**2
    total = np.zeros((size + 1) ** 2 + size**2)
    for part in parts:
        total += np.frombuffer(part, np.float64)
    return Moments(total[: (size + 1) ** 2].reshape(size + 1, size + 1), total[(size + 1) ** 2 :].reshape(size, size))


def axes(sums: Moments) -> Directions:
    """Return the 64 x 11 directions in which fingerprints differ most, measured by what a crop changes."""
    from scipy.linalg import eigh  # the driver's alone

    n = max(1.0, sums.values[-1, -1])
    mean = sums.values[-1, :-1] / n
    spread = sums.values[:-1, :-1] / n - np.outer(mean, mean)
    # Rounding changes a sum of four by a variance of 1/3; a little more keeps few fingerprints from having none at all.
    changes = _SPREAD * sums.changes / n + 4 * np.eye(_COARSE**2)
    directions: Directions = eigh(spread, changes)[1][:, ::-1][:, : _AXES + 1]
    return directions


def keys(fingerprints: Fingerprints, along: Directions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return n x 48 keys of fingerprints (n x 16 x 16), and the place of each (n), given ``axes``.

    Copies nearly always have a key in common, and places that are close. The first half of the keys are those of the
    image, the second half those of the image without its margin: the original shares the latter with its crop.
    """
    whole, within = (_coarse(one) @ along for one in (fingerprints, _cropped(fingerprints, _USUAL)))
    return np.column_stack([_cells_of_grids(one[:, :-1]) for one in (whole, within)]), whole[:, -1]


@cache
def _blurring() -> npt.NDArray[np.float64]:
    """Return the matrix (16 x 64) that blurs along one axis and averages four values into one."""
    sigma = _BLUR * _FINE / SIDE
    kernel = cv2.getGaussianKernel(round(8 * sigma + 1) | 1, sigma)  # as long as cv2.GaussianBlur has it
    blur = cv2.filter2D(np.eye(_FINE), -1, kernel, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blur.reshape(SIDE, -1, _FINE).mean(axis=1))


def _numbers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    is_number = np.isfinite(values)
    if not is_number.all():
        values[~is_number] = values[is_number].mean() if is_number.any() else 0
    return values


def _quantised(cells: npt.NDArray[Any]) -> Fingerprints:
    centred = cells - cells.mean((1, 2), keepdims=True)
    deviation = np.maximum(centred.std((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(np.clip(np.rint(centred / deviation * _LEVELS), -127, 127), np.int8)


@cache
def _resamplings() -> Floats:
    """Return the matrices (21 x 21 x 16 x 16) that make the cells of an image without margins from its own cells.

    The first two indices are the margins before and after, in steps. The cells are averages, so what is interpolated
    are their sums, known at the 17 edges, by a cubic spline.
    """
    from scipy.interpolate import CubicSpline  # half a second of import, for those who compare

    at_edges = np.vstack([np.zeros(SIDE), np.tril(np.ones((SIDE, SIDE)))])
    margins = np.arange(round(_MOST / _STEP) + 1) * _STEP * SIDE
    before, after = np.meshgrid(margins, margins, indexing="ij")
    width = (SIDE - before - after)[..., None] / SIDE
    sums = CubicSpline(np.arange(SIDE + 1), at_edges)(before[..., None] + width * np.arange(SIDE + 1))
    return np.asarray(np.diff(sums, axis=2) / width[..., None], np.float32)


def _without(margins: Floats) -> tuple[Floats, Floats]:
    """Return the matrices that crop the first of each pair by what is positive, the second by what is negative."""
    steps = np.rint(margins / _STEP).astype(np.int64)
    first, second = np.maximum(steps, 0), np.maximum(-steps, 0)
    table = _resamplings()
    return np.asarray(table[first[:, 0], first[:, 1]]), np.asarray(table[second[:, 0], second[:, 1]])


def _registered(a: Fingerprints, b: Fingerprints) -> npt.NDArray[np.float64]:
    first, second = a.astype(np.float32), b.astype(np.float32)
    best, margins = _searched(first, second, np.zeros((len(a), 4), np.float32), 1)
    near = np.flatnonzero(best <= _HOPELESS)
    if len(near):
        best[near], _ = _searched(first[near], second[near], margins[near], _ROUNDS - 1, best[near])
    return best


def _searched(
    a: Floats, b: Floats, margins: Floats, rounds: int, best: npt.NDArray[np.float64] | float = np.inf
) -> tuple[npt.NDArray[np.float64], Floats]:
    """Return the least difference on the way from these margins, none above ``best``, and where the way ended."""
    p, q = _overlap(a, b, margins)
    best = np.minimum(best, _difference(p, q))
    for _ in range(rounds):
        margins = np.clip(margins + _step(p, q), -_MOST, _MOST)
        p, q = _overlap(a, b, margins)
        best = np.minimum(best, _difference(p, q))
    return best, margins


def _overlap(a: Floats, b: Floats, margins: Floats) -> tuple[Floats, Floats]:
    rows_a, rows_b = _without(margins[:, :2])
    columns_a, columns_b = _without(margins[:, 2:])
    p, q = rows_a @ a @ columns_a.transpose(0, 2, 1), rows_b @ b @ columns_b.transpose(0, 2, 1)
    inner = slice(_BORDER, SIDE - _BORDER)
    return np.asarray(p[:, inner, inner], np.float32), np.asarray(q[:, inner, inner], np.float32)


def _difference(p: Floats, q: Floats) -> npt.NDArray[np.float64]:
    v, w = _described(p), _described(q)
    sizes = np.sqrt(np.einsum("ij,ij->i", v, v) * np.einsum("ij,ij->i", w, w))
    # What has nothing within its border is like nothing, not even itself.
    return np.asarray(1 - np.einsum("ij,ij->i", v, w) / np.where(sizes > 0, sizes, np.inf))


def _described(cells: Floats) -> npt.NDArray[np.float64]:
    values = cells - cells.mean((1, 2), keepdims=True)
    parts = (values, _DETAIL * np.diff(values, axis=1), _DETAIL * np.diff(values, axis=2))
    return np.concatenate([part.reshape(len(cells), -1) for part in parts], axis=1).astype(np.float64)


def _step(p: Floats, q: Floats) -> Floats:
    """Return by how much more to crop each pair: least squares on what a margin at each side would change."""
    p, q = _standardised(p), _standardised(q)
    mean = (p + q) / 2
    place = ((np.arange(_BORDER, SIDE - _BORDER, dtype=np.float32) + np.float32(0.5)) / SIDE).astype(np.float32)
    down, right = np.gradient(mean * SIDE, axis=1), np.gradient(mean * SIDE, axis=2)
    rows = place[:, None]
    # A margin before moves what lies at 0 by all of it and what lies at 1 not at all.
    changes = (np.ones_like(mean), mean, down * (1 - rows), -down * rows, right * (1 - place), -right * place)
    known: Floats = np.stack(changes, axis=1).reshape(len(p), len(changes), -1)
    normal = known @ known.transpose(0, 2, 1) + np.float32(1e-3) * np.eye(len(changes), dtype=np.float32)
    found = np.linalg.solve(normal, known @ (q - p).reshape(len(p), -1, 1))
    return np.asarray(found[:, 2:, 0], np.float32)


def _standardised(cells: Floats) -> Floats:
    deviation = np.maximum(cells.std((1, 2), keepdims=True), np.float32(1e-6))
    return np.asarray((cells - cells.mean((1, 2), keepdims=True)) / deviation)


def _cropped(fingerprints: Fingerprints, steps: npt.NDArray[np.int64]) -> Fingerprints:
    top, bottom, left, right = steps
    rows, columns = _resamplings()[top, bottom], _resamplings()[left, right]
    return _quantised(rows @ fingerprints.astype(np.float32) @ columns.T)


def _coarse(fingerprints: Fingerprints) -> npt.NDArray[np.float64]:
    quarters = fingerprints.astype(np.float64).reshape(-1, _COARSE, 2, _COARSE, 2)
    return np.asarray(quarters.sum((2, 4)).reshape(len(fingerprints), _COARSE**2))


def _cells_of_grids(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(1)
    offsets = rng.random((_BANDS, _AXES)) * _WIDTH
    mixers = rng.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (_BANDS, _AXES)) | 1
    cells = np.floor((places[:, None] + offsets) / _WIDTH).astype(np.int64)
    # Cells of two grids that get one number cost a comparison, no more.
    return np.asarray((cells * mixers).sum(2))
