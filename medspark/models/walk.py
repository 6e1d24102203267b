"""Trees as flat arrays, whether they are sound, and the way of rows through them: what forest and boosting share."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medspark.compiled import compiled

Array = npt.NDArray[Any]

LEAF = -1  # children of a leaf, as in scikit-learn
LANES = 12  # rows that go down a tree side by side: while one waits for memory the others move
FEW = 1024  # rows that stay in the second-level cache while one small tree after the other passes
MANY = 16384  # rows that share the cost of bringing a big tree into the cache
MAPPED = 2**28  # bytes of leaves that are read where they lie: all processes of a machine share a file that is mapped
SMALL = 2048  # nodes of a tree that stays in the first-level cache
NODE = {
    np.float32: np.dtype([("left", np.uint32), ("feature", np.uint32), ("threshold", np.float32), ("leaf", np.uint32)]),
    np.float64: np.dtype(
        [("threshold", np.float64), ("left", np.uint32), ("feature", np.uint32), ("leaf", np.uint32)], align=True
    ),
}


@dataclass(frozen=True, eq=False)
class Nodes:
    """Some trees in flat arrays, node after node and tree after tree; a node stands before its children."""

    n_nodes: Array  # int64, one for each tree
    children_left: Array  # int32, counted within the tree; -1 in a leaf
    children_right: Array  # the same
    feature: Array  # int32, column of X; -2 in a leaf
    threshold: Array  # float64; to the left if x <= threshold

    @property
    def roots(self) -> Array:
        """The index of the first node of each tree."""
        return np.cumsum(self.n_nodes) - self.n_nodes

    @property
    def is_leaf(self) -> Array:
        """Which nodes have no children."""
        is_leaf: Array = self.children_left == LEAF
        return is_leaf

    def are_trees(self, n_features: int) -> bool:
        """Tell whether the kernel, which follows the numbers it finds without looking, stays within the arrays."""
        n_trees, n_nodes = self.n_nodes.size, self.feature.size
        if not n_trees or self.n_nodes.min() < 1 or self.n_nodes.max() > n_nodes or self.n_nodes.sum() != n_nodes:
            return False
        parents, left, right, owner = _links(self)
        children = np.concatenate([left, right])
        above = np.tile(parents, 2)
        ends = np.tile((self.roots + self.n_nodes)[owner], 2)
        split_on = self.feature[parents]
        if ((children <= above) | (children >= ends)).any() or ((split_on < 0) | (split_on >= n_features)).any():
            return False
        # Each node but the roots is the child of exactly one split: so they are trees, and each place is filled once.
        is_child = np.ones(n_nodes, np.int64)
        is_child[self.roots] = 0
        return np.array_equal(np.bincount(children, minlength=n_nodes), is_child)


class Layout(NamedTuple):
    """Trees as the kernel walks them: siblings side by side, the split of a leaf leads back to itself."""

    nodes: Array  # NODE
    roots: Array  # int64
    depths: Array  # int64
    leaves: Array  # float64, leaves x columns of the sum


def lay_out(trees: Nodes, value: Array, dtype: type[np.float32 | np.float64]) -> Layout:
    """Return the trees for rows of this dtype; ``value`` is nodes x columns, of which those of the leaves count."""
    parents, left, right, owner = _links(trees)
    # The k-th split of a tree gets places 1 + 2k and 2 + 2k of that tree for its children.
    before = np.cumsum(np.bincount(owner, minlength=len(trees.n_nodes)))
    rank = np.arange(len(parents)) - np.concatenate([[0], before[:-1]])[owner]
    place = np.empty(len(trees.feature), np.int64)
    place[trees.roots] = trees.roots
    place[left] = trees.roots[owner] + 1 + 2 * rank
    place[right] = place[left] + 1

    nodes = np.zeros(len(place), NODE[dtype])
    nodes["threshold"] = np.inf
    nodes["left"] = np.arange(len(place))
    nodes["left"][place[parents]] = place[left]
    nodes["feature"][place[parents]] = trees.feature[parents]
    thresholds = trees.threshold[parents]
    nodes["threshold"][place[parents]] = thresholds if dtype is np.float64 else _float32_below(thresholds)
    is_leaf = trees.is_leaf
    if value.nbytes > MAPPED:
        leaves, places = np.asarray(value), np.flatnonzero(is_leaf)
    else:  # side by side they are nearer to each other
        leaves, places = value[is_leaf], np.arange(np.count_nonzero(is_leaf))
    nodes["leaf"][place[is_leaf]] = places
    return Layout(nodes, trees.roots, _depths(nodes, trees.roots), np.ascontiguousarray(leaves, np.float64))


def add_leaves(X: Array, layout: Layout, total: Array) -> None:
    """Add to each row of ``total`` the leaf that the row of ``X`` comes to in each tree, the first tree first.

    ``X`` is rows x features, in the order of C, of the dtype of the layout.
    """
    is_small = layout.nodes.size <= SMALL * layout.roots.size
    _walk(X, layout, total, FEW if is_small else MANY)


def _links(trees: Nodes) -> tuple[Array, Array, Array, Array]:
    """Return of each split: its node, its left and right child, counted through all trees, and its tree."""
    parents = np.flatnonzero(~trees.is_leaf)
    owner = np.repeat(np.arange(len(trees.n_nodes)), trees.n_nodes)[parents]
    root = trees.roots[owner]
    return parents, root + trees.children_left[parents], root + trees.children_right[parents], owner


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


@compiled
def _walk(X: Array, layout: Layout, total: Array, block: int) -> None:  # noqa: C901 - a call costs a tenth of it
    # Numbers without a sign: of one with a sign, the compiled code would ask each time whether it counts from the end.
    lanes, n_rows = np.uint64(LANES), np.uint64(X.shape[0])
    position = np.empty(LANES, np.uint64)
    for start in range(np.uint64(0), n_rows, np.uint64(block)):
        stop = min(np.uint64(start + np.uint64(block)), n_rows)
        for tree in range(layout.roots.size):
            for first in range(start, stop, lanes):
                count = min(lanes, np.uint64(stop - first))
                position[:] = layout.roots[tree]
                if count == lanes:  # a loop of known length becomes straight code
                    for _ in range(layout.depths[tree]):
                        for lane in range(np.uint64(LANES)):
                            node = layout.nodes[position[lane]]
                            position[lane] = node.left + np.uint64(X[first + lane, node.feature] > node.threshold)
                else:
                    for _ in range(layout.depths[tree]):
                        for lane in range(count):
                            node = layout.nodes[position[lane]]
                            position[lane] = node.left + np.uint64(X[first + lane, node.feature] > node.threshold)
                for lane in range(count):
                    leaf = layout.nodes[position[lane]].leaf
                    for column in range(total.shape[1]):
                        total[first + lane, column] += layout.leaves[leaf, column]
