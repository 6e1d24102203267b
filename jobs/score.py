"""Score the measured images with a trained model, which is broadcast once."""

import sys
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark import bundle
from medspark.config import Config
from medspark.recipe import Recipe
from medspark.spark import tables
from medspark.spark.launch import DONE, launch
from medspark.spark.runs import Counts, Run
from medspark.spark.score import outdated, score, unscored
from medspark.warehouse import Warehouse


def run(spark: SparkSession, config: Config) -> int:
    """Write predictions for the frames that this model has not scored yet."""
    recipe = config.recipe_object
    warehouse = Warehouse.at(config.warehouse)
    model = bundle.find(warehouse.path("models"), recipe_id=recipe.recipe_id, model_id=config.model_id)
    model.check_features(recipe.feature_names, recipe.recipe_id)
    if config.dry_run:
        features, todo, _ = _planned(spark, warehouse, recipe, model.model_id)
        print(f"score would score {_n_files(todo):,} of {_n_files(features):,} files with {model.model_id}")
        return DONE
    with warehouse.hold("score"):
        this = Run("score")
        version = warehouse.version("predictions")
        features, todo, obsolete = _planned(spark, warehouse, recipe, model.model_id)
        n_listed, n_todo = _n_files(features), _n_files(todo)
        change = tables.change(score(todo, model), obsolete, warehouse, "predictions", this.run_id, based_on=version)
        warehouse.publish_all(this.run_id, [change])
        counts = Counts(n_listed, n_processed=n_todo, n_unchanged=n_listed - n_todo)
        this.finish(warehouse, counts, recipe_id=recipe.recipe_id, model_id=model.model_id)
    print(f"score: {counts}")
    scored = tables.only_there(tables.read(spark, warehouse, "predictions", tables.PREDICTIONS))
    by_class = scored.where(F.col("model_id") == model.model_id).groupBy("prediction").count().orderBy("prediction")
    for row in by_class.collect():
        print(f"  {row['prediction']}: {row['count']:,} frames")
    return DONE


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
