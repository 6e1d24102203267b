"""Draw the report: what was listed and what became of it, the features, the model, the predictions."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pyspark.sql import SparkSession

from medspark import bundle, storage
from medspark.config import Config
from medspark.errors import ConfigError
from medspark.report import render
from medspark.spark.launch import DONE, launch
from medspark.spark.runs import Counts, Run
from medspark.spark.summary import summarise
from medspark.warehouse import Warehouse


def run(spark: SparkSession, config: Config) -> int:
    """Write reports/RUN_ID/index.html."""
    recipe = config.recipe_object
    warehouse = Warehouse.at(config.warehouse)
    if not warehouse.files("images"):
        raise ConfigError(f"{warehouse.uri} has no images table: run index first")
    this = Run("report")
    page_path = warehouse.path("reports", this.run_id, "index.html")
    if config.dry_run:
        this.say(f"report would write {page_path}", "plan", page=page_path)
        return DONE
    model = bundle.current(warehouse.path("models"), recipe_id=recipe.recipe_id, model_id=config.model_id)
    report = summarise(spark, warehouse, config, model, run_id=this.run_id, now=datetime.now(UTC))
    storage.write(page_path, render(report).encode())
    n = report.accounting.n_listed
    done = this.finish(
        warehouse, Counts(n, n_processed=n), recipe_id=recipe.recipe_id, model_id=model.model_id if model else None
    )
    this.say(f"report: {page_path}", "stage", **done, page=page_path)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("report", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
