"""A bundle in MLflow: its numbers as metrics, itself as an artefact, and a version in the registry."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from medspark.bundle import Bundle
from medspark.config import MlflowConfig
from medspark.errors import ConfigError

ARTIFACTS = "bundle"


def log(model: Bundle, config: MlflowConfig) -> str:
    """Write a finished run of MLflow about a model, and a version of the registered model if one is named.

    The bundle goes there as the files it is: whoever downloads them gives the directory to ``load_model``. Its
    split.parquet holds paths and pseudonyms. Returns the id of the run. Raises ConfigError if the package mlflow is
    missing, or if the server does not take it.
    """
    try:
        from mlflow import MlflowClient  # optional, and slow to import
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ConfigError("mlflow.tracking_uri needs the package mlflow: pip install 'medspark[mlflow]'") from None
    try:
        client = MlflowClient(config.tracking_uri, config.tracking_uri)
        known = client.get_experiment_by_name(config.experiment)
        experiment = known.experiment_id if known else client.create_experiment(config.experiment)
        tags = {"model_id": model.model_id, "recipe_id": model.recipe_id}
        run = client.create_run(experiment, tags=tags, run_name=model.model_id)
        for name, value in _parameters(model.manifest):
            client.log_param(run.info.run_id, name, value)
        for name, number in _numbers(model.manifest["metrics"]):
            client.log_metric(run.info.run_id, name, number)
        client.log_artifacts(run.info.run_id, str(model.directory), ARTIFACTS)
        client.set_terminated(run.info.run_id)
        if config.registered_model:
            if not client.search_registered_models(f"name = '{config.registered_model}'"):
                client.create_registered_model(config.registered_model)
            source = f"{run.info.artifact_uri}/{ARTIFACTS}"
            client.create_model_version(config.registered_model, source, run.info.run_id, tags=tags)
    except MlflowException as error:
        raise ConfigError(f"mlflow.tracking_uri = {config.tracking_uri!r}: {str(error).splitlines()[0]}") from None
    return str(run.info.run_id)


def _parameters(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section in ("parameters", "split"):
        for name, value in manifest[section].items():
            yield f"{section}.{name}", value if isinstance(value, str) else json.dumps(value)
    yield "kind", manifest["kind"]
    yield "seed", str(manifest["seed"])


def _numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the single numbers among the metrics, and the ends of their intervals as NAME_low and NAME_high."""
    for name, value in metrics.items():
        if isinstance(value, int | float):
            yield name, float(value)
    for name, ends in metrics.get("intervals", {}).items():
        if isinstance(ends, list):
            yield from zip((f"{name}_low", f"{name}_high"), ends, strict=True)
