"""A forest grown across Spark tasks is scikit-learn's, and who learns from whom does not depend on Spark."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from line import config, last_run, listing, run
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from medspark.errors import ConfigError
from medspark.jobs import train
from medspark.selection import Candidate
from medspark.spark.train import TrainingData, collect, fit, predict_parts

NAMES = tuple(f"x{i}" for i in range(8))
X, CODES = make_classification(120, 8, n_informative=5, n_classes=3, random_state=1)
LABELS = np.array(["lesion", "normal", "other"])[CODES]
SCHEMA = "path string, frame int, patient_id string, label string, group string, side string, " + ", ".join(
    f"{name} double" for name in NAMES
)


@pytest.fixture(scope="module")
def table(spark):
    """Four frames of each of 30 patients, in no order."""
    rows = [
        (f"/{i // 4:02d}", i % 4, f"P{i // 4}", str(LABELS[i]), f"P{i // 4}", None, *X[i].tolist())
        for i in np.random.default_rng(0).permutation(len(X)).tolist()
    ]
    return spark.createDataFrame(rows, SCHEMA).cache()


def collected(table, **split):
    options = [option for key, value in split.items() for option in ("--set", f"split.{key}={value}")]
    return collect(table, NAMES, config(*options).split, 42)


def known(sides=None):
    """Training data whose every second row is tested on, unless told otherwise."""
    sides = ["train", "test"] * (len(X) // 2) if sides is None else sides
    return made_of(LABELS, sides)


def made_of(labels, sides):
    rows = {"label": labels, "side": sides, "fold": pa.nulls(len(X), pa.int32())}
    return TrainingData(X, pa.table({**rows, "group": [f"P{i // 4}" for i in range(len(X))]}), 0)


@pytest.mark.parametrize(
    ("trees", "depth", "seed"),
    [(1, 3, 42), (2, 0, 0), (5, 3, 42), (23, 0, 7)],
    ids=["1 task", "2 tasks", "uneven", "full"],
)
def test_a_forest_grown_across_tasks_is_the_one_of_scikit_learn(spark, trees, depth, seed):
    data = known()
    ours = fit(spark, data, Candidate("forest", {"trees": trees, "depth": depth}), seed=seed)
    theirs = RandomForestClassifier(n_estimators=trees, max_depth=depth or None, random_state=seed)
    theirs.fit(X[::2], LABELS[::2])
    grown = [estimator.tree_ for estimator in theirs.estimators_]
    assert ours.trees.n_nodes.tolist() == [tree.node_count for tree in grown]
    for name in ("feature", "threshold", "children_left", "children_right"):
        np.testing.assert_array_equal(
            getattr(ours.trees, name), np.concatenate([getattr(tree, name) for tree in grown])
        )
    np.testing.assert_array_equal(ours.trees.value, np.concatenate([tree.value[:, 0] for tree in grown]))
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    assert ours.classes == theirs.classes_.tolist()


@pytest.mark.parametrize("kind", ["forest", "tree", "logistic"])
def test_folds_are_predicted_across_tasks_as_scikit_learn_does_on_one_machine(spark, kind):
    data = known()
    parts = np.arange(len(X)) % 3
    splits = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(3)]
    scaled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    theirs = {
        "forest": RandomForestClassifier(max_depth=3, random_state=5),
        "tree": DecisionTreeClassifier(max_depth=3, random_state=5),
        "logistic": scaled,
    }
    expected = cross_val_predict(theirs[kind], X, LABELS, cv=splits, method="predict_proba")
    candidates = [Candidate("tree", {"depth": 1}), Candidate(kind)]
    _, found = predict_parts(spark, data, parts, candidates, seed=5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if kind != "logistic" else 1e-9)


def test_rows_that_are_never_held_out_are_learned_from_and_not_predicted(spark):
    parts = np.where(np.arange(len(X)) % 2, 0, -1)
    (found,) = predict_parts(spark, known(), parts, [Candidate("tree")], seed=0)
    assert np.isnan(found[parts < 0]).all()
    theirs = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X[parts < 0], LABELS[parts < 0])
    np.testing.assert_array_equal(found[parts == 0], theirs.predict_proba(X[parts == 0]))


def test_more_trees_than_tasks_are_grown_in_more_than_one_of_them(spark):
    spark.sparkContext.setJobGroup("a forest", "")
    fit(spark, known(), Candidate("forest", {"trees": 9, "depth": 2}), seed=1)
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    tasks = spark.sparkContext.statusTracker()
    (job,) = tasks.getJobIdsForGroup("a forest")
    (stage,) = tasks.getJobInfo(job).stageIds
    assert tasks.getStageInfo(stage).numTasks == 2 * spark.sparkContext.defaultParallelism > 1


@pytest.mark.parametrize("n_partitions", [1, 2, 5])
def test_what_is_learned_from_does_not_depend_on_partitions(table, n_partitions):
    data = collected(table.repartition(n_partitions))
    order = np.array(
        [
            4 * int(path[1:]) + frame
            for path, frame in zip(*data.rows.select(["path", "frame"]).to_pydict().values(), strict=True)
        ]
    )
    assert order.tolist() == list(range(len(X)))
    np.testing.assert_array_equal(data.X, X)
    assert data.labels.tolist() == LABELS.tolist()
    assert data.rows.equals(collected(table).rows)


def test_no_patient_is_on_both_sides(table):
    rows = collected(table, test_fraction=0.4).rows.to_pylist()
    sides = {}
    for row in rows:
        sides.setdefault(row["patient_id"], set()).add(row["side"])
    assert len(sides) == 30
    assert {len(found) for found in sides.values()} == {1}
    assert {side for found in sides.values() for side in found} == {"train", "test"}


def test_a_frame_of_nobody_is_a_group_of_its_file_and_is_counted(table):
    data = collected(table.selectExpr("*", "null lost").drop("group").withColumnRenamed("lost", "group"))
    assert data.n_ungrouped == len(X)
    by_file = {}
    for row in data.rows.to_pylist():
        by_file.setdefault(row["path"], set()).add(row["side"])
    assert {len(found) for found in by_file.values()} == {1}


def with_sides(table, expression):
    return table.drop("side").selectExpr("*", f"{expression} side")


def test_the_sides_of_the_labels_are_kept(table):
    data = collected(with_sides(table, "if(frame < 3, 'train', 'test')"), by="split")
    assert data.rows["side"].to_pylist() == ["train", "train", "train", "test"] * 30


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("if(frame < 3, 'train', 'val')", "the column split says val; train and test are known"),
        ("if(frame < 3, 'train', null)", "the column split says nothing; train and test are known"),
        ("'train'", "the column split puts nothing on the test side"),
        ("'test'", "the column split puts nothing on the train side"),
        ("if(label = 'other', 'test', 'train')", "nothing to learn other from, all of it is on the test side"),
    ],
)
def test_sides_that_cannot_be_worked_with_are_told(table, expression, message):
    with pytest.raises(ConfigError, match=f"labels: {message}"):
        collected(with_sides(table, expression), by="split")


def test_one_class_is_nothing_to_tell_apart(spark):
    data = made_of(["same"] * len(X), ["train", "test"] * (len(X) // 2))
    with pytest.raises(ConfigError, match="labels: all there is to learn from is 'same'; a model tells classes apart"):
        fit(spark, data, Candidate(), seed=1)


@pytest.fixture
def own_copy(hospital, tmp_path):
    """The warehouse of the hospital, to write to, and the options of its jobs."""
    shutil.copytree(hospital.warehouse, tmp_path / "warehouse")
    return ("--warehouse", tmp_path / "warehouse", "--labels", hospital.inventory.labels)


def model_of(printed):
    return printed.split("train: model ")[1].split()[0]


def test_the_bundle_says_what_was_learned_from_whom_and_how_well(hospital):
    bundle = hospital.warehouse / "models" / model_of(hospital.printed["train"])
    manifest = json.loads((bundle / "model.json").read_text("utf-8"))
    split = pq.read_table(bundle / "split.parquet").to_pylist()
    assert manifest["classes"] == ["lesion", "normal"]
    assert manifest["kind"] == "forest"
    assert {name: manifest["parameters"][name] for name in ("engine", "trees", "depth", "positive")} == {
        "engine": "exact",
        "trees": 100,
        "depth": 3,
        "positive": "",
    }
    assert manifest["accepted"]
    assert manifest["training"]["n_patients_on_both_sides"] == 0
    tested = [row for row in split if row["side"] == "test"]
    assert manifest["metrics"]["n"] == len(tested) > 0
    assert {row["path"] for row in split} <= {str(path) for path in hospital.archive.rglob("*")}
    n_labelled = len(hospital.inventory.labels.read_text("utf-8").splitlines()) - 1
    assert len({row["path"] for row in split}) == n_labelled == hospital.inventory.n_good


def test_the_same_features_give_the_same_model(spark, hospital, own_copy, tmp_path):
    _, printed = run(train, spark, *own_copy)
    first = hospital.warehouse / "models" / model_of(hospital.printed["train"])
    second = tmp_path / "warehouse/models" / model_of(printed)
    assert first.name != second.name or not printed  # they were made at other times
    for array in sorted((first / "arrays").iterdir()):
        np.testing.assert_array_equal(np.load(array), np.load(second / "arrays" / array.name))
    assert (first / "split.parquet").read_bytes() == (second / "split.parquet").read_bytes()


def test_a_model_below_the_floor_is_kept_and_makes_the_exit_code_1(spark, own_copy, tmp_path):
    code, printed = run(
        train, spark, *own_copy, "--set", "model.trees=1", "--set", "model.depth=1", "--set", "floor.auc=1.0"
    )
    assert code == 1
    assert "is below floor.auc = 1" in printed
    assert (tmp_path / "warehouse/models" / model_of(printed) / "model.json").exists()
    assert last_run(tmp_path / "warehouse")["model_id"] == model_of(printed)


def test_an_auc_that_is_not_known_does_not_pass_the_floor(spark, own_copy, hospital, tmp_path):
    lines = hospital.inventory.labels.read_text("utf-8").splitlines()
    first = lines[1].split(",")[2]  # a patient has one class
    sides = ["split", *("test" if line.endswith(f",{first}") else "train" for line in lines[1:])]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(",".join(pair) for pair in zip(lines, sides, strict=True)), "utf-8")
    options = (*own_copy, "--labels", labels, "--set", "split.by=split", "--set", "model.trees=2")
    assert run(train, spark, *options)[0] == 0
    code, printed = run(train, spark, *options, "--set", "floor.auc=0.1")
    assert code == 1
    assert "auc is not known" in printed


def test_a_dry_run_trains_nothing(spark, hospital):
    before = listing(hospital.warehouse)
    code, printed = run(
        train, spark, "--warehouse", hospital.warehouse, "--labels", hospital.inventory.labels, "--dry-run"
    )
    assert code == 0
    numbers = [int(word) for word in printed.split("train would")[1].split() if word.isdigit()]
    assert numbers == [
        len(
            pq.read_table(next((hospital.warehouse / "models").glob("*/split.parquet"))).filter(
                pa.compute.field("side") == side
            )
        )
        for side in ("train", "test")
    ]
    assert listing(hospital.warehouse) == before


def test_without_features_of_this_recipe_there_is_nothing_to_train(spark, hospital):
    with pytest.raises(ConfigError, match=r"has no features of recipe .*: run extract with this recipe first"):
        run(train, spark, "--warehouse", hospital.warehouse, "--labels", "x.csv", "--set", 'features=[{use="lbp"}]')
