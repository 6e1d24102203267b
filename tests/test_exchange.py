"""The ONNX file against the bundle it was made of, run by onnxruntime; without the extra, what needs no onnx."""

import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_classification

from medspark import __version__, exchange
from medspark.bundle import SPLIT, Bundle, save
from medspark.errors import ConfigError, ContractError
from medspark.models import MODELS
from medspark.models.boosting import Boosting, Stages
from medspark.models.forest import Forest, Trees
from medspark.models.logistic import Logistic

N_FEATURES = 6
NAMES = ["lbp_0", "lbp_1", "edges_density", "mask_n_regions", "größe", "glcm_energy"]
CLASSES = {2: ["covid", "normal"], 3: ["covid", "normal", "pneumonia"]}
PARAMETERS = {
    "boosting": {"trees": 40},
    "forest": {"trees": 60, "depth": 0},
    "logistic": {},
    "svm": {},
    "tree": {"depth": 0},
}
CASES = [(kind, n_classes, {}) for kind in MODELS for n_classes in (2, 3)] + [
    ("svm", n_classes, chosen)
    for n_classes in (2, 3)
    for chosen in ({"kernel": "linear"}, {"kernel": "poly", "degree": 3, "coef0": 0.5}, {"kernel": "sigmoid"})
]
IDS = [" ".join([kind, str(n_classes), *map(str, chosen.values())]) for kind, n_classes, chosen in CASES]


def make_data(n_classes):
    """Return rows of numbers large and small, and the names of their classes."""
    X, codes = make_classification(
        300, N_FEATURES, n_informative=4, n_redundant=1, n_classes=n_classes, flip_y=0.1, random_state=n_classes
    )
    return X * [1, 100, 0.01, 1, 1, 10] + [0, 5000, 0, 0.5, -3, 0], np.array(CLASSES[n_classes])[codes]


def make_bundle(directory, model, kind):
    manifest = {
        "kind": kind,
        "feature_names": NAMES[: model.n_features],
        "recipe": {},
        "recipe_id": "recipe-1",
        "seed": 42,
        "parameters": {},
        "split": {},
        "metrics": {},
        "reference": {},
        "accepted": True,
    }
    return save(directory, model, manifest=manifest, split_table=pa.table({name: [] for name in SPLIT.names}))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return the bundle of a kind, a number of classes and parameters, trained once."""
    made = {}

    def get(kind, n_classes, **parameters):
        key = (kind, n_classes, *parameters.items())
        if key not in made:
            X, y = make_data(n_classes)
            model = MODELS[kind].fit(X, y, seed=1, **PARAMETERS[kind], **parameters)
            made[key] = make_bundle(tmp_path_factory.mktemp("models"), model, kind)
        return made[key]

    return get


def make_rows(model):
    """Return 1,000 float32 rows: near what was learned, far from it, and exactly on or just beside thresholds."""
    random = np.random.default_rng(0)
    X, _ = make_data(len(model.classes))
    rows = X[random.integers(0, len(X), 1000)] + random.normal(0, X.std(axis=0) / 3, (1000, N_FEATURES))
    rows[:20] *= 1e6
    rows = rows.astype(np.float32)
    trees = getattr(model, "trees", getattr(model, "stages", None))
    if trees is not None:
        splits = np.flatnonzero(~trees.is_leaf)
        for row in range(100, 1000):
            split = random.choice(splits)
            nearest = np.float32(trees.threshold[split])
            towards = np.float32(random.choice([-np.inf, nearest, np.inf]))
            rows[row, trees.feature[split]] = np.nextafter(nearest, towards)
    return rows


@pytest.fixture
def export(tmp_path):
    """Return the path of the file made of a bundle."""
    pytest.importorskip("onnx", reason="needs medspark[onnx]")
    return lambda made: exchange.to_onnx(made, tmp_path / "model.onnx")


def session(path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs medspark[onnx]")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path, rows):
    """Return the classes and the probabilities that onnxruntime gives."""
    return session(path).run(["prediction", "probability"], {"X": rows})


def unsaved(model, kind):
    """Return a bundle that was never on disk."""
    names = [f"lbp_{place}" for place in range(model.n_features)]
    return Bundle(None, {"kind": kind, "model_id": "model-1", "recipe_id": "recipe-1", "feature_names": names}, model)


def make_leaves(votes):
    """Return a forest of trees that are one leaf each, with these votes."""
    n_trees, none = len(votes), np.full(len(votes), -1, np.int32)
    one, zero = np.ones(n_trees), np.zeros(n_trees)
    trees = Trees(np.ones(n_trees, np.int64), none, none, none - 1, zero - 2, np.array(votes, float), one, zero)
    return Forest(trees, [f"class {place}" for place in range(len(votes[0]))], 2)


def make_stump(threshold):
    """Return a boosted tree whose rows have probability 1/4 up to a threshold and 3/4 above."""
    ends = np.full(3, -1, np.int32)
    left, right, feature = (np.array([first, *ends[1:]], np.int32) for first in (1, 2, 0))
    value = np.log([1, 1 / 3, 3])
    stages = Stages(np.array([3]), left, right, feature, np.array([threshold, 0, 0]), value, np.zeros(1))
    return Boosting(stages, ["low", "high"], 1)


@pytest.mark.parametrize(("kind", "n_classes", "parameters"), CASES, ids=IDS)
def test_onnxruntime_gives_the_probabilities_and_classes_of_the_bundle(kind, n_classes, parameters, bundle, export):
    made = bundle(kind, n_classes, **parameters)
    rows = make_rows(made.model)
    prediction, probability = run(export(made), rows)
    expected = made.predict_proba(rows)
    assert probability.dtype == np.float32
    assert probability.shape == (1000, n_classes)
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(prediction, np.array(made.classes)[expected.argmax(axis=1)])
    assert len(set(prediction)) == n_classes


@pytest.mark.parametrize(("kind", "n_classes", "parameters"), CASES, ids=IDS)
def test_the_file_keeps_to_the_standard(kind, n_classes, parameters, bundle, export):
    path = export(bundle(kind, n_classes, **parameters))
    pytest.importorskip("onnx").checker.check_model(path, full_check=True)


WITHOUT_TREES = [case for case in CASES if case[0] in ("logistic", "svm")]  # the reference knows no trees of float64


@pytest.mark.parametrize(("kind", "n_classes", "parameters"), WITHOUT_TREES)
def test_the_reference_of_the_standard_gives_the_same(kind, n_classes, parameters, bundle, export):
    made = bundle(kind, n_classes, **parameters)
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(str(export(made)))
    rows = make_rows(made.model)[20:]  # far rows overflow within it
    prediction, probability = evaluator.run(["prediction", "probability"], {"X": rows})
    expected = made.predict_proba(rows)
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(prediction, np.array(made.classes)[expected.argmax(axis=1)])


@pytest.mark.parametrize("kind", list(MODELS))
def test_no_row_and_one_row_are_scored_as_many_are(kind, bundle, export):
    made = bundle(kind, 3)
    rows = make_rows(made.model)
    scorer = session(export(made))
    _, many = scorer.run(None, {"X": rows})
    for row in (0, 500, 999):
        _, one = scorer.run(None, {"X": rows[row : row + 1]})
        np.testing.assert_allclose(one[0], many[row], rtol=0, atol=1e-7)
    prediction, probability = scorer.run(None, {"X": rows[:0]})
    assert (prediction.shape, probability.shape) == ((0,), (0, 3))


def test_the_file_says_what_goes_in_what_comes_out_and_where_it_is_from(bundle, export):
    made = bundle("forest", 3)
    scorer = session(export(made))
    (X,) = scorer.get_inputs()
    assert (X.name, X.type, X.shape) == ("X", "tensor(float)", ["rows", N_FEATURES])
    assert [(output.name, output.type, output.shape) for output in scorer.get_outputs()] == [
        ("prediction", "tensor(string)", ["rows"]),
        ("probability", "tensor(float)", ["rows", 3]),
    ]
    metadata = scorer.get_modelmeta().custom_metadata_map
    assert json.loads(metadata.pop("feature_names")) == NAMES
    assert json.loads(metadata.pop("classes")) == CLASSES[3]
    assert metadata == {"model_id": made.model_id, "recipe_id": "recipe-1", "medspark_version": __version__}


@given(data=st.data())
@settings(max_examples=60)
def test_a_row_goes_left_exactly_if_it_is_not_above_the_threshold(data, tmp_path_factory):
    pytest.importorskip("onnx", reason="needs medspark[onnx]")
    threshold = data.draw(st.floats(-1e38, 1e38))
    nearest = np.float32(threshold)
    beside = [np.nextafter(nearest, np.float32(end)) for end in (-np.inf, np.inf)]
    any_rows = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=5))
    rows = np.array([nearest, *beside, *any_rows], np.float32)
    path = exchange.to_onnx(unsaved(make_stump(threshold), "boosting"), tmp_path_factory.getbasetemp() / "stump.onnx")
    prediction, probability = run(path, rows[:, None])
    is_left = np.array([float(row) <= threshold for row in rows])
    assert prediction.tolist() == np.where(is_left, "low", "high").tolist()
    np.testing.assert_allclose(probability[:, 1], np.where(is_left, 0.25, 0.75), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_equal_votes_are_equal_and_give_the_first_class(n_classes, export):
    votes = np.tile(np.eye(n_classes)[::-1], (5, 1))
    prediction, probability = run(export(unsaved(make_leaves(votes), "forest")), np.zeros((4, 2), np.float32))
    assert prediction.tolist() == ["class 0"] * 4
    assert np.array_equal(probability, np.full((4, n_classes), 1 / n_classes, np.float32))


def test_a_vote_of_one_more_in_ten_thousand_trees_decides(export):
    votes = np.eye(2)[np.arange(10_001) % 2]
    prediction, probability = run(export(unsaved(make_leaves(votes), "forest")), np.zeros((1, 2), np.float32))
    assert prediction.tolist() == ["class 0"]
    np.testing.assert_allclose(probability, [[5001 / 10_001, 5000 / 10_001]], rtol=0, atol=1e-7)


def test_many_small_fractions_add_up_to_their_sum(export):
    fractions = np.random.default_rng(5).dirichlet([1, 1, 1], 20_000)
    _, probability = run(export(unsaved(make_leaves(fractions), "forest")), np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(probability[0], fractions.mean(axis=0), rtol=0, atol=1e-7)


def test_if_no_class_of_a_machine_gets_anything_each_gets_the_same(bundle, export):
    model = replace(bundle("svm", 3).model, offset=np.full(3, 1e4))
    rows = make_rows(model)[:5]
    _, probability = run(export(unsaved(model, "svm")), rows)
    assert np.array_equal(probability, np.full((5, 3), 1 / 3, np.float32))
    assert np.array_equal(model.predict_proba(rows), np.full((5, 3), 1 / 3))


def test_a_pair_of_classes_without_a_difference_is_won_by_the_first(bundle, export):
    trained = bundle("svm", 3).model
    model = replace(trained, dual_coef=np.zeros_like(trained.dual_coef), intercept=np.zeros(3))
    rows = make_rows(model)[:5]
    _, probability = run(export(unsaved(model, "svm")), rows)
    odds = 1 / (1 + np.exp(model.slope * [2, 1, 0] + model.offset))  # of 2, 1 and 0 pairs won
    np.testing.assert_allclose(probability, np.tile(odds / odds.sum(), (5, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_same_model_gives_the_same_file(kind, bundle, export):
    first = export(bundle(kind, 2)).read_bytes()
    assert export(bundle(kind, 2)).read_bytes() == first


@pytest.mark.parametrize(("kind", "n_classes"), [("forest", 2), ("forest", 3), ("tree", 2), ("boosting", 3)])
def test_trees_take_at_most_the_bytes_foretold_and_not_many_fewer(kind, n_classes, bundle, export):
    made = bundle(kind, n_classes)
    trees = getattr(made.model, "trees", None) or made.model.stages
    votes, n_targets = (1, 3) if kind == "boosting" else (n_classes, n_classes)
    n_foretold = exchange._tree_bytes(trees, votes=votes, n_targets=n_targets)
    n_others = 2000  # names, metadata and the other operators
    assert n_foretold / 1.1 < export(made).stat().st_size < n_foretold + n_others


def too_large():
    """Yield models that only say that they are large, by views."""
    n_features = 2**14
    coef = np.broadcast_to(1.0, (n_features, n_features))
    mean, names = np.ones(n_features), [f"class {place}" for place in range(n_features)]
    yield "logistic", Logistic(mean, mean, coef, mean, names)
    one_leaf = make_leaves([[1.0, 0.0]])
    n_trees = 2**26
    nodes = {name: np.broadcast_to(array[0], (n_trees, *array.shape[1:])) for name, array in one_leaf.arrays().items()}
    yield "forest", replace(one_leaf, trees=Trees(**nodes))


@pytest.mark.parametrize(("kind", "model"), list(too_large()), ids=["logistic", "forest"])
def test_a_model_too_large_for_a_file_is_refused_before_anything_is_written(kind, model, tmp_path):
    with pytest.raises(ContractError, match=r"needs [2-9],\d{3},\d{3},\d{3} bytes and an ONNX file holds 2,146,\d{3}"):
        exchange.to_onnx(unsaved(model, kind), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_cannot_be_exported_is_told_with_those_that_can(tmp_path):
    with pytest.raises(ConfigError, match="'ensemble' cannot be exported; boosting, forest, logistic, svm, tree can"):
        exchange.to_onnx(unsaved(make_stump(0.0), "ensemble"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_message_says_how_to_get_it(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # so Python says that it is not there
    with pytest.raises(ConfigError, match=r"pip install 'medspark\[onnx\]'"):
        exchange.to_onnx(bundle("tree", 2), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_file_in_place_of_an_older_one(bundle, tmp_path, capsys):
    pytest.importorskip("onnx", reason="needs medspark[onnx]")
    made, path = bundle("logistic", 2), tmp_path / "model.onnx"
    path.write_text("older")
    assert exchange.main(["--model", str(made.directory), "--to", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: {made.model_id}, {path.stat().st_size:,} bytes\n"
    rows = make_rows(made.model)
    np.testing.assert_allclose(run(path, rows)[1], made.predict_proba(rows), rtol=0, atol=1e-6)
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_says_once_that_there_is_no_model_and_ends_with_2(tmp_path, capsys):
    assert exchange.main(["--model", str(tmp_path / "none"), "--to", str(tmp_path / "model.onnx")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"medspark export: {tmp_path / 'none' / 'model.json'}: missing")
    assert message.count("\n") == 1


def test_a_file_that_cannot_be_written_leaves_nothing_behind(bundle, tmp_path, capsys):
    pytest.importorskip("onnx", reason="needs medspark[onnx]")
    (tmp_path / "model.onnx").mkdir()
    made = bundle("logistic", 2)
    assert exchange.main(["--model", str(made.directory), "--to", str(tmp_path / "model.onnx")]) == 2
    assert "model.onnx" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
