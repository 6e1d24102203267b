"""Models for programs that are not ours: a bundle as one ONNX file, of operators that any ONNX runtime has."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medspark import __version__, bundle
from medspark.bundle import Bundle
from medspark.errors import ConfigError, ContractError
from medspark.models.boosting import Boosting
from medspark.models.forest import Forest
from medspark.models.logistic import Logistic
from medspark.models.svm import Svm
from medspark.models.walk import Nodes

Array = npt.NDArray[Any]

IR, OPSET, ML_OPSET = 8, 17, 3  # what runtimes since 2022 read
LIMIT = 2**31 - 2**20  # bytes of one protobuf, less what names and metadata may take
_FLOAT, _STRING, _DOUBLE = 1, 8, 11  # TensorProto.DataType, needed before onnx is loaded
SPLIT_BYTES, LEAF_BYTES = 12, 6  # "BRANCH_LEQ" and "LEAF" with their lengths


class _Node(NamedTuple):
    operator: str
    inputs: list[str]
    output: str
    domain: str
    attributes: dict[str, Any]


class _Graph:
    """Operators in the order of the calculation; what is not yet ONNX, and so is known to fit before it is made."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.constants: dict[str, Array] = {}
        self.n_bytes = 0

    def add(self, operator: str, *inputs: str | Array | float, domain: str = "", **attributes: Any) -> str:
        """Return the name of the result of an operator; inputs that are no names become constants of float64."""
        names = [value if isinstance(value, str) else self.constant(np.asarray(value, np.float64)) for value in inputs]
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(_Node(operator, names, output, domain, attributes))
        return output

    def constant(self, value: Array) -> str:
        """Return the name of a constant."""
        self.reserve(value.nbytes)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def reserve(self, n_bytes: int) -> None:
        """Raise ContractError if so many bytes more do not fit into one file."""
        self.n_bytes += n_bytes
        if self.n_bytes > LIMIT:
            raise ContractError(
                f"the model needs {self.n_bytes:,} bytes and an ONNX file holds {LIMIT:,}; train one with fewer or "
                "smaller trees, fewer features or fewer support vectors"
            )


def to_onnx(model: Bundle, path: Path | str) -> Path:
    """Write a model as one ONNX file (ai.onnx 17, ai.onnx.ml 3) and return its path.

    Input ``X``: float32, rows x features in the order of ``feature_names``, finite, which an ONNX runtime does not
    check. Outputs: ``probability``, float32, rows x classes, equal to ``predict_proba`` of float32 rows to 1e-6, and
    ``prediction``, for each row the name of its most probable class, the first of equals. It calculates in float64.
    The metadata holds ``model_id``, ``recipe_id``, ``medspark_version`` and, as JSON, ``feature_names`` and
    ``classes``. A file that is there is replaced; a failed run leaves it as it was.

    Raises ConfigError if onnx is not installed or the kind of model cannot be exported, ContractError if the model is
    too large for one file.
    """
    kind = model.manifest["kind"]
    if kind not in _PROBABILITIES:
        raise ConfigError(f"a model of kind {kind!r} cannot be exported; {', '.join(_PROBABILITIES)} can")
    graph = _Graph()
    probabilities = _PROBABILITIES[kind](graph, model.model)
    content = _serialised(graph, probabilities, model)
    target = Path(path)
    draft = target.with_name(f".{target.name}.partial")
    try:
        draft.write_bytes(content)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _of_forest(graph: _Graph, model: Forest) -> str:
    targets = np.broadcast_to(np.arange(len(model.classes)), model.trees.value.shape)
    sums = _add_leaves(graph, model.trees, model.trees.value, targets, np.zeros(len(model.classes)))
    # Divided here and not in the leaves: whole numbers of votes stay whole, and equals stay equal.
    return graph.add("Div", sums, len(model.trees.n_nodes))


def _of_boosting(graph: _Graph, model: Boosting) -> str:
    stages = model.stages
    score = np.repeat(np.arange(len(stages.n_nodes)) % len(stages.baseline), stages.n_nodes)
    sums = _add_leaves(graph, stages, stages.value[:, None], score[:, None], stages.baseline)
    return _from_scores(graph, sums, model)


def _of_logistic(graph: _Graph, model: Logistic) -> str:
    products = graph.add("MatMul", _standardised(graph, model), model.coef.T)
    return _from_scores(graph, graph.add("Add", products, model.intercept), model)


def _of_svm(graph: _Graph, model: Svm) -> str:
    vectors, weights = model._layout  # noqa: SLF001 - the weights of pairs are put together in one place
    values = _kernel(graph, _standardised(graph, model), vectors, model)
    scores = graph.add("Add", graph.add("MatMul", values, weights), model.intercept)
    if len(model.classes) > 2:
        scores = _one_against_one(graph, scores, len(model.classes))
    each = graph.add("Sigmoid", graph.add("Sub", graph.add("Mul", scores, -model.slope), model.offset))
    if len(model.classes) == 2:
        return _with_first(graph, each)
    total = graph.add("MatMul", each, np.ones((len(model.classes), 1)))
    is_told = graph.add("Greater", total, 0.0)
    return graph.add("Where", is_told, graph.add("Div", each, total), 1 / len(model.classes))


_PROBABILITIES: dict[str, Callable[[_Graph, Any], str]] = {
    "boosting": _of_boosting,
    "forest": _of_forest,
    "logistic": _of_logistic,
    "svm": _of_svm,
    "tree": _of_forest,
}


def _rows(graph: _Graph) -> str:
    return graph.add("Cast", "X", to=_DOUBLE)


def _standardised(graph: _Graph, model: Logistic | Svm) -> str:
    return graph.add("Div", graph.add("Sub", _rows(graph), model.mean), model.scale)


def _with_first(graph: _Graph, second: str) -> str:
    return graph.add("Concat", graph.add("Sub", 1.0, second), second, axis=1)


def _from_scores(graph: _Graph, scores: str, model: Boosting | Logistic) -> str:
    if len(model.classes) == 2:
        return _with_first(graph, graph.add("Sigmoid", scores))
    return graph.add("Softmax", scores, axis=1)


def _kernel(graph: _Graph, rows: str, vectors: Array, model: Svm) -> str:
    """Return rows x vectors; ``vectors`` is features x vectors."""
    products = graph.add("MatMul", rows, vectors)
    kind = str(model.kernel)
    if kind == "linear":
        return products
    if kind == "rbf":  # of |x|^2 - 2 x v + |v|^2, as rows x features x vectors would not fit into memory
        squares = graph.add("MatMul", graph.add("Mul", rows, rows), np.ones((len(vectors), 1)))
        distances = graph.add("Sub", graph.add("Add", squares, (vectors**2).sum(axis=0)), graph.add("Mul", products, 2))
        return graph.add("Exp", graph.add("Mul", distances, -model.gamma))
    near = graph.add("Add", graph.add("Mul", products, model.gamma), model.coef0)
    return graph.add("Pow", near, model.degree) if kind == "poly" else graph.add("Tanh", near)


def _one_against_one(graph: _Graph, decisions: str, n_classes: int) -> str:
    """Return a score for each class: the pairs it wins and, between the whole numbers, by how much."""
    one, other = np.triu_indices(n_classes, 1)
    signs = np.eye(n_classes)[one] - np.eye(n_classes)[other]
    is_one = graph.add("Cast", graph.add("GreaterOrEqual", decisions, 0.0), to=_DOUBLE)
    # A pair won by the one is +1 for him and, from the pair that the other is given beforehand, -1 for the other.
    wins = graph.add("Add", graph.add("MatMul", is_one, signs), np.arange(n_classes))
    margins = graph.add("MatMul", decisions, signs)
    size = graph.add("Mul", graph.add("Add", graph.add("Abs", margins), 1.0), 3.0)
    return graph.add("Add", wins, graph.add("Div", margins, size))


def _add_leaves(graph: _Graph, trees: Nodes, value: Array, targets: Array, baseline: Array) -> str:
    """Return rows x targets sums; ``value`` and ``targets`` are nodes x votes, of which those of the leaves count.

    By the regressor also for classes: of two classes runtimes disagree about the base values of the classifier. In
    float64, thresholds need no rounding to decide as ours do, and the sum of a thousand trees is not off by 1e-6.
    """
    graph.reserve(_tree_bytes(trees, votes=value.shape[1], n_targets=len(baseline)))
    is_leaf, votes = trees.is_leaf, value.shape[1]
    tree = np.repeat(np.arange(len(trees.n_nodes)), trees.n_nodes)
    node = np.arange(len(tree)) - trees.roots[tree]
    sums = graph.add(
        "TreeEnsembleRegressor",
        _rows(graph),
        domain="ai.onnx.ml",
        n_targets=len(baseline),
        base_values_as_tensor=np.asarray(baseline, np.float64),
        nodes_treeids=tree,
        nodes_nodeids=node,
        nodes_featureids=np.where(is_leaf, 0, trees.feature),
        nodes_values_as_tensor=np.where(is_leaf, 0, trees.threshold),
        nodes_modes=np.where(is_leaf, "LEAF", "BRANCH_LEQ"),
        nodes_truenodeids=np.where(is_leaf, 0, trees.children_left),
        nodes_falsenodeids=np.where(is_leaf, 0, trees.children_right),
        target_treeids=np.repeat(tree[is_leaf], votes),
        target_nodeids=np.repeat(node[is_leaf], votes),
        target_ids=targets[is_leaf].ravel(),
        target_weights_as_tensor=value[is_leaf].ravel().astype(np.float64),
    )
    return graph.add("Cast", sums, to=_DOUBLE)  # it gives float32 in any case


def _tree_bytes(trees: Nodes, *, votes: int, n_targets: int) -> int:
    """Return how many bytes the trees take in a file at most, told from what is known without making it."""
    n_leaves = int(np.count_nonzero(trees.is_leaf))
    n_splits = len(trees.feature) - n_leaves
    tree, node = _number_bytes(len(trees.n_nodes)), _number_bytes(int(trees.n_nodes.max()))
    shared = tree + node + 8  # whose, which, and the threshold
    split = shared + SPLIT_BYTES + _number_bytes(int(trees.feature.max())) + 2 * node
    leaf = shared + LEAF_BYTES + 3 * _number_bytes(0)
    return n_splits * split + n_leaves * (leaf + votes * (shared + _number_bytes(n_targets)))


def _number_bytes(highest: int) -> int:
    """Return the bytes of a whole number in a list: one names the list, and each of the others holds seven bits."""
    return 1 + max(1, -(-highest.bit_length() // 7))


def _serialised(graph: _Graph, probabilities: str, model: Bundle) -> bytes:
    try:
        from onnx import helper, numpy_helper  # optional, and only this function needs it
    except ImportError:
        raise ConfigError("export to ONNX needs the package onnx: pip install 'medspark[onnx]'") from None

    place = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    names = graph.constant(np.array(model.classes, object))
    nodes = [
        helper.make_node(
            node.operator,
            node.inputs,
            [node.output],
            domain=node.domain,
            **{name: _attribute(value, numpy_helper.from_array) for name, value in node.attributes.items()},
        )
        for node in graph.nodes
    ]
    nodes.append(helper.make_node("Gather", [names, place], ["prediction"]))
    nodes.append(helper.make_node("Cast", [probabilities], ["probability"], to=_FLOAT))
    onnx_graph = helper.make_graph(
        nodes,
        model.model_id,
        [helper.make_tensor_value_info("X", _FLOAT, ["rows", len(model.feature_names)])],
        [
            helper.make_tensor_value_info("prediction", _STRING, ["rows"]),
            helper.make_tensor_value_info("probability", _FLOAT, ["rows", len(model.classes)]),
        ],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    proto = helper.make_model(onnx_graph, ir_version=IR, opset_imports=opsets, producer_name="medspark")
    helper.set_model_props(proto, _metadata(model))
    return bytes(proto.SerializeToString(deterministic=True))


def _attribute(value: Any, to_tensor: Callable[[Array], Any]) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return to_tensor(value) if value.dtype.kind == "f" else value.tolist()


def _metadata(model: Bundle) -> dict[str, str]:
    return {
        "model_id": model.model_id,
        "recipe_id": model.recipe_id,
        "feature_names": json.dumps(model.feature_names, ensure_ascii=False),
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "medspark_version": __version__,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Export the model of a directory: 0 if the file is written, 2 with one message if nothing was done."""
    parser = argparse.ArgumentParser(prog="medspark export", description="Write a model as one ONNX file.")
    parser.add_argument("--model", required=True, type=Path, metavar="DIRECTORY", help="the model: it has a model.json")
    parser.add_argument("--to", required=True, type=Path, metavar="FILE", help="the file to write, NAME.onnx")
    options = parser.parse_args(argv)
    try:
        model = bundle.load(options.model)
        path = to_onnx(model, options.to)
    except (ConfigError, ContractError, OSError) as error:
        print(f"medspark export: {error}", file=sys.stderr)  # noqa: T201 - what a command says
        return 2
    print(f"{path}: {model.model_id}, {path.stat().st_size:,} bytes")  # noqa: T201 - the same
    return 0
