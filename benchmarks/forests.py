"""Scoring of forests, ours against scikit-learn's: rows per second on one core, and whether equal to the last bit.

    python benchmarks/forests.py
    python benchmarks/forests.py --quick

The forests learn from 20,000 rows x 60 features of three classes and are scored in batches: 10,000 rows are what Spark
hands over by default. The two take turns; figures are medians of CPU time, the ratio is the median of the rounds.
``--quick`` learns from fewer rows and grows fewer trees, so its deep trees are smaller.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

from medspark.models.forest import Forest, grown

ROUNDS = 5
N_FEATURES = 60

Array = npt.NDArray[Any]


class Scale(NamedTuple):
    """How much is measured."""

    n_train: int
    n_scored: int
    n_deep: int  # trees of the forest without a limit of depth
    batches: tuple[int, ...]


FULL = Scale(n_train=20_000, n_scored=50_000, n_deep=500, batches=(100, 10_000, 50_000))
QUICK = Scale(n_train=4_000, n_scored=10_000, n_deep=100, batches=(10_000,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="smaller forests, about 20 seconds")
    scale = QUICK if parser.parse_args().quick else FULL
    X, y = make_classification(
        scale.n_train + scale.n_scored, N_FEATURES, n_informative=15, n_classes=3, flip_y=0.1, random_state=0
    )
    X = X.astype(np.float32)
    print(
        f"{'trees':>5} {'depth':>5} {'nodes/tree':>10} {'batch':>6} {'sklearn':>9} {'medspark':>9} {'ratio':>6}  equal"
    )
    for trees, depth in ((100, 3), (100, 10), (scale.n_deep, 0)):
        theirs = RandomForestClassifier(trees, max_depth=depth or None, random_state=42, n_jobs=-1)
        theirs.fit(X[: scale.n_train], y[: scale.n_train]).set_params(n_jobs=1)
        ours = Forest(grown([tree.tree_ for tree in theirs.estimators_]), ["0", "1", "2"], N_FEATURES)
        for batch in scale.batches:
            rows = X[scale.n_train :]
            if batch < 1000:
                rows = rows[: 10 * batch]  # scikit-learn's small batches are slow
            equal, slow, fast, ratio = _race(theirs.predict_proba, ours.predict_proba, rows, batch)
            size = len(ours.trees.feature) // trees
            print(f"{trees:5} {depth or 'full':>5} {size:10} {batch:6} {slow:9.0f} {fast:9.0f} {ratio:5.2f}x  {equal}")


def _race(
    theirs: Callable[[Array], Array], ours: Callable[[Array], Array], rows: Array, batch: int
) -> tuple[bool, float, float, float]:
    """Return whether they are equal, the rows per second of each, and how many times faster ours is."""
    equal = np.array_equal(ours(rows[:batch]), theirs(rows[:batch]))  # the first call compiles
    seconds = np.array([[_seconds(score, rows, batch) for score in (theirs, ours)] for _ in range(ROUNDS)])
    slow, fast = len(rows) / np.median(seconds, axis=0)
    return equal, float(slow), float(fast), float(np.median(seconds[:, 0] / seconds[:, 1]))


def _seconds(score: Callable[[Array], Array], rows: Array, batch: int) -> float:
    start = time.process_time()
    for first in range(0, len(rows), batch):
        score(rows[first : first + batch])
    return time.process_time() - start


if __name__ == "__main__":
    main()
