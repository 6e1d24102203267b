"""How far the scored frames are from those the model was trained on, counted in one pass over the executors."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medspark import drift
from medspark.bundle import Bundle
from medspark.config import DriftConfig


def drifts(
    features: DataFrame, predictions: DataFrame, model: Bundle, limits: DriftConfig, *, run_id: str
) -> list[dict[str, Any]]:
    """Return a row of the drift table for each feature of the model, and for the probability of each class."""
    known = model.manifest["reference"]
    scores = {name: F.col("probability")[place] for place, name in enumerate(model.classes)}
    found = {
        "feature": _drifts(features, {name: F.col(name) for name in known["features"]}, known["features"]),
        "probability": _drifts(predictions, scores, known["probabilities"]),
    }
    n = features.agg(F.count_distinct(F.coalesce("patient_id", "path"))).collect()[0][0]
    sides = model.manifest["training"]["by_side"]
    n_of = {"feature": _n_patients(sides["train"]), "probability": _n_patients(sides.get("test", sides["train"]))}
    return [
        {"run_id": run_id, "model_id": model.model_id, "what": what, **row, "n_patients": n, "n_reference": n_of[what]}
        | {"is_drifted": drift.is_drifted(row, n_patients=n, n_reference=n_of[what], psi=limits.psi, ks=limits.ks)}
        for what, rows in found.items()
        for row in rows
    ]


def _n_patients(side: dict[str, Any]) -> int:
    return int(side["n_patients"] or side["n_rows"])  # where nobody is known each row is one


def _drifts(table: DataFrame, columns: dict[str, Column], known: dict[str, drift.Reference]) -> Iterator[Any]:
    found = _counts(table.select(*columns.values()), [known[name]["edges"] for name in columns])
    for name, counts in zip(columns, found, strict=True):
        if (far := drift.compare(known[name], counts)) is not None:
            yield {"name": name, **far}


def _counts(table: DataFrame, edges: list[list[float]]) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Return ``drift.counts`` of every column; each task gives one row."""
    bounds = np.cumsum([0, *(len(inner) + 1 for inner in edges)]).tolist()

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = np.zeros(bounds[-1], np.int64)
        for batch in batches:
            total += np.concatenate([drift.counts(c.to_numpy(), e) for c, e in zip(batch.columns, edges, strict=True)])
        yield pa.RecordBatch.from_pydict({"counts": [total.tolist()]})

    rows = table.mapInArrow(count, "counts array<bigint>").collect()
    total = np.sum([row["counts"] for row in rows] or np.zeros((1, bounds[-1]), np.int64), axis=0)
    return [total[first:following] for first, following in pairwise(bounds)]
