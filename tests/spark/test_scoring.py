"""The model in Spark gives what it gives by hand, and only to frames it has not seen."""

import shutil
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from line import last_run, listing, rows, run
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from medspark import bundle
from medspark.errors import ContractError
from medspark.jobs import score as job
from medspark.recipe import Recipe
from medspark.spark import extract_features, score, score_images, split_quarantine, tables
from medspark.spark.scoring import score_files
from medspark.warehouse import Warehouse


@pytest.fixture(scope="module")
def model(hospital):
    return bundle.find(hospital.warehouse / "models", recipe_id=Recipe.from_toml("default").recipe_id)


@pytest.fixture
def own_copy(hospital, tmp_path):
    return shutil.copytree(hospital.warehouse, tmp_path / "warehouse")


def matrix(features, model):
    return np.array([[row[name] for name in model.feature_names] for row in features])


def test_each_probability_is_that_of_the_model_by_hand_to_the_last_bit(hospital, model):
    features, predictions = rows(hospital.warehouse, "features"), rows(hospital.warehouse, "predictions")
    identity = ("path", "frame", "content_sha256", "recipe_id")
    assert [[row[name] for name in identity] for row in predictions] == [
        [row[name] for name in identity] for row in features
    ]
    by_hand = model.predict_proba(matrix(features, model))
    np.testing.assert_array_equal([row["probability"] for row in predictions], by_hand)
    assert [row["prediction"] for row in predictions] == [model.classes[place] for place in by_hand.argmax(axis=1)]
    assert {row["model_id"] for row in predictions} == {model.model_id}
    assert len({row["prediction"] for row in predictions}) == 2


def test_features_fresh_from_the_images_are_scored_in_a_notebook_as_in_the_job(spark, hospital, model):
    wanted = {row["path"]: row["probability"] for row in rows(hospital.warehouse, "predictions") if row["frame"] == 0}
    some = sorted(wanted)[:3]
    images = spark.createDataFrame([(path,) for path in some], "path string")
    good, _ = split_quarantine(extract_features(images, Recipe.from_toml("default")))
    found = {row["path"]: row["probability"] for row in score(good, model).collect() if row["frame"] == 0}
    assert found == {path: wanted[path] for path in some}


def test_images_are_scored_in_one_pass_as_by_way_of_the_tables_and_none_is_lost(spark, hospital, model):
    failed = {row["path"]: row["reason"] for row in rows(hospital.warehouse, "quarantine")}
    wanted = {(row["path"], row["frame"]): row["probability"] for row in rows(hospital.warehouse, "predictions")}
    good = sorted({path for path, _ in wanted})[:4]
    bad = sorted(failed)[:2]
    images = spark.createDataFrame([(path,) for path in (*good, *bad)], "path string").repartition(1)
    found = score_images(images, model)
    assert found._jdf.queryExecution().executedPlan().toString().count("MapInArrow") == 1
    scored = [row for row in found.collect() if row["failed_stage"] is None]
    assert {(row["path"], row["frame"]): row["probability"] for row in scored} == {
        place: probability for place, probability in wanted.items() if place[0] in good
    }
    assert {row["model_id"] for row in scored} == {model.model_id}
    lost = {row["path"]: row["reason"] for row in found.where("failed_stage is not null").collect()}
    assert lost == {path: failed[path] for path in bad}
    assert found.where("failed_stage is not null").where("prediction is not null or probability is not null").isEmpty()


def test_rows_of_another_recipe_are_refused(spark, hospital, model):
    features = tables.read(spark, Warehouse(str(hospital.warehouse)), "features", tables.features(model.feature_names))
    foreign = features.limit(3).withColumn("recipe_id", F.lit("0123456789abcdef"))
    with pytest.raises(PySparkException, match=f"model {model.model_id} cannot score recipe 0123456789abcdef"):
        score(foreign, model).collect()


def test_whole_files_give_what_rows_by_way_of_spark_give(spark, hospital, model, tmp_path):
    warehouse = Warehouse(str(hospital.warehouse))
    features = tables.read(spark, warehouse, "features", tables.features(model.feature_names))
    by_rows = score(features, model).orderBy("path", "frame").collect()
    other = tmp_path / "other.parquet"  # of a recipe with other features
    row = {"path": "/x", "frame": 0, "content_sha256": "0", "recipe_id": "0123456789abcdef", "mean": 0.5}
    pq.write_table(pa.Table.from_pylist([row]), other)
    parts = score_files(spark, [*warehouse.files("features"), str(other)], model, str(tmp_path / "scores"))
    found = tables.read_files(spark, [part.path for part in parts], tables.PREDICTIONS)
    assert found.orderBy("path", "frame").collect() == by_rows
    assert sum(part.n_rows for part in parts) == len(by_rows)
    assert len(by_rows) == len(rows(hospital.warehouse, "predictions"))


def test_a_model_of_many_bytes_is_mapped_by_each_worker_and_scores_the_same(spark, hospital, model, monkeypatch):
    # Not a matter of size for this test: the limit is what decides.
    monkeypatch.setattr(import_module("medspark.spark.scoring"), "_LARGE", 0)
    features = tables.read(spark, Warehouse(str(hospital.warehouse)), "features", tables.features(model.feature_names))
    found = {(row["path"], row["frame"]): row["probability"] for row in score(features, model).collect()}
    assert found == {(row["path"], row["frame"]): row["probability"] for row in rows(hospital.warehouse, "predictions")}


def test_the_model_is_one_python_node(spark, hospital, model):
    features = tables.read(spark, Warehouse(str(hospital.warehouse)), "features", tables.features(model.feature_names))
    plan = score(features, model)._jdf.queryExecution().executedPlan().toString()
    assert plan.count("MapInArrow") == 1
    assert "Exchange" not in plan


def test_a_second_run_scores_nothing(spark, own_copy):
    before = rows(own_copy, "predictions")
    code, printed = run(job, spark, "--warehouse", own_copy)
    assert code == 0
    n_files = len({row["path"] for row in before})
    assert f"score: {n_files} listed = 0 processed + {n_files} unchanged" in printed
    assert rows(own_copy, "predictions") == before
    assert last_run(own_copy)["n_unchanged"] == n_files


def test_a_dry_run_scores_nothing(spark, hospital, model):
    before = listing(hospital.warehouse)
    code, printed = run(job, spark, "--warehouse", hospital.warehouse, "--dry-run")
    assert (code, listing(hospital.warehouse)) == (0, before)
    assert f"score would score 0 of {hospital.inventory.n_good} files with {model.model_id}" in printed


def test_predictions_follow_a_file_that_changed_and_go_with_one_that_has_no_features_any_more(spark, own_copy, model):
    features = (
        DeltaTable(str(own_copy / "features"))
        .to_pyarrow_table()
        .sort_by([("path", "ascending"), ("frame", "ascending")])
    )
    before = rows(own_copy, "predictions")
    changed, broken = features["path"][0].as_py(), features["path"][-1].as_py()
    assert changed != broken
    kept = [row for row in features.to_pylist() if row["path"] != broken]
    for row in kept:
        if row["path"] == changed:
            row.update(content_sha256="of other bytes", first_order_mean=row["first_order_mean"] + 100)
    write_deltalake(str(own_copy / "features"), pa.Table.from_pylist(kept, features.schema), mode="overwrite")

    _, printed = run(job, spark, "--warehouse", own_copy)
    after = rows(own_copy, "predictions")
    assert "= 1 processed +" in printed
    assert {row["path"] for row in after} == {row["path"] for row in kept}
    assert [row for row in after if row["path"] != changed] == [
        row for row in before if row["path"] not in {changed, broken}
    ]
    new = [row for row in after if row["path"] == changed]
    expected = model.predict_proba(matrix([row for row in kept if row["path"] == changed], model))
    np.testing.assert_array_equal([row["probability"] for row in new], expected)
    assert {row["content_sha256"] for row in new} == {"of other bytes"}


def test_a_model_of_another_recipe_is_refused(spark, hospital, model):
    other = ("--set", 'features=[{use="lbp"}]', "--warehouse", hospital.warehouse)
    with pytest.raises(ContractError, match="was trained on features of recipe"):
        run(job, spark, *other, "--model", model.model_id)
    with pytest.raises(ContractError, match=r"no model of recipe .*: run train with this recipe first"):
        run(job, spark, *other)


def test_a_table_without_the_features_of_the_model_is_refused(spark, model):
    table = spark.createDataFrame([], "path string, frame int, content_sha256 string, recipe_id string, other double")
    with pytest.raises(ContractError, match=r"the features table lacks first_order_mean, .*; it has path, frame"):
        score(table, model)
