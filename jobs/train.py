"""Train a model on the labelled features, evaluate it on patients it has not seen, and keep it as a bundle."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from medspark import bundle, tracking
from medspark.config import Config
from medspark.errors import ConfigError
from medspark.log import complain
from medspark.selection import Candidate, grid
from medspark.spark import tables
from medspark.spark.audit import audit, describe, require_clean, table_rows
from medspark.spark.evaluate import compare, evaluate, row, search, versus
from medspark.spark.labels import labelled
from medspark.spark.launch import DONE, NOT_ACCEPTABLE, launch
from medspark.spark.leaks import FRAMES
from medspark.spark.mllib import choose_engine
from medspark.spark.runs import Counts, Run
from medspark.spark.train import TrainingData, collect, learn, learn_apart, manifest
from medspark.spark.xgboost import require_xgboost
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
    engine = _engine(spark, table, config, this)
    data = collect(table, names if engine == "exact" else (), config.split, seed)
    _warn_of_unknown_groups(data, config, this)
    data, leaked = audit(table.select(*FRAMES), data, config.split, seed=seed, limits=config.limits)
    if config.dry_run:
        n_train, n_tested = int(data.is_train.sum()), int(data.is_tested.sum())
        text = f"train would learn from {n_train:,} frames and test on {n_tested:,}"
        this.say(text, "plan", n_train=n_train, n_test=n_tested)
        if len(leaked):
            fate = "kept together" if config.split.group_duplicates else "so it would stop"
            _say_leaks(f"  on both sides, {fate}", leaked, this)
        return DONE
    if len(leaked):
        warehouse.append_rows("leaks", table_rows(leaked, this.run_id), tables.arrow(tables.LEAKS))
        require_clean(leaked, config.split, warehouse.path("leaks"))
        _say_leaks("train: kept together", leaked, this)
    tracker = tracking.connect(config.mlflow) if config.mlflow.tracking_uri else None
    chosen, others = _chosen(spark, data, candidates, config, this)
    if engine == "exact":
        trained, X = learn(spark, data, chosen, seed=seed), data.X[data.is_train]
    else:
        scratch = warehouse.path("_mllib")
        trained, X = learn_apart(table, data, chosen, names, config.model, engine=engine, scratch=scratch)
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
    done = this.finish(warehouse, Counts(n_files, n_processed=n_files), recipe_id=recipe_id, model_id=saved.model_id)
    shown = {name: metrics[name] for name in _SHOWN if metrics[name] is not None}
    held_out = "  held out: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
    this.say(f"train: model {saved.model_id}", "stage", [held_out], **done, metrics=shown)
    _say_models(others, this)
    for failure in failures:
        this.say(f"train: {failure}; the current model stays", "not_acceptable", model_id=saved.model_id)
    is_told = tracker is None or _tell(tracker, saved, this)
    return DONE if is_told and not failures else NOT_ACCEPTABLE


def _labelled(spark: SparkSession, warehouse: Warehouse, config: Config) -> DataFrame:
    recipe = config.recipe_object
    features = tables.only_there(tables.read_features(spark, warehouse, recipe))
    if features.isEmpty():
        raise ConfigError(
            f"{warehouse.uri} has no features of recipe {recipe.recipe_id}: run extract with this recipe first"
        )
    return labelled(features, tables.read(spark, warehouse, "images", tables.IMAGES), config)


def _engine(spark: SparkSession, table: DataFrame, config: Config, this: Run) -> str:
    """Return what grows the model; any but ``exact`` gathers no matrix, and there is less to ask for."""
    engine = config.model.engine
    if engine == "auto":
        engine, why = choose_engine(spark, table.count(), len(config.recipe_object.feature_names))
        this.say(f"train: engine {engine}: {why}", "engine", engine=engine)
    unknown = {
        "model.kind": config.model.kind != "forest",
        "model.compare": config.model.compare,
        "search": config.search,
        "split.folds": config.split.folds,
        "evaluation.random_split": config.evaluation.random_split,
        "evaluation.sensitivity": config.evaluation.sensitivity,
        "--update": config.update,
    }
    if engine != "exact" and (asked := [name for name, value in unknown.items() if value]):
        raise ConfigError(f"{', '.join(asked)}: only with model.engine = 'exact', which gathers the features")
    if engine == "xgboost":
        require_xgboost(spark, config.model.workers)
    if engine == "mllib" and Warehouse.at(config.warehouse).is_remote:
        raise ConfigError(
            "model.engine = 'mllib' needs a directory that Spark itself reaches, which a warehouse on S3 is not: take"
            " 'exact' or 'xgboost', or a warehouse on a disk that all machines share"
        )
    return engine


def _warn_of_unknown_groups(data: TrainingData, config: Config, this: Run) -> None:
    if data.n_ungrouped:
        complain(
            f"train: the {config.split.by} of {data.n_ungrouped:,} of {len(data.X):,} frames is not known: each"
            " is taken for one of its own, and if several show the same patient the numbers below are optimistic",
            "warning",
            run_id=this.run_id,
            n_ungrouped=data.n_ungrouped,
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


def _tell(tracker: tracking.Tracker, model: bundle.Bundle, this: Run) -> bool:
    """Write a model down in MLflow, and tell whether MLflow took it: the model is saved whatever becomes of that."""
    try:
        mlflow_run = tracker.log(model)
    except OSError as error:
        text = f"train: {model.model_id} is saved, but MLflow did not take it: {error}"
        complain(text, "warning", run_id=this.run_id, model_id=model.model_id)
        return False
    this.say(f"train: run {mlflow_run} of MLflow", "mlflow", mlflow_run_id=mlflow_run, model_id=model.model_id)
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


def _say_leaks(what: str, leaked: pa.Table, this: Run) -> None:
    this.say(f"{what}: {describe(leaked)}", "leak", found=Counter(leaked["kind"].to_pylist()))


def _say_models(rows: Sequence[Mapping[str, Any]], this: Run) -> None:
    """Say the models one below the other, if there are several."""
    if len(rows) < 2:
        return
    for entry in rows:
        parameters = json.loads(entry["parameters"])
        name = f"{entry['purpose']}: {Candidate(entry['kind'], parameters)}"
        interval = "" if entry["auc_low"] is None else f" ({entry['auc_low']:.3f} to {entry['auc_high']:.3f})"
        text = f"  AUC {entry['auc'] or float('nan'):.4f}{interval}  {name}"
        this.say(text, "model", **{**entry, "parameters": parameters})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line and return its exit code."""
    return launch("train", __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
