"""Support vector machines on standardised features with Platt's probabilities, scored without scikit-learn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medspark.compiled import compiled
from medspark.errors import ContractError
from medspark.models import parameters
from medspark.models.data import (
    Array,
    class_codes,
    matrix,
    mean_and_scale,
    require_arrays,
    require_classes,
    row_weights,
)
from medspark.models.probability import sigmoid

KERNELS = ("linear", "poly", "rbf", "sigmoid")
LINEAR, POLY, RBF = 0, 1, 2  # places in KERNELS, as the compiled code knows them


class _Kernel(NamedTuple):
    """What makes of two rows a number."""

    kind: int
    gamma: float
    coef0: float
    degree: float


@dataclass(frozen=True, eq=False)
class Svm:
    """Support vectors, their weights for each pair of classes, and the sigmoid that makes a score a probability."""

    mean: Array  # float64, one for each feature
    scale: Array  # the same, above 0
    kernel: Array  # one of KERNELS, without dimensions
    gamma: Array  # float64, without dimensions
    coef0: Array  # the same
    degree: Array  # int64, without dimensions
    support_vectors: Array  # float64, vectors x features, standardised, class after class
    n_support: Array  # int64, vectors of each class
    dual_coef: Array  # float64, (classes - 1) x vectors, as in scikit-learn
    intercept: Array  # float64, one for each pair of classes
    slope: Array  # float64, one for each class; of two classes for the second alone
    offset: Array  # the same
    classes: list[str]

    @property
    def n_features(self) -> int:
        """The number of columns that ``predict_proba`` takes."""
        return len(self.mean)

    def predict_proba(self, X: Array) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities: 1 / (1 + exp(slope * score + offset)), of many classes their shares.

        ``X`` is rows x features. Raises ContractError if it has another number of columns or a value that is not
        finite.
        """
        each = sigmoid(-(self.slope * self._scores(X) + self.offset))
        if each.shape[1] == 1:
            return np.hstack([1 - each, each])
        total = each.sum(axis=1, keepdims=True)
        even = np.full_like(each, 1 / each.shape[1])
        shares: Array = np.divide(each, total, out=even, where=total > 0)
        return shares

    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name, none of them of Python objects."""
        return {field.name: getattr(self, field.name) for field in fields(Svm) if field.name != "classes"}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, classes: Sequence[str], n_features: int) -> "Svm":
        """Rebuild what ``arrays()`` gave; ContractError if the arrays are not those of such a model."""
        n_classes = len(classes)
        n_vectors = np.size(arrays.get("dual_coef", ())) // max(n_classes - 1, 1)
        n_pairs, n_scores = n_classes * (n_classes - 1) // 2, 1 if n_classes == 2 else n_classes
        expected: dict[str, tuple[str, Sequence[int | None]]] = {
            **dict.fromkeys(("mean", "scale"), ("f", (n_features,))),
            **dict.fromkeys(("slope", "offset"), ("f", (n_scores,))),
            **dict.fromkeys(("gamma", "coef0"), ("f", ())),
            "kernel": ("U", ()),
            "degree": ("i", ()),
            "support_vectors": ("f", (n_vectors, n_features)),
            "n_support": ("i", (n_classes,)),
            "dual_coef": ("f", (n_classes - 1, n_vectors)),
            "intercept": ("f", (n_pairs,)),
        }
        require_arrays("svm", arrays, expected)
        is_sound = (
            (arrays["scale"] > 0).all()
            and str(arrays["kernel"]) in KERNELS
            and arrays["degree"] >= 0
            and arrays["gamma"] >= 0
            and (arrays["n_support"] >= 0).all()
            and arrays["n_support"].sum() == n_vectors
        )
        if not is_sound:
            raise ContractError("svm: the arrays contradict each other; train the model again")
        return cls(**{name: arrays[name] for name in expected}, classes=list(classes))

    def _scores(self, X: Array) -> Array:
        rows = (matrix(X, np.float64, self.n_features) - self.mean) / self.scale
        decisions = np.tile(self.intercept, (len(rows), 1))
        kind = KERNELS.index(str(self.kernel))
        kernel = _Kernel(kind, float(self.gamma), float(self.coef0), float(self.degree))
        _add_votes(rows, *self._layout, kernel, decisions)
        return decisions if len(self.classes) == 2 else _of_classes(decisions, len(self.classes))

    @cached_property
    def _layout(self) -> tuple[Array, Array]:
        """Return the vectors as features x vectors, and their weights as vectors x pairs of classes."""
        owner = np.repeat(np.arange(len(self.classes)), self.n_support)
        weights = np.zeros((len(owner), len(self.intercept)))
        for place, (one, other) in enumerate(_pairs(len(self.classes))):
            weights[owner == one, place] = self.dual_coef[other - 1, owner == one]
            weights[owner == other, place] = self.dual_coef[one, owner == other]
        return np.array(self.support_vectors.T, np.float64, order="C"), weights


def svm(
    X: Array,
    y: npt.ArrayLike,
    *,
    kernel: str = "rbf",
    C: float = 1.0,
    gamma: float = 0.0,
    degree: int = 3,
    coef0: float = 0.0,
    folds: int = 5,
    class_weight: str = "",
    seed: int = 42,
    sample_weight: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
) -> Svm:
    """Return ``SVC(kernel=kernel, C=C)`` on standardised features, calibrated by cross validation.

    Equal to ``make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(...), ensemble=False, cv=...))``: one machine
    of all rows, and a sigmoid for each class, fitted (Platt 2000) to what machines that have not seen a row say of it.
    The folds are those of ``StratifiedKFold(folds, shuffle=True, random_state=seed)``; with ``groups``, a name for
    each row such as its patient, those of ``StratifiedGroupKFold``, and nobody is on both sides. scikit-learn's own
    ``SVC(probability=True)`` is deprecated. Training time grows with the square of the rows or faster.

    ``X`` is rows x features, finite; ``y`` the name (or whole number) of each row's class; ``sample_weight`` a number
    above 0 for each row, for machines and sigmoids and not for the scaling. ``kernel`` is "linear", "poly", "rbf" or
    "sigmoid"; ``gamma`` 0 is scikit-learn's "scale", 1 / (features * variance); ``degree`` is for "poly", ``coef0``
    for "poly" and "sigmoid"; ``class_weight`` is "" or "balanced". Raises ConfigError for a parameter out of range,
    ContractError for unfit data or too few rows or groups of a class for the folds.
    """
    from sklearn.calibration import CalibratedClassifierCV  # scoring needs no scikit-learn, and it is slow to import
    from sklearn.svm import SVC

    machine = SVC(
        kernel=parameters.choice("kernel", kernel, KERNELS),
        C=parameters.number("C", C, 0, above=True),
        gamma=parameters.number("gamma", gamma, 0) or "scale",
        degree=parameters.whole("degree", degree, 0),
        coef0=parameters.number("coef0", coef0, -math.inf),
        class_weight=parameters.choice("class_weight", class_weight, parameters.CLASS_WEIGHTS) or None,
    )
    parameters.whole("folds", folds, 2)
    parameters.seed(seed)
    classes, codes = class_codes(y)
    rows = matrix(X, np.float64)
    require_classes(codes, len(rows))
    weights = row_weights(sample_weight, len(rows))
    mean, scale = mean_and_scale(rows)
    rows = (rows - mean) / scale
    calibrated = CalibratedClassifierCV(machine, ensemble=False, cv=_splits(codes, folds, seed, groups))
    calibrated.fit(rows, codes, weights)
    whole = calibrated.calibrated_classifiers_[0]
    fitted = whole.estimator
    return Svm(
        mean=mean,
        scale=scale,
        kernel=np.array(kernel),
        gamma=np.array(gamma or _scaled_gamma(rows)),
        coef0=np.array(float(coef0)),
        degree=np.array(degree, np.int64),
        support_vectors=fitted.support_vectors_,
        n_support=fitted.n_support_.astype(np.int64),
        dual_coef=np.asarray(fitted.dual_coef_),
        intercept=fitted.intercept_,
        slope=np.array([calibrator.a_ for calibrator in whole.calibrators]),
        offset=np.array([calibrator.b_ for calibrator in whole.calibrators]),
        classes=classes,
    )


def _splits(codes: Array, folds: int, seed: int, groups: npt.ArrayLike | None) -> list[tuple[Array, Array]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest = np.bincount(codes).min()
    if fewest < folds:
        raise ContractError(f"a class has {fewest} rows, folds = {folds} need one each; give fewer folds, at least 2")
    if groups is None:
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(codes, codes))
    names = np.asarray(groups)
    n_groups = len(np.unique(names))
    if len(names) != len(codes) or n_groups < folds:
        raise ContractError(
            f"{len(codes)} rows and {len(names)} names of {n_groups} groups; each row needs one, and each of {folds} "
            "folds a group"
        )
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(codes, codes, names))
    n_classes = len(np.unique(codes))
    if any(not len(test) or len(np.unique(codes[train])) < n_classes for train, test in splits):
        raise ContractError(
            f"{n_groups} groups cannot be cut into folds = {folds} that each leave something of every class; give "
            "fewer folds"
        )
    return splits


def _scaled_gamma(rows: Array) -> float:
    """Return scikit-learn's gamma="scale", which it keeps to itself."""
    variance = float(rows.var())
    return 1 / (rows.shape[1] * variance) if variance else 1.0


def _pairs(n_classes: int) -> list[tuple[int, int]]:
    return [(one, other) for one in range(n_classes) for other in range(one + 1, n_classes)]


def _of_classes(decisions: Array, n_classes: int) -> Array:
    """Return a score for each class: the pairs it wins and, between the whole numbers, by how much."""
    wins = np.zeros((len(decisions), n_classes))
    margins = np.zeros_like(wins)
    for place, (one, other) in enumerate(_pairs(n_classes)):
        decision = decisions[:, place]
        wins[:, one] += decision >= 0
        wins[:, other] += decision < 0
        margins[:, one] += decision
        margins[:, other] -= decision
    scores: Array = wins + margins / (3 * (np.abs(margins) + 1))
    return scores


@compiled
def _value(kernel: _Kernel, near: float) -> float:
    if kernel.kind == LINEAR:
        return near
    if kernel.kind == RBF:
        return math.exp(-kernel.gamma * near)
    if kernel.kind == POLY:
        return math.pow(kernel.gamma * near + kernel.coef0, kernel.degree)
    return math.tanh(kernel.gamma * near + kernel.coef0)


@compiled
def _add_votes(X: Array, vectors: Array, weights: Array, kernel: _Kernel, decisions: Array) -> None:
    """Add the weighted kernel values of all vectors, in one order whatever the batch."""
    near = np.empty(vectors.shape[1])  # to each vector the squared distance or, but for RBF, the product
    for row in range(X.shape[0]):
        near[:] = 0
        for feature in range(X.shape[1]):
            x = X[row, feature]
            if kernel.kind == RBF:
                for vector in range(near.size):
                    near[vector] += (x - vectors[feature, vector]) ** 2
            else:
                for vector in range(near.size):
                    near[vector] += x * vectors[feature, vector]
        for vector in range(near.size):
            value = _value(kernel, near[vector])
            for pair in range(decisions.shape[1]):
                decisions[row, pair] += value * weights[vector, pair]
