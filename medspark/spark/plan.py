"""What a run has to do: the listing against the tables, and what became of each file afterwards."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medspark.containers import SEPARATOR
from medspark.errors import ImageError
from medspark.frame import Limits
from medspark.readers import opened
from medspark.recipe import sha256
from medspark.spark.guard import Death, guarded
from medspark.spark.runs import Counts
from medspark.spark.tables import IMAGES

_KNOWN = ("measured", "failed")
_SAME = ["path", "size_bytes", "modified_at"]
_ALWAYS_AGAIN = ("unreadable", "vanished")  # nothing is known of their bytes, and to look again costs nothing


def with_known(images: DataFrame, measured: DataFrame, quarantined: DataFrame) -> DataFrame:
    """Add what the tables know of each path: ``measured`` and ``failed``, as the content they are of.

    ``measured`` and ``quarantined`` are the rows of one recipe.
    """
    content = ("content_sha256", "size_bytes", "modified_at")
    done = measured.groupBy("path").agg(F.max(F.struct(*content)).alias("measured"))
    # Of several reasons the first by name, as in ``settled``.
    failed = quarantined.groupBy("path").agg(F.min(F.struct(*content, "reason", "decoders")).alias("failed"))
    return images.join(done, "path", "left").join(failed, "path", "left")


def with_hashes(known: DataFrame, limits: Limits) -> DataFrame:
    """Fill ``content_sha256`` in where the file has another time but the size of the content that is known.

    Those are read, and nothing else: perhaps they were only touched.
    """
    is_like = _any_of(lambda before: F.col("size_bytes") == before.size_bytes)
    is_asked = (F.col("status") == "listed") & F.col("content_sha256").isNull() & is_like & ~_any_of(_is_same)
    asked = known.where(is_asked).select("path")
    if asked.isEmpty():
        return known
    hashes = asked.mapInArrow(lambda batches: (_hashed(batch, limits) for batch in batches), "path string, _sha string")
    found = F.coalesce("content_sha256", "_sha")
    return known.join(hashes, "path", "left").withColumn("content_sha256", found).drop("_sha")


def with_plan(known: DataFrame, *, decoders: str, retry: Sequence[str] = ()) -> DataFrame:
    """Return the images with ``status`` set for what is known already, and ``todo`` for what is to be processed.

    ``is_known`` tells that a table has rows of the path, which new ones replace. What failed is tried again when its
    bytes or the ``decoders`` changed, or for a reason of ``retry``.
    """
    failed = F.col("failed")
    is_left_out = F.col("status").isin("skipped", "gone")
    is_again = failed.reason.isin(*_ALWAYS_AGAIN, *retry) | ~failed.decoders.eqNullSafe(F.lit(decoders))
    is_failed = failed.isNotNull() & _is_same(failed) & ~is_again
    is_done = F.col("measured").isNotNull() & _is_same(F.col("measured")) & failed.isNull()
    status = (
        F.when(is_left_out, F.col("status")).when(is_failed, "quarantined").when(is_done, "unchanged").otherwise("todo")
    )
    reason = F.when(is_left_out, F.col("reason")).when(is_failed, failed.reason)
    content = F.coalesce(
        "content_sha256", *(F.when(_is_same(F.col(name)), F.col(name).content_sha256) for name in _KNOWN)
    )
    is_known = functools.reduce(operator.or_, (F.col(name).isNotNull() for name in _KNOWN))
    planned = {"status": status, "reason": reason, "content_sha256": content, "is_known": is_known}
    return known.withColumns(planned).drop(*_KNOWN)


def _hashed(batch: pa.RecordBatch, limits: Limits) -> pa.RecordBatch:
    """Return the hash of each file, read in a child: a client of an object store does not bear the fork of another."""
    paths = batch.column("path").to_pylist()
    found = guarded(_Sha256(limits), paths, seconds=limits.seconds_per_file, memory_mb=limits.memory_mb)
    hashes = [None if isinstance(digest, Death) else digest for digest in found]
    return pa.RecordBatch.from_pydict({"path": paths, "_sha": pa.array(hashes, pa.string())})


@dataclass(frozen=True)
class _Sha256:
    limits: Limits

    def __call__(self, path: str) -> str | None:
        try:
            with opened(path, limits=self.limits) as content:
                return sha256(content)
        except ImageError:  # extract will say what is wrong with it
            return None


def _any_of(question: Callable[[Column], Column]) -> Column:
    return functools.reduce(operator.or_, (F.coalesce(question(F.col(name)), F.lit(False)) for name in _KNOWN))


def _is_same(before: Column) -> Column:
    """Tell whether the file has the content of before, as far as is known without reading it."""
    is_untouched = F.col("size_bytes").eqNullSafe(before.size_bytes) & F.col("modified_at").eqNullSafe(
        before.modified_at
    )
    return before.isNotNull() & (
        is_untouched | F.coalesce(F.col("content_sha256") == before.content_sha256, F.lit(False))
    )


def only_todo(planned: DataFrame) -> DataFrame:
    """Keep the files that are to be processed."""
    return planned.where("status = 'todo'")


def describe(planned: DataFrame, seconds_per_file: float | None) -> str:
    """Return in words what a run of this plan does, and how long at such a pace."""
    state = F.when(F.col("status") != "todo", F.col("status")).when(F.col("is_known"), "again").otherwise("new")
    found = planned.groupBy(state.alias("state")).agg(F.count("*").alias("n"), F.sum("size_bytes").alias("n_bytes"))
    n, n_bytes = ({row["state"]: row[name] or 0 for row in found.collect()} for name in ("n", "n_bytes"))
    n_todo = n.get("new", 0) + n.get("again", 0)
    words = (
        f"process {n_todo:,} files of {n_bytes.get('new', 0) + n_bytes.get('again', 0):,} bytes"
        f" ({n.get('new', 0):,} new, {n.get('again', 0):,} changed or to be tried again), and leave"
        f" {n.get('unchanged', 0):,} unchanged, {n.get('skipped', 0):,} skipped, {n.get('quarantined', 0):,} in"
        f" quarantine, {n.get('gone', 0):,} gone"
    )
    return (
        words
        if seconds_per_file is None
        else f"{words}; about {n_todo * seconds_per_file:,.0f} s at the last run's pace"
    )


def chunks(todo: DataFrame, n_chunks: int) -> list[DataFrame]:
    """Split the files that are to be processed into so many parts; what lies in one archive stays together."""
    archive = F.substring_index("path", SEPARATOR, 1)
    return [todo.where(F.pmod(F.xxhash64(archive), F.lit(n_chunks)) == number) for number in range(n_chunks)]


def settled(planned: DataFrame, outcomes: DataFrame) -> DataFrame:
    """Return the images table after a run: every file processed, unchanged, skipped or quarantined.

    ``outcomes`` has path, content_sha256 and reason of each frame; a file is processed when all were measured, so that
    none has a reason. Whatever the run lost would still say ``todo``.
    """
    fate = outcomes.groupBy("path").agg(
        F.min("reason").alias("_reason"),
        F.max("content_sha256").alias("_content"),
        F.count("*").alias("_frames"),
    )
    is_done = (F.col("status") == "todo") & F.col("_frames").isNotNull()
    fates = {
        "status": F.when(F.col("_reason").isNull(), "processed").otherwise("quarantined"),
        "reason": F.col("_reason"),
        "content_sha256": F.col("_content"),
    }
    after = {name: F.when(is_done, fate).otherwise(F.col(name)) for name, fate in fates.items()}
    return planned.join(fate, "path", "left").withColumns(after).select(*IMAGES.names)


def with_flags(images: DataFrame) -> DataFrame:
    """Say in ``flags`` which files have the bytes of another one, or its SOPInstanceUID with other bytes."""
    there = images.where("gone_at is null")
    twice = there.groupBy("content_sha256").agg(F.count("*").alias("_n_files")).where("_n_files > 1")
    n_objects = F.count_distinct(F.coalesce("content_sha256", "path"))
    shared = there.groupBy("sop_instance_uid").agg(n_objects.alias("_n_objects")).where("_n_objects > 1")
    flags = F.array_compact(
        F.array(
            F.when(F.col("_n_files").isNotNull(), "same_content"),
            F.when(F.col("_n_objects").isNotNull(), "shared_sop_instance_uid"),
        )
    )
    marked = images.join(twice, "content_sha256", "left").join(shared, "sop_instance_uid", "left")
    return marked.withColumn("flags", flags).select(*IMAGES.names)


def count(images: DataFrame) -> Counts:
    """Return the files by status, without those that are gone; raises if a file has none of the four."""
    return _counts(
        {row["status"]: row["count"] for row in images.where("gone_at is null").groupBy("status").count().collect()}
    )


def count_listing(images: DataFrame, before: DataFrame) -> tuple[Counts, int]:
    """Return the files of a listing, unchanged where size and time are as before, and how many have a series."""
    seen = before.where("gone_at is null").select(*_SAME).withColumn("_seen", F.lit(True))
    seen = seen.withColumnsRenamed({name: f"_{name}" for name in _SAME})
    # two unknown sizes or times, as of a link to nowhere, are the same
    is_seen = [images[name].eqNullSafe(seen[f"_{name}"]) for name in _SAME]
    status = (
        F.when(F.col("status") != "listed", F.col("status")).when(F.col("_seen"), "unchanged").otherwise("processed")
    )
    listed = images.where("gone_at is null").join(seen, is_seen, "left").groupBy(status.alias("status"))
    found = listed.agg(F.count("*").alias("n"), F.count("series_uid").alias("n_of_series")).collect()
    return _counts({row["status"]: row["n"] for row in found}), sum(row["n_of_series"] for row in found)


def _counts(by_status: Mapping[str, int]) -> Counts:
    named = {f"n_{name}": by_status.get(name, 0) for name in ("processed", "unchanged", "skipped", "quarantined")}
    return Counts(n_listed=sum(by_status.values()), **named)


def reasons(images: DataFrame) -> list[tuple[str, int]]:
    """Return why files were left out or put in quarantine, the most frequent first."""
    found = images.where("reason is not null").groupBy("status", "reason").count().orderBy(F.desc("count"), "reason")
    return [(f"{row['status']}, {row['reason']}", row["count"]) for row in found.collect()]
