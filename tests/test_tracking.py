"""What MLflow is told of a model, read back by MLflow itself."""

import importlib.util
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from test_bundle import MODEL, make_manifest, make_split

from medspark import bundle
from medspark.config import MlflowConfig
from medspark.errors import ConfigError
from medspark.tracking import connect

METRICS = {
    "auc": 0.875,
    "n": 40,
    "sensitivity": None,
    "note": None,
    "intervals": {"auc": [0.75, 0.9375], "brier": None, "n_undefined": {"auc": 0}},
    "confusion": [[1, 0], [0, 1]],
}


@pytest.fixture
def model(tmp_path):
    return bundle.save(tmp_path / "models", MODEL, manifest=make_manifest(metrics=METRICS), split_table=make_split())


@pytest.fixture(scope="module")
def mlflow(request, tmp_path_factory):
    """MLflow, installed beside us or in the environment of others, whose packages come after ours while these run."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server is what it wants otherwise
        here.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        here.chdir(tmp_path_factory.mktemp("mlflow"))  # it begins a data base where it is
        if not importlib.util.find_spec("mlflow"):
            packages = request.getfixturevalue("deploy").parent.glob("lib/python*/site-packages")
            here.setattr(sys, "path", [*sys.path, *map(str, packages)])
        yield importlib.import_module("mlflow")


@pytest.mark.filterwarnings("default")  # those of MLflow and of what it imports are not ours
def test_a_bundle_comes_back_from_mlflow_as_it_was_saved_with_its_numbers(model, tmp_path, mlflow):
    uri = (tmp_path / "mlruns").as_uri()
    config = MlflowConfig(tracking_uri=uri, experiment="chests", registered_model="pneumonia")
    runs = [connect(config).log(model) for _ in range(2)]

    client = mlflow.MlflowClient(uri, uri)
    found = client.get_run(runs[1])
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"auc": 0.875, "n": 40.0, "auc_low": 0.75, "auc_high": 0.9375}
    assert found.data.params["kind"] == "forest"
    assert found.data.params["parameters.trees"] == "4"
    assert found.data.tags["model_id"] == model.model_id
    versions = client.search_model_versions("name = 'pneumonia'")
    assert sorted((version.version, version.run_id) for version in versions) == [(1, runs[0]), (2, runs[1])]
    loaded = bundle.load(Path(client.download_artifacts(runs[1], "bundle", str(tmp_path))))
    X = np.linspace(0, 8, 40).reshape(10, 4)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("mlflow")
def test_what_mlflow_does_not_take_is_told_in_a_line(model, tmp_path):
    store = tmp_path / "mlruns"
    tracker = connect(MlflowConfig(tracking_uri=store.as_uri()))
    shutil.rmtree(store)
    with pytest.raises(ConnectionError, match=r"^[^\n]*does not exist[^\n]*$"):
        tracker.log(model)


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("mlflow")
def test_a_server_that_does_not_answer_is_told_before_anything_is_learned(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"mlflow\.tracking_uri = '{uri}': "):
            connect(MlflowConfig(tracking_uri=uri))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"  # nobody else is told either


def test_a_missing_package_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'medspark\[mlflow\]'"):
        connect(MlflowConfig(tracking_uri="http://localhost"))
