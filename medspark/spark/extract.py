"""Images into features: one fused pass, paths (or contents) in, numbers and failures out."""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.frame import DEFAULT_LIMITS, Limits
from medspark.privacy.pseudonym import load_key, pseudonym
from medspark.readers.versions import decoders
from medspark.recipe import Outcome, Recipe
from medspark.spark import tables
from medspark.spark.guard import Death, guarded
from medspark.spark.packing import packed
from medspark.spark.parts import Target, written
from medspark.spark.progress import Tally
from medspark.spark.shared import Sent
from medspark.warehouse import Part

_IDS = ("patient_id", "study_uid", "series_uid")
_SOURCE = ["path", "size_bytes", "modified_at"]
_ROWS = 1000  # of a batch that leaves a worker: a file may have any number of frames


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
    tally: Tally | None = None,
) -> DataFrame:
    """Return a row for each frame: its features, or the stage that failed and why.

    ``images`` has ``path`` and, as in ``read_images``, ``content``; without it the executors open the paths themselves.
    ``tally`` counts what is done. Raises ConfigError for a recipe that does not run, before any file is read.
    """
    measure = measurement(recipe, limits=limits, key=key, tally=tally)
    return sources(images).mapInArrow(measure, tables.outcomes(recipe.feature_names))


def measurement(
    recipe: Recipe, *, limits: Limits = DEFAULT_LIMITS, key: bytes | None = None, tally: Tally | None = None
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function that makes rows of ``extract_features`` from those of ``sources``, on an executor."""
    schema = tables.arrow(tables.outcomes(recipe.feature_names))
    return _Measure(recipe, limits, load_key() if key is None else key, schema, decoders(), tally)


def write_features(
    spark: SparkSession,
    files: pa.Table,
    recipe: Recipe,
    directories: Mapping[str, str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    key: bytes | None = None,
    tally: Tally | None = None,
) -> dict[str, list[Part]]:
    """Write what ``extract_features`` gives as rows of features and of quarantine, and return the files of both.

    ``files`` has path, size_bytes, modified_at and maybe decoded_bytes, which is what the tasks are cut by: as many as
    the driver can hold. ``directories`` says where the rows go. The executors write them: through Spark it takes longer
    than a small image does.
    """
    measure = measurement(recipe, limits=limits, key=key, tally=tally)
    schemas = {"features": tables.features(recipe.feature_names), "quarantine": tables.QUARANTINE}
    shares = packed(files, spark.sparkContext.defaultParallelism)
    shared = Sent(spark, [share.select(_SOURCE).combine_chunks() for share in shares])

    def sort(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
        numbers = (number for batch in batches for number in batch.column("id").to_pylist())
        for rows in measure(batch for number in numbers for batch in shared()[number].to_batches()):
            is_good = pc.is_null(rows.column("failed_stage"))
            yield "features", rows.select(schemas["features"].names).filter(is_good)
            yield "quarantine", rows.select(schemas["quarantine"].names).filter(pc.invert(is_good))

    targets = {name: Target(directories[name], tables.arrow(schema)) for name, schema in schemas.items()}
    return written(spark.range(0, len(shares), 1, len(shares)), sort, targets)


def fates(spark: SparkSession, parts: Mapping[str, Sequence[Part]]) -> DataFrame:
    """Return path, content_sha256 and, if it failed, reason of each frame in the files of ``write_features``."""
    wanted = ("path", "content_sha256", "reason")
    good, bad = (
        tables.read_files(spark, [part.path for part in parts[name]], tables.QUARANTINE).select(*wanted)
        for name in ("features", "quarantine")
    )
    return good.unionByName(bad)


def split_quarantine(outcomes: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Return the rows with features, and the rows that say what failed."""
    good = outcomes.where("failed_stage is null").drop("failed_stage", "reason", "error", "decoders")
    bad = outcomes.where("failed_stage is not null").select(*tables.QUARANTINE.names)
    return good, bad


def with_plain_paths(images: DataFrame) -> DataFrame:
    """Return images with paths as the tables have them: local ones of Spark's binaryFile have a scheme."""
    if "length" not in images.columns:
        return images
    return images.withColumn("path", F.regexp_replace("path", "^file:(//)?(?=/)", ""))  # they are not encoded


def sources(images: DataFrame) -> DataFrame:
    """Return path, size_bytes, modified_at and, if there is one, content, whichever way the images were listed."""
    images = with_plain_paths(images)
    if "length" in images.columns:
        images = images.withColumnsRenamed({"length": "size_bytes", "modificationTime": "modified_at"})
    tables.require(images, ["path"], "the table of images")
    for name, kind in (("size_bytes", "long"), ("modified_at", "timestamp")):
        if name not in images.columns:
            images = images.withColumn(name, F.lit(None).cast(kind))
    return images.select(*(name for name in (*_SOURCE, "content") if name in images.columns))


_FATE = ("frame", "failed_stage", "reason", "error")
_Row = tuple[Any, ...]
"""An outcome on its way out of the child: what it costs to pickle it counts beside a small image."""


def _row(outcome: Outcome) -> _Row:
    """Return the values of ``_FATE`` and of ``tables.FACTS``, and the features as the bytes of doubles, or None."""
    values = outcome.features
    packed = None if values is None else struct.pack(f"{len(values)}d", *values)
    fate = (outcome.frame, outcome.failed_stage, outcome.reason, outcome.error)
    return (*fate, *map(outcome.facts.get, tables.FACTS.names), packed)


@dataclass(frozen=True)
class _Work:
    """What is done with a file, a path or a content, in a process that it may take down."""

    recipe: Recipe
    limits: Limits

    def __call__(self, source: str | bytes) -> tuple[str | None, list[_Row]]:
        """Return the SHA-256 of its bytes, if they could be read, and a row for each frame."""
        if isinstance(source, str):
            digest, outcomes = self.recipe.run_file(source, limits=self.limits)
        else:
            digest, outcomes = (
                hashlib.sha256(source).hexdigest(),
                list(self.recipe.run_content(source, limits=self.limits)),
            )
        return digest, [_row(outcome) for outcome in outcomes]


@dataclass(frozen=True)
class _Measure:
    """What runs on the executors: the only Python between the listing and the tables."""

    recipe: Recipe
    limits: Limits
    key: bytes
    schema: pa.Schema
    decoders: str  # those of the driver, as the plan compares them
    tally: Tally | None

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        self.recipe.warm_up()
        work = _Work(self.recipe, self.limits)
        for batch in batches:
            source = batch.select(_SOURCE)
            items = batch.column("content" if "content" in batch.schema.names else "path").to_pylist()
            results = guarded(work, items, seconds=self.limits.seconds_per_file, memory_mb=self.limits.memory_mb)
            rows: list[_Row] = []
            for index, result in enumerate(results):
                digest, frames = (None, [_of_death(result)]) if isinstance(result, Death) else result
                rows += [(index, digest, *frame) for frame in frames]
                if self.tally is not None:
                    self.tally.add(1, any(frame[-1] is None for frame in frames))
                if len(rows) >= _ROWS:
                    yield self._rows(source, rows)
                    rows = []
            if rows:
                yield self._rows(source, rows)

    def _rows(self, source: pa.RecordBatch, rows: list[_Row]) -> pa.RecordBatch:
        origin, hashes, *found, packed = zip(*rows, strict=True)
        source = source.take(pa.array(origin, pa.int64()))
        n_features = len(self.recipe.feature_names)
        missing = bytes(8 * n_features)
        values = np.frombuffer(b"".join([each or missing for each in packed])).reshape(-1, n_features)
        is_bad = np.array([each is None for each in packed], bool)
        columns: dict[str, Any] = {
            **{name: source.column(name) for name in source.schema.names},
            "content_sha256": hashes,
            "recipe_id": [self.recipe.recipe_id] * len(rows),
            **dict(zip((*_FATE, *tables.FACTS.names), found, strict=True)),
            "decoders": [self.decoders] * len(rows),
            "gone_at": [None] * len(rows),
        }
        for name in _IDS:
            columns[name] = [pseudonym(self.key, value) for value in columns[name]]
        arrays = []
        for field in self.schema:
            if field.name in columns:
                column = columns[field.name]
                arrays.append(column if isinstance(column, pa.Array) else pa.array(column, field.type))
            else:
                position = self.recipe.feature_names.index(field.name)
                arrays.append(pa.array(values[:, position], mask=is_bad))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _of_death(death: Death) -> _Row:
    return _row(Outcome(None, failed_stage="decode", reason=death.reason, error=death.error))
