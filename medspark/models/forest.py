"""Random forests that are scikit-learn's to the last bit, trained in shares and scored without scikit-learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medspark.compiled import compiled
from medspark.errors import ConfigError, ContractError

Array = npt.NDArray[Any]

LEAF = -1  # children of a leaf, as in scikit-learn
BLOCK = 64  # rows that go through a tree together: their features stay in the first-level cache
NODE = np.dtype([("left", np.int32), ("feature", np.int32), ("threshold", np.float32), ("leaf", np.int32)])


@dataclass(frozen=True, eq=False)
class Trees:
    """Some trees of a forest in flat arrays, node after node and tree after tree, as in scikit-learn's ``tree_``."""

    n_nodes: Array  # int64, one for each tree
    children_left: Array  # int32, counted within the tree; -1 in a leaf
    children_right: Array  # the same
    feature: Array  # int32, column of X; -2 in a leaf
    threshold: Array  # float64; to the left if x <= threshold
    value: Array  # float64, nodes x classes: fractions of the weighted training rows
    weighted_n_node_samples: Array  # float64
    impurity: Array  # float64, Gini

    @property
    def roots(self) -> Array:
        """The index of the first node of each tree."""
        return np.cumsum(self.n_nodes) - self.n_nodes

    @classmethod
    def join(cls, shares: Sequence["Trees"]) -> "Trees":
        """Return the trees of all shares as one, in the order given."""
        return cls(*(np.concatenate([getattr(share, field.name) for share in shares]) for field in fields(cls)))


class _Layout(NamedTuple):
    """Trees as the kernel walks them: siblings side by side, the split of a leaf leads back to itself."""

    nodes: Array  # NODE
    roots: Array  # int64
    depths: Array  # int64
    leaves: Array  # float64, leaves x classes


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
        rows = np.ascontiguousarray(_matrix(X, self.n_features))
        total = np.zeros((len(rows), len(self.classes)))
        _add_leaves(rows, self._layout, total)
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
        grown = [
            _importances(self.trees, tree, self.n_features) for tree in np.flatnonzero(self.trees.n_nodes > 1).tolist()
        ]
        mean: Array = np.mean(grown or [np.zeros(self.n_features)], axis=0)
        return _normalised(mean)

    def arrays(self) -> dict[str, Array]:
        """Return the parameters by name, none of them of Python objects."""
        return {field.name: getattr(self.trees, field.name) for field in fields(Trees)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, classes: Sequence[str], n_features: int) -> "Forest":
        """Rebuild what ``arrays()`` gave; ContractError if the arrays are not the trees of such a forest.

        Each node is checked, because the kernel follows the numbers it finds without looking.
        """
        missing = [field.name for field in fields(Trees) if field.name not in arrays]
        if missing:
            raise ContractError(f"forest: no array {', '.join(missing)}; save the model again")
        trees = Trees(**{field.name: arrays[field.name] for field in fields(Trees)})
        if not _is_sound(trees, len(classes), n_features):
            raise ContractError(
                f"forest: the arrays are not trees of {len(classes)} classes and {n_features} features; train it again"
            )
        return cls(trees, list(classes), n_features)

    @cached_property
    def _layout(self) -> _Layout:
        trees = self.trees
        parents, left, right, owner = _links(trees)
        # The k-th split of a tree gets places 1 + 2k and 2 + 2k of that tree for its children.
        before = np.cumsum(np.bincount(owner, minlength=len(trees.n_nodes)))
        rank = np.arange(len(parents)) - np.concatenate([[0], before[:-1]])[owner]
        place = np.empty(len(trees.feature), np.int64)
        place[trees.roots] = trees.roots
        place[left] = trees.roots[owner] + 1 + 2 * rank
        place[right] = place[left] + 1

        nodes = np.zeros(len(place), NODE)
        nodes["threshold"] = np.inf
        nodes["left"] = np.arange(len(place))
        nodes["left"][place[parents]] = place[left]
        nodes["feature"][place[parents]] = trees.feature[parents]
        nodes["threshold"][place[parents]] = _float32_below(trees.threshold[parents])
        is_leaf = trees.children_left == LEAF
        nodes["leaf"][place[is_leaf]] = np.arange(np.count_nonzero(is_leaf))
        return _Layout(nodes, trees.roots, _depths(nodes, trees.roots), np.ascontiguousarray(trees.value[is_leaf]))


def forest(X: Array, y: npt.ArrayLike, *, trees: int = 100, depth: int = 3, seed: int = 42) -> Forest:
    """Return ``RandomForestClassifier(n_estimators=trees, max_depth=depth, random_state=seed)`` fitted to X and y.

    ``X`` is rows x features, finite; ``y`` the name (or whole number) of each row's class; ``depth`` 0 sets no limit.
    Raises ConfigError for a parameter out of range, ContractError for data that cannot be learned from.
    """
    classes, codes = class_codes(y)
    grown = train_trees(X, codes, first=0, count=trees, trees=trees, depth=depth, seed=seed)
    return Forest(grown, classes, np.shape(X)[1])


def class_codes(y: npt.ArrayLike) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the names of the classes in sorted order, and for each row the place of its class in them."""
    labels = np.asarray(y)
    is_text = labels.dtype.kind == "U" or (labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels))
    if not is_text and labels.dtype.kind not in "iu":
        raise ContractError(
            f"labels are names or whole numbers, got {labels.dtype} with missing or other values; drop those rows first"
        )
    classes, codes = np.unique(labels, return_inverse=True)
    return [str(name) for name in classes], codes


def train_trees(X: Array, y_codes: Array, *, first: int, count: int, trees: int, depth: int, seed: int) -> Trees:
    """Return the trees ``first`` to ``first + count`` of the forest of ``trees`` trees that scikit-learn would train.

    ``X`` is rows x features, finite, the whole training side; ``y_codes`` are the places of the classes, 0 to the
    number of classes - 1, as ``class_codes`` gives them. Shares joined in their order are the forest that one machine
    trains: scikit-learn draws the seed of each tree in turn from ``seed``, and ``warm_start`` skips those of the trees
    that are there already. Raises ConfigError for a parameter out of range, ContractError for unfit data.
    """
    from sklearn.ensemble import RandomForestClassifier  # scoring needs no scikit-learn, and it is slow to import

    if not 0 <= first < first + count <= trees:
        raise ConfigError(
            f"trees {first} to {first + count} are not a share of trees = {trees}; it has to be at least 1"
        )
    if depth < 0:
        raise ConfigError(f"depth = {depth}: give the number of levels, or 0 for no limit")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed = {seed}: give a number from 0 to {2**32 - 1}")
    rows = _matrix(X)
    _require_classes(y_codes, len(rows))

    grower = RandomForestClassifier(
        n_estimators=first + count, max_depth=depth or None, random_state=seed, warm_start=True, n_jobs=1
    )
    grower.estimators_ = [None] * first
    grown = [tree.tree_ for tree in grower.fit(rows, y_codes).estimators_[first:]]
    return Trees(
        n_nodes=np.array([tree.node_count for tree in grown], np.int64),
        children_left=np.concatenate([tree.children_left for tree in grown]).astype(np.int32),
        children_right=np.concatenate([tree.children_right for tree in grown]).astype(np.int32),
        feature=np.concatenate([tree.feature for tree in grown]).astype(np.int32),
        threshold=np.concatenate([tree.threshold for tree in grown]),
        value=np.concatenate([tree.value[:, 0, :] for tree in grown]),
        weighted_n_node_samples=np.concatenate([tree.weighted_n_node_samples for tree in grown]),
        impurity=np.concatenate([tree.impurity for tree in grown]),
    )


def _matrix(X: Array, n_features: int | None = None) -> npt.NDArray[np.float32]:
    if np.ndim(X) != 2 or (n_features is not None and np.shape(X)[1] != n_features):
        wanted = "a matrix" if n_features is None else f"rows x {n_features}"
        raise ContractError(f"features: expected {wanted}, got shape {np.shape(X)}; select the columns of the model")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is named below
        matrix = np.asarray(X, dtype=np.float32)
    finite = np.isfinite(matrix)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        n_rows = np.count_nonzero(~finite.all(axis=1))
        raise ContractError(
            f"features: {n_rows} rows hold NaN, infinity or a number beyond float32, the first in row {row}, "
            f"column {column}; leave them out or extract them again"
        )
    return matrix


def _require_classes(y_codes: Array, n_rows: int) -> None:
    if len(y_codes) != n_rows:
        raise ContractError(f"{n_rows} rows of features and {len(y_codes)} labels; each row needs one")
    present = np.unique(y_codes)
    if len(present) < 2:
        raise ContractError(f"{n_rows} rows of {len(present)} class; a model needs at least two classes to tell apart")
    if not np.array_equal(present, np.arange(len(present))):
        raise ContractError(f"class codes must be 0 to {len(present) - 1}, got {present.tolist()}; see class_codes")


def _links(trees: Trees) -> tuple[Array, Array, Array, Array]:
    """Return of each split: its node, its left and right child, counted through all trees, and its tree."""
    parents = np.flatnonzero(trees.children_left != LEAF)
    owner = np.repeat(np.arange(len(trees.n_nodes)), trees.n_nodes)[parents]
    root = trees.roots[owner]
    return parents, root + trees.children_left[parents], root + trees.children_right[parents], owner


def _is_sound(trees: Trees, n_classes: int, n_features: int) -> bool:
    n_trees, n_nodes = trees.n_nodes.size, trees.feature.size
    shapes = {field.name: getattr(trees, field.name).shape for field in fields(Trees)}
    expected = dict.fromkeys(shapes, (n_nodes,)) | {"n_nodes": (n_trees,), "value": (n_nodes, n_classes)}
    kinds = [getattr(trees, field.name).dtype.kind for field in fields(Trees)]
    if shapes != expected or kinds != list("iiiiffff"):
        return False
    if not n_trees or trees.n_nodes.min() < 1 or trees.n_nodes.max() > n_nodes or trees.n_nodes.sum() != n_nodes:
        return False
    parents, left, right, owner = _links(trees)
    children = np.concatenate([left, right])
    above = np.tile(parents, 2)
    ends = np.tile((trees.roots + trees.n_nodes)[owner], 2)
    split_on = trees.feature[parents]
    if ((children <= above) | (children >= ends)).any() or ((split_on < 0) | (split_on >= n_features)).any():
        return False
    # Each node but the roots is the child of exactly one split: that makes them trees, and every place is filled once.
    is_child = np.ones(n_nodes, np.int64)
    is_child[trees.roots] = 0
    return np.array_equal(np.bincount(children, minlength=n_nodes), is_child)


def _depths(nodes: Array, roots: Array) -> npt.NDArray[np.int64]:
    depths = np.zeros(len(roots), np.int64)
    level, owner = roots, np.arange(len(roots))
    while True:
        goes_on = nodes["left"][level] != level
        level, owner = nodes["left"][level[goes_on]], owner[goes_on]
        if not level.size:
            return depths
        depths[owner] += 1  # once for each tree, however often it is named
        level, owner = np.concatenate([level, level + 1]), np.tile(owner, 2)


def _float32_below(threshold: Array) -> npt.NDArray[np.float32]:
    """Round down: a float32 is <= the result exactly if it is <= the threshold itself."""
    with np.errstate(over="ignore"):
        nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)


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


@compiled
def _add_leaves(X: Array, layout: _Layout, total: Array) -> None:
    position = np.empty(BLOCK, np.int32)
    for start in range(0, X.shape[0], BLOCK):
        n_rows = min(BLOCK, X.shape[0] - start)
        for tree in range(layout.roots.size):
            position[:] = layout.roots[tree]
            for _ in range(layout.depths[tree]):
                for row in range(n_rows):
                    node = layout.nodes[position[row]]
                    position[row] = node.left + (X[start + row, node.feature] > node.threshold)
            for row in range(n_rows):
                leaf = layout.nodes[position[row]].leaf
                for label in range(total.shape[1]):
                    total[start + row, label] += layout.leaves[leaf, label]
