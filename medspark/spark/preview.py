"""A contact sheet: a few images, small, with the planes of the recipe beside them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from medspark.frame import Limits
from medspark.ops import Op, bind
from medspark.readers import opened, read_frames
from medspark.recipe import Recipe
from medspark.report import Sample, thumbnail
from medspark.spark.guard import Death, guarded
from medspark.steps import STEPS

_SCHEMA = "path string, modality string, plane string, rows int, columns int, pixels binary"
_ARROW = pa.schema(
    [("path", pa.string()), ("modality", pa.string()), ("plane", pa.string()),
     ("rows", pa.int32()), ("columns", pa.int32()), ("pixels", pa.binary())]
)  # fmt: skip


def contact_sheet(features: DataFrame, recipe: Recipe, *, n: int, limits: Limits) -> list[Sample]:
    """Return samples of ``n`` images; the only pixels that ever leave the executors, at most 160 on a side.

    Images are chosen by the hash of their content, so the same archive shows the same ones. Captions say what they are,
    not whose.
    """
    chosen = features.where("frame = 0").orderBy("content_sha256", "path").select("path").limit(n)

    def draw(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        recipe.warm_up()
        for batch in batches:
            paths, work = batch.column("path").to_pylist(), _Planes(recipe, limits)
            for rows in guarded(work, paths, seconds=limits.seconds_per_file, memory_mb=limits.memory_mb):
                if not isinstance(rows, Death):  # it was measured before; the sheet has one less
                    yield pa.RecordBatch.from_pylist(rows, schema=_ARROW)

    found: dict[str, list[Any]] = {}
    for row in chosen.mapInArrow(draw, _SCHEMA).collect():
        found.setdefault(row["path"], []).append(row)
    return [_sample(number, rows) for number, rows in enumerate(found.values(), 1)]


@dataclass(frozen=True)
class _Planes:
    """What is done in a child: a client of an object store does not bear the fork of another."""

    recipe: Recipe
    limits: Limits

    def __call__(self, path: str) -> list[dict[str, Any]]:
        return list(_planes(path, self.recipe, self.limits))


def _planes(path: str, recipe: Recipe, limits: Limits) -> Iterator[dict[str, Any]]:
    try:
        with opened(path, limits=limits) as content:
            frame = next(read_frames(content, limits=limits))
        planes = {"original": bind(Op("to_uint8"), STEPS)(frame.pixels, frame), **recipe.planes(frame)}
    except Exception:  # noqa: BLE001 - it was measured before; if it cannot be shown now, the sheet has one less
        return
    del planes["image"]  # filtered, it looks like the original
    for name, image in planes.items():
        small = thumbnail(image)
        rows, columns = small.shape
        yield {
            "path": path, "modality": frame.modality, "plane": name,
            "rows": rows, "columns": columns, "pixels": small.tobytes(),
        }  # fmt: skip


def _sample(number: int, rows: list[Any]) -> Sample:
    planes = {row["plane"]: np.frombuffer(row["pixels"], np.uint8).reshape(row["rows"], row["columns"]) for row in rows}
    return Sample(f"{number}: {rows[0]['modality'] or 'image'}", planes)
