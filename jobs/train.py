"""Train a model on the labelled features, evaluate it on patients it has not seen, and keep it as a bundle."""

import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession

from medspark import bundle
from medspark.config import Config
from medspark.errors import ConfigError
from medspark.spark import tables
from medspark.spark.labels import labelled
from medspark.spark.launch import DONE, NOT_ACCEPTABLE, launch
from medspark.spark.runs import Counts, Run
from medspark.spark.train import collect, evaluate, manifest, train_forest
from medspark.warehouse import Warehouse


def run(spark: SparkSession, config: Config) -> int:
    """Write a model bundle; what it has learned from and how well is in its model.json."""
    recipe = config.recipe_object
    warehouse = Warehouse.at(config.warehouse)
    this = Run("train")
    features = tables.only_there(tables.read_features(spark, warehouse, recipe))
    if features.isEmpty():
        raise ConfigError(
            f"{warehouse.uri} has no features of recipe {recipe.recipe_id}: run extract with this recipe first"
        )
    images = tables.read(spark, warehouse, "images", tables.IMAGES)
    data = collect(labelled(features, images, config), recipe.feature_names, config.split, config.model.seed)
    if data.n_ungrouped:
        print(
            f"train: the {config.split.by} of {data.n_ungrouped:,} of {len(data.X):,} frames is not known: each"
            " is taken for one of its own, and if several show the same patient the numbers below are optimistic",
            file=sys.stderr,
        )
    if config.dry_run:
        n_train = int(data.is_train.sum())
        print(f"train would learn from {n_train:,} frames and test on {len(data.X) - n_train:,}")
        return DONE
    forest = train_forest(spark, data, trees=config.model.trees, depth=config.model.depth, seed=config.model.seed)
    metrics = evaluate(forest, data, positive=config.model.positive)
    saved = bundle.save(
        warehouse.path("models"), forest, manifest=manifest(data, recipe, config, metrics), split_table=data.rows
    )
    n_files = len(set(data.rows["path"].to_pylist()))
    this.finish(warehouse, Counts(n_files, n_processed=n_files), recipe_id=recipe.recipe_id, model_id=saved.model_id)
    shown = ("n", "accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity")
    print(f"train: model {saved.model_id}")
    print("  held out: " + ", ".join(f"{name} {metrics[name]:.4g}" for name in shown if metrics[name] is not None))
    auc = metrics["auc"]
    if config.floor.auc and (auc is None or auc < config.floor.auc):
        is_what = "is not known, a class has no frame on the test side;" if auc is None else f"{auc:.4f} is below"
        print(f"train: AUC {is_what} floor.auc = {config.floor.auc:g}")
        return NOT_ACCEPTABLE
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("train", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
