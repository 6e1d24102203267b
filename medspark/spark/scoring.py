"""A broadcast model over the features table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from medspark.bundle import Bundle, load
from medspark.frame import DEFAULT_LIMITS, Limits
from medspark.models import Model
from medspark.recipe import Recipe
from medspark.spark import tables
from medspark.spark.extract import measurement, sources
from medspark.spark.parts import Target, opened, written
from medspark.spark.shared import Sent
from medspark.warehouse import Part

_FRAME = ["path", "frame", "content_sha256"]
_MADE = StructType([tables.PREDICTIONS[name] for name in (*_FRAME, "prediction", "probability")])
_LARGE = 2**30  # bytes of a model that are mapped from its directory, once a machine, and not broadcast
_ROWS = 4096  # that go into a matrix at a time: they stay in the cache
_READ_ROWS = 16384  # that are read at a time; a whole row group takes four times as long, in new pages of memory


def score(features: DataFrame, model: Bundle) -> DataFrame:
    """Return a row for each frame: the most probable class, and the probability of each in the order of ``classes``.

    The executors get a model of more than 1 GiB from its own directory, which they must see. Raises ContractError if
    the table lacks a feature of the model; a row of another recipe fails the job that runs this.
    """
    names = list(model.feature_names)
    tables.require(features, [*_FRAME, "recipe_id", *names], "the features table")
    foreign = F.raise_error(F.concat(F.lit(f"model {model.model_id} cannot score recipe "), "recipe_id"))
    features = features.where(F.when(F.col("recipe_id") == model.recipe_id, True).otherwise(foreign.cast("boolean")))
    predicted = _predictor(features.sparkSession, model)

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from map(predicted, batches)

    return _completed(features.select(*_FRAME, *names).mapInArrow(predict, _MADE), model)


def score_images(images: DataFrame, model: Bundle, *, limits: Limits = DEFAULT_LIMITS) -> DataFrame:
    """Return what ``score`` says of ``extract_features`` with the recipe of the model, in one pass and without a table.

    ``images`` is as there. A frame that could not be measured has no prediction: its ``failed_stage``, ``reason`` and
    ``error``, which come after the columns of predictions, say why.
    """
    recipe = Recipe.from_dict(model.recipe)
    model.check_features(recipe.feature_names, recipe.recipe_id)
    measure = measurement(recipe, limits=limits)
    predict = _predictor(images.sparkSession, model)
    made = StructType([*_MADE, *tables.FAILURE])
    schema = tables.arrow(made)

    def measure_and_predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in measure(batches):
            is_good = pc.is_null(batch.column("failed_stage"))
            good, bad = batch.filter(is_good), batch.filter(pc.invert(is_good))
            parts = [predict(good), bad.select([*_FRAME, *tables.FAILURE.names])]
            rows = pa.concat_tables([pa.table(part) for part in parts], promote_options="default")
            yield from rows.select(schema.names).cast(schema).combine_chunks().to_batches()

    return _completed(sources(images).mapInArrow(measure_and_predict, made), model, tables.FAILURE.names)


def score_files(spark: SparkSession, files: Sequence[str], model: Bundle, directory: str) -> list[Part]:
    """Write what ``score`` gives for whole files of the features table, and return the files that hold it.

    The rows are those of the model's recipe that are there. The executors read and write the numbers themselves:
    through Spark, row by row, that costs more than the trees.
    """
    predicted = _predictor(spark, model)
    columns = [*_FRAME, "recipe_id", *model.feature_names]
    schema = tables.arrow(tables.PREDICTIONS)

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
        for path in (files[number] for batch in batches for number in batch.column("id").to_pylist()):
            for rows in _rows_of(path, columns, model.recipe_id):
                made = dict(zip(_MADE.names, predicted(rows).columns, strict=True))
                made |= {"recipe_id": rows.column("recipe_id"), "model_id": pa.repeat(model.model_id, len(rows))}
                made["gone_at"] = pa.nulls(len(rows), schema.field("gone_at").type)
                yield "predictions", pa.RecordBatch.from_pydict(made).select(schema.names)

    numbers = spark.range(0, len(files), 1, max(1, len(files)))
    return written(numbers, predict, {"predictions": Target(directory, schema)})["predictions"]


def _predictor(spark: SparkSession, model: Bundle) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """Return the function that makes rows of the predictions table from rows of features."""
    model_of = _shared(spark, model)
    names, classes = list(model.feature_names), np.array(model.classes)
    schema = tables.arrow(_MADE)

    def predict(batch: pa.RecordBatch) -> pa.RecordBatch:
        probability = np.empty((len(batch), len(classes)))
        for first in range(0, len(batch), _ROWS):
            rows = batch.slice(first, _ROWS)
            X = np.column_stack([rows.column(name).to_numpy() for name in names])
            probability[first : first + len(rows)] = model_of().predict_proba(X)
        offsets = np.arange(0, probability.size + 1, len(classes), dtype=np.int32)
        predictions = pa.DictionaryArray.from_arrays(probability.argmax(axis=1), classes)
        columns = [
            *(batch.column(name) for name in _FRAME),
            predictions.cast(pa.string()),
            pa.ListArray.from_arrays(offsets, probability.ravel()).cast(schema.field("probability").type),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return predict


def _completed(made: DataFrame, model: Bundle, others: Sequence[str] = ()) -> DataFrame:
    """Add what is the same in every row, which need not travel from Python; then come the other columns."""
    same = {"recipe_id": F.lit(model.recipe_id), "model_id": F.lit(model.model_id), "gone_at": F.lit(None)}
    table = made.withColumns(same)
    return table.select(*(table[field.name].cast(field.dataType) for field in tables.PREDICTIONS), *others)


def _shared(spark: SparkSession, model: Bundle) -> Callable[[], Model]:
    if not model.is_copy and sum(array.nbytes for array in model.model.arrays().values()) > _LARGE:
        directory = str(model.directory)
        return lambda: _mapped(directory)
    return Sent(spark, model.model)


@cache
def _mapped(directory: str) -> Model:
    """Return a model once for each worker; its arrays are mapped, so that all workers of a machine share them."""
    return load(directory, is_verified=True).model


def _rows_of(path: str, columns: Sequence[str], recipe_id: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a recipe that are there, few at a time: the memory of the last ones is used again."""
    with opened(path) as file:
        there = [name for name in (*columns, "gone_at") if name in file.schema_arrow.names]
        if not set(columns).issubset(there):  # of another recipe
            return
        for rows in file.iter_batches(_READ_ROWS, columns=there, use_threads=False):
            is_wanted = pc.fill_null(pc.equal(rows.column("recipe_id"), recipe_id), False)
            if "gone_at" in there:
                is_wanted = pc.and_(is_wanted, rows.column("gone_at").is_null())
            if not pc.all(is_wanted).as_py():
                rows = rows.filter(is_wanted)  # noqa: PLW2901 - a copy, which most batches need not
            yield rows.select(columns)


def unscored(features: DataFrame, predictions: DataFrame, model_id: str) -> DataFrame:
    """Keep the frames that this model has not scored yet."""
    done = predictions.where(F.col("model_id") == model_id).select(*_FRAME)
    return features.join(done, _FRAME, "left_anti")


def outdated(features: DataFrame, predictions: DataFrame, model_id: str) -> DataFrame:
    """Return path, frame, content_sha256 and model_id of predictions whose frame has other features now, or none."""
    given = predictions.where(F.col("model_id") == model_id).select(*_FRAME, "model_id")
    return given.join(features.select(*_FRAME), _FRAME, "left_anti")
