"""The job train: nobody on both sides, models beside each other on the same rows, and only a better one is current."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from line import rows, run
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from medspark import bundle
from medspark.config import DriftConfig
from medspark.drift import compare, counts
from medspark.errors import ConfigError
from medspark.jobs import score, train
from medspark.spark import score as score_all
from medspark.spark import tables
from medspark.spark.drift import drifts
from medspark.warehouse import Warehouse

QUICK = ("--set", "model.kind=tree", "--set", "model.depth=4")


@pytest.fixture
def options(hospital, tmp_path):
    """A copy of the warehouse of the hospital, without what train and score say, and the options of its jobs."""
    shutil.copytree(hospital.warehouse, tmp_path / "warehouse")
    for name in ("models", "evaluations", "drift"):
        shutil.rmtree(tmp_path / "warehouse" / name)
    return ("--warehouse", tmp_path / "warehouse", "--labels", hospital.inventory.labels)


@pytest.fixture
def warehouse(tmp_path):
    return tmp_path / "warehouse"


def newest(warehouse):
    path = max((warehouse / "models").glob("*/model.json"), key=lambda path: path.stat().st_mtime_ns)
    return path.parent, json.loads(path.read_text("utf-8"))


def table(warehouse, name):
    return DeltaTable(f"{warehouse}/{name}").to_pyarrow_table().to_pylist()


@pytest.fixture
def torn(hospital, tmp_path):
    """Labels whose column split puts the files of two patients on both sides in turn."""
    head, *lines = hospital.inventory.labels.read_text("utf-8").splitlines()
    whose = [line.split(",")[head.split(",").index("patient_id")] for line in lines]
    patients = sorted(set(whose))
    halves = {patient: ("train", "test")[number % 2] for number, patient in enumerate(patients)}
    sides = [
        ("train", "test")[number % 2] if patient in patients[:2] else halves[patient]
        for number, patient in enumerate(whose)
    ]
    labels = tmp_path / "torn.csv"
    labels.write_text(
        "\n".join([f"{head},split", *(f"{line},{side}" for line, side in zip(lines, sides, strict=True))])
    )
    return ("--labels", labels, "--set", "split.by=split")


def test_patients_on_both_sides_stop_the_training_and_are_a_table(spark, options, torn, warehouse):
    with pytest.raises(ConfigError, match=r"the split leaks: \d+ patients on both sides.*group_duplicates = true"):
        run(train, spark, *options, *torn, *QUICK)
    code, printed = run(train, spark, *options, *torn, *QUICK, "--dry-run")
    assert code == 0
    assert "on both sides, so it would stop: 2 patients on both sides" in printed
    assert not (warehouse / "models").exists()
    found = [row for row in table(warehouse, "leaks") if row["kind"] == "same_patient"]
    patient_of = {row["path"]: row["patient_id"] for row in rows(warehouse, "features")}
    torn_patients = {patient_of[row["path_a"]] for row in found}
    assert len(found) == len(torn_patients)
    assert all(patient_of[row["path_a"]] == patient_of[row["path_b"]] for row in found)


def test_what_is_told_to_be_grouped_leaves_the_training_and_not_the_test_side(spark, options, torn, warehouse):
    code, printed = run(train, spark, *options, *torn, *QUICK, "--set", "split.group_duplicates=true")
    assert code == 0
    assert "kept together" in printed
    directory, manifest = newest(warehouse)
    split = pq.read_table(directory / "split.parquet").to_pylist()
    tested = {row["patient_id"] for row in split if row["side"] == "test"}
    assert not tested & {row["patient_id"] for row in split if row["side"] == "train"}
    wanted = {line.split(",")[0] for line in torn[1].read_text().splitlines() if line.endswith(",test")}
    assert len({row["path"] for row in split if row["side"] == "test"}) == len(wanted)
    assert manifest["training"]["n_patients_on_both_sides"] == 0


def test_folds_test_every_row_once_by_a_model_of_other_patients(spark, options, warehouse):
    assert run(train, spark, *options, *QUICK, "--set", "split.folds=3")[0] == 0
    directory, manifest = newest(warehouse)
    split = pq.read_table(directory / "split.parquet").to_pylist()
    features = {(row["path"], row["frame"]): row for row in rows(warehouse, "features")}
    X = np.array([[features[row["path"], row["frame"]][name] for name in manifest["feature_names"]] for row in split])
    X = X.astype(np.float32)
    labels, fold = (np.array([row[name] for row in split]) for name in ("label", "fold"))
    patients = {number: {row["patient_id"] for row in split if row["fold"] == number} for number in range(3)}
    assert not (patients[0] & patients[1]) | (patients[0] & patients[2]) | (patients[1] & patients[2])
    found = np.empty(len(X))
    for number in range(3):
        tree = DecisionTreeClassifier(max_depth=4, random_state=42).fit(X[fold != number], labels[fold != number])
        found[fold == number] = tree.predict_proba(X[fold == number])[:, 1]
    assert manifest["metrics"]["n"] == len(X)
    assert manifest["metrics"]["auc"] == pytest.approx(roc_auc_score(labels == "normal", found), abs=1e-12)
    low, high = manifest["metrics"]["intervals"]["auc"]
    assert low <= manifest["metrics"]["auc"] <= high


def test_models_are_compared_on_the_same_rows_and_the_best_of_a_search_is_kept(spark, options, warehouse):
    asked = ("--set", 'model.compare=["logistic", {kind="tree", depth=1}]', "--set", "search.depth=[1, 4]")
    code, printed = run(train, spark, *options, *QUICK, *asked)
    assert code == 0
    found = table(warehouse, "evaluations")
    assert sorted(row["purpose"] for row in found) == ["compare", "compare", "model", "search", "search"]
    assert len({row["run_id"] for row in found}) == 1
    search = {json.loads(row["parameters"])["depth"]: row["auc"] for row in found if row["purpose"] == "search"}
    (kept,) = (row for row in found if row["purpose"] == "model")
    assert json.loads(kept["parameters"])["depth"] == max(search, key=search.get)
    assert {row["n_test"] for row in found if row["purpose"] != "search"} == {kept["n_test"]}
    assert "compare: logistic" in printed
    assert "search: tree, depth 4" in printed


def test_a_worse_model_does_not_become_the_current_one(spark, options, warehouse):
    labels = ("--set", "split.test_fraction=0.4")
    assert run(train, spark, *options, *labels, "--set", "model.trees=20", "--set", "model.depth=0")[0] == 0
    first = newest(warehouse)[1]["model_id"]
    recipe_id = newest(warehouse)[1]["recipe_id"]
    worse = ("--set", "model.kind=tree", "--set", "model.min_samples_leaf=60")
    code, printed = run(train, spark, *options, *labels, *worse, "--update")
    assert code == 1
    assert f"of {first} on" in printed
    assert bundle.find(warehouse / "models", recipe_id=recipe_id).model_id == first
    assert run(train, spark, *options, *labels, "--set", "model.trees=20", "--set", "model.depth=0", "--update")[0] == 0
    versus = newest(warehouse)[1]["metrics"]["versus"]
    assert (versus["model_id"], versus["auc"], versus["p_value"]) == (first, versus["auc_before"], 1.0)
    assert bundle.find(warehouse / "models", recipe_id=recipe_id).model_id == newest(warehouse)[1]["model_id"]


def test_what_is_asked_besides_is_in_the_bundle(spark, options, warehouse):
    asked = ("--set", "evaluation.sensitivity=0.9", "--set", "evaluation.random_split=true")
    assert run(train, spark, *options, *QUICK, *asked)[0] == 0
    metrics = newest(warehouse)[1]["metrics"]
    assert metrics["random_split"]["n"] == metrics["n"]
    point = metrics["operating_point"]
    assert point["tp"] + point["fn"] + point["tn"] + point["fp"] == metrics["n"]
    assert point["sensitivity"] == point["tp"] / (point["tp"] + point["fn"])
    assert sum(group["n"] for group in metrics["subgroups"]["modality"].values()) == metrics["n"]
    assert len(metrics["permutation_importance"]["mean"]) == len(newest(warehouse)[1]["feature_names"])


def test_the_engine_of_spark_makes_a_model_like_any_other(spark, options, warehouse):
    assert run(train, spark, *options, "--set", "model.engine=mllib", "--set", "model.trees=5")[0] == 0
    _, manifest = newest(warehouse)
    assert manifest["parameters"]["engine"] == "mllib"
    assert run(score, spark, "--warehouse", warehouse)[0] == 0
    scored = [row for row in rows(warehouse, "predictions") if row["model_id"] == manifest["model_id"]]
    assert len(scored) == len(rows(warehouse, "features"))
    with pytest.raises(ConfigError, match=r"split\.folds: only with model\.engine = 'exact'"):
        run(train, spark, *options, "--set", "model.engine=mllib", "--set", "split.folds=3")


def test_the_archive_of_the_training_has_not_drifted(spark, options, warehouse):
    assert run(train, spark, *options, *QUICK)[0] == 0
    code, printed = run(score, spark, "--warehouse", warehouse)
    assert code == 0
    assert "retrain" not in printed
    drift = table(warehouse, "drift")
    _, manifest = newest(warehouse)
    assert {row["n"] for row in drift} == {manifest["metrics"]["n"]}  # what it has learned from says nothing
    assert {row["ks"] for row in drift if row["what"] == "probability"} == {0.0}
    assert {row["name"] for row in drift if row["what"] == "feature"} == set(manifest["feature_names"])
    assert {row["name"] for row in drift if row["what"] == "probability"} == set(manifest["classes"])
    assert not any(row["is_drifted"] for row in drift)


def test_numbers_of_another_scanner_are_far_from_those_of_the_training(spark, options, warehouse):
    assert run(train, spark, *options, *QUICK)[0] == 0
    _, manifest = newest(warehouse)
    model = bundle.find(warehouse / "models", recipe_id=manifest["recipe_id"])
    features = tables.read(spark, Warehouse(str(warehouse)), "features", tables.features(model.feature_names))
    name = next(name for name in model.feature_names if len(set(manifest["reference"]["features"][name]["edges"])) > 50)
    other = features.withColumn(name, F.col(name) * 3 + 1)
    rows_of = {row["name"]: row for row in drifts(other, score_all(other, model), model, DriftConfig(), run_id="r")}
    values = np.array([row[name] for row in other.collect()])
    reference = manifest["reference"]["features"][name]
    by_hand = compare(reference, counts(values, reference["edges"]))
    assert {key: rows_of[name][key] for key in by_hand} == by_hand
    assert rows_of[name]["ks"] == max(row["ks"] for row in rows_of.values())
    whose = {row["patient_id"] or row["path"] for row in other.collect()}
    assert rows_of[name]["n_patients"] == len(whose)
