"""List the archive into the images table: every file, its format by content, and what DICOM headers say."""

import sys
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession

from medspark.config import Config
from medspark.errors import ConfigError
from medspark.log import say
from medspark.privacy.pseudonym import load_key
from medspark.spark import tables
from medspark.spark.gone import mark_gone, vanished
from medspark.spark.launch import DONE, launch
from medspark.spark.listing import index_table, is_listed_by, roots
from medspark.spark.plan import count_listing
from medspark.spark.runs import Run
from medspark.spark.series import series_table
from medspark.warehouse import Change, Warehouse


def require_places(config: Config) -> None:
    """Raise ConfigError if there is no input or no warehouse, or if one lies in the other."""
    config.require("input", "warehouse")
    warehouse = Warehouse.at(config.warehouse)
    for uri in config.input:
        if is_listed_by(uri, warehouse.uri):
            raise ConfigError(f"warehouse {warehouse.uri} lies inside the input {uri}: put it elsewhere")


def _before(spark: SparkSession, config: Config) -> DataFrame:
    return tables.read(spark, Warehouse.at(config.warehouse), "images", tables.IMAGES)


def _listing(spark: SparkSession, config: Config, before: DataFrame) -> DataFrame:
    return index_table(spark, config.input, before, load_key(config.privacy.key_file), config.limits)


def preview(spark: SparkSession, config: Config) -> DataFrame:
    """Return the images table as ``run`` would write it, with what is gone, and write nothing."""
    before = _before(spark, config)
    images = _listing(spark, config, before)
    return images.unionByName(vanished(before, images, roots(config.input)))


def run(spark: SparkSession, config: Config) -> int:
    """Write the images table of ``config.input``, and judge the series in it."""
    require_places(config)
    warehouse = Warehouse.at(config.warehouse)
    if config.dry_run:
        n_files = _listing(spark, config, _before(spark, config)).count()
        say(f"index would list {n_files:,} files into {warehouse.path('images')}", "plan", job="index", n_files=n_files)
        return DONE
    with warehouse.hold("index"):
        this = Run("index")
        versions = {name: warehouse.version(name) for name in ("images", "series")}
        before = _before(spark, config)
        images, parts = tables.staged(_listing(spark, config, before), warehouse, "images", this.run_id)
        if versions["images"] >= 0:
            gone = vanished(before, images, roots(config.input))
            images, parts = tables.staged(gone, warehouse, "images", f"{this.run_id}/gone", before=parts)
        counts, n_of_series = count_listing(images, before)
        judged = []
        if n_of_series:
            series = series_table(images, tables.read(spark, warehouse, "series", tables.SERIES))
            judged = tables.stage(series, warehouse, "series", this.run_id)
        made = {"images": (tables.IMAGES, parts), "series": (tables.SERIES, judged)}
        changes = [
            Change(name, tables.arrow(schema), "all", versions[name], parts) for name, (schema, parts) in made.items()
        ]
        warehouse.publish_all(this.run_id, changes)
        mark_gone(images, warehouse, this.run_id)
        done = this.finish(warehouse, counts)
    this.say(f"index: {counts}", "stage", **done)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("index", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
