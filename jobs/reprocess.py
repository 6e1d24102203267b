"""The nightly job: list, measure what is new, changed or to be tried again, score it with the current model, report."""

import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession

from medspark import bundle
from medspark.config import Config
from medspark.jobs import extract, index, report, score
from medspark.log import say
from medspark.spark import plan, tables
from medspark.spark.launch import DONE, launch
from medspark.spark.runs import Run
from medspark.warehouse import Warehouse


def run(spark: SparkSession, config: Config) -> int:
    """Bring the warehouse up to date with ``config.input``; the last line says in short what was done."""
    index.require_places(config)
    recipe = config.recipe_object
    warehouse = Warehouse.at(config.warehouse)
    model = bundle.current(warehouse.path("models"), recipe_id=recipe.recipe_id, model_id=config.model_id)
    if model:
        model.check_features(recipe.feature_names, recipe.recipe_id)  # told before anything is done
    if config.dry_run:
        extract.run(spark, config)
        if model:
            then = f"reprocess would then score these, and what is not scored yet, with {model.model_id}"
            say(then, "plan", model_id=model.model_id)
        return DONE
    with warehouse.hold("reprocess"):
        this = Run("reprocess")
        code: int = extract.run(spark, config)
        if model:
            score.run(spark, config)
        report.run(spark, config)
        counts = plan.count(tables.read(spark, warehouse, "images", tables.IMAGES))
        done = this.finish(warehouse, counts, recipe_id=recipe.recipe_id)
    scored = "scored" if model else "not scored: no model of this recipe"
    text = f"reprocess: {counts}; {scored}; exit {code}"
    this.say(text, "stage", **done, is_scored=model is not None, exit_code=code)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("reprocess", __doc__ or "", run, argv, check=extract.rehearse)


if __name__ == "__main__":
    sys.exit(main())
