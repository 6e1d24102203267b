"""The recipe and the kinds of model as stages of ``pyspark.ml``, for Pipeline, CrossValidator and Spark's evaluators.

>>> images_to_vectors = ImageFeatures(recipe=Recipe.from_toml("default"))
>>> Pipeline(stages=[images_to_vectors, ForestClassifier(trees=500, depth=5)]).fit(images_with_labels)
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml import Estimator, Transformer
from pyspark.ml import Model as SparkModel
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasLabelCol,
    HasOutputCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasSeed,
)
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf as _arrow_udf
from pyspark.sql.types import ArrayType, DoubleType, NumericType, StructField

from medspark.errors import ConfigError, ContractError, did_you_mean
from medspark.models import MODELS, Model
from medspark.models.data import matrix, require_classes
from medspark.models.forest import class_codes
from medspark.recipe import Recipe
from medspark.selection import Candidate, parameters_of
from medspark.spark import tables
from medspark.spark.extract import extract_features, split_quarantine, with_plain_paths
from medspark.spark.shared import Sent
from medspark.spark.train import train_forest

__all__ = [
    "BoostingClassifier",
    "ClassifierModel",
    "ForestClassifier",
    "ImageFeatures",
    "LogisticClassifier",
    "SvmClassifier",
    "TreeClassifier",
]

Array = npt.NDArray[Any]

arrow_udf: Callable[..., Callable[[Column], Column]] = _arrow_udf  # its overloads know no hints of types

_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    bool: TypeConverters.toBoolean,
    float: TypeConverters.toFloat,
    int: TypeConverters.toInt,
    str: TypeConverters.toString,
}


def _parameters(kind: str) -> dict[str, Any]:
    """Return the parameters of a kind that a Param can hold, with their defaults."""
    return {name: default for name, default in parameters_of(kind).items() if type(default) in _CONVERTERS}


def _recipe_text(recipe: Recipe | str) -> str:
    """Return a recipe as JSON, after a look at its operations."""
    if isinstance(recipe, Recipe):
        return json.dumps(recipe.to_dict())
    try:
        Recipe.from_dict(json.loads(recipe))
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ConfigError(f"recipe: not the JSON of a recipe ({error}); give a medspark.Recipe") from None
    return recipe


class _Stage(Params):
    """A stage whose parameters are given by name."""

    def _configure(self, defaults: dict[str, Any], given: dict[str, Any]) -> None:
        known = {param.name for param in self.params}
        for name in given:
            if name not in known:
                raise ConfigError(f"{type(self).__name__}: unknown parameter {name!r}; {did_you_mean(name, known)}")
        self._setDefault(**defaults)
        self._set(**given)


class ImageFeatures(_Stage, Transformer, HasOutputCol, DefaultParamsReadable["ImageFeatures"], DefaultParamsWritable):
    """Images into the rows of ``extract_features``, with the features as a vector too, in ``outputCol`` (``features``).

    Takes what ``extract_features`` takes: ``path``, each once, and maybe ``content``. All other columns, such as a
    label, come out again beside each frame of their file. Frames that failed are left out: ``extract_features`` and
    ``split_quarantine`` tell which and why. ``recipe`` is a Recipe or its JSON; raises ConfigError for another text.
    """

    recipe: Param[str] = Param(Params._dummy(), "recipe", "steps and features, as JSON", typeConverter=_recipe_text)  # noqa: SLF001 - as Spark's own stages do

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._configure({"recipe": _recipe_text(Recipe.from_toml("default")), "outputCol": "features"}, params)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        recipe = Recipe.from_dict(json.loads(self.getOrDefault(self.recipe)))
        good, _ = split_quarantine(extract_features(dataset, recipe))
        read = {*good.columns, "content", "length", "modificationTime", "failed_stage", "reason", "error", "decoders"}
        others = [name for name in dataset.columns if name not in read]
        if others:
            good = good.join(with_plain_paths(dataset).select("path", *others).distinct(), "path")
        return VectorAssembler(inputCols=list(recipe.feature_names), outputCol=self.getOutputCol()).transform(good)


class _Columns(HasFeaturesCol, HasPredictionCol, HasProbabilityCol, HasRawPredictionCol):
    """The columns of Spark's classifiers, with Spark's names."""


class _Classifier(
    _Stage,
    Estimator["ClassifierModel"],
    _Columns,
    HasLabelCol,
    HasSeed,
    DefaultParamsReadable["_Classifier"],
    DefaultParamsWritable,
):
    """A kind of model as an Estimator: each parameter of its function, and ``seed``, is a Param."""

    kind: ClassVar[str]

    def __init_subclass__(cls, *, kind: str) -> None:
        super().__init_subclass__()
        cls.kind = kind
        for name, default in _parameters(kind).items():
            about = f"see medspark.models.{kind}; default {default!r}"
            setattr(cls, name, Param(Params._dummy(), name, about, typeConverter=_CONVERTERS[type(default)]))  # noqa: SLF001

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._configure({"seed": 42, **_parameters(self.kind)}, params)

    def _fit(self, dataset: DataFrame) -> "ClassifierModel":
        label = self.getLabelCol()
        X, codes = _gathered(dataset, self.getFeaturesCol(), label)
        parameters = {name: self.getOrDefault(name) for name in _parameters(self.kind)}
        if self.kind == "forest":
            Candidate(
                "forest", {**parameters, "trees": min(parameters["trees"], 1)}
            ).rehearse()  # a task would raise late
            require_classes(class_codes(codes)[1], len(X))
            model: Model = train_forest(
                dataset.sparkSession, matrix(X, np.float32), codes, parameters, seed=self.getSeed()
            )
        else:
            model = MODELS[self.kind].fit(X, codes, seed=self.getSeed(), **parameters)
        known = _names(dataset.schema[label])
        labels = [*known, *(str(code) for code in range(len(known), int(codes.max()) + 1))]
        return self._copyValues(ClassifierModel(self.kind, model, labels))


class BoostingClassifier(_Classifier, kind="boosting"):
    """``medspark.models.boosting``: the rows are gathered on the driver, which trains."""


class ForestClassifier(_Classifier, kind="forest"):
    """``medspark.models.forest``: the rows are gathered on the driver, and the trees grow across the executors."""


class LogisticClassifier(_Classifier, kind="logistic"):
    """``medspark.models.logistic``: the rows are gathered on the driver, which trains."""


class SvmClassifier(_Classifier, kind="svm"):
    """``medspark.models.svm``: the rows are gathered on the driver, which trains."""


class TreeClassifier(_Classifier, kind="tree"):
    """``medspark.models.tree``: the rows are gathered on the driver, which trains."""


class ClassifierModel(SparkModel, _Columns, MLReadable["ClassifierModel"], MLWritable):
    """A trained model as a Transformer: ``probability`` and the same as ``rawPrediction``, vectors, and ``prediction``.

    ``prediction`` is the number of the most probable class, the first of equals, as a double; its metadata name the
    ``labels``, so that ``IndexToString`` can. ``model`` is the model of ``medspark.models`` itself.
    """

    def __init__(self, kind: str, model: Model, labels: Sequence[str]) -> None:
        super().__init__()
        self.kind = kind
        self.model = model
        self.labels = list(labels)

    @property
    def numClasses(self) -> int:  # noqa: N802 - Spark's name
        """The length of ``probability``: the classes of the labels' metadata, or up to the highest number there was."""
        return len(self.labels)

    def write(self) -> MLWriter:
        """Return what saves this model: Spark's metadata, and the arrays as .npy, on a disk that the driver sees."""
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader["ClassifierModel"]:
        """Return what loads a model; ContractError if it is not as it was saved."""
        return _Reader()

    def _transform(self, dataset: DataFrame) -> DataFrame:
        probability, prediction = self.getProbabilityCol(), self.getPredictionCol()
        predict = _predictor(dataset.sparkSession, self.model, self.numClasses)
        features = vector_to_array(F.col(self.getFeaturesCol()))
        table = dataset.withColumn(probability, array_to_vector(predict(features)))
        each = vector_to_array(F.col(probability))
        best = (F.array_position(each, F.array_max(each)) - 1).cast("double")
        attribute = {"ml_attr": {"type": "nominal", "name": prediction, "vals": self.labels}}
        columns = {self.getRawPredictionCol(): F.col(probability), prediction: best}
        return table.withColumns(columns).withMetadata(prediction, attribute)


class _Writer(MLWriter):
    def __init__(self, model: ClassifierModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:  # noqa: N802 - Spark's name
        model, root = self._model, _local(path)
        files = {name: _npy(array) for name, array in model.model.arrays().items()}
        about = {
            "kind": model.kind,
            "labels": model.labels,
            "classes": model.model.classes,
            "nFeatures": model.model.n_features,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
        DefaultParamsWriter.saveMetadata(model, path, self.sparkSession, extraMetadata=about)
        if not (root / "metadata").is_dir():
            raise ConfigError(f"{path}: Spark writes where this machine does not see it; give a path on a common disk")
        (root / "arrays").mkdir()
        for name, content in files.items():
            (root / "arrays" / f"{name}.npy").write_bytes(content)


class _Reader(MLReader[ClassifierModel]):
    def load(self, path: str) -> ClassifierModel:
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        kind = metadata["kind"]
        if kind not in MODELS:
            raise ContractError(f"{path}: no model is of kind {kind!r}; {did_you_mean(kind, MODELS)}")
        root = _local(path) / "arrays"
        arrays = {name: _verified(root / f"{name}.npy", digest) for name, digest in metadata["sha256"].items()}
        model = MODELS[kind].from_arrays(arrays, classes=metadata["classes"], n_features=metadata["nFeatures"])
        loaded = ClassifierModel(kind, model, metadata["labels"])
        loaded._resetUid(metadata["uid"])  # noqa: SLF001 - as Spark's own readers do
        DefaultParamsReader.getAndSetParams(loaded, metadata)
        return loaded


def _local(path: str) -> Path:
    """Return a path or a ``file:`` URI as a path; ConfigError for another file system."""
    parts = urlsplit(path)
    if parts.scheme not in ("", "file"):
        raise ConfigError(
            f"{path}: a model is saved on a disk that the driver sees; give a path without {parts.scheme}:"
        )
    return Path(parts.path if parts.scheme else path)


def _npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _verified(path: Path, digest: str) -> Array:
    if not path.is_file():
        raise ContractError(f"{path}: missing; copy the model again or train it anew")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ContractError(f"{path}: not as it was saved; copy the model again or train it anew")
    array: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _names(label: StructField) -> list[str]:
    """Return the names of the classes that a StringIndexer has left in the metadata of a column, if any."""
    return list(label.metadata.get("ml_attr", {}).get("vals", ()))


def _gathered(dataset: DataFrame, features: str, label: str) -> tuple[Array, Array]:
    """Return rows x features and the number of each row's class, in an order that does not depend on partitions."""
    tables.require(dataset, [features, label], "the table to learn from")
    if not isinstance(kind := dataset.schema[label].dataType, NumericType):
        raise ContractError(f"{label} is {kind.simpleString()}; number the classes first, with a StringIndexer")
    columns = vector_to_array(F.col(features)).alias("x"), F.col(label).cast("double").alias("y")
    found = dataset.select(*columns).toArrow()
    labels = found["y"].to_numpy()  # NaN for null
    if not (labels == np.floor(np.abs(labels))).all():
        raise ContractError(f"{label} holds other values than 0, 1, 2, ...; number the classes with a StringIndexer")
    X = _matrix(found["x"])
    rows = np.ascontiguousarray(np.column_stack([X, labels]))
    order = np.argsort(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel())  # by their bytes
    return X[order], labels[order].astype(np.int64)


def _matrix(vectors: pa.ChunkedArray | pa.Array, n_features: int = 0) -> Array:
    """Return a column of arrays as rows x features; ``n_features`` counts where there is no row."""
    lengths = pc.unique(pc.list_value_length(vectors)).to_pylist() or [n_features]
    if len(lengths) > 1 or lengths[0] is None:
        raise ContractError("features: some vectors are null, or not as long as others; leave those rows out")
    values: Array = pc.list_flatten(vectors).to_numpy()
    return values.reshape(len(vectors), lengths[0])


def _predictor(spark: SparkSession, model: Model, n_classes: int) -> Callable[[Column], Column]:
    """Return the function from a column of arrays of features to one of the probabilities of all classes."""
    shared = Sent(spark, model)
    places = [int(name) for name in model.classes]

    def predict(features: pa.Array) -> pa.Array:
        model = shared()
        probability = np.zeros((len(features), n_classes))
        probability[:, places] = model.predict_proba(_matrix(features, model.n_features))
        offsets = np.arange(0, probability.size + 1, n_classes, dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, probability.ravel())

    return arrow_udf(predict, ArrayType(DoubleType()))
