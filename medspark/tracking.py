"""A bundle in MLflow: its numbers as metrics, itself as an artefact, and a version in the registry."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medspark.bundle import Bundle
from medspark.config import MlflowConfig
from medspark.errors import ConfigError

ARTIFACTS = "bundle"


@dataclass(frozen=True)
class Tracker:
    """An experiment of an MLflow server that answers."""

    client: Any  # mlflow.MlflowClient
    experiment: str
    registered_model: str

    def log(self, model: Bundle) -> str:
        """Write a finished run about a model, and a version of the registered model if one is named; return its id.

        The bundle goes there as the files it is: whoever downloads them gives the directory to ``load_model``. Its
        split.parquet holds paths and pseudonyms. Raises ConnectionError if the server does not take it.
        """
        client, tags = self.client, {"model_id": model.model_id, "recipe_id": model.recipe_id}
        with _told(ConnectionError):
            run = client.create_run(self.experiment, tags=tags, run_name=model.model_id)
            for name, value in _parameters(model.manifest):
                client.log_param(run.info.run_id, name, value)
            for name, number in _numbers(model.manifest["metrics"]):
                client.log_metric(run.info.run_id, name, number)
            client.log_artifacts(run.info.run_id, str(model.directory), ARTIFACTS)
            client.set_terminated(run.info.run_id)
            if self.registered_model:
                if not client.search_registered_models(f"name = '{self.registered_model}'"):
                    client.create_registered_model(self.registered_model)
                source = f"{run.info.artifact_uri}/{ARTIFACTS}"
                client.create_model_version(self.registered_model, source, run.info.run_id, tags=tags)
        return str(run.info.run_id)


def connect(config: MlflowConfig) -> Tracker:
    """Return where models are written down; the experiment is made if it is not there.

    Raises ConfigError if the package mlflow is missing, or if the server does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its makers what is called
    try:
        from mlflow import MlflowClient  # optional, and slow to import
    except ImportError:
        raise ConfigError("mlflow.tracking_uri needs the package mlflow: pip install 'medspark[mlflow]'") from None
    with _told(ConfigError, f"mlflow.tracking_uri = {config.tracking_uri!r}: "):
        client = MlflowClient(config.tracking_uri, config.tracking_uri)
        known = client.get_experiment_by_name(config.experiment)
        experiment = known.experiment_id if known else client.create_experiment(config.experiment)
    return Tracker(client, experiment, config.registered_model)


@contextlib.contextmanager
def _told(kind: type[Exception], what: str = "") -> Iterator[None]:
    """Say the first line of what MLflow says, as an exception of this kind."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - what is behind MLflow, a file system or a bucket, raises its own
        raise kind(f"{what}{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from None


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
