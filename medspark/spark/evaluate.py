"""How well models do on rows that they have not learned from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from medspark import metrics
from medspark.bundle import Bundle
from medspark.config import Config
from medspark.errors import ConfigError
from medspark.models.forest import class_codes
from medspark.selection import Candidate
from medspark.spark.train import Trained, TrainingData, predict_parts
from medspark.split import folds
from medspark.uncertainty import bootstrap, delong_interval, delong_test

Array = npt.NDArray[Any]

SEARCH_FOLDS = 5
IMPORTANCE_ROWS = 5_000  # of the test side: each feature is shuffled, and all scored, five times
_SHOWN = ("accuracy", "balanced_accuracy", "auc", "pr_auc", "sensitivity", "specificity", "brier")


def measured(
    labels: Array, probability: Array, classes: Sequence[str], groups: Array, *, positive: str = "", seed: int = 42
) -> dict[str, Any]:
    """Return the metrics of held-out rows, with curves and with intervals that count patients and not rows.

    ``intervals`` are 95 % percentiles of a bootstrap over the groups; ``auc_delong``, of two classes, takes every row
    for independent.
    """
    wanted = positive or None
    numbers = metrics.evaluate(labels, probability, classes, positive=wanted)
    curves = metrics.roc(labels, probability, classes)
    found = {
        **numbers,
        "roc": {label: curve._asdict() for label, curve in curves.items()},
        "calibration": metrics.calibration(labels, probability, classes),
        "intervals": bootstrap(labels, probability, classes, groups, seed=seed, positive=wanted),
    }
    if numbers["positive"] is not None:
        score = probability[:, list(classes).index(numbers["positive"])]
        found["auc_delong"] = delong_interval(labels == numbers["positive"], score)
    return found


def evaluate(spark: SparkSession, data: TrainingData, config: Config, trained: Trained) -> dict[str, Any]:
    """Return all that the configuration asks of a model, measured on the tested rows."""
    seed, positive = config.model.seed, config.model.positive
    labels, groups = data.labels[data.is_tested], data.groups[data.is_tested]
    model, probability = trained.model, trained.probability
    found = measured(labels, probability, model.classes, groups, positive=positive, seed=seed)
    found["subgroups"] = {
        name: metrics.by_subgroup(
            labels, probability, model.classes, np.array(values, object)[data.is_tested], positive=positive or None
        )
        for name, values in data.subgroups.items()
    }
    if config.evaluation.sensitivity:
        found["operating_point"] = _operating_point(spark, data, config, trained, found["positive"])
    if config.evaluation.random_split:
        found["random_split"] = with_random_split(spark, data, trained.candidate, seed=seed, positive=positive)
    if data.X.shape[1] and not data.is_folded:
        shown = np.flatnonzero(data.is_tested)
        shown = shown[np.unique(np.linspace(0, len(shown) - 1, IMPORTANCE_ROWS).astype(int))]
        found["permutation_importance"] = metrics.permutation_importance(
            model, data.X[shown], data.labels[shown], model.classes, seed=seed, positive=positive or None
        )
    return found


def _operating_point(
    spark: SparkSession, data: TrainingData, config: Config, trained: Trained, positive: str | None
) -> dict[str, Any]:
    """Return what a threshold that folds of the training side give the wanted sensitivity does on the test side."""
    if positive is None or data.is_folded:
        raise ConfigError("evaluation.sensitivity: needs two classes and a test side (split.folds = 0)")
    labels, found = _over_folds(spark, data, [trained.candidate], seed=config.model.seed)
    classes, _ = class_codes(labels)
    score = found[0][:, classes.index(positive)]
    chosen = metrics.operating_point(labels == positive, score, sensitivity=config.evaluation.sensitivity)
    return metrics.at_threshold(
        data.labels[data.is_tested], trained.probability, classes, positive=positive, threshold=chosen["threshold"]
    )


def compare(
    spark: SparkSession, data: TrainingData, candidates: Sequence[Candidate], *, seed: int, positive: str = ""
) -> list[dict[str, Any]]:
    """Return the metrics of each candidate on the tested rows; each cell is trained in a Spark task."""
    if not candidates:
        return []
    found = predict_parts(spark, data, data.parts, candidates, seed=seed)
    classes, _ = class_codes(data.labels)
    labels, groups = data.labels[data.is_tested], data.groups[data.is_tested]
    return [
        measured(labels, probability[data.is_tested], classes, groups, positive=positive, seed=seed)
        for probability in found
    ]


def _over_folds(
    spark: SparkSession, data: TrainingData, candidates: Sequence[Candidate], *, seed: int
) -> tuple[Array, list[npt.NDArray[np.float64]]]:
    """Return the labels of the training side, and the probabilities that grouped folds of it give each candidate."""
    side = data.only(data.is_train)
    parts = folds(side.groups.tolist(), side.labels, n_folds=SEARCH_FOLDS, seed=seed)
    return side.labels, predict_parts(spark, side, parts, candidates, seed=seed)


def search(
    spark: SparkSession, data: TrainingData, candidates: Sequence[Candidate], *, seed: int, positive: str = ""
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the candidate with the highest AUC over grouped folds of the training side, and the metrics of each."""
    labels, probabilities = _over_folds(spark, data, candidates, seed=seed)
    classes, _ = class_codes(labels)
    found = [metrics.evaluate(labels, probability, classes, positive=positive or None) for probability in probabilities]
    best = int(np.argmax([-1.0 if numbers["auc"] is None else numbers["auc"] for numbers in found]))
    return candidates[best], found


def with_random_split(
    spark: SparkSession, data: TrainingData, candidate: Candidate, *, seed: int, positive: str = ""
) -> dict[str, Any]:
    """Return the metrics that a split of rows at random would show: parts of the same sizes, patients on both sides."""
    parts = np.random.default_rng(seed).permutation(data.parts)
    (found,) = predict_parts(spark, data, parts, [candidate], seed=seed)
    is_tested = parts >= 0
    classes, _ = class_codes(data.labels)
    return metrics.evaluate(data.labels[is_tested], found[is_tested], classes, positive=positive or None)


def versus(before: Bundle, data: TrainingData, trained: Trained, *, positive: str = "") -> dict[str, Any]:
    """Return the AUC of a new model and of one before on the tested rows that neither has learned from, and how many.

    ``p_value``, of two classes, is DeLong's of no difference; an AUC is None where a class has no row.
    """
    learned = before.split_table.filter(pc.field("side") == "train")
    patients, paths = (set(learned[name].to_pylist()) for name in ("patient_id", "path"))
    seen = zip(data.rows["patient_id"].to_pylist(), data.rows["path"].to_pylist(), strict=True)
    is_new = np.array([path not in paths and (patient is None or patient not in patients) for patient, path in seen])
    found: dict[str, Any] = {"model_id": before.model_id, "n": int((is_new & data.is_tested).sum())}
    if not found["n"]:
        return found
    labels, X = (of[is_new & data.is_tested] for of in (data.labels, data.X))
    new, old = trained.probability[is_new[data.is_tested]], before.predict_proba(X)
    classes = trained.model.classes
    numbers = metrics.evaluate(labels, new, classes, positive=positive or None)
    found["auc"] = numbers["auc"]
    found["auc_before"] = metrics.evaluate(labels, old, before.classes, positive=positive or None)["auc"]
    if numbers["positive"] is not None:
        score, score_before = (
            of[:, list(names).index(numbers["positive"])] for of, names in ((new, classes), (old, before.classes))
        )
        found["p_value"] = delong_test(labels == numbers["positive"], score, score_before).p_value
    return found


def row(
    candidate: Candidate,
    numbers: Mapping[str, Any],
    data: TrainingData,
    *,
    purpose: str,
    run_id: str,
    model_id: str | None = None,
) -> dict[str, Any]:
    """Return a row of the evaluations table."""
    low, high = numbers.get("intervals", {}).get("auc") or (None, None)
    return {
        "run_id": run_id,
        "model_id": model_id,
        "purpose": purpose,
        "kind": candidate.kind,
        "parameters": json.dumps(candidate.parameters, sort_keys=True),
        "n_train": int(data.is_train.sum()),
        "n_test": numbers["n"],
        **{name: numbers[name] for name in _SHOWN},
        "auc_low": low,
        "auc_high": high,
    }
