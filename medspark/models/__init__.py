"""The kinds of model: for each a function that fits one, and a class that scores and can be stored."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from medspark.models.boosting import Boosting, boosting
from medspark.models.forest import Forest, forest
from medspark.models.logistic import Logistic, logistic
from medspark.models.svm import Svm, svm
from medspark.models.tree import tree

__all__ = ["MODELS", "Kind", "Model"]


class Model(Protocol):
    """What every kind of model can do once it is trained."""

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the columns of ``predict_proba``."""

    @property
    def n_features(self) -> int:
        """The number of columns that ``predict_proba`` takes."""

    def predict_proba(self, X: npt.NDArray[Any], /) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the parameters by name, none of them of Python objects."""


class Kind(NamedTuple):
    """How a kind of model is made."""

    fit: Callable[..., Model]  # (X, y, *, seed, sample_weight, **parameters), each parameter int, float, str or bool
    from_arrays: Callable[..., Model]  # (arrays, classes=..., n_features=...): what arrays() gave


MODELS = {
    "boosting": Kind(boosting, Boosting.from_arrays),
    "forest": Kind(forest, Forest.from_arrays),
    "logistic": Kind(logistic, Logistic.from_arrays),
    "svm": Kind(svm, Svm.from_arrays),
    "tree": Kind(tree, Forest.from_arrays),
}
