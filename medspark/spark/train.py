"""Training across the executors, on a matrix that every one of them has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.bundle import Manifest
from medspark.config import Config, ModelConfig, SplitConfig
from medspark.drift import references
from medspark.errors import ConfigError
from medspark.models import Model
from medspark.models.boosting import Boosting
from medspark.models.forest import Forest, Trees, class_codes, shares, train_trees
from medspark.selection import Candidate, predict_held_out
from medspark.spark.labels import SUBGROUP
from medspark.spark.mllib import mllib_parameters, train_mllib
from medspark.spark.shared import Sent, share
from medspark.spark.xgboost import train_xgboost, xgboost_settings
from medspark.split import folds, split

Array = npt.NDArray[Any]

_SAMPLE = 100_000  # rows by which new images are compared with those of a training that nobody gathers
_TEXTS = ("path", "frame", "patient_id", "label", "group", "side")


@dataclass(frozen=True)
class TrainingData:
    """Labelled features on the driver: numbers only, in an order that does not depend on partitions."""

    X: npt.NDArray[np.float64]  # rows x features
    rows: pa.Table  # path, frame, patient_id, label, group, side, fold
    n_ungrouped: int  # rows of which the group (such as the patient) is not known

    @cached_property
    def is_train(self) -> npt.NDArray[np.bool_]:
        """Which rows the model learns from: with folds all of them, each fold being tested by a model of the others."""
        return np.array([side == "train" for side in self.rows["side"].to_pylist()], bool)

    @cached_property
    def labels(self) -> npt.NDArray[np.str_]:
        """The class of each row."""
        return np.asarray(self.rows["label"].to_pylist(), dtype=str)

    @cached_property
    def groups(self) -> npt.NDArray[np.str_]:
        """Whose rows must not be parted, such as a patient's; a row of nobody is a group of its file."""
        return np.asarray(self.rows["group"].to_pylist(), dtype=str)

    @property
    def is_folded(self) -> bool:
        """Whether each row is tested, with its fold, instead of a test side."""
        return bool(self.rows["fold"].null_count < len(self.rows))

    @cached_property
    def parts(self) -> npt.NDArray[np.int32]:
        """What is held out together: the number of the fold, or 0 for the test side; -1: never held out."""
        if self.is_folded:
            return np.array(self.rows["fold"].to_pylist(), np.int32)
        return np.where(self.is_train, -1, 0).astype(np.int32)

    @property
    def is_tested(self) -> npt.NDArray[np.bool_]:
        """Which rows the model is tested on."""
        return self.parts >= 0

    def only(self, is_kept: npt.NDArray[np.bool_]) -> "TrainingData":
        """Return some of the rows."""
        return TrainingData(self.X[is_kept], self.rows.filter(pa.array(is_kept)), self.n_ungrouped)

    @property
    def subgroups(self) -> dict[str, list[str | None]]:
        """The values of each column of ``evaluation.subgroups``."""
        names = (name for name in self.rows.column_names if name.startswith(SUBGROUP))
        return {name.removeprefix(SUBGROUP): self.rows[name].to_pylist() for name in names}


def collect(table: DataFrame, feature_names: Sequence[str], config: SplitConfig, seed: int) -> TrainingData:
    """Bring the labelled rows to the driver with the features named, and give each a side, and a fold if there are any.

    A row whose group is not known is a group of its file. Raises ConfigError for sides that are neither train nor test.
    """
    texts = [*_TEXTS, *(name for name in table.columns if name.startswith(SUBGROUP))]
    found = table.select(*texts, *feature_names).toArrow().sort_by([("path", "ascending"), ("frame", "ascending")])
    X = np.column_stack([np.empty((len(found), 0)), *(found[name].to_numpy() for name in feature_names)])
    rows, n_ungrouped = with_sides(found.select(texts), config, seed)
    return TrainingData(X, rows, n_ungrouped)


def with_sides(rows: pa.Table, config: SplitConfig, seed: int) -> tuple[pa.Table, int]:
    """Return the rows with group, side and fold filled in, and how many had no group."""
    n_ungrouped = rows["group"].null_count
    labels = rows["label"].to_pylist()
    names = zip(rows["group"].to_pylist(), rows["path"].to_pylist(), strict=True)
    groups = [group or f"file {path}" for group, path in names]
    fold = pa.nulls(len(rows), pa.int32())
    if config.by == "split":
        if config.folds:
            raise ConfigError(
                "split.folds: the labels say the sides (split.by = 'split'); split by patient, or folds = 0"
            )
        sides = _given_sides(rows)
    elif config.folds:
        sides = ["train"] * len(rows)
        fold = pa.array(folds(groups, labels, n_folds=config.folds, seed=seed))
    else:
        sides = split(groups, labels, test_fraction=config.test_fraction, seed=seed).tolist()
    columns = {"group": pa.array(groups, pa.string()), "side": pa.array(sides, pa.string()), "fold": fold}
    return pa.table({**{name: rows[name] for name in rows.column_names}, **columns}), n_ungrouped


def _given_sides(found: pa.Table) -> list[str]:
    """Return the sides that the labels say, after a look whether there is something to learn and to test."""
    sides = ["nothing" if side is None else str(side) for side in found["side"].to_pylist()]
    odd = sorted(set(sides) - {"train", "test"})
    if odd:
        raise ConfigError(f"labels: the column split says {', '.join(odd)}; train and test are known")
    classes = {
        name: {c for c, side in zip(found["label"].to_pylist(), sides, strict=True) if side == name}
        for name in ("train", "test")
    }
    for name, there in classes.items():
        if not there:
            raise ConfigError(f"labels: the column split puts nothing on the {name} side")
    if unlearned := sorted(classes["test"] - classes["train"]):
        raise ConfigError(f"labels: nothing to learn {', '.join(unlearned)} from, all of it is on the test side")
    return sides


@dataclass(frozen=True)
class Trained:
    """A model, and what it says of the rows that are tested."""

    candidate: Candidate
    model: Model
    probability: npt.NDArray[np.float64]  # tested rows x classes


def learn(spark: SparkSession, data: TrainingData, candidate: Candidate, *, seed: int) -> Trained:
    """Return the model of the training rows, and what it, or for folds models of the other folds, say of the rest."""
    model = fit(spark, data, candidate, seed=seed)
    if data.is_folded:
        (probability,) = predict_parts(spark, data, data.parts, [candidate], seed=seed)
    else:
        probability = model.predict_proba(data.X[data.is_tested])
    return Trained(candidate, model, probability)


def learn_apart(
    table: DataFrame,
    data: TrainingData,
    candidate: Candidate,
    names: Sequence[str],
    config: ModelConfig,
    *,
    engine: str,
    scratch: str,
) -> tuple[Trained, npt.NDArray[np.float64]]:
    """Return what ``learn`` does, by the engine mllib or xgboost, and some training rows to compare new ones with.

    ``data`` says the sides and holds no features: none reach the driver but those of the rows x features returned.
    """
    sides = table.sparkSession.createDataFrame(data.rows.select(["path", "frame", "side"]))
    sided = table.drop("side").join(sides, ["path", "frame"])
    train = sided.where("side = 'train'")
    given = {"seed": config.seed, **mllib_parameters(candidate.parameters)}
    model: Model
    if engine == "xgboost":
        model = train_xgboost(train, names, workers=config.workers, **given)
    else:
        model = train_mllib(train, names, scratch=scratch, **given)
    some = train.orderBy(F.xxhash64("path", "frame")).limit(_SAMPLE).select(*names).toArrow()
    X = np.column_stack([column.to_numpy() for column in some.columns])
    return Trained(candidate, model, _probabilities(sided.where("side = 'test'"), model, names)), X


def _probabilities(rows: DataFrame, model: Model, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return rows x classes, the rows in the order of ``collect``; nothing but these leaves the executors."""
    shared = Sent(rows.sparkSession, model)

    def predict(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            X = np.column_stack([batch.column(name).to_numpy() for name in names])
            probability = pa.array(shared().predict_proba(X).tolist(), pa.list_(pa.float64()))
            yield pa.RecordBatch.from_arrays([*batch.columns[:2], probability], ["path", "frame", "probability"])

    schema = "path string, frame int, probability array<double>"
    found = rows.select("path", "frame", *names).mapInArrow(predict, schema).toArrow()
    ordered = found.sort_by([("path", "ascending"), ("frame", "ascending")])
    return np.array(ordered["probability"].to_pylist()).reshape(-1, len(model.classes))


def fit(spark: SparkSession, data: TrainingData, candidate: Candidate, *, seed: int) -> Model:
    """Return the model of the training rows: a forest grown across the executors, any other kind on the driver.

    Raises ConfigError if there is only one class.
    """
    X, labels = data.X[data.is_train], data.labels[data.is_train]
    classes, _ = class_codes(labels)
    if len(classes) < 2:
        raise ConfigError(f"labels: all there is to learn from is {classes[0]!r}; a model tells classes apart")
    if candidate.kind == "forest":
        return train_forest(spark, X, labels, candidate.parameters, seed=seed)
    return candidate.fit(X, labels, seed=seed, groups=data.groups[data.is_train])


def train_forest(spark: SparkSession, X: Array, labels: Array, parameters: Mapping[str, Any], *, seed: int) -> Forest:
    """Return scikit-learn's forest of rows x features and their classes, its trees grown across the executors.

    The matrix is on every machine once, and has to fit there.
    """
    classes, codes = class_codes(labels)
    rows = share(spark, np.ascontiguousarray(X, np.float32))
    shared = Sent(spark, codes)
    trees = parameters["trees"]
    n_tasks = min(trees, 2 * spark.sparkContext.defaultParallelism)

    def grow(part: tuple[int, int]) -> Trees:
        first, count = part
        return train_trees(rows(), shared(), first=first, count=count, seed=seed, **parameters)

    grown = spark.sparkContext.parallelize(shares(trees, n_tasks), n_tasks).map(grow).collect()
    shared.destroy()
    return Forest(Trees.join(grown), classes, X.shape[1])


def predict_parts(
    spark: SparkSession, data: TrainingData, parts: Array, candidates: Sequence[Candidate], *, seed: int
) -> list[npt.NDArray[np.float64]]:
    """Return for each candidate the probabilities of the rows that are held out: rows x classes, NaN where none are.

    ``parts`` says of each row what it is held out with, or -1; each cell, a candidate and a part, is a Spark task.
    """
    classes, codes = class_codes(data.labels)
    rows = share(spark, data.X)
    shared = Sent(spark, (codes, parts, data.groups))
    held_out = np.unique(parts[parts >= 0]).tolist()
    cells = [(number, part) for number in range(len(candidates)) for part in held_out]

    def predict(cell: tuple[int, int]) -> tuple[int, int, npt.NDArray[np.float64]]:
        codes, parts, groups = shared()
        number, part = cell
        return (
            number,
            part,
            predict_held_out(rows(), codes, parts == part, candidates[number], seed=seed, groups=groups),
        )

    found = [np.full((len(data.X), len(classes)), np.nan) for _ in candidates]
    for number, part, probability in spark.sparkContext.parallelize(cells, len(cells)).map(predict).collect():
        found[number][parts == part] = probability
    shared.destroy()
    return found


def manifest(
    trained: Trained, data: TrainingData, config: Config, numbers: dict[str, Any], X: Array, *, accepted: bool
) -> Manifest:
    """Return what a bundle says of how its model came about; ``X`` is what new images will be compared with."""
    recipe = config.recipe_object
    names = list(recipe.feature_names)
    candidate, engine = trained.candidate, config.model.engine
    own = xgboost_settings(config.model.workers) if engine == "xgboost" else {}
    return {
        "kind": "boosting" if isinstance(trained.model, Boosting) else candidate.kind,  # XGBoost's forest is scored so
        "feature_names": names,
        "recipe": recipe.to_dict(),
        "recipe_id": recipe.recipe_id,
        "seed": config.model.seed,
        "parameters": {"engine": engine, **own, "positive": config.model.positive, **candidate.parameters},
        "split": {**asdict(config.split), "n_ungrouped": data.n_ungrouped},
        "metrics": numbers,
        "reference": {
            "features": references(X, names),
            "probabilities": references(trained.probability, trained.model.classes),
        },
        "accepted": accepted,
    }
