"""What other systems read: the tables of a processed warehouse, and how rows take the place of others."""

import pytest
from deltalake import DeltaTable
from line import listing, rows

from medspark.errors import ContractError
from medspark.recipe import Recipe
from medspark.spark import tables
from medspark.warehouse import Warehouse

IDENTITY = ["path", "frame", "content_sha256", "recipe_id"]
# As the documentation promises them to SQL that others have written.
FIRST_COLUMNS = {
    "images": ["path", "size_bytes", "modified_at", "format", "status", "reason"],
    "features": [*IDENTITY, "patient_id", "study_uid", "series_uid", "modality", "rows", "columns"],
    "quarantine": [*IDENTITY, "failed_stage", "reason", "error"],
    "predictions": [*IDENTITY, "model_id", "prediction", "probability"],
    "runs": [
        "run_id", "job", "status", "started_at", "finished_at", "n_listed", "n_processed", "n_unchanged", "n_skipped",
        "n_quarantined", "recipe_id", "model_id", "medspark_version", "spark_version",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_COLUMNS)
def test_any_delta_reader_finds_the_promised_columns_in_order(hospital, name):
    columns = [field.name for field in DeltaTable(str(hospital.warehouse / name)).schema().fields]
    assert columns[: len(FIRST_COLUMNS[name])] == FIRST_COLUMNS[name]


def test_the_images_table_has_the_facts_of_headers(hospital):
    columns = {field.name for field in DeltaTable(str(hospital.warehouse / "images")).schema().fields}
    assert columns >= {
        "modality", "transfer_syntax_uid", "rows", "columns", "n_frames", "bits_stored", "photometric_interpretation",
        "patient_id", "study_uid", "series_uid",
    }  # fmt: skip


def test_features_are_the_last_columns_one_double_each_in_the_order_of_the_recipe(hospital):
    names = Recipe.from_toml("default").feature_names
    fields = DeltaTable(str(hospital.warehouse / "features")).schema().fields
    assert [(field.name, field.type.type) for field in fields[-len(names) :]] == [(name, "double") for name in names]


def test_times_are_instants_and_not_those_of_a_wall_clock(hospital):
    types = {field.name: field.type.type for field in DeltaTable(str(hospital.warehouse / "images")).schema().fields}
    assert types["modified_at"] == "timestamp"  # Delta: in UTC; the other is timestamp_ntz


def test_every_run_adds_up_and_names_its_versions(hospital):
    found = sorted(rows(hospital.warehouse, "runs"), key=lambda run: run["started_at"])
    assert [run["job"] for run in found] == ["index", "extract", "train", "score", "report"]
    for run in found:
        parts = ("n_processed", "n_unchanged", "n_skipped", "n_quarantined")
        assert run["n_listed"] == sum(run[part] for part in parts) > 0
        assert run["started_at"] <= run["finished_at"]
        assert run["run_id"].startswith(run["job"])
        assert run["status"] == "done"
        assert run["medspark_version"]
        assert run["spark_version"]


@pytest.mark.parametrize("name", ["features", "quarantine", "predictions"])
def test_what_was_staged_is_all_in_the_table_and_the_rest_is_cleared_away(hospital, name):
    there = {path for path in listing(hospital.warehouse / name) if path.endswith(".parquet")}
    assert there == {uri.removeprefix("file://") for uri in DeltaTable(str(hospital.warehouse / name)).file_uris()}
    assert listing(hospital.warehouse / "_outcomes") == {}


@pytest.mark.parametrize("schema", [tables.IMAGES, tables.features(["a", "b"]), tables.PREDICTIONS, tables.RUNS])
def test_a_table_before_its_first_commit_is_empty_and_starts_no_python_worker(spark, tmp_path, schema):
    empty = tables.read(spark, Warehouse(str(tmp_path)), "none", schema)
    assert empty.schema == schema
    assert empty.collect() == []
    assert "LocalTableScan <empty>" in empty._jdf.queryExecution().executedPlan().toString()


def test_a_missing_column_is_named_with_those_there_are(spark):
    table = spark.range(1).withColumnRenamed("id", "path")
    assert tables.require(table, ["path"], "the table of images") is table
    with pytest.raises(ContractError, match="the table of images lacks frame, size; it has path"):
        tables.require(table, ["path", "frame", "size"], "the table of images")


@pytest.fixture
def put(spark, tmp_path):
    """Put rows in the place of those with the same name, as a run of this number, and return the table."""
    warehouse = Warehouse(str(tmp_path))

    def put_rows(number, found, schema, obsolete):
        new = spark.createDataFrame(found, schema).coalesce(1)
        gone = spark.createDataFrame([(name,) for name in obsolete], "name string")
        tables.replace(new, gone, warehouse, "things", f"run-{number}")
        table = DeltaTable(str(tmp_path / "things"))
        return sorted(tuple(row.values()) for row in table.to_pyarrow_table().to_pylist()), table

    return put_rows


def test_rows_take_the_place_of_the_obsolete_ones_in_one_commit(put):
    put(1, [("a", 1), ("b", 2)], "name string, value int", [])
    put(2, [("c", 3)], "name string, value int", [])
    found, table = put(3, [("b", 20), ("b", 21)], "name string, value int", ["b", "never there"])
    assert found == [("a", 1), ("b", 20), ("b", 21), ("c", 3)]
    assert table.version() == 2
    # The file that held nothing obsolete was not written anew.
    assert {uri.split("/")[-2] for uri in table.file_uris()} == {"run-2", "run-3"}


def test_rows_can_become_none(put):
    put(1, [("a", 1)], "name string, value int", [])
    found, _ = put(2, [], "name string, value int", ["a"])
    assert found == []


def test_new_columns_are_added_and_old_ones_kept(put):
    put(1, [("a", 1), ("b", 2)], "name string, value int", [])
    found, table = put(2, [("b", 0.5)], "name string, share double", ["b"])
    assert [field.name for field in table.schema().fields] == ["name", "value", "share"]
    assert found == [("a", 1, None), ("b", None, 0.5)]
