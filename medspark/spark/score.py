"""A broadcast model over the features table."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medspark.bundle import Bundle
from medspark.spark import tables

_FRAME = ["path", "frame", "content_sha256"]
_IDENTITY = [*_FRAME, "recipe_id"]


def score(features: DataFrame, model: Bundle) -> DataFrame:
    """Return a row for each frame: the most probable class, and the probability of each in the order of ``classes``.

    Raises ContractError if the table lacks a feature of the model.
    """
    names = list(model.feature_names)
    tables.require(features, [*_IDENTITY, *names], "the features table")
    shared = features.sparkSession.sparkContext.broadcast(model.model)
    classes = np.array(model.classes)
    model_id = model.model_id
    schema = tables.arrow(tables.PREDICTIONS)

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            X = np.column_stack([batch.column(name).to_numpy() for name in names])
            probability = shared.value.predict_proba(X)
            offsets = np.arange(0, probability.size + 1, len(classes), dtype=np.int32)
            columns = [
                *(batch.column(name) for name in _IDENTITY),
                pa.array([model_id] * len(X), pa.string()),
                pa.array(classes[probability.argmax(axis=1)], pa.string()),
                pa.ListArray.from_arrays(offsets, probability.ravel()).cast(schema.field("probability").type),
                pa.nulls(len(X), schema.field("gone_at").type),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return features.select(*_IDENTITY, *names).mapInArrow(predict, tables.PREDICTIONS)


def unscored(features: DataFrame, predictions: DataFrame, model_id: str) -> DataFrame:
    """Keep the frames that this model has not scored yet."""
    done = predictions.where(F.col("model_id") == model_id).select(*_FRAME)
    return features.join(done, _FRAME, "left_anti")


def outdated(features: DataFrame, predictions: DataFrame, model_id: str) -> DataFrame:
    """Return path, frame, content_sha256 and model_id of predictions whose frame has other features now, or none."""
    given = predictions.where(F.col("model_id") == model_id).select(*_FRAME, "model_id")
    return given.join(features.select(*_FRAME), _FRAME, "left_anti")
