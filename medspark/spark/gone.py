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
from medspark.remote import is_remote
from medspark.spark import tables
from medspark.warehouse import Warehouse

MARKED = ("features", "quarantine", "predictions")
"""The tables that are made of files, beside images."""


def vanished(previous: DataFrame, images: DataFrame, roots: Collection[str]) -> DataFrame:
    """Return the rows of files that were listed before below these roots and are there no more: status ``gone``.

    What cannot be looked at is not gone: a directory may be closed to us for a night. In an object store it is gone if
    the listing does not show it: one that fails, fails the job.
    """
    below = (F.startswith("path", F.lit(root.rstrip("/") + "/")) for root in roots)
    missing = previous.where(functools.reduce(operator.or_, below)).join(images.select("path"), "path", "left_anti")
    archive = F.substring_index("path", SEPARATOR, 1).alias("_archive")
    listed = images.groupBy(archive).agg(F.max(F.col("format").isNotNull()).alias("_is_opened"))
    asked = missing.withColumn("_archive", archive).join(listed, "_archive", "left").drop("_archive")
    gone = asked.mapInArrow(lambda batches: map(_only_gone, batches), asked.schema).select(*tables.IMAGES.names)
    since = F.coalesce("gone_at", F.current_timestamp())
    return gone.withColumns({"status": F.lit("gone"), "reason": F.lit(None).cast("string"), "gone_at": since})


def mark_gone(images: DataFrame, warehouse: Warehouse, run_id: str) -> None:
    """Set ``gone_at`` in the tables made of the images, and take it away from what came back."""
    made = [name for name in MARKED if warehouse.files(name)]
    if not made:
        return
    # What is skipped now, such as a DICOMDIR in the place of an image, has no frames any more.
    skipped_at = F.when(F.col("status") == "skipped", F.current_timestamp())
    known = images.select("path", F.coalesce("gone_at", skipped_at).alias("_gone_at"))
    is_any_gone = not known.where("_gone_at is not null").isEmpty()
    for name in made:
        schema = from_arrow_schema(warehouse.schema(name))
        if "gone_at" not in schema.names:
            continue
        rows = tables.read_files(images.sparkSession, warehouse.files(name), schema)
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
    return batch.filter(pa.array([_is_missing(path, is_opened=is_opened) for path, is_opened in places], pa.bool_()))


def _is_missing(shown: str, *, is_opened: bool | None) -> bool:
    """Tell whether what was not listed is gone; ``is_opened`` is of the archive it was in, None if that is not listed.

    What is not in an archive that was opened is gone, too.
    """
    if is_opened or is_remote(shown):
        return is_opened is not False
    archive, _ = split_path(shown) or (shown, None)
    try:
        # What is a directory now is no file any more; one that is closed is listed, and not asked for here.
        return stat.S_ISDIR(os.lstat(real_path(archive)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
