"""Histogram gradient boosting: scikit-learn's trees, scored without scikit-learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from medspark.errors import ContractError
from medspark.models import parameters
from medspark.models.data import Array, class_codes, matrix, require_arrays, require_classes, row_weights
from medspark.models.probability import from_scores
from medspark.models.walk import LEAF, Layout, Nodes, add_leaves, lay_out

TOLERANCE = 1e-12  # between our probabilities and scikit-learn's
CHECKED = 1000  # rows of the training side on which the two are compared


@dataclass(frozen=True, eq=False)
class Stages(Nodes):
    """Trees stage after stage; in a stage one for each class, or of two classes one for the second alone."""

    value: Array  # float64, what a leaf adds to the score of the class of its tree
    baseline: Array  # float64, the score of each class before the first stage


@dataclass(frozen=True, eq=False)
class Boosting:
    """Trees whose leaves add up to the scores of the classes."""

    stages: Stages
    classes: list[str]
    n_features: int

    def predict_proba(self, X: Array) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities: of two classes by the logistic function, of more by the softmax.

        ``X`` is rows x features and is compared as float64. Raises ContractError if it has another number of columns
        or a value that is not finite.
        """
        rows = matrix(X, np.float64, self.n_features)
        scores = np.tile(self.stages.baseline, (len(rows), 1))
        add_leaves(rows, self._layout, scores)
        return from_scores(scores)

    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name, none of them of Python objects."""
        return {field.name: getattr(self.stages, field.name) for field in fields(Stages)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, classes: Sequence[str], n_features: int) -> "Boosting":
        """Rebuild what ``arrays()`` gave; ContractError if the arrays are not the trees of such a model.

        Each node is checked, because the kernel follows the numbers it finds without looking.
        """
        n_nodes, n_scores = np.size(arrays.get("feature", ())), _n_scores(len(classes))
        expected: dict[str, tuple[str, Sequence[int | None]]] = {
            **dict.fromkeys(("children_left", "children_right", "feature"), ("i", (n_nodes,))),
            **dict.fromkeys(("threshold", "value"), ("f", (n_nodes,))),
            "n_nodes": ("i", (None,)),
            "baseline": ("f", (n_scores,)),
        }
        require_arrays("boosting", arrays, expected)
        stages = Stages(**{name: arrays[name] for name in expected})
        if not stages.are_trees(n_features) or len(stages.n_nodes) % n_scores:
            raise ContractError(
                f"boosting: the arrays are not trees of {len(classes)} classes and {n_features} features; "
                "train the model again"
            )
        return cls(stages, list(classes), n_features)

    @cached_property
    def _layout(self) -> Layout:
        n_nodes, n_scores = self.stages.n_nodes, len(self.stages.baseline)
        score = np.repeat(np.arange(len(n_nodes)) % n_scores, n_nodes)
        value = np.zeros((len(score), n_scores))
        value[np.arange(len(score)), score] = self.stages.value
        return lay_out(self.stages, value, np.float64)


def boosting(
    X: Array,
    y: npt.ArrayLike,
    *,
    trees: int = 100,
    learning_rate: float = 0.1,
    depth: int = 0,
    max_leaf_nodes: int = 31,
    min_samples_leaf: int = 20,
    l2: float = 0.0,
    class_weight: str = "",
    seed: int = 42,
    sample_weight: npt.ArrayLike | None = None,
) -> Boosting:
    """Return ``HistGradientBoostingClassifier(max_iter=trees, early_stopping=False, random_state=seed)`` fitted.

    ``X`` is rows x features, finite; ``y`` the name (or whole number) of each row's class; ``sample_weight`` a number
    above 0 for each row. ``trees`` is the number of stages, with a tree for each class if there are more than two; 0
    sets no limit for ``depth`` and ``max_leaf_nodes``; ``l2`` is the penalty on the leaves; ``class_weight`` is "" or
    "balanced"; ``seed`` draws the rows that set the bins if there are more than 200,000. Raises ConfigError for a
    parameter out of range, ContractError for unfit data or a scikit-learn whose trees cannot be read.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # scoring needs no scikit-learn, slow to import

    booster = HistGradientBoostingClassifier(
        max_iter=parameters.whole("trees", trees, 1),
        learning_rate=parameters.number("learning_rate", learning_rate, 0, above=True),
        max_depth=parameters.limit("depth", depth),
        max_leaf_nodes=parameters.limit("max_leaf_nodes", max_leaf_nodes, 2),
        min_samples_leaf=parameters.whole("min_samples_leaf", min_samples_leaf, 1),
        l2_regularization=parameters.number("l2", l2, 0),
        class_weight=parameters.choice("class_weight", class_weight, parameters.CLASS_WEIGHTS) or None,
        random_state=parameters.seed(seed),
        early_stopping=False,
    )
    classes, codes = class_codes(y)
    rows = matrix(X, np.float64)
    require_classes(codes, len(rows))
    booster.fit(rows, codes, row_weights(sample_weight, len(rows)))
    model = Boosting(_stages(booster), classes, rows.shape[1])
    _require_equal(model, booster, rows[:: -(-len(rows) // CHECKED)])
    return model


def _n_scores(n_classes: int) -> int:
    return 1 if n_classes == 2 else n_classes


def _stages(booster: Any) -> Stages:
    """Read the trees from where scikit-learn 1.9 keeps them, which it does not promise."""
    try:
        parts = [tree.nodes for stage in booster._predictors for tree in stage]  # noqa: SLF001 - there is no public way
        nodes = np.concatenate(parts)
        is_leaf = nodes["is_leaf"] == 1
        return Stages(
            n_nodes=np.array([len(part) for part in parts], np.int64),
            children_left=np.where(is_leaf, LEAF, nodes["left"].astype(np.int32)),
            children_right=np.where(is_leaf, LEAF, nodes["right"].astype(np.int32)),
            feature=np.where(is_leaf, -2, nodes["feature_idx"]).astype(np.int32),
            threshold=np.where(is_leaf, -2.0, nodes["num_threshold"]),
            value=nodes["value"].astype(np.float64),
            baseline=np.array(booster._baseline_prediction[0], np.float64),  # noqa: SLF001 - the same
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _unknown_version(f"does not keep its trees where they are looked for ({error})") from error


def _require_equal(model: Boosting, booster: Any, rows: Array) -> None:
    difference = np.abs(model.predict_proba(rows) - booster.predict_proba(rows)).max()
    if not difference <= TOLERANCE:
        raise _unknown_version(f"gives other probabilities than its trees read by medspark, by {difference:.3g}")


def _unknown_version(what: str) -> ContractError:
    return ContractError(
        f"boosting: scikit-learn {version('scikit-learn')} {what}; install the version of medspark's lock file, or "
        "take another kind of model"
    )
