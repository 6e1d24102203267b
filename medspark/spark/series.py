"""The series table: the instances of the images table, grouped and judged by their geometry."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

import medspark
from medspark import series
from medspark.errors import ImageError
from medspark.spark.tables import SERIES, arrow

_FACTS = (
    "path", "patient_id", "study_uid", "series_uid", "modality", "rows", "columns", "n_frames", "sop_instance_uid",
    "frame_of_reference_uid", "is_localizer", "placements",
)  # fmt: skip


def series_table(images: DataFrame, before: DataFrame) -> DataFrame:
    """Return a row for each series of the images, with its verdict; no file is opened.

    A series whose files have the sizes and times of before keeps the row of before.
    """
    members = images.where("series_uid is not null and rows > 0 and columns > 0 and gone_at is null")
    one = F.xxhash64("path", "size_bytes", "modified_at", F.lit(medspark.__version__))
    keys = members.groupBy("series_uid").agg(F.bit_xor(one).alias("fingerprint"))
    same = ["series_uid", "fingerprint"]
    kept = before.join(keys, same, "left_semi").select(*SERIES.names)
    changed = keys.join(before, same, "left_anti")
    judged = members.select(*_FACTS).join(changed, "series_uid").groupBy("series_uid").applyInArrow(_judged, SERIES)
    return kept.unionByName(judged)


def _judged(members: pa.Table) -> pa.Table:
    facts = members.to_pylist()
    found = series.group_instances(_instances(facts))
    rows = []
    for one in found:
        slices, rows_mm, columns_mm = one.spacing_mm or (None, None, None)
        rows.append(
            {
                **{name: facts[0][name] for name in ("patient_id", "study_uid", "fingerprint")},
                "series_uid": one.series_uid,
                "modality": one.modality,
                "n_images": len(one.instances),
                "verdict": one.verdict,
                "reasons": list(one.reasons),
                "slice_spacing_mm": slices,
                "row_spacing_mm": rows_mm,
                "column_spacing_mm": columns_mm,
                "shape": one.shape,
                "affine": None if one.affine is None else np.ravel(one.affine).tolist(),
                "instances": [{"path": image.path, "frame": image.frame} for image in one.instances],
            }
        )
    return pa.Table.from_pylist(rows, arrow(SERIES))


def _instances(facts: list[dict[str, object]]) -> Iterator[series.Instance]:
    for one in facts:
        try:
            yield from series.instances(str(one["path"]), one)
        except ImageError:  # more frames than a series may have
            continue
