"""Spark's forest, read as one of ours, says what Spark says of it, and no row has to fit the driver."""

import numpy as np
import pytest
from pyspark.ml.classification import RandomForestClassifier
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import RandomForestClassifier as SklearnForest
from sklearn.metrics import roc_auc_score

from medspark.errors import ConfigError, ContractError
from medspark.spark.mllib import _machine, _places, choose_engine, mllib_parameters, train_mllib

GIGABYTE = 2**30


def frame(spark, X, labels, kind="string"):
    """A table of features x0, x1, ... and a label, in two partitions."""
    names = [f"x{i}" for i in range(X.shape[1])]
    schema = ", ".join([f"label {kind}", *(f"{name} double" for name in names)])
    rows = [(label, *row) for label, row in zip(labels.tolist(), X.tolist(), strict=True)]
    return spark.createDataFrame(rows, schema).repartition(2).cache(), names


def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return X.astype(np.float32).astype(np.float64), np.array(["malignant", "benign"])[y]


def wine():
    X, y = load_wine(return_X_y=True)
    return X.astype(np.float32).astype(np.float64), np.array(["nebbiolo", "barbera", "grignolino"])[y]


def whole_numbers():
    """Features of which the half-way points between values are values of other rows: rows on a threshold."""
    rng = np.random.default_rng(3)
    X = 2.0 * rng.integers(-8, 8, (400, 6))
    return X, np.array(["a", "b", "c"])[np.clip((X[:, 0] + X[:, 1] + rng.normal(0, 4, 400)) // 6 + 1, 0, 2).astype(int)]


def sparks(table, names, *, max_features, **settings):
    """Spark's own model of the same rows, its labels numbered by Spark."""
    assembled = VectorAssembler(inputCols=names, outputCol="features").transform(table)
    numbered = StringIndexer(inputCol="label", outputCol="code", stringOrderType="alphabetAsc").fit(assembled)
    grower = RandomForestClassifier(labelCol="code", maxBins=128, featureSubsetStrategy=str(max_features), **settings)
    return grower.fit(numbered.transform(assembled)), numbered.labels


def probability_by_spark(spark, model, X):
    table = spark.createDataFrame(
        [(i, *row) for i, row in enumerate(X.tolist())], ["i", *(f"x{j}" for j in range(X.shape[1]))]
    )
    assembled = VectorAssembler(inputCols=table.columns[1:], outputCol="features").transform(table)
    found = model.transform(assembled).select("i", vector_to_array("probability")).collect()
    return np.array([row[1] for row in sorted(found)])


def hard_rows(forest, X):
    """Rows on each threshold and just beside it, with both zeros, and of numbers of any size."""
    rng = np.random.default_rng(5)
    is_split = forest.trees.feature >= 0
    feature, threshold = forest.trees.feature[is_split], forest.trees.threshold[is_split].astype(np.float32)
    beside = [threshold, np.nextafter(threshold, np.float32(np.inf)), np.nextafter(threshold, np.float32(-np.inf))]
    on = np.concatenate([X[rng.integers(0, len(X), len(feature))] for _ in beside])
    on[np.arange(len(on)), np.tile(feature, 3)] = np.concatenate(beside)
    largest = np.finfo(np.float32).max
    odd = rng.choice([-0.0, 0.0, 1e-45, -1e-45, largest, -largest], (200, X.shape[1]))
    bits = rng.integers(0, 2**32, (500, X.shape[1]), dtype=np.uint32).view(np.float32)
    any_size = bits[np.isfinite(bits).all(axis=1)]
    return np.vstack([X, on, odd, any_size]).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    ("data", "depth", "n_features_tried"),
    [(cancer, 4, 5), (wine, 12, 3), (whole_numbers, 6, 2)],
    ids=["two classes", "three classes", "rows on thresholds"],
)
def test_our_forest_says_what_sparks_says(spark, tmp_path, data, depth, n_features_tried):
    X, labels = data()
    table, names = frame(spark, X, labels)
    forest = train_mllib(table, names, trees=7, depth=depth, seed=3, scratch=tmp_path)
    theirs, classes = sparks(table, names, numTrees=7, maxDepth=depth, seed=3, max_features=n_features_tried)
    assert forest.classes == classes == sorted(set(labels.tolist()))
    assert len(forest.trees.n_nodes) == theirs.getNumTrees == 7
    assert forest.trees.n_nodes.sum() == theirs.totalNumNodes

    rows = hard_rows(forest, X)
    np.testing.assert_allclose(
        forest.predict_proba(rows), probability_by_spark(spark, theirs, rows), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(forest.feature_importances, theirs.featureImportances.toArray(), rtol=0, atol=1e-9)


def test_rows_on_a_threshold_are_there(spark, tmp_path):
    X, labels = whole_numbers()
    forest = train_mllib(*frame(spark, X, labels), trees=3, depth=4, scratch=tmp_path)
    thresholds = forest.trees.threshold[forest.trees.feature >= 0]
    assert set(thresholds % 2) == {1.0}  # half-way between even numbers, and a float32


def test_features_finer_than_float32_are_learned_from_as_they_are_scored(spark, tmp_path):
    X, labels = cancer()
    finer = X * (1 + 1e-9 * (labels == "benign"))[:, np.newaxis]  # as float64 each of them tells all
    table, names = frame(spark, finer, labels)
    rounded = table.select("label", *(F.col(name).cast("float").cast("double").alias(name) for name in names))
    forest, same = (train_mllib(rows, names, trees=3, depth=5, scratch=tmp_path) for rows in (table, rounded))
    np.testing.assert_array_equal(same.trees.threshold, forest.trees.threshold)
    np.testing.assert_array_equal(same.trees.value, forest.trees.value)


def test_classes_that_are_whole_numbers_are_in_their_order(spark, tmp_path):
    X, labels = wine()
    numbers = np.array([7, 40, 100])[np.unique(labels, return_inverse=True)[1]]
    as_text = train_mllib(*frame(spark, X, labels), trees=3, depth=3, scratch=tmp_path)
    as_numbers = train_mllib(*frame(spark, X, numbers, "int"), trees=3, depth=3, scratch=tmp_path)
    assert as_numbers.classes == ["7", "40", "100"]
    assert (as_numbers.predict(X) == numbers.astype(str)).mean() > 0.9
    assert as_text.classes == ["barbera", "grignolino", "nebbiolo"]


def test_on_rows_it_has_not_seen_it_is_nearly_as_good_as_scikit_learns(spark, tmp_path):
    X, labels = cancer()
    train = np.arange(len(X)) % 2 == 0
    table, names = frame(spark, X[train], labels[train])
    forest = train_mllib(table, names, trees=50, depth=5, scratch=tmp_path)
    theirs = SklearnForest(50, max_depth=5, random_state=42).fit(X[train], labels[train])
    ours, best = (
        roc_auc_score(labels[~train] == "malignant", m.predict_proba(X[~train])[:, 1]) for m in (forest, theirs)
    )
    assert best - 0.01 < ours < best + 0.01


@pytest.mark.parametrize(("words", "tried"), [("sqrt", 5), ("log2", 4), ("all", 30)])
def test_the_words_for_how_many_features_a_node_tries_mean_what_they_mean_for_scikit_learn(
    spark, tmp_path, words, tried
):
    X, labels = cancer()  # 30 features: MLlib's own sqrt would be 6, its log2 5
    table, names = frame(spark, X, labels)
    forest = train_mllib(table, names, trees=3, depth=3, max_features=words, scratch=tmp_path)
    theirs, _ = sparks(table, names, numTrees=3, maxDepth=3, seed=42, max_features=tried)
    np.testing.assert_allclose(forest.feature_importances, theirs.featureImportances.toArray(), rtol=0, atol=1e-9)


def test_no_leaf_is_smaller_than_asked_for(spark, tmp_path):
    X, labels = cancer()
    forest = train_mllib(*frame(spark, X, labels), trees=3, depth=8, min_samples_leaf=20, scratch=tmp_path)
    assert forest.trees.weighted_n_node_samples.min() >= 20


def test_what_was_known_of_a_column_does_not_make_it_categorical(spark, tmp_path):
    X, labels = whole_numbers()
    table, names = frame(spark, X + 16, labels)
    nominal = {"ml_attr": {"type": "nominal", "vals": [str(i) for i in range(32)]}}
    told = table.withMetadata("x0", nominal)
    plain, same = (train_mllib(rows, names, trees=3, depth=4, scratch=tmp_path) for rows in (table, told))
    np.testing.assert_array_equal(same.trees.threshold, plain.trees.threshold)


def test_nothing_is_left_in_the_scratch_directory(spark, tmp_path):
    train_mllib(*frame(spark, *wine()), trees=2, depth=2, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def bytes_to_the_driver(spark, group, work):
    """Return how many bytes of results the tasks of some work have sent to the driver."""
    context = spark.sparkContext
    context.setJobGroup(group, group)
    work()
    context.setJobGroup("other", "other")
    tracker = context.statusTracker()
    stages = {stage for job in tracker.getJobIdsForGroup(group) for stage in tracker.getJobInfo(job).stageIds}
    store = context._jsc.sc().statusStore()
    return sum(store.lastStageAttempt(stage).resultSize() for stage in stages if tracker.getStageInfo(stage))


def test_the_rows_do_not_come_to_the_driver(spark, tmp_path):
    names = [f"x{i}" for i in range(40)]
    table = spark.range(30_000).selectExpr(
        "if(rand(99) < 0.5, 'a', 'b') as label", *(f"rand({i}) as {name}" for i, name in enumerate(names))
    )
    as_float32 = 30_000 * 40 * 4
    assert bytes_to_the_driver(spark, "gathered", table.toArrow) > as_float32
    train = lambda: train_mllib(table, names, trees=3, depth=3, scratch=tmp_path)  # noqa: E731
    assert bytes_to_the_driver(spark, "trained", train) < as_float32 / 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depth": 0}, "depth = 0: Spark's forest has a limit, and it is 30"),
        ({"depth": 31}, "give 1 to 30"),
        ({"trees": 0}, "trees = 0"),
        ({"max_bins": 1}, "max_bins = 1"),
        ({"min_samples_leaf": 0}, "min_samples_leaf = 0"),
        ({"max_features": "half"}, "sqrt"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_a_parameter_out_of_range_is_named(spark, tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        train_mllib(spark.range(1), ["id"], scratch=tmp_path, **wrong)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", 1.0), ("b", float("nan")), ("b", None)], "2 rows hold null, NaN"),
        ([("a", 1.0), ("b", float("-inf"))], "1 rows hold"),
        ([("a", 1.0), ("b", 1e39)], "1 rows hold .* beyond float32"),
        ([("a", 1.0), ("a", 2.0)], "2 rows of 1 class"),
        ([], "0 rows of 0 class"),
        ([("a", 1.0), (None, 2.0)], "drop those rows"),
    ],
)
def test_unfit_data_are_named(spark, tmp_path, rows, said):
    table = spark.createDataFrame(rows, "label string, x double")
    with pytest.raises(ContractError, match=said):
        train_mllib(table, ["x"], scratch=tmp_path)


def test_a_column_that_is_not_there_is_named(spark, tmp_path):
    with pytest.raises(ContractError, match="lacks label, x"):
        train_mllib(spark.range(1), ["x"], scratch=tmp_path)


def test_of_a_forests_parameters_those_stay_that_spark_knows():
    given = {"trees": 5, "depth": 7, "max_features": "all", "min_samples_leaf": 2, "bootstrap": True, "ccp_alpha": 0.0}
    assert mllib_parameters(given) == {"trees": 5, "depth": 7, "max_features": "all", "min_samples_leaf": 2}
    with pytest.raises(ConfigError, match=r"model.class_weight = 'balanced': .* engine = \"exact\""):
        mllib_parameters({"trees": 5, "class_weight": "balanced"})


LOCAL = {"spark.master": "local[4]"}
CLUSTER = {"spark.master": "spark://host:7077", "spark.executor.cores": "4"}


def by_name(places):
    return {place.name: (place.needed, place.there) for place in places}


def test_on_one_machine_a_driver_and_all_workers_share_its_memory():
    places = by_name(_places(LOCAL, 4, 16 * GIGABYTE, 1_000_000, 68))  # 100 floats a row, 400 MB
    assert places == {
        "spark.driver.maxResultSize": (68 * 8e6, GIGABYTE),
        "50% of this machine for a driver and 4 workers": (pytest.approx(400e6 * (6 + 4 * 1.3)), 8 * GIGABYTE),
    }


@pytest.mark.parametrize(
    ("settings", "name", "there"),
    [
        ({"spark.executor.pyspark.memory": "3g"}, "spark.executor.pyspark.memory", 3 * GIGABYTE),
        ({"spark.executor.memoryOverhead": "2048"}, "spark.executor.memoryOverhead", 2 * GIGABYTE),
        ({"spark.executor.memory": "2g"}, "spark.executor.memoryOverhead", 384 * 2**20),
        ({"spark.executor.memory": "40960m"}, "spark.executor.memoryOverhead", 4 * GIGABYTE),
        (
            {"spark.executor.memory": "10gb", "spark.executor.memoryOverheadFactor": "0.4"},
            "spark.executor.memoryOverhead",
            4 * GIGABYTE,
        ),
    ],
)
def test_on_a_cluster_the_workers_have_what_sparks_settings_leave_them(settings, name, there):
    places = by_name(_places(CLUSTER | settings, 64, 16 * GIGABYTE, 1_000_000, 68))
    assert places[f"50% of {name} for 4 workers"] == (pytest.approx(400e6 * 4 * 1.3), there / 2)
    assert places["50% of the driver's machine"] == (400e6 * 6, 8 * GIGABYTE)


def test_where_no_setting_says_how_many_workers_an_executor_has_it_may_have_them_all():
    places = by_name(_places({"spark.master": "local-cluster[2,3,1024]"}, 6, 16 * GIGABYTE, 1000, 68))
    assert "50% of spark.executor.memoryOverhead for 6 workers" in places


def test_results_without_a_limit_have_room():
    (collected, _) = _places(LOCAL | {"spark.driver.maxResultSize": "0"}, 1, GIGABYTE, 10**9, 100)
    assert collected.there == float("inf")


def test_what_fits_is_trained_exactly_and_what_does_not_is_not(spark):
    assert choose_engine(spark, 1000, 60)[0] == "exact"
    places = {
        "spark.driver.maxResultSize": (10**9 * 60 * 8, GIGABYTE),
        "50% of this machine for a driver and 2 workers": (10**9 * 92 * 4 * 8.6, _machine() / 2),
    }
    tightest = max(places, key=lambda name: places[name][0] / places[name][1])
    needed, there = (f"{size / 2**20:,.0f} MB" for size in places[tightest])
    engine, why = choose_engine(spark, 1_000_000_000, 60)
    assert engine == "mllib"
    assert why == f"mllib: 1,000,000,000 rows x 60 features need {needed}, there are {there}: {tightest}"


def test_the_engine_changes_where_the_tightest_place_is_full(spark):
    room = min(1 << 30, _machine() / 2 / (8.6 * 4 * (2000 + 32)) * 2000 * 8)
    most = int(room / (2000 * 8))
    assert choose_engine(spark, most - 1, 2000)[0] == "exact"
    assert choose_engine(spark, most + 2, 2000)[0] == "mllib"
