"""Measure the listed images: decode, filter, segment and describe each in one pass; what fails goes to quarantine."""

import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medspark.config import Config
from medspark.errors import ConfigError
from medspark.jobs import index
from medspark.privacy.pseudonym import load_key
from medspark.spark import plan, tables
from medspark.spark.extract import extract_features, size, split_quarantine, spread
from medspark.spark.launch import DONE, NOT_ACCEPTABLE, launch
from medspark.spark.runs import Run
from medspark.warehouse import Warehouse


def run(spark: SparkSession, config: Config) -> int:
    """Write the features and quarantine of every image that is new or changed under this recipe."""
    recipe = config.recipe_object
    _ = recipe.feature_names  # rehearsal: a recipe that does not run stops here
    warehouse = Warehouse.at(config.warehouse)
    if config.input and config.dry_run:
        images = index.listing(spark, config)  # what is there now, and not what the last run saw
    else:
        if config.input and index.run(spark, config) != DONE:
            return NOT_ACCEPTABLE
        images = tables.read(spark, warehouse, "images", tables.IMAGES)
        if not warehouse.files("images"):
            raise ConfigError(f"{warehouse.uri} has no images table: run index first, or give --input")
    this = Run("extract")

    measured = tables.read_features(spark, warehouse, recipe)
    failed = tables.only_recipe(tables.read(spark, warehouse, "quarantine", tables.QUARANTINE), recipe)
    planned = plan.with_plan(images, measured, failed, retry=config.run.retry)
    todo = plan.only_todo(planned)
    if config.dry_run:
        n_files, n_bytes = size(todo)
        print(f"extract would process {n_files:,} files ({n_bytes:,} bytes) with recipe {recipe.recipe_id}")
        return DONE

    warehouse.keep_recipe(recipe.recipe_id, recipe.to_dict())
    key = load_key(config.privacy.key_file)
    outcomes = extract_features(spread(todo), recipe, limits=config.limits, key=key)
    # The images are looked at once: everything after this line reads what this one wrote.
    tables.stage(outcomes, warehouse, "_outcomes", this.run_id)
    outcomes = spark.read.schema(outcomes.schema).parquet(warehouse.path("_outcomes", this.run_id))

    obsolete = todo.select("path").withColumn("recipe_id", F.lit(recipe.recipe_id))
    good, bad = split_quarantine(outcomes)
    tables.replace(good, obsolete, warehouse, "features", this.run_id)
    tables.replace(bad, obsolete, warehouse, "quarantine", this.run_id)
    tables.stage(plan.settled(planned, outcomes), warehouse, "images", this.run_id)
    tables.publish(warehouse, "images", tables.IMAGES, this.run_id, replaced="all")
    warehouse.discard("_outcomes", this.run_id)

    images = tables.read(spark, warehouse, "images", tables.IMAGES)
    counts = plan.count(images)
    this.finish(warehouse, counts, recipe_id=recipe.recipe_id)
    print(f"extract: {counts}")
    for reason, number in plan.reasons(images):
        print(f"  {reason}: {number:,}")
    if counts.n_quarantined > config.run.max_failed * counts.n_listed:
        print(f"extract: more than run.max_failed = {config.run.max_failed:g} of the files are in quarantine")
        return NOT_ACCEPTABLE
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("extract", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
