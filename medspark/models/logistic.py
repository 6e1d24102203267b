"""Logistic regression on standardised features: scikit-learn's fit, scored without scikit-learn."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from medspark.compiled import compiled
from medspark.errors import ConfigError, ContractError
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
from medspark.models.probability import from_scores


@dataclass(frozen=True, eq=False)
class Logistic:
    """A weighted sum of standardised features for each class; of two classes for the second alone."""

    mean: Array  # float64, one for each feature
    scale: Array  # the same, above 0
    coef: Array  # float64, sums x features
    intercept: Array  # float64, one for each sum
    classes: list[str]

    @property
    def n_features(self) -> int:
        """The number of columns that ``predict_proba`` takes."""
        return len(self.mean)

    def predict_proba(self, X: Array) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities: of two classes by the logistic function, of more by the softmax.

        ``X`` is rows x features. Raises ContractError if it has another number of columns or a value that is not
        finite.
        """
        rows = (matrix(X, np.float64, self.n_features) - self.mean) / self.scale
        scores = np.tile(self.intercept, (len(rows), 1))
        _add_products(rows, np.array(self.coef), scores)
        return from_scores(scores)

    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name, none of them of Python objects."""
        return {field.name: getattr(self, field.name) for field in fields(Logistic) if field.name != "classes"}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, classes: Sequence[str], n_features: int) -> "Logistic":
        """Rebuild what ``arrays()`` gave; ContractError if the arrays are not those of such a model."""
        n_sums = 1 if len(classes) == 2 else len(classes)
        expected: dict[str, tuple[str, Sequence[int | None]]] = {
            "mean": ("f", (n_features,)),
            "scale": ("f", (n_features,)),
            "coef": ("f", (n_sums, n_features)),
            "intercept": ("f", (n_sums,)),
        }
        require_arrays("logistic", arrays, expected)
        if (arrays["scale"] <= 0).any():
            raise ContractError("logistic: a scale is not above 0; train the model again")
        return cls(**{name: arrays[name] for name in expected}, classes=list(classes))


def logistic(
    X: Array,
    y: npt.ArrayLike,
    *,
    C: float = 1.0,
    iterations: int = 1000,
    class_weight: str = "",
    seed: int = 42,
    sample_weight: npt.ArrayLike | None = None,
) -> Logistic:
    """Return ``make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=iterations))`` fitted to X and y.

    ``X`` is rows x features, finite; ``y`` the name (or whole number) of each row's class; ``sample_weight`` a number
    above 0 for each row, for the regression and not for the scaling. ``C`` is the inverse of the strength of the L2
    penalty; ``class_weight`` is "" or "balanced". The solver is L-BFGS, which draws nothing: ``seed`` changes nothing.
    Raises ConfigError for a parameter out of range or too few iterations, ContractError for unfit data.
    """
    from sklearn.exceptions import ConvergenceWarning  # scoring needs no scikit-learn, and it is slow to import
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(
        C=parameters.number("C", C, 0, above=True),
        max_iter=parameters.whole("iterations", iterations, 1),
        class_weight=parameters.choice("class_weight", class_weight, parameters.CLASS_WEIGHTS) or None,
        random_state=parameters.seed(seed),
    )
    classes, codes = class_codes(y)
    rows = matrix(X, np.float64)
    require_classes(codes, len(rows))
    weights = row_weights(sample_weight, len(rows))
    mean, scale = mean_and_scale(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            regression.fit((rows - mean) / scale, codes, weights)
        except ConvergenceWarning:
            raise ConfigError(
                f"iterations = {iterations}: the fit has not converged; give more, or a C below {C:g}"
            ) from None
    return Logistic(mean, scale, regression.coef_, regression.intercept_, classes)


@compiled
def _add_products(X: Array, coef: Array, total: Array) -> None:
    """Add X coef' in one order of the features; that of a matrix product depends on the number of rows."""
    for row in range(X.shape[0]):
        for score in range(coef.shape[0]):
            for feature in range(X.shape[1]):
                total[row, score] += X[row, feature] * coef[score, feature]
