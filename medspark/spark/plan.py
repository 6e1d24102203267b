"""What a run has to do: the listing against the tables, and what became of each file afterwards."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medspark.spark.runs import Counts
from medspark.spark.tables import IMAGES

_SAME = ["path", "size_bytes", "modified_at"]


def with_plan(
    images: DataFrame, measured: DataFrame, quarantined: DataFrame, *, retry: Sequence[str] = ()
) -> DataFrame:
    """Return the images with ``status`` set for what is known already, and ``todo`` for what is to be processed.

    ``measured`` and ``quarantined`` are the rows of one recipe; a file is known by its path, size and time.
    """
    done = measured.select(*_SAME).distinct().withColumn("_measured", F.lit(True))
    failed = quarantined.groupBy(*_SAME).agg(F.min("reason").alias("_reason"))
    joined = _with_known(_with_known(images, done), failed)
    is_left_out = F.col("status") == "skipped"
    is_failed = F.col("_reason").isNotNull() & ~F.col("_reason").isin(list(retry))
    status = (
        F.when(is_left_out, "skipped")
        .when(is_failed, "quarantined")
        .when(F.col("_measured") & F.col("_reason").isNull(), "unchanged")
        .otherwise("todo")
    )
    reason = F.when(is_left_out, F.col("reason")).when(is_failed, F.col("_reason"))
    return joined.withColumns({"status": status, "reason": reason}).select(*IMAGES.names)


def _with_known(images: DataFrame, known: DataFrame) -> DataFrame:
    """Add what is known of the same file; two unknown sizes or times, as of a link to nowhere, are the same."""
    known = known.withColumnsRenamed({name: f"_{name}" for name in _SAME})
    is_same = [images[name].eqNullSafe(known[f"_{name}"]) for name in _SAME]
    return images.join(known, is_same, "left").drop(*(f"_{name}" for name in _SAME))


def only_todo(planned: DataFrame) -> DataFrame:
    """Keep the files that are to be processed."""
    return planned.where("status = 'todo'")


def settled(planned: DataFrame, outcomes: DataFrame) -> DataFrame:
    """Return the images table after a run: every file processed, unchanged, skipped or quarantined.

    A file is processed when all its frames were measured. Whatever the run lost would still say ``todo``.
    """
    fate = outcomes.groupBy("path").agg(
        F.min(F.when(F.col("failed_stage").isNotNull(), F.col("reason"))).alias("_reason"),
        F.count("*").alias("_frames"),
    )
    is_done = (F.col("status") == "todo") & F.col("_frames").isNotNull()
    status = F.when(is_done, F.when(F.col("_reason").isNull(), "processed").otherwise("quarantined")).otherwise(
        F.col("status")
    )
    reason = F.when(is_done, F.col("_reason")).otherwise(F.col("reason"))
    return planned.join(fate, "path", "left").withColumns({"status": status, "reason": reason}).select(*IMAGES.names)


def count(images: DataFrame) -> Counts:
    """Return the files by status; raises if a file has none of the four."""
    by_status = {row["status"]: row["count"] for row in images.groupBy("status").count().collect()}
    named = {f"n_{name}": by_status.get(name, 0) for name in ("processed", "unchanged", "skipped", "quarantined")}
    return Counts(n_listed=sum(by_status.values()), **named)


def count_listing(images: DataFrame, before: DataFrame) -> Counts:
    """Return the files of a new listing: unchanged means listed before with the same size and time."""
    seen = before.select(*_SAME).withColumn("_seen", F.lit(True))
    status = (
        F.when(F.col("status") != "listed", F.col("status")).when(F.col("_seen"), "unchanged").otherwise("processed")
    )
    return count(_with_known(images, seen).withColumn("status", status))


def reasons(images: DataFrame) -> list[tuple[str, int]]:
    """Return why files were left out or put in quarantine, the most frequent first."""
    found = images.where("reason is not null").groupBy("status", "reason").count().orderBy(F.desc("count"), "reason")
    return [(f"{row['status']}, {row['reason']}", row["count"]) for row in found.collect()]
