"""Random forests that are scikit-learn's to the last bit, trained in shares and scored without scikit-learn."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from medspark.errors import ConfigError, ContractError
from medspark.models import parameters
from medspark.models.data import Array, class_codes, matrix, require_arrays, require_classes, row_weights
from medspark.models.walk import LEAF, Layout, Nodes, add_leaves, lay_out

__all__ = ["Forest", "Growth", "Trees", "class_codes", "forest", "grown", "shares", "train_trees", "tree_settings"]

CRITERIA = ("gini", "entropy", "log_loss")
MAX_FEATURES = {"sqrt": "sqrt", "log2": "log2", "all": None}


class Growth(TypedDict, total=False):
    """How a forest grows: the parameters of ``forest`` but for the number of trees, with its defaults."""

    depth: int
    seed: int
    criterion: str
    max_features: str
    min_samples_split: int
    min_samples_leaf: int
    max_leaf_nodes: int
    min_impurity_decrease: float
    bootstrap: bool
    max_samples: float
    class_weight: str
    ccp_alpha: float


@dataclass(frozen=True, eq=False)
class Trees(Nodes):
    """Some trees of a forest in flat arrays, node after node and tree after tree, as in scikit-learn's ``tree_``."""

    value: Array  # float64, nodes x classes: fractions of the weighted training rows
    weighted_n_node_samples: Array  # float64
    impurity: Array  # float64, by the criterion

    @classmethod
    def join(cls, shares: Sequence["Trees"]) -> "Trees":
        """Return the trees of all shares as one, in the order given."""
        return cls(*(np.concatenate([getattr(share, field.name) for share in shares]) for field in fields(cls)))


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees, the names of the classes and the number of features: all that is needed to score."""

    trees: Trees
    classes: list[str]
    n_features: int

    def predict_proba(self, X: Array) -> npt.NDArray[np.float64]:
        """Return rows x classes probabilities, equal to ``RandomForestClassifier.predict_proba`` to the last bit.

        ``X`` is rows x features and is compared as float32, as scikit-learn does. Raises ContractError if it has
        another number of columns or a value that is not finite.
        """
        rows = matrix(X, np.float32, self.n_features)
        total = np.zeros((len(rows), len(self.classes)))
        add_leaves(rows, self._layout, total)
        return total / len(self.trees.n_nodes)

    def predict(self, X: Array) -> Array:
        """Return the name of the most probable class of each row, the first of equals."""
        names: Array = np.array(self.classes)[self.predict_proba(X).argmax(axis=1)]
        return names

    @property
    def feature_importances(self) -> Array:
        """The mean decrease of impurity by each feature, equal to ``RandomForestClassifier.feature_importances_``.

        Zeros, where scikit-learn has NaN, if the trees split but no split decreased the impurity.
        """
        with_splits = np.flatnonzero(self.trees.n_nodes > 1).tolist()
        each = [_importances(self.trees, tree, self.n_features) for tree in with_splits]
        mean: Array = np.mean(each or [np.zeros(self.n_features)], axis=0)
        return _normalised(mean)

    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name, none of them of Python objects."""
        return {field.name: getattr(self.trees, field.name) for field in fields(Trees)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, classes: Sequence[str], n_features: int) -> "Forest":
        """Rebuild what ``arrays()`` gave; ContractError if the arrays are not the trees of such a forest.

        Each node is checked, because the kernel follows the numbers it finds without looking.
        """
        n_nodes = np.size(arrays.get("feature", ()))
        expected: dict[str, tuple[str, Sequence[int | None]]] = {
            **dict.fromkeys(("children_left", "children_right", "feature"), ("i", (n_nodes,))),
            **dict.fromkeys(("threshold", "weighted_n_node_samples", "impurity"), ("f", (n_nodes,))),
            "n_nodes": ("i", (None,)),
            "value": ("f", (n_nodes, len(classes))),
        }
        require_arrays("forest", arrays, expected)
        trees = Trees(**{name: arrays[name] for name in expected})
        if not trees.are_trees(n_features):
            raise ContractError(f"forest: the arrays are not trees of {n_features} features; train the model again")
        return cls(trees, list(classes), n_features)

    @cached_property
    def _layout(self) -> Layout:
        return lay_out(self.trees, self.trees.value, np.float32)


def forest(
    X: Array,
    y: npt.ArrayLike,
    *,
    trees: int = 100,
    depth: int = 3,
    seed: int = 42,
    criterion: str = "gini",
    max_features: str = "sqrt",
    min_samples_split: int = 2,
    min_samples_leaf: int = 1,
    max_leaf_nodes: int = 0,
    min_impurity_decrease: float = 0.0,
    bootstrap: bool = True,
    max_samples: float = 0.0,
    class_weight: str = "",
    ccp_alpha: float = 0.0,
    sample_weight: npt.ArrayLike | None = None,
) -> Forest:
    """Return ``RandomForestClassifier(n_estimators=trees, max_depth=depth, random_state=seed)`` fitted to X and y.

    ``X`` is rows x features, finite; ``y`` the name (or whole number) of each row's class; ``sample_weight`` a number
    above 0 for each row. The other parameters are scikit-learn's; 0 is its None for ``depth``, ``max_leaf_nodes`` and
    ``max_samples`` (a fraction of the rows), "all" for ``max_features`` and "" for ``class_weight`` ("balanced",
    "balanced_subsample"). Raises ConfigError for a parameter out of range, ContractError for unfit data.
    """
    classes, codes = class_codes(y)
    share = train_trees(
        X,
        codes,
        first=0,
        count=trees,
        trees=trees,
        sample_weight=sample_weight,
        depth=depth,
        seed=seed,
        criterion=criterion,
        max_features=max_features,
        min_samples_split=min_samples_split,
        min_samples_leaf=min_samples_leaf,
        max_leaf_nodes=max_leaf_nodes,
        min_impurity_decrease=min_impurity_decrease,
        bootstrap=bootstrap,
        max_samples=max_samples,
        class_weight=class_weight,
        ccp_alpha=ccp_alpha,
    )
    return Forest(share, classes, np.shape(X)[1])


def shares(trees: int, n: int) -> list[tuple[int, int]]:
    """Return ``first`` and ``count`` for at most ``n`` shares of the trees, as even as can be and none empty."""
    bounds = [trees * share // n for share in range(n + 1)]
    return [(first, end - first) for first, end in pairwise(bounds) if end > first]


def train_trees(
    X: Array,
    y_codes: Array,
    *,
    first: int,
    count: int,
    trees: int,
    sample_weight: npt.ArrayLike | None = None,
    **growth: Unpack[Growth],
) -> Trees:
    """Return the trees ``first`` to ``first + count`` of the forest of ``trees`` trees that scikit-learn would train.

    ``X`` is rows x features, finite, the whole training side, and so is ``sample_weight``; ``y_codes`` are the places
    of the classes, 0 to the number of classes - 1, as ``class_codes`` gives them; the rest are parameters of
    ``forest``. Shares joined in their order are the forest that one machine trains: scikit-learn draws the seed of
    each tree in turn from ``seed``, and ``warm_start`` skips those of the trees that are there already. Raises
    ConfigError for a parameter out of range, ContractError for unfit data.
    """
    from sklearn.ensemble import RandomForestClassifier  # scoring needs no scikit-learn, and it is slow to import

    if not 0 <= first < first + count <= trees:
        raise ConfigError(
            f"trees {first} to {first + count} are not a share of trees = {trees}; it has to be at least 1"
        )
    settings = _forest_settings(**growth)
    rows = matrix(X, np.float32)
    require_classes(y_codes, len(rows))
    weights = row_weights(sample_weight, len(rows))
    grower = RandomForestClassifier(n_estimators=first + count, warm_start=True, n_jobs=1, **settings)
    grower.estimators_ = [None] * first
    with warnings.catch_warnings():
        # It warns that weights of classes differ where the rows do; here each share sees all of them.
        warnings.filterwarnings("ignore", "class_weight presets", UserWarning)
        grower.fit(rows, y_codes, weights)
    return grown([tree.tree_ for tree in grower.estimators_[first:]])


def grown(trees: Sequence[Any]) -> Trees:
    """Return scikit-learn's ``tree_`` objects as flat arrays."""
    return Trees(
        n_nodes=np.array([tree.node_count for tree in trees], np.int64),
        children_left=np.concatenate([tree.children_left for tree in trees]).astype(np.int32),
        children_right=np.concatenate([tree.children_right for tree in trees]).astype(np.int32),
        feature=np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        value=np.concatenate([tree.value[:, 0, :] for tree in trees]),
        weighted_n_node_samples=np.concatenate([tree.weighted_n_node_samples for tree in trees]),
        impurity=np.concatenate([tree.impurity for tree in trees]),
    )


def tree_settings(
    *,
    depth: int,
    seed: int,
    criterion: str,
    max_features: str,
    min_samples_split: int,
    min_samples_leaf: int,
    max_leaf_nodes: int,
    min_impurity_decrease: float,
    ccp_alpha: float,
) -> dict[str, Any]:
    """Return what trees and forests of scikit-learn both take, by its names; ConfigError for a value out of range."""
    return {
        "max_depth": parameters.limit("depth", depth),
        "random_state": parameters.seed(seed),
        "criterion": parameters.choice("criterion", criterion, CRITERIA),
        "max_features": MAX_FEATURES[parameters.choice("max_features", max_features, MAX_FEATURES)],
        "min_samples_split": parameters.whole("min_samples_split", min_samples_split, 2),
        "min_samples_leaf": parameters.whole("min_samples_leaf", min_samples_leaf, 1),
        "max_leaf_nodes": parameters.limit("max_leaf_nodes", max_leaf_nodes, 2),
        "min_impurity_decrease": parameters.number("min_impurity_decrease", min_impurity_decrease, 0),
        "ccp_alpha": parameters.number("ccp_alpha", ccp_alpha, 0),
    }


def _forest_settings(
    *,
    depth: int = 3,
    seed: int = 42,
    criterion: str = "gini",
    max_features: str = "sqrt",
    min_samples_split: int = 2,
    min_samples_leaf: int = 1,
    max_leaf_nodes: int = 0,
    min_impurity_decrease: float = 0.0,
    bootstrap: bool = True,
    max_samples: float = 0.0,
    class_weight: str = "",
    ccp_alpha: float = 0.0,
) -> dict[str, Any]:
    fraction = parameters.number("max_samples", max_samples, 0, 1) or None
    if fraction and not bootstrap:
        raise ConfigError(f"max_samples = {max_samples} draws rows, which bootstrap = false does not; give 0 or true")
    known = (*parameters.CLASS_WEIGHTS, "balanced_subsample")
    return {
        **tree_settings(
            depth=depth,
            seed=seed,
            criterion=criterion,
            max_features=max_features,
            min_samples_split=min_samples_split,
            min_samples_leaf=min_samples_leaf,
            max_leaf_nodes=max_leaf_nodes,
            min_impurity_decrease=min_impurity_decrease,
            ccp_alpha=ccp_alpha,
        ),
        "bootstrap": parameters.flag("bootstrap", bootstrap),
        "max_samples": fraction,
        "class_weight": parameters.choice("class_weight", class_weight, known) or None,
    }


def _importances(trees: Trees, tree: int, n_features: int) -> Array:
    nodes = slice(trees.roots[tree], trees.roots[tree] + trees.n_nodes[tree])
    left, right, feature = trees.children_left[nodes], trees.children_right[nodes], trees.feature[nodes]
    weight = trees.weighted_n_node_samples[nodes]
    weighted = weight * trees.impurity[nodes]
    split = left != LEAF
    decrease = weighted[split] - weighted[left[split]] - weighted[right[split]]
    by_feature = np.bincount(feature[split], weights=decrease, minlength=n_features) / weight[0]
    return _normalised(by_feature)


def _normalised(importances: Array) -> npt.NDArray[np.float64]:
    total = importances.sum()
    return np.divide(importances, total if total > 0 else 1.0)
