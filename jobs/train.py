"""Train a model on the labelled features, evaluate it on patients it has not seen, and keep it as a bundle."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from medspark import bundle, tracking
from medspark.config import Config
from medspark.errors import ConfigError
from medspark.selection import Candidate, grid
from medspark.spark import tables
from medspark.spark.audit import audit, describe, require_clean, table_rows
from medspark.spark.evaluate import compare, evaluate, row, search, versus
from medspark.spark.labels import labelled
from medspark.spark.launch import DONE, NOT_ACCEPTABLE, launch
from medspark.spark.leaks import FRAMES
from medspark.spark.mllib import choose_engine
from medspark.spark.runs import Counts, Run
from medspark.spark.train import TrainingData, collect, learn, learn_mllib, manifest
from medspark.warehouse import Warehouse

_SHOWN = ("n", "accuracy", "balanced_accuracy", "auc", "pr_auc", "sensitivity", "specificity", "brier")


def run(spark: SparkSession, config: Config) -> int:
    """Write a model bundle; what it has learned from and how well is in its model.json."""
    candidates = grid(config.model.candidate, config.search)
    for candidate in (*candidates, *config.model.compared):
        candidate.rehearse()
    names, seed = config.recipe_object.feature_names, config.model.seed
    warehouse = Warehouse.at(config.warehouse)
    this = Run("train")
    table = _labelled(spark, warehouse, config)
    is_exact = _is_exact(spark, table, config)
    data = collect(table, names if is_exact else (), config.split, seed)
    _warn_of_unknown_groups(data, config)
    data, leaked = audit(table.select(*FRAMES), data, config.split, seed=seed, limits=config.limits)
    if config.dry_run:
        n_train, n_tested = int(data.is_train.sum()), int(data.is_tested.sum())
        print(f"train would learn from {n_train:,} frames and test on {n_tested:,}")
        if len(leaked):
            fate = "kept together" if config.split.group_duplicates else "so it would stop"
            print(f"  on both sides, {fate}: {describe(leaked)}")
        return DONE
    if len(leaked):
        warehouse.append_rows("leaks", table_rows(leaked, this.run_id), tables.arrow(tables.LEAKS))
        require_clean(leaked, config.split, warehouse.path("leaks"))
        print(f"train: kept together: {describe(leaked)}")
    tracker = tracking.connect(config.mlflow) if config.mlflow.tracking_uri else None
    chosen, others = _chosen(spark, data, candidates, config, this)
    if is_exact:
        trained, X = learn(spark, data, chosen, seed=seed), data.X[data.is_train]
    else:
        trained, X = learn_mllib(table, data, chosen, names, seed=seed, scratch=warehouse.path("_mllib"))
    metrics = evaluate(spark, data, config, trained)
    failures = list(_failures(metrics, config))
    recipe_id, models = config.recipe_object.recipe_id, warehouse.path("models")
    if config.update and (current := bundle.current(models, recipe_id=recipe_id, model_id=config.model_id)):
        metrics["versus"] = versus(current, data, trained, positive=config.model.positive)
        failures += _worse(metrics["versus"])
    told = manifest(trained, data, config, metrics, X, accepted=not failures)
    saved = bundle.save(models, trained.model, manifest=told, split_table=data.rows)
    others.append(row(chosen, metrics, data, purpose="model", run_id=this.run_id, model_id=saved.model_id))
    warehouse.append_rows("evaluations", others, tables.arrow(tables.EVALUATIONS))
    n_files = len(set(data.rows["path"].to_pylist()))
    this.finish(warehouse, Counts(n_files, n_processed=n_files), recipe_id=recipe_id, model_id=saved.model_id)
    print(f"train: model {saved.model_id}")
    print("  held out: " + ", ".join(f"{name} {metrics[name]:.4g}" for name in _SHOWN if metrics[name] is not None))
    _print_table(others)
    for failure in failures:
        print(f"train: {failure}; the current model stays")
    is_told = tracker is None or _tell(tracker, saved)
    return DONE if is_told and not failures else NOT_ACCEPTABLE


def _labelled(spark: SparkSession, warehouse: Warehouse, config: Config) -> DataFrame:
    recipe = config.recipe_object
    features = tables.only_there(tables.read_features(spark, warehouse, recipe))
    if features.isEmpty():
        raise ConfigError(
            f"{warehouse.uri} has no features of recipe {recipe.recipe_id}: run extract with this recipe first"
        )
    return labelled(features, tables.read(spark, warehouse, "images", tables.IMAGES), config)


def _is_exact(spark: SparkSession, table: DataFrame, config: Config) -> bool:
    """Tell whether the matrix is gathered; if not, Spark's own forest is trained, and there is less to ask for."""
    engine = config.model.engine
    if engine == "auto":
        engine, why = choose_engine(spark, table.count(), len(config.recipe_object.feature_names))
        print(f"train: engine {engine}: {why}")
    unknown = {
        "model.kind": config.model.kind != "forest",
        "model.compare": config.model.compare,
        "search": config.search,
        "split.folds": config.split.folds,
        "evaluation.random_split": config.evaluation.random_split,
        "evaluation.sensitivity": config.evaluation.sensitivity,
        "--update": config.update,
    }
    if engine == "mllib" and (asked := [name for name, value in unknown.items() if value]):
        raise ConfigError(f"{', '.join(asked)}: only with model.engine = 'exact', which gathers the features")
    return engine == "exact"


def _warn_of_unknown_groups(data: TrainingData, config: Config) -> None:
    if data.n_ungrouped:
        print(
            f"train: the {config.split.by} of {data.n_ungrouped:,} of {len(data.X):,} frames is not known: each"
            " is taken for one of its own, and if several show the same patient the numbers below are optimistic",
            file=sys.stderr,
        )


def _chosen(
    spark: SparkSession, data: TrainingData, candidates: Sequence[Candidate], config: Config, this: Run
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the best of the candidates, and rows of the evaluations table: of the search, and of what is compared."""
    seed, positive = config.model.seed, config.model.positive
    rows = []
    best = candidates[0]
    if len(candidates) > 1:
        best, found = search(spark, data, candidates, seed=seed, positive=positive)
        rows += [
            row(one, of, data, purpose="search", run_id=this.run_id) for one, of in zip(candidates, found, strict=True)
        ]
    others = config.model.compared
    found = compare(spark, data, others, seed=seed, positive=positive)
    return best, rows + [
        row(one, of, data, purpose="compare", run_id=this.run_id) for one, of in zip(others, found, strict=True)
    ]


def _tell(tracker: tracking.Tracker, model: bundle.Bundle) -> bool:
    """Write a model down in MLflow, and tell whether MLflow took it: the model is saved whatever becomes of that."""
    try:
        print(f"train: run {tracker.log(model)} of MLflow")
    except OSError as error:
        print(f"train: {model.model_id} is saved, but MLflow did not take it: {error}", file=sys.stderr)
        return False
    return True


def _failures(metrics: Mapping[str, Any], config: Config) -> Iterator[str]:
    for name, floor in vars(config.floor).items():
        value = metrics[name]
        if floor and value is None:
            yield f"{name} is not known, a class has no frame on the test side; floor.{name} = {floor:g}"
        elif floor and value < floor:
            yield f"{name} {value:.4f} is below floor.{name} = {floor:g}"


def _worse(found: Mapping[str, Any]) -> list[str]:
    if found["n"] == 0:
        return [f"it cannot be compared: {found['model_id']} has learned from every patient that is held out now"]
    if found["auc"] is None or found["auc"] < found["auc_before"]:
        return [
            f"AUC {found['auc']} is below the {found['auc_before']} of {found['model_id']} on {found['n']:,} frames"
        ]
    return []


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the models beside each other, if there are several."""
    if len(rows) < 2:
        return
    for entry in rows:
        name = f"{entry['purpose']}: {Candidate(entry['kind'], json.loads(entry['parameters']))}"
        interval = "" if entry["auc_low"] is None else f" ({entry['auc_low']:.3f} to {entry['auc_high']:.3f})"
        print(f"  AUC {entry['auc'] or float('nan'):.4f}{interval}  {name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("train", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
