"""What a report shows, gathered from the tables of a warehouse."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyspark
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

import medspark
from medspark.bundle import Bundle
from medspark.config import Config
from medspark.recipe import Recipe
from medspark.report import (
    Accounting,
    ClassCount,
    ComparedModel,
    Drift,
    Drifts,
    Feature,
    Histogram,
    Leaks,
    Predictions,
    Report,
    evaluated,
    permutation_importance,
)
from medspark.selection import Candidate
from medspark.spark import tables
from medspark.spark.preview import contact_sheet
from medspark.warehouse import Warehouse

_SHOWN = 12  # features with a picture of their distribution
_BINS = 24
_SHOWN_DRIFTS = 12


def summarise(
    spark: SparkSession, warehouse: Warehouse, config: Config, model: Bundle | None, *, run_id: str, now: datetime
) -> Report:
    """Return the report of a warehouse under one recipe, and of a model if there is one."""
    recipe = config.recipe_object
    images = tables.only_there(tables.read(spark, warehouse, "images", tables.IMAGES))
    features = tables.only_there(tables.read_features(spark, warehouse, recipe))
    failed = tables.only_recipe(tables.read(spark, warehouse, "quarantine", tables.QUARANTINE), recipe)
    quarantine = tables.only_there(failed)
    return Report(
        run_id=run_id,
        created_at=now,
        medspark_version=medspark.__version__,
        spark_version=pyspark.__version__,
        warehouse=warehouse.uri,
        recipe_id=recipe.recipe_id,
        recipe=[op.to_dict() for op in (*recipe.steps, *recipe.features)],
        accounting=_accounting(images, features, quarantine),
        contact_sheet=contact_sheet(features, recipe, n=config.report.contact_sheet, limits=config.limits),
        features=_distributions(spark, features, recipe, model),
        **(_of_model(spark, warehouse, model) if model else {}),
    )


def _of_model(spark: SparkSession, warehouse: Warehouse, model: Bundle) -> dict[str, Any]:
    """Return what a report says of a model: how it came about, how it does, and what it has scored."""
    predictions = tables.only_there(tables.read(spark, warehouse, "predictions", tables.PREDICTIONS))
    tried = _tried(tables.read(spark, warehouse, "evaluations", tables.EVALUATIONS), model)
    made_by = tried[0]["run_id"] if tried else None
    return {
        "model_id": model.model_id,
        "class_balance": _balance(model),
        "evaluation": evaluated(model.manifest, model.classes),
        "compared": [_compared(row, model) for row in tried],
        "leaks": _leaks(tables.read(spark, warehouse, "leaks", tables.LEAKS), made_by),
        "predictions": _predictions(predictions.where(F.col("model_id") == model.model_id)),
        "drifts": _drifts(tables.read(spark, warehouse, "drift", tables.DRIFT), model),
    }


def _accounting(images: DataFrame, features: DataFrame, quarantine: DataFrame) -> Accounting:
    by_status = _count_by(images, "status")  # those only listed so far are missing in the sum, and the page says so
    return Accounting(
        n_listed=sum(by_status.values()),
        n_processed=by_status.get("processed", 0),
        n_unchanged=by_status.get("unchanged", 0),
        n_skipped=by_status.get("skipped", 0),
        n_quarantined=by_status.get("quarantined", 0),
        n_frames=features.count(),
        by_format=_count_by(images, "format"),
        by_modality=_count_by(images.where("format = 'dicom'"), "modality"),
        skipped=_count_by(images.where("status = 'skipped'"), "reason"),
        quarantined=_count_by(quarantine, "reason"),
    )


def _count_by(table: DataFrame, column: str) -> dict[Any, int]:
    rows = table.groupBy(column).count().orderBy(F.desc("count"), column).collect()
    return {row[column]: row["count"] for row in rows}


def _balance(model: Bundle) -> Sequence[ClassCount]:
    rows = model.split_table.group_by(["label", "side"]).aggregate(
        [("path", "count"), ("patient_id", "count_distinct")]
    )
    ordered = rows.sort_by([("label", "ascending"), ("side", "descending")]).to_pylist()
    return [
        ClassCount(row["label"], row["side"], row["path_count"], row["patient_id_count_distinct"] or None)
        for row in ordered
    ]


def _distributions(spark: SparkSession, features: DataFrame, recipe: Recipe, model: Bundle | None) -> Sequence[Feature]:
    """Return histograms of the most important features, by class where the labels are known."""
    importance = _importances(model) if model else {}
    permutation = permutation_importance(model.manifest) if model else {}
    order = importance or {name: mean for name, (mean, _) in permutation.items()}
    names = sorted(recipe.feature_names, key=lambda name: -order.get(name, 0))[:_SHOWN]
    if model:
        labels = spark.createDataFrame(model.split_table.select(["path", "frame", "label"]))
        features = features.join(labels, ["path", "frame"])
    else:
        features = features.withColumn("label", F.lit("all"))
    bounds = features.agg(
        *(F.min(name).alias(f"{name}_low") for name in names), *(F.max(name).alias(f"{name}_high") for name in names)
    ).head()
    if bounds is None or bounds[0] is None:
        return []
    ranges = {name: (bounds[f"{name}_low"], bounds[f"{name}_high"]) for name in names}
    histograms = _histograms(features, ranges)
    return [Feature(name, histograms[name], importance.get(name), permutation.get(name)) for name in names]


def _importances(model: Bundle) -> dict[str, float]:
    values = getattr(model.model, "feature_importances", None)  # not every kind of model has them
    return {} if values is None else dict(zip(model.feature_names, values.tolist(), strict=True))


def _histograms(table: DataFrame, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Histogram]:
    """Count the values of several columns between their bounds, by ``label``, in one pass."""
    widths = {name: (high - low) / _BINS or 1.0 for name, (low, high) in ranges.items()}
    places = [
        F.least(F.floor((F.col(name) - ranges[name][0]) / width), F.lit(_BINS - 1)).cast("int")
        for name, width in widths.items()
    ]
    counts: dict[str, dict[str, Any]] = {name: {} for name in ranges}
    found = table.select("label", F.posexplode(F.array(*places)).alias("column", "place")).groupBy(
        "label", "column", "place"
    )
    for row in found.count().orderBy("label").collect():
        by_label = counts[list(ranges)[row["column"]]]
        by_label.setdefault(row["label"], np.zeros(_BINS, int))[row["place"]] = row["count"]
    return {
        name: Histogram(low + widths[name] * np.arange(_BINS + 1), counts[name]) for name, (low, _) in ranges.items()
    }


def _tried(evaluations: DataFrame, model: Bundle) -> list[Row]:
    """Return the rows of the run that made the model: the kept one first, then the best of each purpose."""
    run = evaluations.where((F.col("model_id") == model.model_id) & (F.col("purpose") == "model")).select("run_id")
    rows = evaluations.join(run, "run_id").collect()
    return sorted(rows, key=lambda row: (row["purpose"] != "model", row["purpose"], -(row["auc"] or 0.0)))


def _compared(row: Row, model: Bundle) -> ComparedModel:
    return ComparedModel(
        str(Candidate(row["kind"], json.loads(row["parameters"]))),
        row["purpose"],
        row["n_test"],
        row["auc"],
        None if row["auc_low"] is None else (row["auc_low"], row["auc_high"]),
        row["sensitivity"],
        row["specificity"],
        row["brier"],
        is_kept=row["model_id"] == model.model_id,
    )


def _newest(table: DataFrame) -> DataFrame:
    """Keep the rows of the newest run."""
    return table.join(table.agg(F.max("run_id").alias("run_id")), "run_id")


def _leaks(leaks: DataFrame, made_by: str | None) -> Leaks | None:
    rows = _newest(leaks).groupBy("run_id", "kind").count().orderBy(F.desc("count"), "kind").collect()
    if not rows:
        return None
    run_id = rows[0]["run_id"]
    return Leaks(run_id, {row["kind"]: row["count"] for row in rows}, is_of_model=run_id == made_by)


def _drifts(drift: DataFrame, model: Bundle) -> Drifts | None:
    rows = _newest(drift.where(F.col("model_id") == model.model_id)).collect()
    if not rows:
        return None
    rows.sort(key=lambda row: (not row["is_drifted"], -row["psi"], row["name"]))
    n_drifted = sum(row["is_drifted"] for row in rows)
    columns = ("what", "name", "psi", "ks", "n", "is_drifted")
    shown = [Drift(**{name: row[name] for name in columns}) for row in rows[:_SHOWN_DRIFTS]]
    return Drifts(rows[0]["run_id"], len(rows), n_drifted, shown)


def _predictions(predictions: DataFrame) -> Predictions | None:
    counts = _count_by(predictions, "prediction")
    if not counts:
        return None
    table = predictions.select(F.array_max("probability").alias("top"), F.lit("all").alias("label"))
    return Predictions(counts, _histograms(table, {"top": (0.0, 1.0)})["top"])
