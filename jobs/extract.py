"""Measure the listed images: decode, filter, segment and describe each in one pass; what fails goes to quarantine."""

import functools
import sys
from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medspark.config import Config
from medspark.errors import ConfigError
from medspark.jobs import index
from medspark.log import say
from medspark.privacy.pseudonym import load_key
from medspark.readers.versions import decoders
from medspark.spark import plan, tables
from medspark.spark.extract import fates, write_features
from medspark.spark.launch import DONE, NOT_ACCEPTABLE, launch
from medspark.spark.progress import Tally, progress
from medspark.spark.runs import Run, pace
from medspark.warehouse import Change, Warehouse, chunk_id

_MADE = ("features", "quarantine")


def run(spark: SparkSession, config: Config) -> int:
    """Write the features and quarantine of every image that is new or changed under this recipe."""
    recipe = config.recipe_object
    if config.input:
        index.require_places(config)
    warehouse = Warehouse.at(config.warehouse)
    if config.dry_run:
        images: DataFrame = index.preview(spark, config) if config.input else _images(spark, warehouse)
        planned = _planned(spark, warehouse, config, images)
        words = plan.describe(planned, pace(spark, warehouse))
        text = f"extract would {words}; recipe {recipe.recipe_id}"
        say(text, "plan", job="extract", recipe_id=recipe.recipe_id)
        return DONE
    with warehouse.hold("extract"):
        if config.input:
            index.run(spark, config)
        this = Run("extract")
        versions = {name: warehouse.version(name) for name in ("images", *_MADE)}
        planned = _planned(spark, warehouse, config, _images(spark, warehouse))
        warehouse.keep_recipe(recipe.recipe_id, recipe.to_dict())
        if _has_results(warehouse):  # the plan is as of now, whatever this run adds to them
            planned, _ = tables.staged(planned, warehouse, "_plan", this.run_id)
        todo, tally = plan.only_todo(planned), Tally.of(spark)
        n_todo = todo.count()
        with progress("extract", tally, n_todo, run_id=this.run_id):
            chunks = enumerate(plan.chunks(todo, -(-n_todo // config.run.files_per_commit)))
            outcomes = [
                _measured(chunk, warehouse, config, chunk_id(this.run_id, number), tally=tally, versions=versions)
                for number, chunk in chunks
            ]
        images = plan.settled(planned, functools.reduce(DataFrame.unionByName, outcomes)) if outcomes else planned
        images = plan.with_flags(images)
        images, parts = tables.staged(images, warehouse, "images", this.run_id)
        counts = plan.count(images)
        change = Change("images", tables.arrow(tables.IMAGES), "all", versions["images"], parts)
        warehouse.publish_all(this.run_id, [change])
        done = this.finish(warehouse, counts, recipe_id=recipe.recipe_id)
        warehouse.discard(this.run_id)
    reasons = plan.reasons(images)
    below = [f"  {reason}: {number:,}" for reason, number in reasons]
    codes = {reason.partition(", ")[2]: number for reason, number in reasons}
    this.say(f"extract: {counts}", "stage", below, **done, reasons=codes)
    if counts.n_quarantined > config.run.max_failed * counts.n_listed:
        text = f"extract: more than run.max_failed = {config.run.max_failed:g} of the files are in quarantine"
        this.say(text, "not_acceptable", max_failed=config.run.max_failed, n_quarantined=counts.n_quarantined)
        return NOT_ACCEPTABLE
    return DONE


def _images(spark: SparkSession, warehouse: Warehouse) -> DataFrame:
    if not warehouse.files("images"):
        raise ConfigError(f"{warehouse.uri} has no images table: run index first, or give --input")
    return tables.read(spark, warehouse, "images", tables.IMAGES)


def _planned(spark: SparkSession, warehouse: Warehouse, config: Config, images: DataFrame) -> DataFrame:
    recipe = config.recipe_object
    measured = tables.read_features(spark, warehouse, recipe)
    failed = tables.only_recipe(tables.read(spark, warehouse, "quarantine", tables.QUARANTINE), recipe)
    known = plan.with_known(images, measured, failed)
    if _has_results(warehouse):
        known = plan.with_hashes(known, config.limits)
    return plan.with_plan(known, decoders=decoders(), retry=config.run.retry)


def _has_results(warehouse: Warehouse) -> bool:
    return any(map(warehouse.files, _MADE))


def _measured(
    todo: DataFrame, warehouse: Warehouse, config: Config, chunk: str, *, tally: Tally, versions: Mapping[str, int]
) -> DataFrame:
    """Measure some files, put their rows in the place of those of before, and return what became of them."""
    recipe = config.recipe_object
    key = load_key(config.privacy.key_file)
    directories = {name: warehouse.path(name, chunk) for name in _MADE}
    files = todo.select("path", "size_bytes", "modified_at", "decoded_bytes").toArrow()
    spark = todo.sparkSession
    parts = write_features(spark, files, recipe, directories, limits=config.limits, key=key, tally=tally)
    obsolete = todo.where("is_known").select("path").withColumn("recipe_id", F.lit(recipe.recipe_id))
    schemas = zip(_MADE, (tables.features(recipe.feature_names), tables.QUARANTINE), strict=True)
    made = [Change(name, tables.arrow(schema), (), versions[name], parts[name]) for name, schema in schemas]
    warehouse.publish_all(chunk, [tables.replacing(change, obsolete, warehouse, chunk) for change in made])
    return fates(spark, parts)


def rehearse(config: Config) -> None:
    """Raise ConfigError for a recipe that does not run, before there is a session."""
    _ = config.recipe_object.feature_names


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("extract", __doc__ or "", run, argv, check=rehearse)


if __name__ == "__main__":
    sys.exit(main())
