"""Files that have left the archive: their rows stay, marked, until they come back or are forgotten."""

import functools
import operator
import os
import stat
from collections.abc import Collection

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from medspark.containers import SEPARATOR, split_path
from medspark.files import real_path
from medspark.spark import tables
from medspark.warehouse import Warehouse

MARKED = ("features", "quarantine", "predictions")
"""The tables that are made of files, beside images."""


def vanished(previous: DataFrame, images: DataFrame, roots: Collection[str]) -> DataFrame:
    """Return the rows of files that were listed before below these roots and are there no more: status ``gone``.

    What cannot be looked at is not gone: a directory may be closed to us for a night.
    """
    below = (F.startswith("path", F.lit(root.rstrip("/") + "/")) for root in roots)
    missing = previous.where(functools.reduce(operator.or_, below)).join(images.select("path"), "path", "left_anti")
    archive = F.substring_index("path", SEPARATOR, 1).alias("_archive")
    opened = images.where("format is not null").select(archive).distinct().withColumn("_is_opened", F.lit(True))
    asked = missing.withColumn("_archive", archive).join(opened, "_archive", "left")
    asked = asked.withColumn("_is_opened", F.coalesce("_is_opened", F.lit(False))).drop("_archive")
    gone = asked.mapInArrow(lambda batches: map(_only_gone, batches), asked.schema).select(*tables.IMAGES.names)
    since = F.coalesce("gone_at", F.current_timestamp())
    return gone.withColumns({"status": F.lit("gone"), "reason": F.lit(None).cast("string"), "gone_at": since})


def mark_gone(images: DataFrame, warehouse: Warehouse, run_id: str) -> None:
    """Set ``gone_at`` in the tables made of the images, and take it away from what came back."""
    # What is skipped now, such as a DICOMDIR in the place of an image, has no frames any more.
    skipped_at = F.when(F.col("status") == "skipped", F.current_timestamp())
    known = images.select("path", F.coalesce("gone_at", skipped_at).alias("_gone_at"))
    is_any_gone = not known.where("_gone_at is not null").isEmpty()
    for name in MARKED:
        files = warehouse.files(name)
        schema = from_arrow_schema(warehouse.schema(name))
        if not files or "gone_at" not in schema.names:
            continue
        rows = images.sparkSession.read.schema(schema).parquet(*files)
        if not is_any_gone and rows.where("gone_at is not null").isEmpty():
            continue
        wrong = (
            rows.join(known, "path").where("(gone_at is null) <> (_gone_at is null)").select("path").distinct().cache()
        )
        if not wrong.isEmpty():
            marked = (
                rows.drop("gone_at").join(wrong, "path").join(known, "path").withColumnRenamed("_gone_at", "gone_at")
            )
            tables.replace(marked.select(*schema.names), wrong, warehouse, name, run_id)
        wrong.unpersist()


def _only_gone(batch: pa.RecordBatch) -> pa.RecordBatch:
    places = zip(batch.column("path").to_pylist(), batch.column("_is_opened").to_pylist(), strict=True)
    # What was not in an archive that was opened is gone, too.
    return batch.filter(pa.array([is_opened or _is_missing(path) for path, is_opened in places], pa.bool_()))


def _is_missing(shown: str) -> bool:
    archive, _ = split_path(shown) or (shown, None)
    try:
        # What is a directory now is no file any more; one that is closed is listed, and not asked for here.
        return stat.S_ISDIR(os.lstat(real_path(archive)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
