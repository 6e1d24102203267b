"""Training across the executors, on a matrix that every one of them has."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from medspark import metrics
from medspark.bundle import Manifest
from medspark.config import Config, SplitConfig
from medspark.errors import ConfigError
from medspark.models.forest import Forest, Trees, class_codes, train_trees
from medspark.recipe import Recipe
from medspark.split import split

_TEXTS = ("path", "frame", "patient_id", "label", "group", "side")


@dataclass(frozen=True)
class TrainingData:
    """Labelled features on the driver: numbers only, in an order that does not depend on partitions."""

    X: np.ndarray[Any, np.dtype[np.float64]]  # rows x features
    rows: pa.Table  # path, frame, patient_id, label, side, fold
    n_ungrouped: int  # rows of which the group (such as the patient) is not known

    @property
    def is_train(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows are learned from."""
        is_train: np.ndarray[Any, np.dtype[np.bool_]] = np.array(
            [side == "train" for side in self.rows["side"].to_pylist()]
        )
        return is_train

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.str_]]:
        """The class of each row."""
        return np.asarray(self.rows["label"].to_pylist(), dtype=str)


def collect(table: DataFrame, feature_names: tuple[str, ...], config: SplitConfig, seed: int) -> TrainingData:
    """Bring the labelled features to the driver and give every row a side.

    A row whose group is not known is a group of its own. Raises ConfigError for sides that are neither train nor test.
    """
    found = table.select(*_TEXTS, *feature_names).toArrow().sort_by([("path", "ascending"), ("frame", "ascending")])
    n_ungrouped = found["group"].null_count
    if config.by == "split":
        sides = _given_sides(found)
    else:
        groups = [
            group or f"file {path}"
            for group, path in zip(found["group"].to_pylist(), found["path"].to_pylist(), strict=True)
        ]
        sides = split(groups, found["label"].to_pylist(), test_fraction=config.test_fraction, seed=seed).tolist()
    rows = found.select(["path", "frame", "patient_id", "label"]).append_column("side", pa.array(sides, pa.string()))
    rows = rows.append_column("fold", pa.nulls(len(rows), pa.int32()))
    X = np.column_stack([found[name].to_numpy() for name in feature_names])
    return TrainingData(X, rows, n_ungrouped)


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


def train_forest(spark: SparkSession, data: TrainingData, *, trees: int, depth: int, seed: int) -> Forest:
    """Return scikit-learn's forest of the training rows, its trees grown across the executors.

    The matrix is broadcast: it has to fit every executor. Raises ConfigError if there is only one class.
    """
    classes, codes = class_codes(data.labels[data.is_train])
    if len(classes) < 2:
        raise ConfigError(f"labels: all there is to learn from is {classes[0]!r}; a model tells classes apart")
    shared = spark.sparkContext.broadcast((data.X[data.is_train].astype(np.float32), codes))
    n_tasks = min(trees, 2 * spark.sparkContext.defaultParallelism)
    bounds = np.linspace(0, trees, n_tasks + 1).astype(int).tolist()

    def grow(first_and_next: tuple[int, int]) -> Trees:
        X, y = shared.value
        first, following = first_and_next
        return train_trees(X, y, first=first, count=following - first, trees=trees, depth=depth, seed=seed)

    shares = spark.sparkContext.parallelize(list(pairwise(bounds)), n_tasks).map(grow).collect()
    shared.destroy()
    return Forest(Trees.join(shares), classes, data.X.shape[1])


def evaluate(model: Forest, data: TrainingData, *, positive: str = "") -> dict[str, Any]:
    """Return the metrics of a model on the rows it has not learned from, with the ROC of each class."""
    is_test = ~data.is_train
    probability = model.predict_proba(data.X[is_test])
    labels = data.labels[is_test]
    numbers = metrics.evaluate(labels, probability, model.classes, positive=positive or None)
    curves = metrics.roc(labels, probability, model.classes)
    return {**numbers, "roc": {label: curve._asdict() for label, curve in curves.items()}}


def manifest(data: TrainingData, recipe: Recipe, config: Config, numbers: dict[str, Any]) -> Manifest:
    """Return what a bundle says of how its model came about."""
    return {
        "kind": config.model.kind,
        "feature_names": list(recipe.feature_names),
        "recipe": recipe.to_dict(),
        "recipe_id": recipe.recipe_id,
        "seed": config.model.seed,
        "parameters": asdict(config.model),
        "split": {**asdict(config.split), "n_ungrouped": data.n_ungrouped},
        "metrics": numbers,
    }
