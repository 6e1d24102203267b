"""Score the measured images with a trained model, which is broadcast once."""

import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medspark import bundle
from medspark.config import Config
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
    this = Run("score")
    features = tables.read_features(spark, warehouse, recipe)
    before = tables.read(spark, warehouse, "predictions", tables.PREDICTIONS)
    todo = unscored(features, before, model.model_id)
    n_listed = features.select("path").distinct().count()
    n_todo = todo.select("path").distinct().count()
    if config.dry_run:
        print(f"score would score {n_todo:,} of {n_listed:,} files with {model.model_id}")
        return DONE
    obsolete = outdated(features, before, model.model_id)
    tables.replace(score(todo, model), obsolete, warehouse, "predictions", this.run_id)
    counts = Counts(n_listed, n_processed=n_todo, n_unchanged=n_listed - n_todo)
    this.finish(warehouse, counts, recipe_id=recipe.recipe_id, model_id=model.model_id)
    print(f"score: {counts}")
    scored = tables.read(spark, warehouse, "predictions", tables.PREDICTIONS).where(F.col("model_id") == model.model_id)
    for row in scored.groupBy("prediction").count().orderBy("prediction").collect():
        print(f"  {row['prediction']}: {row['count']:,} frames")
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("score", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
