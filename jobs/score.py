"""Score the measured images with a trained model, which is broadcast once."""

import sys
from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark import bundle
from medspark.config import Config
from medspark.log import say
from medspark.recipe import Recipe
from medspark.spark import tables
from medspark.spark.drift import drifts
from medspark.spark.launch import DONE, launch
from medspark.spark.runs import Counts, Run
from medspark.spark.scoring import outdated, score, score_files, unscored
from medspark.warehouse import Change, Warehouse


def run(spark: SparkSession, config: Config) -> int:
    """Write predictions for the frames that this model has not scored yet."""
    recipe = config.recipe_object
    warehouse = Warehouse.at(config.warehouse)
    model = bundle.find(warehouse.path("models"), recipe_id=recipe.recipe_id, model_id=config.model_id)
    model.check_features(recipe.feature_names, recipe.recipe_id)
    if config.dry_run:
        features, todo, _ = _planned(spark, warehouse, recipe, model.model_id)
        n_todo, n_listed = _n_files(todo), _n_files(features)
        text = f"score would score {n_todo:,} of {n_listed:,} files with {model.model_id}"
        say(text, "plan", job="score", n_todo=n_todo, n_listed=n_listed, model_id=model.model_id)
        return DONE
    with warehouse.hold("score"):
        this = Run("score")
        version = warehouse.version("predictions")
        features, todo, obsolete = _planned(spark, warehouse, recipe, model.model_id)
        n_listed, n_todo = _n_files(features), _n_files(todo)
        # A model that has scored nothing yet reads whole files, without Spark between them and the trees.
        is_first = n_todo == n_listed and obsolete.isEmpty()
        if is_first:
            parts = score_files(spark, warehouse.files("features"), model, warehouse.path("predictions", this.run_id))
            change = Change("predictions", tables.arrow(tables.PREDICTIONS), (), version, parts)
        else:
            change = tables.change(
                score(todo, model), obsolete, warehouse, "predictions", this.run_id, based_on=version
            )
        warehouse.publish_all(this.run_id, [change])
        drift = _drift(warehouse, todo, model, config, this) if n_todo else []
        counts = Counts(n_listed, n_processed=n_todo, n_unchanged=n_listed - n_todo)
        done = this.finish(warehouse, counts, recipe_id=recipe.recipe_id, model_id=model.model_id)
    predictions = tables.only_there(tables.read(spark, warehouse, "predictions", tables.PREDICTIONS))
    by_class = (
        predictions.where(F.col("model_id") == model.model_id).groupBy("prediction").count().orderBy("prediction")
    )
    n_frames = {row["prediction"]: row["count"] for row in by_class.collect()}
    below = [f"  {name}: {number:,} frames" for name, number in n_frames.items()]
    this.say(f"score: {counts}", "stage", below, **done, predictions=n_frames)
    drifted = sorted((found for found in drift if found["is_drifted"]), key=lambda found: -found["psi"])
    for found in drifted[:5]:
        far = f"PSI {found['psi']:.3g}, KS {found['ks']:.3g}"
        this.say(f"  {found['what']} {found['name']} is not as in training: {far}", "drift", **found)
    if drifted:
        text = f"score: retrain: {len(drifted)} of {len(drift)} distributions have drifted (drift.psi, drift.ks)"
        this.say(text, "retrain", n_drifted=len(drifted), n_compared=len(drift), model_id=model.model_id)
    return DONE


def _drift(
    warehouse: Warehouse, scored: DataFrame, model: bundle.Bundle, config: Config, this: Run
) -> list[dict[str, Any]]:
    """Write how far the frames that this run has scored, but for those learned from, are from the training."""
    spark = scored.sparkSession
    learned = spark.createDataFrame(model.split_table.filter(pc.field("side") == "train").select(["path", "frame"]))
    new = scored.join(learned, ["path", "frame"], "left_anti")
    predictions = tables.read(spark, warehouse, "predictions", tables.PREDICTIONS)
    of_new = predictions.where(F.col("model_id") == model.model_id).join(new, ["path", "frame"], "left_semi")
    rows = drifts(new, of_new, model, config.drift, run_id=this.run_id)
    warehouse.append_rows("drift", rows, tables.arrow(tables.DRIFT))
    return rows


def _planned(
    spark: SparkSession, warehouse: Warehouse, recipe: Recipe, model_id: str
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Return the features of the files that are there, those to be scored, and the predictions they replace."""
    features = tables.read_features(spark, warehouse, recipe)
    before = tables.read(spark, warehouse, "predictions", tables.PREDICTIONS)
    there = tables.only_there(features)
    return there, unscored(there, before, model_id), outdated(features, before, model_id)


def _n_files(frames: DataFrame) -> int:
    return frames.select("path").distinct().count()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("score", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
