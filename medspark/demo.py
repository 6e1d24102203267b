"""The whole line on a synthetic hospital: ``make demo``. Succeeds only if all that it shows is true."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession

from medspark.config import load, parser
from medspark.jobs import extract, index, report, score, train
from medspark.phantom import Inventory, write_archive
from medspark.spark import tables
from medspark.spark.launch import plain_warnings
from medspark.spark.session import session, stop
from medspark.warehouse import Warehouse

ARCHIVE, WAREHOUSE = Path("demo/archive"), Path("demo/warehouse")


def main() -> int:
    """Build the archive, run index, extract, train, score and report, and check the tables against what was built."""
    shutil.rmtree(ARCHIVE.parent, ignore_errors=True)
    inventory = write_archive(ARCHIVE, patients=40, seed=42)
    print(f"archive: {inventory.n_good} good files and {inventory.n_damaged} damaged ones in {ARCHIVE}, all synthetic")
    options = ["--input", str(ARCHIVE), "--warehouse", str(WAREHOUSE), "--labels", str(inventory.labels)]
    options += ["--set", "model.positive=lesion"]
    config = load(parser("demo", __doc__ or "").parse_args(options))
    plain_warnings()
    spark = session("demo")
    try:
        index.run(spark, config)
        rest = replace(config, input=())  # indexed already
        for job in (extract, train, score, report):
            if code := int(job.run(spark, rest)):
                return code
        wrong = list(differences(spark, Warehouse.at(config.warehouse), inventory))
    finally:
        stop(spark)
    for line in wrong:
        print(f"demo: {line}", file=sys.stderr)
    return 1 if wrong else 0


def differences(spark: SparkSession, warehouse: Warehouse, inventory: Inventory) -> Iterator[str]:
    """Yield a sentence for each thing in the tables that is not as the archive was built."""
    images = tables.read(spark, warehouse, "images", tables.IMAGES).collect()
    reasons = {row["relative_path"]: row["reason"] for row in images if row["reason"]}
    for path in sorted(reasons.keys() | inventory.reasons.keys()):
        if reasons.get(path) != inventory.reasons.get(path):
            yield f"{path} should be {inventory.reasons.get(path)}, is {reasons.get(path)}"
    n_processed = sum(row["status"] == "processed" for row in images)
    if n_processed != inventory.n_good:
        yield f"{inventory.n_good} good files were written, {n_processed} were processed"
    n_measured = tables.read(spark, warehouse, "features", tables.features(())).count()
    n_scored = tables.read(spark, warehouse, "predictions", tables.PREDICTIONS).count()
    if n_scored != n_measured:
        yield f"{n_measured} frames were measured, {n_scored} were scored"


if __name__ == "__main__":
    sys.exit(main())
