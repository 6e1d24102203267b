"""Numbers about predictions, all that scikit-learn has equal to its."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from medspark.errors import ConfigError, ContractError, did_you_mean

Array = npt.NDArray[Any]

MAX_POINTS = 200  # of a curve: more than a drawing can show
UNKNOWN = "unknown"  # the subgroup of the rows without a value
_ROUNDING = 1e-6  # that a probability may lie outside of 0 to 1: those of some models are float32


class Curve(NamedTuple):
    """A receiver operating characteristic, from (0, 0) to (1, 1)."""

    fpr: list[float]
    tpr: list[float]
    auc: float  # of the curve before it was thinned


class Scorer(Protocol):
    """What gives rows x classes probabilities for rows x features: every kind of model."""

    def predict_proba(self, X: Array, /) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities."""


def evaluate(
    y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str], *, positive: str | None = None
) -> dict[str, Any]:
    """Return what can be said about rows x classes probabilities, as plain values that can be written as JSON.

    The prediction is the most probable class. ``auc``, ``pr_auc`` (average precision), ``sensitivity`` and
    ``specificity`` are of the ``positive`` class if there are two, by default the second in sorted order, and otherwise
    the mean over the classes, each against the rest (then ``positive`` is None); ``roc_auc_by_class`` and
    ``pr_auc_by_class`` have each class against the rest. ``brier`` is the mean squared error of the probability of
    ``positive`` (0 to 1), without one that of all classes summed (0 to 2). ``log_loss`` is natural, its probabilities
    clipped to 2.2e-16. ``balanced_accuracy`` is the mean over the classes that have rows; ``confusion`` has the true
    classes as rows, in the order of ``classes``. What a class without rows (or with all of them) leaves undefined is
    None, or left out of a mean, and ``note`` says so (else it is None). Raises ConfigError for an impossible
    ``positive``, ContractError if labels, probabilities and classes do not fit together.

    Source: ``sklearn.metrics``: accuracy_score, recall_score, roc_auc_score, average_precision_score,
    multilabel_confusion_matrix, brier_score_loss, log_loss.
    """
    from sklearn import metrics  # slow to import, and only the driver evaluates

    codes = true_codes(y_true, proba, classes)
    positive = positive_class(classes, positive)
    predicted = proba.argmax(axis=1)
    every = np.arange(len(classes))
    n_by_class = np.bincount(codes, minlength=len(classes))
    absent = [str(name) for name, count in zip(classes, n_by_class, strict=True) if not count]

    of = every.tolist() if positive is None else [classes.index(positive)]
    (tn, fp), (fn, tp) = metrics.multilabel_confusion_matrix(codes, predicted, labels=every)[of].transpose(1, 2, 0)
    roc_auc = _by_class(metrics.roc_auc_score, codes, proba)
    pr_auc = _by_class(metrics.average_precision_score, codes, proba)
    return {
        "n": len(codes),
        "n_by_class": dict(zip(classes, n_by_class.tolist(), strict=True)),
        "positive": positive,
        "accuracy": float(metrics.accuracy_score(codes, predicted)),
        "balanced_accuracy": float(
            metrics.recall_score(codes, predicted, labels=every[n_by_class > 0], average="macro")
        ),
        "auc": _mean([roc_auc[code] for code in of]),
        "roc_auc_by_class": dict(zip(classes, roc_auc, strict=True)),
        "pr_auc": _mean([pr_auc[code] for code in of]),
        "pr_auc_by_class": dict(zip(classes, pr_auc, strict=True)),
        "sensitivity": mean_ratio(tp, tp + fn),
        "specificity": mean_ratio(tn, tn + fp),
        "brier": float(squared_errors(codes, proba, of).mean()),
        "log_loss": _log_loss(codes, proba),
        "confusion": metrics.confusion_matrix(codes, predicted, labels=every).tolist(),
        "note": f"no rows of {', '.join(absent)}: what needs them is empty or left out" if absent else None,
    }


def roc(y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str]) -> dict[str, Curve]:
    """Return the curve of each class against the rest, thinned to at most 200 points along it.

    A class that has no row, or every row, has no curve and is left out. Raises ContractError like ``evaluate``.

    Source: ``sklearn.metrics.roc_curve`` and ``roc_auc_score``.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # as above

    codes = true_codes(y_true, proba, classes)
    curves = {}
    for code, name in enumerate(classes):
        is_class = codes == code
        if is_class.any() and not is_class.all():
            fpr, tpr, _ = roc_curve(is_class, proba[:, code])
            kept = _thinned(fpr, tpr)
            auc = float(roc_auc_score(is_class, proba[:, code]))
            curves[name] = Curve(fpr[kept].tolist(), tpr[kept].tolist(), auc)
    return curves


def calibration(
    y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str], *, bins: int = 10
) -> dict[str, dict[str, list[Any]]]:
    """Return how often each class is there where the model gives it a probability: its reliability diagram.

    For each class ``mean_predicted``, ``fraction_positive`` (0 to 1) and ``n`` (rows) of those of the ``bins`` equal
    parts of 0 to 1 that have rows, in rising order; an inner border belongs to the part below it. Raises ConfigError
    for ``bins`` below 1, ContractError like ``evaluate``.

    Source: ``sklearn.calibration.calibration_curve`` with ``strategy="uniform"``.
    """
    if bins < 1:
        raise ConfigError(f"bins = {bins}: give at least 1")
    codes = true_codes(y_true, proba, classes)
    borders = np.linspace(0, 1, bins + 1)[1:-1]
    found = {}
    for code, name in enumerate(classes):
        place = np.searchsorted(borders, proba[:, code])
        n = np.bincount(place, minlength=bins)
        predicted = np.bincount(place, weights=proba[:, code], minlength=bins)
        there = np.bincount(place[codes == code], minlength=bins)
        kept = n > 0
        found[name] = {
            "mean_predicted": (predicted[kept] / n[kept]).tolist(),
            "fraction_positive": (there[kept] / n[kept]).tolist(),
            "n": n[kept].tolist(),
        }
    return found


def operating_point(
    is_positive: Sequence[bool] | Array,
    scores: Sequence[float] | Array,
    *,
    sensitivity: float = 0.0,
    specificity: float = 0.0,
) -> dict[str, float]:
    """Return the threshold to call a row positive from (score >= threshold), and what it reaches on these rows.

    With a wanted ``sensitivity`` (0 to 1) it is the highest threshold that reaches it, with a wanted ``specificity``
    the lowest one, and with neither the one of the greatest Youden's J = sensitivity + specificity - 1, of several the
    highest. One threshold is above every score: nobody is positive. Choose it on rows that the model is not judged by:
    what it reaches elsewhere is for ``at_threshold`` to say. Raises ConfigError for a share outside of 0 to 1, or two;
    ContractError for rows that are not True or False with a finite score each, or all alike.

    Source: Youden, Cancer 3 (1950) 32; the thresholds are those of ``sklearn.metrics.roc_curve``.
    """
    for name, share in (("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} = {share}: give a share from 0 to 1, or 0 for none wanted")
    if sensitivity and specificity:
        raise ConfigError(f"sensitivity = {sensitivity} and specificity = {specificity}: one decides; leave out one")
    truth, (score,) = truth_and_scores(is_positive, scores)
    n_positive, n_negative = np.count_nonzero(truth), np.count_nonzero(~truth)
    if not n_positive or not n_negative:
        raise ContractError(
            f"{n_positive} positive and {n_negative} negative rows: a threshold needs both to tell apart; add rows"
        )
    thresholds, tp, fp = _steps(truth, score)
    tn = n_negative - fp
    if sensitivity:
        place = np.flatnonzero(tp / n_positive >= sensitivity)[0]
    elif specificity:
        place = np.flatnonzero(tn / n_negative >= specificity)[-1]
    else:
        place = np.argmax(tp * n_negative - fp * n_positive)  # J in whole numbers, where equals are equal
    return {
        "threshold": float(thresholds[place]),
        "sensitivity": float(tp[place] / n_positive),
        "specificity": float(tn[place] / n_negative),
    }


def at_threshold(
    y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str], *, positive: str, threshold: float
) -> dict[str, Any]:
    """Return what comes of calling the rows ``positive`` whose probability of that class is >= ``threshold``.

    ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` (the share of the positive and negative calls that are right)
    are None where there is no row to count; ``tp``, ``fp``, ``tn`` and ``fn`` count rows. With more than two classes
    the others are the negative ones. Raises ConfigError for a ``positive`` that is no class or a threshold that is not
    finite, ContractError like ``evaluate``.
    """
    if positive not in classes:
        raise ConfigError(f"positive = {positive!r} is no class of the model; {did_you_mean(positive, classes)}")
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold = {threshold}: give a finite number, such as one of operating_point")
    code = classes.index(positive)
    is_positive = true_codes(y_true, proba, classes) == code
    is_called = proba[:, code] >= threshold
    tp, fp = (int(np.count_nonzero(is_called & truth)) for truth in (is_positive, ~is_positive))
    fn, tn = (int(np.count_nonzero(~is_called & truth)) for truth in (is_positive, ~is_positive))
    return {
        "threshold": float(threshold),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }


def by_subgroup(
    y_true: Sequence[str] | Array,
    proba: Array,
    classes: Sequence[str],
    values: Sequence[Any] | Array,
    *,
    positive: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return n, auc, sensitivity, specificity and accuracy of the rows of each value, such as a manufacturer's.

    ``values`` has one for each row; None, NaN and "" count as "unknown". The values are in sorted order, "unknown" at
    the end, and what a subgroup leaves undefined is None, all of it as in ``evaluate``. Raises as that does, and
    ContractError unless each row has a value.
    """
    labels = np.asarray(y_true)
    true_codes(labels, proba, classes)
    if len(values) != len(labels):
        raise ContractError(f"{len(values)} values of a subgroup and {len(labels)} rows; give one for each row")
    names = np.array([UNKNOWN if is_missing(value) else str(value) for value in values])
    found = {}
    for name in sorted(set(names.tolist()), key=lambda name: (name == UNKNOWN, name)):
        numbers = evaluate(labels[names == name], proba[names == name], classes, positive=positive)
        found[name] = {key: numbers[key] for key in ("n", "auc", "sensitivity", "specificity", "accuracy")}
    return found


def permutation_importance(
    model: Scorer,
    X: Array,
    y_true: Sequence[str] | Array,
    classes: Sequence[str],
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    repeats: int = 5,
    seed: int = 42,
    positive: str | None = None,
) -> dict[str, Any]:
    """Return how much AUC is lost when a feature is shuffled among the rows: ``auc`` before, ``mean`` and ``std``.

    ``X`` is rows x features that the model has not learned from; it stays as it is. ``mean`` and ``std`` (over the
    repeats, with n in the denominator) have one number for each column; with ``groups``, of names to columns, one for
    each group in the order given: its columns are shuffled together, because of features that say the same each alone
    seems to matter little. AUC is that of ``evaluate``; without rows of every class all is None. Raises ConfigError for
    ``repeats`` below 1, groups that are not columns or an impossible ``positive``, ContractError like ``evaluate``.

    Source: Breiman, Machine Learning 45 (2001) 5; ``sklearn.inspection.permutation_importance`` with the same seed.
    """
    if repeats < 1:
        raise ConfigError(f"repeats = {repeats}: give at least 1")
    columns = [[column] for column in range(X.shape[1])] if groups is None else _columns(groups, X.shape[1])
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed = {seed}: give a number from 0 to {2**32 - 1}")
    proba = model.predict_proba(X)
    codes = true_codes(y_true, proba, classes)
    positive = positive_class(classes, positive)
    if len(np.unique(codes)) < len(classes):
        return {"auc": None, "mean": [None] * len(columns), "std": [None] * len(columns)}
    of = list(range(len(classes))) if positive is None else [classes.index(positive)]
    auc = _auc(codes, proba, of)
    orders = list(_orders(len(X), repeats, seed))
    losses = np.empty((len(columns), repeats))
    for place, shuffled in enumerate(columns):
        changed = X.copy()
        for repeat, order in enumerate(orders):
            changed[:, shuffled] = X[:, shuffled][order]
            losses[place, repeat] = auc - _auc(codes, model.predict_proba(changed), of)
    return {"auc": auc, "mean": losses.mean(axis=1).tolist(), "std": losses.std(axis=1).tolist()}


def true_codes(y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the place in ``classes`` of the class of each row.

    Raises ContractError for a label that is no class, and unless ``proba`` is rows x classes numbers from 0 to 1.
    """
    if proba.shape != (len(y_true), len(classes)) or not len(y_true) or not np.isfinite(proba).all():
        raise ContractError(
            f"expected finite probabilities of {len(y_true)} rows (at least 1) x {len(classes)} classes, "
            f"got {proba.shape}; give a label for each scored row"
        )
    if proba.min() < -_ROUNDING or proba.max() > 1 + _ROUNDING:
        raise ContractError(
            f"expected probabilities from 0 to 1, got {proba.min():.4g} to {proba.max():.4g}; "
            "these may be scores: give what predict_proba returns"
        )
    place = {name: code for code, name in enumerate(classes)}
    unknown = sorted({str(label) for label in y_true} - set(place))
    if unknown:
        raise ContractError(f"label {unknown[0]!r} is no class of the model; {did_you_mean(unknown[0], place)}")
    return np.array([place[str(label)] for label in y_true])


def positive_class(classes: Sequence[str], positive: str | None) -> str | None:
    """Return the positive class of two, by default the second in sorted order; None if there are not two.

    Raises ConfigError for a ``positive`` that is no class, or one of other than two classes.
    """
    if len(classes) != 2:
        if positive is not None:
            raise ConfigError(f"positive = {positive!r} needs a model of two classes, this one has {len(classes)}")
        return None
    if positive is None:
        return sorted(classes)[1]
    if positive not in classes:
        raise ConfigError(f"positive = {positive!r} is no class of the model; {did_you_mean(positive, classes)}")
    return positive


def truth_and_scores(
    is_positive: Sequence[bool] | Array, *scores: Sequence[float] | Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return True or False for each row, and the scores as models x rows.

    Raises ContractError unless each row has True or False (or 1 or 0) and a finite score of each model.
    """
    truth = np.asarray(is_positive)
    if truth.ndim != 1 or not np.isin(truth, (0, 1)).all():
        raise ContractError(
            f"expected True or False for each row, got {truth.dtype} of shape {truth.shape}; "
            "compare the labels with the positive class first"
        )
    found = [np.asarray(score, np.float64) for score in scores]
    for score in found:
        if score.shape != truth.shape or not np.isfinite(score).all():
            raise ContractError(
                f"expected finite scores of {len(truth)} rows, got shape {score.shape}; give one for each row"
            )
    return truth.astype(np.bool_), np.array(found)


def squared_errors(codes: Array, proba: Array, of: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return for each row the squared error of its probabilities, summed over the classes at the places ``of``."""
    is_class = codes[:, np.newaxis] == np.asarray(of)
    errors: npt.NDArray[np.float64] = ((proba[:, of].astype(np.float64) - is_class) ** 2).sum(axis=1)
    return errors


def mean_ratio(part: Array, whole: Array) -> float | None:
    """Return the mean of ``part / whole`` over the places where there is a whole, None if there is nowhere one."""
    defined = whole > 0
    return float(np.mean(part[defined] / whole[defined])) if defined.any() else None


def is_missing(value: object) -> bool:
    """Tell whether a cell of a column holds nothing: None, NaN or an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _by_class(measure: Callable[[Array, Array], float], codes: Array, proba: Array) -> list[float | None]:
    found: list[float | None] = []
    for code in range(proba.shape[1]):
        is_class = codes == code
        is_told_apart = is_class.any() and not is_class.all()
        found.append(float(measure(is_class, proba[:, code])) if is_told_apart else None)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def _auc(codes: Array, proba: Array, of: Sequence[int]) -> float:
    from sklearn.metrics import roc_auc_score  # as above

    return float(np.mean([roc_auc_score(codes == code, proba[:, code]) for code in of]))


def _log_loss(codes: Array, proba: Array) -> float:
    of_truth = proba[np.arange(len(codes)), codes].astype(np.float64)
    smallest = np.finfo(np.float64).eps
    return float(-np.log(np.clip(of_truth, smallest, 1 - smallest)).mean())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _steps(truth: Array, score: Array) -> tuple[Array, Array, Array]:
    """Return every threshold from above the highest score down, and the true and false positives at each."""
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # of each run of equal scores
    tp = np.cumsum(truth[order])[last]
    nobody = np.nextafter(falling[0], np.inf)  # infinity cannot be written as JSON
    return np.append(nobody, falling[last]), np.append(0, tp), np.append(0, last + 1 - tp)


def _columns(groups: Mapping[str, Sequence[int]], n_columns: int) -> list[list[int]]:
    for name, columns in groups.items():
        outside = [column for column in columns if not 0 <= column < n_columns]
        if outside or not len(columns):
            raise ConfigError(f"group {name!r} has columns {list(columns)}; give some of 0 to {n_columns - 1}")
    return [list(columns) for columns in groups.values()]


def _orders(n_rows: int, repeats: int, seed: int) -> Iterator[Array]:
    """Yield the orders that scikit-learn brings the rows of each feature into, one shuffled out of the other."""
    from sklearn.utils import check_random_state  # as above

    state = check_random_state(check_random_state(seed).randint(2**31))
    shuffled, order = np.arange(n_rows), np.arange(n_rows)
    for _ in range(repeats):
        state.shuffle(shuffled)
        order = order[shuffled]
        yield order


def _thinned(fpr: Array, tpr: Array) -> Array:
    """Return the places of points evenly spread along the curve, both its ends among them."""
    return np.unique(np.searchsorted(fpr + tpr, np.linspace(0, 2, MAX_POINTS)))
