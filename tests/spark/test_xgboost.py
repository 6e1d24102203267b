"""XGBoost's forest, read as trees of ours, says what XGBoost says of it, and the same rows always give the same."""

import functools
import importlib.util
import json
import logging
import shutil
import sys

import numpy as np
import pytest
from line import rows, run
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from medspark import bundle
from medspark.errors import ConfigError, ContractError
from medspark.jobs import score, train
from medspark.models.boosting import Boosting
from medspark.spark.xgboost import _read, _require_equal, _require_room, _share, _weight, train_xgboost

LOCAL = {"spark.master": "local[4]"}
CLUSTER = {"spark.master": "spark://host:7077"}


@pytest.fixture(scope="module")
def xgboost(spark, request, tmp_path_factory):
    """XGBoost for the driver and its workers: installed beside us, or of the environment of others, and it alone."""
    if importlib.util.find_spec("xgboost"):
        yield importlib.import_module("xgboost")
        return
    deploy = request.getfixturevalue("deploy")
    place = tmp_path_factory.mktemp("packages")
    for found in deploy.parent.glob("lib/python*/site-packages/xgboost*"):
        (place / found.name).symlink_to(found)
    sys.path.append(str(place))
    spark.sparkContext.environment["PYTHONPATH"] = str(place)
    yield importlib.import_module("xgboost")
    del spark.sparkContext.environment["PYTHONPATH"]
    sys.path.remove(str(place))


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X.astype(np.float32), np.array(["malignant", "benign"])[y]


def wine():
    X, y = load_wine(return_X_y=True)
    return X.astype(np.float32), np.array(["nebbiolo", "barbera", "grignolino"])[y]


def whole_numbers():
    """Features of which each threshold is a value of other rows."""
    rng = np.random.default_rng(3)
    X = rng.integers(-8, 8, (400, 6)).astype(np.float32)
    return X, np.array(["a", "b", "c"])[np.clip((X[:, 0] + X[:, 1] + rng.normal(0, 4, 400)) // 6 + 1, 0, 2).astype(int)]


every_data = pytest.mark.parametrize(
    "data", [cancer, wine, whole_numbers], ids=["two classes", "three classes", "rows on thresholds"]
)


def frame(spark, X, labels, n_partitions=2):
    names = [f"x{i}" for i in range(X.shape[1])]
    lines = [(label, *row) for label, row in zip(labels.tolist(), X.astype(float).tolist(), strict=True)]
    schema = ", ".join(["label string", *(f"{name} double" for name in names)])
    return spark.createDataFrame(lines, schema).repartition(n_partitions), names


def alone(xgboost, X, labels, **settings):
    """XGBoost's own forest of the rows, in the order of their values, without Spark."""
    codes = np.unique(labels, return_inverse=True)[1]
    order = np.lexsort([codes, *X.T[::-1]])
    n_classes = codes.max() + 1
    objective = {"objective": "multi:softprob", "num_class": n_classes}
    if n_classes == 2:
        objective = {"objective": "binary:logistic"}
    forest = {"eta": 1, "tree_method": "hist", "subsample": 0.8, "lambda": 0, "base_score": 0.5, "nthread": 1}
    matrix = xgboost.QuantileDMatrix(X[order], codes[order], max_bin=settings["max_bin"])
    return xgboost.train({**objective, **forest, **settings}, matrix, 1)


def told(xgboost, booster, X):
    """Rows x classes, by XGBoost."""
    probability = booster.predict(xgboost.DMatrix(X), validate_features=False)
    return probability if probability.ndim == 2 else np.column_stack([1 - probability, probability])


def read(booster, labels):
    return _read(json.loads(bytes(booster.save_raw("json"))), sorted(set(labels.tolist())), booster.num_features())


def hard_rows(booster, X):
    """Rows on each threshold and just beside it as float32, between the two as float64, and of numbers of any size."""
    rng = np.random.default_rng(5)
    trees = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]
    splits = [
        (feature, threshold)
        for tree in trees
        for feature, threshold, left in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        )
        if left != -1
    ]
    feature = np.array([feature for feature, _ in splits])
    on = np.array([threshold for _, threshold in splits], np.float32)
    below, above = (np.nextafter(on, np.float32(end)) for end in (-np.inf, np.inf))
    middle = (below.astype(float) + on) / 2
    near = [on, below, above, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)]
    beside = X[rng.integers(0, len(X), (6, len(on)))].astype(float).reshape(-1, X.shape[1])
    beside[np.arange(len(beside)), np.tile(feature, 6)] = np.concatenate(near)
    largest = float(np.finfo(np.float32).max)
    odd = rng.choice([-0.0, 0.0, 1e-45, -1e-45, largest, -largest], (200, X.shape[1]))
    return np.vstack([X, beside, odd])


@every_data
@pytest.mark.parametrize(("trees", "depth"), [(100, 4), (7, 0), (1, 1)])
def test_our_trees_say_what_xgboost_says_of_them(xgboost, data, trees, depth):
    X, labels = data()
    booster = alone(xgboost, X, labels, num_parallel_tree=trees, max_depth=depth, max_bin=64, colsample_bynode=0.4)
    model = read(booster, labels)
    hard = hard_rows(booster, X)
    np.testing.assert_allclose(model.predict_proba(hard), told(xgboost, booster, hard), rtol=0, atol=1e-6)
    assert len(model.stages.n_nodes) == trees * (1 if len(model.classes) == 2 else len(model.classes))
    assert np.ptp(model.predict_proba(X)[:, 0]) > 0.1


def test_rows_on_a_threshold_are_there(xgboost):
    X, labels = whole_numbers()
    booster = alone(xgboost, X, labels, num_parallel_tree=3, max_depth=4, max_bin=64)
    trees = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]
    thresholds = [n for tree in trees for n, left in zip(tree["split_conditions"], tree["left_children"], strict=True)
                  if left != -1]  # fmt: skip
    assert set(thresholds) <= set(X.ravel().tolist())
    assert len(thresholds) > 20


def test_the_sum_of_a_thousand_trees_is_ours_to_a_hundred_thousandth(xgboost):
    X, labels = cancer()
    booster = alone(xgboost, X, labels, num_parallel_tree=1000, max_depth=3, max_bin=64)
    np.testing.assert_allclose(read(booster, labels).predict_proba(X), told(xgboost, booster, X), rtol=0, atol=1e-5)


@every_data
def test_one_worker_of_spark_grows_what_xgboost_grows_without_spark(spark, xgboost, data):
    X, labels = data()
    n_classes = len(set(labels.tolist()))
    found = train_xgboost(
        *frame(spark, X, labels, 3), trees=9, depth=5, seed=3, min_samples_leaf=4, max_bins=32, workers=1
    )
    weight = 0.25 if n_classes == 2 else 2 * (1 / 3) * (2 / 3)
    tried = int(np.sqrt(X.shape[1]))
    booster = alone(
        xgboost, X, labels, num_parallel_tree=9, max_depth=5, seed=3, max_bin=32, min_child_weight=3.5 * weight,
        colsample_bynode=(tried + 0.5) / X.shape[1],
    )  # fmt: skip
    np.testing.assert_allclose(found.predict_proba(X), told(xgboost, booster, X), rtol=0, atol=1e-6)
    assert found.classes == sorted(set(labels.tolist()))


def as_bytes(model):
    return {name: array.tobytes() for name, array in model.arrays().items()}


@pytest.mark.usefixtures("xgboost")
def test_equal_rows_give_the_same_forest_in_whatever_partitions_they_come(spark):
    X, labels = wine()
    grow = functools.partial(train_xgboost, trees=5, depth=6)
    first = as_bytes(grow(*frame(spark, X, labels, 1)))
    shuffled = np.random.default_rng(0).permutation(len(X))
    assert as_bytes(grow(*frame(spark, X[shuffled], labels[shuffled], 5))) == first
    assert as_bytes(grow(*frame(spark, X, labels, 2))) == first
    assert as_bytes(grow(*frame(spark, X, labels, 1), seed=43)) != first


@pytest.mark.usefixtures("xgboost")
def test_two_workers_on_rows_not_seen_are_nearly_as_good_as_scikit_learn(spark):
    X, labels = cancer()
    is_train = np.arange(len(X)) % 2 == 0
    ours = train_xgboost(*frame(spark, X[is_train], labels[is_train]), trees=50, depth=5)
    theirs = RandomForestClassifier(50, max_depth=5, random_state=42).fit(X[is_train], labels[is_train])
    ours, theirs = (
        roc_auc_score(labels[~is_train] == "malignant", m.predict_proba(X[~is_train])[:, 1]) for m in (ours, theirs)
    )
    assert theirs - 0.01 < ours < theirs + 0.01


@pytest.mark.usefixtures("xgboost")
def test_a_class_wins_by_votes_however_rare_it_is(spark):
    """Of a leaf with 30 of 40 rows the margin is four times 3/4 - 1/2, wherever one row in ten is of that class."""
    X = np.concatenate([np.zeros(360), np.ones(40)]).astype(np.float32)[:, None]
    labels = np.array(["a"] * 360 + ["a"] * 10 + ["b"] * 30)
    model = train_xgboost(*frame(spark, X, labels), trees=200, depth=1, workers=1)
    np.testing.assert_allclose(
        model.predict_proba(np.array([[0.0], [1.0]]))[:, 1], 1 / (1 + np.exp([2.0, -1.0])), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("data", [cancer, wine])
def test_the_weight_of_a_row_is_what_xgboost_counts_in_a_leaf(xgboost, data):
    X, labels = data()
    booster = alone(xgboost, X, labels, num_parallel_tree=1, max_depth=2, max_bin=64, subsample=1)
    trees = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]
    for tree in trees:
        assert tree["sum_hessian"][0] == pytest.approx(len(X) * _weight(len(trees) if len(trees) > 1 else 2), rel=1e-5)


@pytest.mark.parametrize(("n_chosen", "share"), [(5, 1 / 6), (4, 4 / 30), (30, 1.0)])
def test_a_node_tries_as_many_features_as_it_is_told(xgboost, n_chosen, share):
    """Only one feature of thirty can be split by: the share of the stumps that found it is that of the features."""
    X = np.zeros((60, 30), np.float32)
    X[:, 7] = np.arange(60)
    labels = np.where(np.arange(60) < 30, "a", "b")
    booster = alone(
        xgboost, X, labels, num_parallel_tree=4000, max_depth=1, max_bin=64, colsample_bynode=_share(n_chosen, 30)
    )
    assert (read(booster, labels).stages.n_nodes == 3).mean() == pytest.approx(share, abs=0.015)


@pytest.mark.usefixtures("xgboost")
def test_rows_that_are_not_enough_for_the_workers_are_told_with_the_way_out(spark):
    X, labels = np.zeros((20, 1), np.float32), np.array(["a", "b"] * 10)
    with pytest.raises(ContractError, match=r"model\.workers = 2: the rows are enough for 1.*give 1"):
        train_xgboost(*frame(spark, X, labels), trees=2)


@pytest.mark.usefixtures("xgboost")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depth": -1}, "depth = -1"),
        ({"trees": 0}, "trees = 0"),
        ({"max_bins": 1}, "max_bins = 1"),
        ({"min_samples_leaf": 0}, "min_samples_leaf = 0"),
        ({"max_features": "half"}, "sqrt"),
        ({"seed": -1}, "seed = -1"),
        ({"workers": 0}, "workers = 0"),
        ({"workers": 3}, r"model\.workers = 3: .* local\[2\] has room for 2; give 2"),
    ],
)
def test_a_parameter_out_of_range_is_named(spark, wrong, said):
    with pytest.raises(ConfigError, match=said):
        train_xgboost(spark.range(1), ["id"], **wrong)


@pytest.mark.usefixtures("xgboost")
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([("a", 1.0), ("b", float("nan")), ("b", None)], "2 rows hold null, NaN"),
        ([("a", 1.0), ("a", 2.0)], "2 rows of 1 class"),
    ],
)
def test_unfit_data_are_named(spark, lines, said):
    with pytest.raises(ContractError, match=said):
        train_xgboost(spark.createDataFrame(lines, "label string, x double"), ["x"])


@pytest.mark.parametrize(
    "name", ["spark.authenticate", "spark.network.crypto.enabled", "spark.ssl.enabled", "spark.ssl.rpc.enabled"]
)
def test_a_session_that_is_secured_is_refused(name):
    _require_room({**CLUSTER, name: "false"}, 2, 2)
    with pytest.raises(ConfigError, match=rf"plain text .* {name} = true .* engine = 'exact' or 'mllib'"):
        _require_room({**CLUSTER, name: "true"}, 2, 2)


def test_the_secure_settings_of_ours_are_such():
    from importlib import resources

    text = resources.files("medspark.conf").joinpath("spark/secure.conf").read_text("utf-8")
    settings = dict(line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#"))
    with pytest.raises(ConfigError, match=r"spark\.authenticate = true"):
        _require_room({**CLUSTER, **settings}, 2, 2)


def test_executors_that_come_and_go_are_refused():
    with pytest.raises(ConfigError, match=r"--conf spark\.dynamicAllocation\.enabled=false"):
        _require_room({**CLUSTER, "spark.dynamicAllocation.enabled": "true"}, 2, 2)


def test_on_one_machine_there_are_no_more_workers_than_cores():
    _require_room(LOCAL, 1, 4)
    _require_room(CLUSTER, 4, 5)  # of which the master knows better
    for settings in (LOCAL, {"spark.master": "local[*]"}):
        with pytest.raises(ConfigError, match=r"model\.workers = 5: .* local\[[4*]\] has room for 4; give 4"):
            _require_room(settings, 4, 5)


def test_a_missing_package_is_told_with_the_way_out(spark, monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost.spark", None)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ConfigError, match=r"pip install 'medspark\[xgboost\]'"):
        train_xgboost(spark.range(1), ["id"])


def test_trees_in_another_form_are_not_taken(xgboost):
    with pytest.raises(ContractError, match=rf"xgboost: version {xgboost.__version__} does not write its trees"):
        _read({"learner": {}}, ["a", "b"], 1)


def test_trees_that_say_something_else_are_not_taken(xgboost):
    X, labels = cancer()
    booster = alone(xgboost, X, labels, num_parallel_tree=5, max_depth=3, max_bin=64)
    model = read(booster, labels)
    _require_equal(model, booster)
    for name, change in (("value", 1e-4), ("threshold", 1.0)):
        arrays = model.arrays()
        other = Boosting.from_arrays(
            {**arrays, name: arrays[name] + change}, classes=model.classes, n_features=model.n_features
        )
        with pytest.raises(ContractError, match="gives other probabilities"):
            _require_equal(other, booster)


def test_a_job_trains_by_it_and_scores_without_it(spark, xgboost, hospital, tmp_path, monkeypatch):
    shutil.copytree(hospital.warehouse, tmp_path / "warehouse")
    shutil.rmtree(tmp_path / "warehouse" / "models")
    where = ("--warehouse", tmp_path / "warehouse")
    options = (*where, "--labels", hospital.inventory.labels, "--set", "model.engine=xgboost")
    code, _ = run(train, spark, *options, "--set", "model.trees=5", "--set", "model.min_samples_leaf=3")
    assert code == 0
    (home,) = (tmp_path / "warehouse" / "models").glob("boosting-*")
    manifest = bundle.load(home).manifest
    told = {
        name: manifest["parameters"][name] for name in ("engine", "xgboost", "workers", "trees", "min_samples_leaf")
    }
    assert told == {
        "engine": "xgboost",
        "xgboost": xgboost.__version__,
        "workers": 2,
        "trees": 5,
        "min_samples_leaf": 3,
    }
    with pytest.raises(ConfigError, match=r"split\.folds: only with model\.engine = 'exact'"):
        run(train, spark, *options, "--set", "split.folds=3")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    assert run(score, spark, *where)[0] == 0
    scored = [row for row in rows(tmp_path / "warehouse", "predictions") if row["model_id"] == home.name]
    assert len(scored) == len(rows(tmp_path / "warehouse", "features"))
    with pytest.raises(ConfigError, match=r"pip install 'medspark\[xgboost\]'"):
        run(train, spark, *options)


@pytest.mark.usefixtures("xgboost")
def test_what_xgboost_has_to_say_of_its_progress_is_not_said(spark, capfd):
    train_xgboost(*frame(spark, *wine()), trees=2)
    assert logging.getLogger("XGBoost-PySpark").level == logging.WARNING
    assert "booster params" not in capfd.readouterr().err
