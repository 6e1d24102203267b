"""List the archive into the images table: every file, its format by content, and what DICOM headers say."""

import sys
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession

from medspark.config import Config
from medspark.errors import ConfigError
from medspark.privacy.pseudonym import load_key
from medspark.spark import tables
from medspark.spark.launch import DONE, launch
from medspark.spark.listing import index_table, is_listed_by
from medspark.spark.plan import count_listing
from medspark.spark.runs import Run
from medspark.warehouse import Warehouse


def listing(spark: SparkSession, config: Config) -> DataFrame:
    """Return the images table of ``config.input``, and write nothing."""
    config.require("input", "warehouse")
    warehouse = Warehouse.at(config.warehouse)
    for uri in config.input:
        if is_listed_by(uri, warehouse.uri):
            raise ConfigError(f"warehouse {warehouse.uri} lies inside the input {uri}: put it elsewhere")
    before = tables.read(spark, warehouse, "images", tables.IMAGES)
    return index_table(spark, config.input, before, load_key(config.privacy.key_file))


def run(spark: SparkSession, config: Config) -> int:
    """Write the images table of ``config.input``."""
    images = listing(spark, config)
    warehouse = Warehouse.at(config.warehouse)
    this = Run("index")
    before = tables.read(spark, warehouse, "images", tables.IMAGES)
    if config.dry_run:
        print(f"index would list {images.count():,} files into {warehouse.path('images')}")
        return DONE
    tables.stage(images, warehouse, "images", this.run_id)
    tables.publish(warehouse, "images", tables.IMAGES, this.run_id, replaced="all")
    counts = count_listing(tables.read(spark, warehouse, "images", tables.IMAGES), before)
    this.finish(warehouse, counts)
    print(f"index: {counts}")
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("index", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
