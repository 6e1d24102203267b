"""Whether new images are like those a model was trained on: shares of values between the percentiles of the training.

Sources: population stability index, Siddiqi, Credit Risk Scorecards (2006), over tenths of the training side; the
two-sample Kolmogorov-Smirnov statistic, here at the percentiles of the training side, at most 0.01 below that at all.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LEAST = 1e-4  # the share that an empty tenth is taken for: a logarithm needs one


class Reference(TypedDict):
    """How one number was distributed when the model was trained; can be written as JSON."""

    n: int
    edges: list[float]  # its percentiles, and the numbers next below them; ascending, each once
    at_most: list[float]  # the share of values up to each edge


class Drift(TypedDict):
    """How far a distribution is from that of the training."""

    psi: float
    ks: float
    n: int


def reference(values: npt.ArrayLike) -> Reference:
    """Return the distribution of some finite numbers."""
    ordered = np.sort(np.asarray(values, np.float64))
    percentiles = np.quantile(ordered, np.linspace(0.01, 0.99, 99), method="inverted_cdf")
    # And just below: of a number that is often the same, what comes before it must not be counted with it.
    edges = np.unique([percentiles, np.nextafter(percentiles, -np.inf)])
    at_most = np.searchsorted(ordered, edges, side="right") / len(ordered)
    return {"n": len(ordered), "edges": edges.tolist(), "at_most": at_most.tolist()}


def references(X: Array, names: Sequence[str]) -> dict[str, Reference]:
    """Return the distribution of each column of rows x features."""
    return {name: reference(X[:, column]) for column, name in enumerate(names)}


def counts(values: Array, edges: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return how many values are up to each edge and above the one before it; the last entry: above all."""
    places = np.searchsorted(np.asarray(edges), values, side="left")
    return np.bincount(places, minlength=np.size(edges) + 1)


def compare(before: Reference, now: Array) -> Drift | None:
    """Return how far the ``counts`` of new values are from a reference; None if there are no values."""
    n = int(now.sum())
    if not n:
        return None
    old, new = np.array(before["at_most"]), np.cumsum(now)[:-1] / n
    bounds = _tenths(old)
    expected, found = (np.diff(share[bounds], prepend=0, append=1).clip(min=_LEAST) for share in (old, new))
    return {
        "psi": float(np.sum((found - expected) * np.log(found / expected))),
        "ks": float(np.abs(old - new).max()),
        "n": n,
    }


def _tenths(at_most: Array) -> Array:
    """Return the places of the edges that part tenths; a value that holds much of one alone has a part of its own."""
    places = np.searchsorted(at_most, np.linspace(0.1, 0.9, 9) - 1e-9).clip(max=len(at_most) - 1)
    is_single = at_most[places] - at_most[places - 1] > 0.05
    return np.unique(np.concatenate([places, places[is_single & (places > 0)] - 1]))


def is_drifted(drift: Drift, *, n_patients: int, n_reference: int, psi: float, ks: float) -> bool:
    """Tell whether a distribution has passed a limit, and what chance would reach between so many patients.

    Images of one patient are alike, so patients count, and not images. The limit of ``ks`` is raised to the critical
    value of the Kolmogorov-Smirnov test at a level of 0.001, the one of ``psi`` to the 99.9 % quantile of its
    distribution without drift, chi-squared of 9 degrees over n.
    """
    n = 1 / (1 / n_patients + 1 / n_reference)
    return bool(drift["ks"] > max(ks, 1.95 / np.sqrt(n)) or drift["psi"] > max(psi, 27.88 / n))
