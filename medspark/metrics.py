"""Numbers about predictions, all of them scikit-learn's."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medspark.errors import ConfigError, ContractError, did_you_mean

Array = npt.NDArray[Any]

MAX_POINTS = 200  # of a curve: more than a drawing can show


class Curve(NamedTuple):
    """A receiver operating characteristic, from (0, 0) to (1, 1)."""

    fpr: list[float]
    tpr: list[float]
    auc: float  # of the curve before it was thinned


def evaluate(
    y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str], *, positive: str | None = None
) -> dict[str, Any]:
    """Return what can be said about rows x classes probabilities, as plain values that can be written as JSON.

    The prediction is the most probable class. ``auc``, ``sensitivity`` and ``specificity`` are of the ``positive``
    class if there are two, by default the second in sorted order, and otherwise the mean over the classes, each against
    the rest (then ``positive`` is None). ``balanced_accuracy`` is the mean over the classes that have rows;
    ``confusion`` has the true classes as rows, in the order of ``classes``. What a class without rows leaves undefined
    is None, or left out of a mean, and ``note`` says so (else it is None). Raises ConfigError for an impossible
    ``positive``, ContractError if labels, probabilities and classes do not fit together.

    Source: ``sklearn.metrics``: accuracy_score, recall_score, roc_auc_score, multilabel_confusion_matrix.
    """
    from sklearn import metrics  # slow to import, and only the driver evaluates

    codes = _codes(y_true, proba, classes)
    positive = _positive(classes, positive)
    predicted = proba.argmax(axis=1)
    every = np.arange(len(classes))
    n_by_class = np.bincount(codes, minlength=len(classes))
    absent = [str(name) for name, count in zip(classes, n_by_class, strict=True) if not count]

    of = every if positive is None else [classes.index(positive)]
    (tn, fp), (fn, tp) = metrics.multilabel_confusion_matrix(codes, predicted, labels=every)[of].transpose(1, 2, 0)
    return {
        "n": len(codes),
        "n_by_class": dict(zip(classes, n_by_class.tolist(), strict=True)),
        "positive": positive,
        "accuracy": float(metrics.accuracy_score(codes, predicted)),
        "balanced_accuracy": float(
            metrics.recall_score(codes, predicted, labels=every[n_by_class > 0], average="macro")
        ),
        "auc": None if absent else _auc(codes, proba, of),
        "sensitivity": _mean_ratio(tp, tp + fn),
        "specificity": _mean_ratio(tn, tn + fp),
        "confusion": metrics.confusion_matrix(codes, predicted, labels=every).tolist(),
        "note": f"no rows of {', '.join(absent)}: what needs them is empty or left out" if absent else None,
    }


def roc(y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str]) -> dict[str, Curve]:
    """Return the curve of each class against the rest, thinned to at most 200 points along it.

    A class that has no row, or every row, has no curve and is left out. Raises ContractError like ``evaluate``.

    Source: ``sklearn.metrics.roc_curve`` and ``roc_auc_score``.
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # as above

    codes = _codes(y_true, proba, classes)
    curves = {}
    for code, name in enumerate(classes):
        is_class = codes == code
        if is_class.any() and not is_class.all():
            fpr, tpr, _ = roc_curve(is_class, proba[:, code])
            kept = _thinned(fpr, tpr)
            auc = float(roc_auc_score(is_class, proba[:, code]))
            curves[name] = Curve(fpr[kept].tolist(), tpr[kept].tolist(), auc)
    return curves


def _codes(y_true: Sequence[str] | Array, proba: Array, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    if proba.shape != (len(y_true), len(classes)) or not len(y_true) or not np.isfinite(proba).all():
        raise ContractError(
            f"expected finite probabilities of {len(y_true)} rows (at least 1) x {len(classes)} classes, "
            f"got {proba.shape}; give a label for each scored row"
        )
    place = {name: code for code, name in enumerate(classes)}
    unknown = sorted({str(label) for label in y_true} - set(place))
    if unknown:
        raise ContractError(f"label {unknown[0]!r} is no class of the model; {did_you_mean(unknown[0], place)}")
    return np.array([place[str(label)] for label in y_true])


def _positive(classes: Sequence[str], positive: str | None) -> str | None:
    if len(classes) != 2:
        if positive is not None:
            raise ConfigError(f"positive = {positive!r} needs a model of two classes, this one has {len(classes)}")
        return None
    if positive is None:
        return sorted(classes)[1]
    if positive not in classes:
        raise ConfigError(f"positive = {positive!r} is no class of the model; {did_you_mean(positive, classes)}")
    return positive


def _auc(codes: Array, proba: Array, of: Sequence[int] | Array) -> float:
    from sklearn.metrics import roc_auc_score  # as above

    return float(np.mean([roc_auc_score(codes == code, proba[:, code]) for code in of]))


def _mean_ratio(part: Array, whole: Array) -> float | None:
    defined = whole > 0
    return float(np.mean(part[defined] / whole[defined])) if defined.any() else None


def _thinned(fpr: Array, tpr: Array) -> Array:
    """Return the places of points evenly spread along the curve, both its ends among them."""
    return np.unique(np.searchsorted(fpr + tpr, np.linspace(0, 2, MAX_POINTS)))
