"""The data contracts: one StructType a table, and how tables are read and written."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    DoubleType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from medspark.errors import ContractError
from medspark.recipe import Recipe
from medspark.remote import is_remote
from medspark.spark.parts import Target, fetched, written
from medspark.warehouse import Change, Part, Warehouse

_TEXT, _INT, _LONG, _DOUBLE, _TIME = StringType(), IntegerType(), LongType(), DoubleType(), TimestampType()


def _struct(**types: DataType) -> StructType:
    return StructType([StructField(name, kind) for name, kind in types.items()])


LISTING = _struct(
    path=_TEXT, size_bytes=_LONG, modified_at=_TIME, status=_TEXT, reason=_TEXT, input=_TEXT, relative_path=_TEXT
)

PLACEMENT = _struct(
    image_position_mm=ArrayType(_DOUBLE), image_orientation=ArrayType(_DOUBLE), spacing_mm=ArrayType(_DOUBLE),
    slice_thickness_mm=_DOUBLE,
)  # fmt: skip

HEADER = _struct(
    format=_TEXT, modality=_TEXT, manufacturer=_TEXT, transfer_syntax_uid=_TEXT, sop_class_uid=_TEXT,
    rows=_INT, columns=_INT, n_frames=_INT, bits_stored=_INT, photometric_interpretation=_TEXT, decoded_bytes=_LONG,
    patient_id=_TEXT, study_uid=_TEXT, series_uid=_TEXT, sop_instance_uid=_TEXT, frame_of_reference_uid=_TEXT,
    is_localizer=BooleanType(), placements=ArrayType(PLACEMENT),
)  # fmt: skip

_CONTENT = _struct(content_sha256=_TEXT, flags=ArrayType(_TEXT))

_GONE = _struct(gone_at=_TIME)

IMAGES = StructType(
    [*LISTING.fields[:3], HEADER["format"], *LISTING.fields[3:], *HEADER.fields[1:], *_CONTENT.fields, *_GONE.fields]
)

SERIES = _struct(
    series_uid=_TEXT, patient_id=_TEXT, study_uid=_TEXT, modality=_TEXT, n_images=_INT, verdict=_TEXT,
    reasons=ArrayType(_TEXT), slice_spacing_mm=_DOUBLE, row_spacing_mm=_DOUBLE, column_spacing_mm=_DOUBLE,
    shape=ArrayType(_INT), affine=ArrayType(_DOUBLE), instances=ArrayType(_struct(path=_TEXT, frame=_INT)),
    fingerprint=_LONG,
)  # fmt: skip

_IDENTITY = _struct(path=_TEXT, frame=_INT, content_sha256=_TEXT, recipe_id=_TEXT)

FACTS = _struct(
    patient_id=_TEXT, study_uid=_TEXT, series_uid=_TEXT, modality=_TEXT, rows=_INT, columns=_INT,
    row_spacing_mm=_DOUBLE, column_spacing_mm=_DOUBLE, slice_thickness_mm=_DOUBLE,
    image_position_mm=ArrayType(_DOUBLE), image_orientation=ArrayType(_DOUBLE),
    photometric_interpretation=_TEXT, modality_transform=_TEXT, rescale_slope=_DOUBLE, rescale_intercept=_DOUBLE,
    window_center=_DOUBLE, window_width=_DOUBLE, window_function=_TEXT, is_inverted=BooleanType(),
    flags=ArrayType(_TEXT), fingerprint=BinaryType(),
)  # fmt: skip

_SOURCE = _struct(size_bytes=_LONG, modified_at=_TIME)

_STATE = StructType([*_SOURCE.fields, *_GONE.fields])

FAILURE = _struct(failed_stage=_TEXT, reason=_TEXT, error=_TEXT)

QUARANTINE = StructType([*_IDENTITY.fields, *FAILURE.fields, StructField("decoders", _TEXT), *_STATE.fields])

_SCORE = _struct(model_id=_TEXT, prediction=_TEXT, probability=ArrayType(_DOUBLE))

PREDICTIONS = StructType([*_IDENTITY.fields, *_SCORE.fields, *_GONE.fields])

EVALUATIONS = _struct(
    run_id=_TEXT, model_id=_TEXT, purpose=_TEXT, kind=_TEXT, parameters=_TEXT, n_train=_LONG, n_test=_LONG,
    accuracy=_DOUBLE, balanced_accuracy=_DOUBLE, auc=_DOUBLE, auc_low=_DOUBLE, auc_high=_DOUBLE, pr_auc=_DOUBLE,
    sensitivity=_DOUBLE, specificity=_DOUBLE, brier=_DOUBLE,
)  # fmt: skip

LEAKS = _struct(
    run_id=_TEXT, kind=_TEXT, path_a=_TEXT, frame_a=_INT, path_b=_TEXT, frame_b=_INT, distance=_DOUBLE,
)  # fmt: skip

DRIFT = _struct(
    run_id=_TEXT, model_id=_TEXT, what=_TEXT, name=_TEXT, psi=_DOUBLE, ks=_DOUBLE, n=_LONG, n_patients=_LONG,
    n_reference=_LONG,
    is_drifted=BooleanType(),
)  # fmt: skip

RUNS = _struct(
    run_id=_TEXT, job=_TEXT, status=_TEXT, started_at=_TIME, finished_at=_TIME,
    n_listed=_LONG, n_processed=_LONG, n_unchanged=_LONG, n_skipped=_LONG, n_quarantined=_LONG,
    recipe_id=_TEXT, model_id=_TEXT, medspark_version=_TEXT, spark_version=_TEXT,
)  # fmt: skip


def features(names: Sequence[str]) -> StructType:
    """Return the contract of the features table: who, what, then one column for each feature."""
    values = [StructField(name, _DOUBLE) for name in names]
    return StructType([*_IDENTITY.fields, *FACTS.fields, *_STATE.fields, *values])


def outcomes(names: Sequence[str]) -> StructType:
    """Return what ``extract_features`` gives: a row a frame, with features or with what failed."""
    return StructType([*features(names).fields, *FAILURE.fields, QUARANTINE["decoders"]])


def arrow(schema: StructType) -> pa.Schema:
    """Return a contract in the types of Arrow; times are UTC."""
    return to_arrow_schema(schema, timezone="UTC")


def require(table: DataFrame, columns: Collection[str], what: str) -> DataFrame:
    """Return the table, or raise ContractError that names the columns it lacks."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ContractError(f"{what} lacks {', '.join(missing)}; it has {', '.join(table.columns)}")
    return table


def read(spark: SparkSession, warehouse: Warehouse, name: str, schema: StructType) -> DataFrame:
    """Return a table as of its last commit; without rows before its first one."""
    return read_files(spark, warehouse.files(name), schema)


def read_files(spark: SparkSession, files: Sequence[str], schema: StructType) -> DataFrame:
    """Return the rows of Parquet files; without rows if there is none."""
    if files and is_remote(files[0]):
        return fetched(spark, files, schema)
    # An empty Arrow table stays in the JVM; an empty list would start a Python worker wherever the table is used.
    return spark.read.schema(schema).parquet(*files) if files else spark.createDataFrame(arrow(schema).empty_table())


def read_features(spark: SparkSession, warehouse: Warehouse, recipe: Recipe) -> DataFrame:
    """Return the features that a recipe made, with its columns; also of files that are gone."""
    return only_recipe(read(spark, warehouse, "features", features(recipe.feature_names)), recipe)


def only_there(table: DataFrame) -> DataFrame:
    """Keep the rows of files that the last index found, or did not look for."""
    return table.where("gone_at is null")


def only_recipe(table: DataFrame, recipe: Recipe) -> DataFrame:
    """Keep the rows that a recipe made."""
    return table.where(F.col("recipe_id") == recipe.recipe_id)


def stage(table: DataFrame, warehouse: Warehouse, name: str, place: str) -> list[Part]:
    """Write the rows where nobody looks yet, and return the files."""
    directory = warehouse.path(name, place)
    if warehouse.is_remote:
        target = Target(directory, arrow(table.schema))
        return written(table, lambda batches: ((name, rows) for rows in batches), {name: target})[name]
    # A fifth larger than zstd and read in half the time: scoring reads as long as it needs for the trees.
    options = {"compression": "snappy"}
    if name.startswith("_"):  # read once: to look for repetition in each column costs more than it saves
        options["parquet.enable.dictionary"] = "false"
    table.write.options(**options).parquet(directory)
    return warehouse.parts(name, place)


class Staged(NamedTuple):
    """Rows that are written where nobody looks yet: what made them is not run again."""

    rows: DataFrame
    parts: list[Part]


def staged(table: DataFrame, warehouse: Warehouse, name: str, place: str, *, before: Sequence[Part] = ()) -> Staged:
    """Stage rows, and return them as they are read from there, after those of ``before``."""
    parts = [*before, *stage(table, warehouse, name, place)]
    return Staged(read_files(table.sparkSession, [part.path for part in parts], table.schema), parts)


def replace(rows: DataFrame, obsolete: DataFrame, warehouse: Warehouse, name: str, run_id: str) -> None:
    """Put rows in the place of the obsolete ones, in one commit."""
    warehouse.publish_all(run_id, [change(rows, obsolete, warehouse, name, run_id)])


def change(
    rows: DataFrame, obsolete: DataFrame, warehouse: Warehouse, name: str, chunk: str, *, based_on: int | None = None
) -> Change:
    """Stage rows that take the place of the obsolete ones, and return what ``Warehouse.publish_all`` has to commit.

    ``obsolete`` has some key columns of the table. Files that hold an obsolete row are written anew without it.
    """
    touched = _files_with(obsolete, warehouse, name)
    if touched:
        rows = rows.unionByName(_kept(touched, obsolete, warehouse, name), allowMissingColumns=True)
    parts = stage(rows, warehouse, name, chunk)
    return Change(name, arrow(rows.schema), touched, based_on, parts)


def replacing(change: Change, obsolete: DataFrame, warehouse: Warehouse, chunk: str) -> Change:
    """Return the change of parts that are written already so that they take the place of the obsolete rows."""
    touched = _files_with(obsolete, warehouse, change.name)
    if not touched:
        return change
    place = f"{chunk}/kept"
    stage(_kept(touched, obsolete, warehouse, change.name), warehouse, change.name, place)
    return dataclasses.replace(
        change, replaced=touched, parts=[*(change.parts or ()), *warehouse.parts(change.name, place)]
    )


def _kept(touched: Sequence[str], obsolete: DataFrame, warehouse: Warehouse, name: str) -> DataFrame:
    """Return the rows of the files that are not obsolete, with all columns of the table."""
    whole = from_arrow_schema(warehouse.schema(name))
    table = read_files(obsolete.sparkSession, touched, whole)
    return table.join(obsolete, obsolete.columns, "left_anti")


def _files_with(obsolete: DataFrame, warehouse: Warehouse, name: str) -> list[str]:
    files = warehouse.files(name)
    if not files or obsolete.isEmpty():
        return []
    spark, whole = obsolete.sparkSession, from_arrow_schema(warehouse.schema(name))
    schema = StructType([whole[column] for column in obsolete.columns])
    if warehouse.is_remote:
        keys = fetched(spark, files, schema, file_column="_file")
    else:
        keys = read_files(spark, files, schema).withColumn("_file", F.input_file_name())
    found = keys.join(obsolete, obsolete.columns, "left_semi").select("_file").distinct().collect()
    parts = {tuple(row["_file"].split("/")[-2:]) for row in found}  # Spark gives a URI, encoded where we need not care
    return [path for path in files if tuple(path.split("/")[-2:]) in parts]
