"""What stands on both sides of a split is found before anything is trained, and kept together where that is wanted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medspark.config import SplitConfig
from medspark.errors import ConfigError, ImageError
from medspark.frame import Image, Limits
from medspark.likeness import COPY, likeness
from medspark.readers import opened, read_frames
from medspark.spark import leaks
from medspark.spark.guard import Death, guarded
from medspark.spark.train import TrainingData, with_sides

_WORDS = {
    "same_patient": "patients on both sides",
    "same_bytes": "pairs of the same bytes on both sides",
    "near": "pairs of nearly the same image on both sides",
    "two_labels": "images with two labels",
}


def audit(
    frames: DataFrame, data: TrainingData, config: SplitConfig, *, seed: int, limits: Limits
) -> tuple[TrainingData, pa.Table]:
    """Return the data, with what belongs together on one side if ``group_duplicates`` says so, and what was found.

    ``frames`` has path, frame, content_sha256 and fingerprint. The few images whose fingerprints say that they may be
    copies are read again and laid over each other. What is found is the table of ``leaks``, of the split as
    it was before. Where the labels say the sides, what a test row has in common with training rows leaves the training.
    """
    rows = _as_rows(frames, data)
    pairs = frames.sparkSession.createDataFrame(_copies(leaks.near_duplicates(frames), rows, limits).toArrow())
    found = leaks.leaks(pairs, rows).toArrow()
    if not config.group_duplicates or not len(found):
        return data, found
    groups = leaks.grouped(pairs, _as_rows(frames, _by_patient(data))).toArrow()
    group_of = dict(zip(_places(groups), groups["group"].to_pylist(), strict=True))
    together = [group_of[place] for place in _places(data.rows)]
    if config.by == "split":
        tested = {group for group, side in zip(together, data.rows["side"].to_pylist(), strict=True) if side == "test"}
        kept = data.only(~data.is_train | np.array([group not in tested for group in together]))
        with_sides(kept.rows, config, seed)  # raises where too little is left
        return kept, found
    rows = data.rows.set_column(data.rows.column_names.index("group"), "group", pa.array(together, pa.string()))
    rows, _ = with_sides(rows, config, seed)
    return replace(data, rows=rows), found


def require_clean(found: pa.Table, config: SplitConfig, where: str) -> None:
    """Raise ConfigError if something stands on both sides and was not told to be kept together."""
    if len(found) and not config.group_duplicates:
        raise ConfigError(
            f"the split leaks: {describe(found)}; {where} lists them. split.group_duplicates = true keeps them together"
        )


def describe(found: pa.Table) -> str:
    """Return in words what was found."""
    kinds = found["kind"].to_pylist()
    return ", ".join(f"{kinds.count(kind):,} {words}" for kind, words in _WORDS.items() if kind in kinds)


def table_rows(found: pa.Table, run_id: str) -> Sequence[Mapping[str, Any]]:
    """Return rows of the leaks table."""
    return [{"run_id": run_id, **row} for row in found.to_pylist()]


def _copies(pairs: DataFrame, rows: DataFrame, limits: Limits) -> DataFrame:
    """Keep the pairs of two groups, or of two labels, whose images are copies of each other."""
    for side in "ab":
        facts = (F.col(name).alias(f"{name}_{side}") for name in ("path", "frame", "group", "label"))
        pairs = pairs.join(rows.select(*facts), [f"path_{side}", f"frame_{side}"])
    asked = pairs.where("group_a <> group_b or label_a <> label_b").select(*leaks.PAIRS)
    n_tasks = 2 * pairs.sparkSession.sparkContext.defaultParallelism
    return asked.repartition(n_tasks).mapInArrow(
        lambda batches: (_looked_at(batch, limits) for batch in batches), asked.schema
    )


def _looked_at(batch: pa.RecordBatch, limits: Limits) -> pa.RecordBatch:
    pairs = list(zip(*(batch.column(name).to_pylist() for name in leaks.PAIRS[:5]), strict=True))
    found = guarded(_IsCopy(limits), pairs, seconds=2 * limits.seconds_per_file, memory_mb=2 * limits.memory_mb)
    # What cannot be read any more: its fingerprint is all there is.
    return batch.filter(pa.array([isinstance(is_copy, Death) or is_copy for is_copy in found], pa.bool_()))


@dataclass(frozen=True)
class _IsCopy:
    """What is done in a child: a client of an object store does not bear the fork of another."""

    limits: Limits

    def __call__(self, pair: tuple[str, int, str, int, str]) -> bool:
        a, i, b, j, kind = pair
        try:
            return kind == "same_bytes" or likeness(_pixels(a, i, self.limits), _pixels(b, j, self.limits)) >= COPY
        except ImageError:
            return True


def _pixels(path: str, number: int, limits: Limits) -> Image:
    with opened(path, limits=limits) as content:
        return next(frame.pixels for frame in read_frames(content, limits=limits) if frame.number == number)


def _as_rows(frames: DataFrame, data: TrainingData) -> DataFrame:
    """Return the rows for ``leaks``; the folds are as many sides."""
    sides = data.rows["fold"].cast(pa.string()) if data.is_folded else data.rows["side"]
    rows = {name: data.rows[name] for name in leaks.ROWS if name != "side"}
    return frames.sparkSession.createDataFrame(pa.table({**rows, "side": sides}))


def _by_patient(data: TrainingData) -> TrainingData:
    """Let a patient be the group of his rows, whatever the split was by."""
    pairs = zip(data.rows["patient_id"].to_pylist(), data.rows["group"].to_pylist(), strict=True)
    groups = pa.array([patient or group for patient, group in pairs], pa.string())
    return replace(data, rows=data.rows.set_column(data.rows.column_names.index("group"), "group", groups))


def _places(rows: pa.Table) -> Iterator[tuple[str, int]]:
    return zip(rows["path"].to_pylist(), rows["frame"].to_pylist(), strict=True)
