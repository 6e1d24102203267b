"""How far numbers about predictions can be trusted: intervals by drawing patients again, and DeLong's of the AUC."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medspark.errors import ConfigError, ContractError
from medspark.metrics import is_missing, mean_ratio, positive_class, squared_errors, true_codes, truth_and_scores

Array = npt.NDArray[Any]

MEASURED = ("accuracy", "balanced_accuracy", "auc", "pr_auc", "sensitivity", "specificity", "brier")


class DeLong(NamedTuple):
    """The area under a ROC curve and the variance of its estimate."""

    auc: float | None
    variance: float | None


class DeLongTest(NamedTuple):
    """How much greater the first area is than the second, and the two-sided p value of no difference."""

    difference: float | None
    p_value: float | None


class _Ranking(NamedTuple):
    """The rows by falling probability of one class."""

    order: Array
    is_class: Array  # in that order
    last: Array  # of each run of equal probabilities


def bootstrap(
    y_true: Sequence[str] | Array,
    proba: Array,
    classes: Sequence[str],
    groups: Sequence[Any] | Array,
    *,
    n: int = 1000,
    seed: int = 42,
    level: float = 0.95,
    positive: str | None = None,
) -> dict[str, Any]:
    """Return [low, high] of accuracy, balanced_accuracy, auc, pr_auc, sensitivity, specificity and brier.

    ``n`` times as many groups (patients) as there are, are drawn with replacement, each with all its rows, and measured
    as ``evaluate`` would measure them; low and high are the (1 - level) / 2 quantiles from below and from above. Rows
    of one patient are alike, so drawing rows would give intervals that are too narrow. A row whose group is None, NaN
    or "" is a group of its own. ``n_undefined`` counts for each number the draws that left it undefined, such as an auc
    without rows of one class; they are left out. With fewer than two groups every interval is None. Raises ConfigError
    for a parameter out of range, ContractError like ``evaluate`` and unless each row has a group.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993) chapter 13; Field & Welsh, J. R. Stat. Soc. B
    69 (2007) 369, for the drawing of whole groups.
    """
    if n < 1 or seed < 0:
        raise ConfigError(f"n = {n} and seed = {seed}: give at least one draw, and a seed of at least 0")
    _require_level(level)
    codes = true_codes(y_true, proba, classes)
    positive = positive_class(classes, positive)
    of = list(range(len(classes))) if positive is None else [classes.index(positive)]
    place = _group_places(groups, len(codes))
    n_groups = int(place.max()) + 1
    sample = _Sample(codes, proba, of)
    rng = np.random.default_rng(seed)
    drawn = np.empty((n if n_groups > 1 else 0, len(MEASURED)))
    for row in drawn:
        times = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)
        row[:] = sample.measured(times[place])
    defined = {name: values[~np.isnan(values)] for name, values in zip(MEASURED, drawn.T, strict=True)}
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        **{name: np.quantile(values, ends).tolist() if len(values) else None for name, values in defined.items()},
        "n_undefined": {name: n - len(values) for name, values in defined.items()},
    }


def delong(is_positive: Sequence[bool] | Array, scores: Sequence[float] | Array) -> DeLong:
    """Return the AUC of finite scores and its variance, in O(n log n).

    ``is_positive`` is True or False for each row. Without rows of both kinds all is None; without two of each, the
    variance. Rows count as independent: with several of one patient take ``bootstrap``. Raises ContractError for rows
    that do not fit.

    Source: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837; Sun & Xu, IEEE Signal Processing Letters 21
    (2014) 1389.
    """
    truth, (found,) = truth_and_scores(is_positive, scores)
    return _delong(*_wins(truth, found))


def delong_interval(
    is_positive: Sequence[bool] | Array, scores: Sequence[float] | Array, *, level: float = 0.95
) -> list[float] | None:
    """Return [low, high] of the AUC, normal around it with DeLong's variance and cut to 0 to 1.

    It is None where ``delong`` has no variance. An AUC of 1 (or 0) has variance 0, and so an interval of no width: that
    says nothing of how sure it is. Raises ConfigError for a ``level`` that is not between 0 and 1, ContractError like
    ``delong``.
    """
    _require_level(level)
    auc, variance = delong(is_positive, scores)
    if auc is None or variance is None:
        return None
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return [max(0.0, auc - reach), min(1.0, auc + reach)]


def delong_test(
    is_positive: Sequence[bool] | Array, scores_a: Sequence[float] | Array, scores_b: Sequence[float] | Array
) -> DeLongTest:
    """Return the AUC of a less that of b on the same rows, and the p value of the hypothesis that they are equal.

    Rows count as independent. Where ``delong`` has no AUC all is None. The p value is None without two rows of each
    kind, or if the difference has no variance: then it is 1 for no difference. Raises ContractError like ``delong``.

    Source: as of ``delong``.
    """
    truth, (a, b) = truth_and_scores(is_positive, scores_a, scores_b)
    wins_a, wins_b = _wins(truth, a), _wins(truth, b)
    # As the area of one score, which the difference of two is in all but name: no rounding makes its variance negative.
    difference, variance = _delong(wins_a[0] - wins_b[0], wins_a[1] - wins_b[1])
    if difference is None or not variance:
        return DeLongTest(difference, 1.0 if variance == 0 and difference == 0 else None)
    return DeLongTest(difference, math.erfc(abs(difference) / math.sqrt(2 * variance)))


class _Sample:
    """Scored rows, sorted once, that can be measured with every row counted any number of times."""

    def __init__(self, codes: Array, proba: Array, of: Sequence[int]) -> None:
        self.n_classes = proba.shape[1]
        self.of = of
        self.cell = codes * self.n_classes + proba.argmax(axis=1)  # of the confusion matrix
        self.squared_errors = squared_errors(codes, proba, of)
        self.rankings = [_ranking(codes == code, proba[:, code]) for code in of]

    def measured(self, times: Array) -> list[float | None]:
        """Return the values of MEASURED in their order, given how often each row counts; at least one counts."""
        counts = np.bincount(self.cell, times, self.n_classes**2).reshape(self.n_classes, self.n_classes)
        right, there, n_rows = counts.diagonal(), counts.sum(axis=1), counts.sum()
        not_there, wrong = n_rows - there, counts.sum(axis=0) - right
        auc, pr_auc = np.mean([_areas(ranking, times) for ranking in self.rankings], axis=0).tolist()
        return [
            float(right.sum() / n_rows),
            mean_ratio(right, there),
            auc,
            pr_auc,
            mean_ratio(right[self.of], there[self.of]),
            mean_ratio((not_there - wrong)[self.of], not_there[self.of]),
            float(times @ self.squared_errors / n_rows),
        ]


def _ranking(is_class: Array, probability: Array) -> _Ranking:
    order = np.argsort(-probability, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    return _Ranking(order, is_class[order], last)


def _areas(ranking: _Ranking, times: Array) -> tuple[float, float]:
    """Return the areas under the ROC and the precision-recall curve (its average precision); NaN if undefined."""
    sorted_times = times[ranking.order]
    called = np.cumsum(sorted_times)[ranking.last]
    tp = np.cumsum(sorted_times * ranking.is_class)[ranking.last]
    n_class, n_rest = tp[-1], called[-1] - tp[-1]
    if not n_class or not n_rest:
        return math.nan, math.nan
    new_tp = np.diff(tp, prepend=0)
    new_fp = np.diff(called, prepend=0) - new_tp
    auc = (new_fp * (2 * tp - new_tp)).sum() / (2 * n_class * n_rest)  # pairs in the right order, equal ones by half
    precision = tp / np.maximum(called, 1)
    return float(auc), float((new_tp * precision).sum() / n_class)


def _group_places(groups: Sequence[Any] | Array, n_rows: int) -> npt.NDArray[np.int64]:
    """Return the number of the group of each row, in the order in which they come first."""
    if len(groups) != n_rows:
        raise ContractError(f"{len(groups)} groups and {n_rows} rows; give one for each row, such as its patient")
    places: dict[object, int] = {}
    keys = (object() if is_missing(group) else group for group in groups)
    return np.array([places.setdefault(key, len(places)) for key in keys])


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}: give a share between 0 and 1, such as 0.95")


def _wins(truth: Array, score: Array) -> tuple[Array, Array]:
    """Return how many negatives are below each positive, and positives below each negative; equal ones by half.

    From mid-ranks: that among all rows less that among its own kind counts the others below.
    """
    from scipy.stats import rankdata  # slow to import, and only the driver evaluates

    rank = rankdata(score)
    return rank[truth] - rankdata(score[truth]), rank[~truth] - rankdata(score[~truth])


def _delong(of_positives: Array, of_negatives: Array) -> DeLong:
    """Return area and variance from the wins, whole numbers or halves so that equal ones have no variance at all."""
    n_positive, n_negative = len(of_positives), len(of_negatives)
    if not n_positive or not n_negative:
        return DeLong(None, None)
    auc = float(of_positives.mean() / n_negative)
    if min(n_positive, n_negative) < 2:
        return DeLong(auc, None)
    variance_of_positives = of_positives.var(ddof=1) / n_positive / n_negative**2
    variance_of_negatives = of_negatives.var(ddof=1) / n_negative / n_positive**2
    return DeLong(auc, float(variance_of_positives + variance_of_negatives))
