"""Images into features: one fused pass, paths (or contents) in, numbers and failures out."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.containers import read_source
from medspark.errors import ImageError
from medspark.frame import DEFAULT_LIMITS, Limits
from medspark.privacy.pseudonym import load_key, pseudonym
from medspark.recipe import Outcome, Recipe, failure
from medspark.spark import tables

_IDS = ("patient_id", "study_uid", "series_uid")
_TASK_BYTES = 64 << 20
_FILE_BYTES = 64 << 10  # what opening a file costs, in bytes read


def read_images(spark: SparkSession, uri: str) -> DataFrame:
    """Return Spark's own ``binaryFile`` table of a directory: path, modificationTime, length, content.

    For notebooks and for file systems that only the JVM reaches. Spark does not show empty files nor names that begin
    with ``_`` or ``.``; the jobs list files themselves and lose none.
    """
    return spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(uri)


def extract_features(
    images: DataFrame,
    recipe: Recipe,
    *,
    limits: Limits = DEFAULT_LIMITS,
    key: bytes | None = None,
) -> DataFrame:
    """Return a row for each frame: its features, or the stage that failed and why.

    ``images`` has ``path`` and, as in ``read_images``, ``content``; without it the executors open the paths themselves.
    Raises ConfigError for a recipe that does not run, before any file is read.
    """
    schema = tables.outcomes(recipe.feature_names)
    measure = _Measure(recipe, limits, load_key() if key is None else key, tables.arrow(schema))
    return _sources(images).mapInArrow(measure, schema)


def split_quarantine(outcomes: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Return the rows with features, and the rows that say what failed."""
    good = outcomes.where("failed_stage is null").drop("failed_stage", "reason", "error")
    bad = outcomes.where("failed_stage is not null").select(*tables.QUARANTINE.names)
    return good, bad


def spread(images: DataFrame) -> DataFrame:
    """Return the same rows in partitions of bounded bytes, at least two for each core.

    What can only be read from its beginning, the members of a compressed tar, stays together and in order.
    """
    spark = images.sparkSession
    n_files, n_bytes = size(images)
    wanted = max(2 * spark.sparkContext.defaultParallelism, (n_bytes + n_files * _FILE_BYTES) // _TASK_BYTES)
    key = F.regexp_replace("path", r"(?i)(\.t?gz)!/.*", "$1")
    return images.repartition(max(1, min(wanted, n_files)), key).sortWithinPartitions("path")


def size(images: DataFrame) -> tuple[int, int]:
    """Return the number of files and of their bytes."""
    row = images.select(F.count("*"), F.coalesce(F.sum("size_bytes"), F.lit(0))).collect()[0]
    return row[0], row[1]


def _sources(images: DataFrame) -> DataFrame:
    """Return path, size_bytes, modified_at and, if there is one, content, whichever way the images were listed."""
    if "length" in images.columns:  # Spark's binaryFile: its local paths have a scheme, but are not encoded
        images = images.withColumnsRenamed({"length": "size_bytes", "modificationTime": "modified_at"})
        images = images.withColumn("path", F.regexp_replace("path", "^file:(//)?(?=/)", ""))
    tables.require(images, ["path"], "the table of images")
    for name, kind in (("size_bytes", "long"), ("modified_at", "timestamp")):
        if name not in images.columns:
            images = images.withColumn(name, F.lit(None).cast(kind))
    wanted = ("path", "size_bytes", "modified_at", "content")
    return images.select(*(name for name in wanted if name in images.columns))


class _Measure:
    """What runs on the executors: the only Python between the listing and the tables."""

    def __init__(self, recipe: Recipe, limits: Limits, key: bytes, schema: pa.Schema) -> None:
        self.recipe = recipe
        self.limits = limits
        self.key = key
        self.schema = schema

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        self.recipe.warm_up()
        for batch in batches:
            yield self._batch(batch)

    def _batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        origin: list[int] = []
        hashes: list[str | None] = []
        outcomes: list[Outcome] = []
        for index, path in enumerate(batch.column("path").to_pylist()):
            given = batch.column("content")[index].as_py() if "content" in batch.schema.names else None
            digest, found = self._file(path, given)
            outcomes += found
            origin += [index] * len(found)
            hashes += [digest] * len(found)
        return self._rows(
            batch.select(["path", "size_bytes", "modified_at"]).take(pa.array(origin, pa.int64())), hashes, outcomes
        )

    def _file(self, path: str, content: bytes | None) -> tuple[str | None, list[Outcome]]:
        try:
            if content is None:
                content = read_source(path, max_bytes=self.limits.memory_mb << 20)
        except ImageError as error:
            return None, [failure(None, "read", error)]
        return hashlib.sha256(content).hexdigest(), list(self.recipe.run_content(content, limits=self.limits))

    def _rows(self, source: pa.RecordBatch, hashes: list[str | None], outcomes: list[Outcome]) -> pa.RecordBatch:
        n_features = len(self.recipe.feature_names)
        missing = (np.nan,) * n_features
        is_bad = np.array([outcome.features is None for outcome in outcomes], bool)
        values = np.array([outcome.features or missing for outcome in outcomes], np.float64).reshape(-1, n_features)
        columns: dict[str, Any] = {
            **{name: source.column(name) for name in source.schema.names},
            "content_sha256": hashes,
            "recipe_id": [self.recipe.recipe_id] * len(outcomes),
            **{
                name: [getattr(outcome, name) for outcome in outcomes]
                for name in ("frame", "failed_stage", "reason", "error")
            },
            **{name: [self._fact(outcome, name) for outcome in outcomes] for name in tables.FACTS.names},
        }
        arrays = []
        for field in self.schema:
            if field.name in columns:
                column = columns[field.name]
                arrays.append(column if isinstance(column, pa.Array) else pa.array(column, field.type))
            else:
                position = self.recipe.feature_names.index(field.name)
                arrays.append(pa.array(values[:, position], mask=is_bad))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _fact(self, outcome: Outcome, name: str) -> Any:
        value = outcome.facts.get(name)
        return pseudonym(self.key, value) if name in _IDS else value
