"""scvi-tools' tracking by mlflow records what was trained, and how."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import scvi
from conftest import CPU, blobs

import mixvi


class Recorded(ModuleType):
    """What scvi-tools calls of mlflow, kept; a parameter has one value, as there."""

    def __init__(self):
        super().__init__("mlflow")
        self.params, self.metrics, self.tags, self.runs = {}, {}, {}, []

    def set_tracking_uri(self, uri): ...

    def set_experiment(self, name): ...

    @contextmanager
    def start_run(self, run_name, log_system_metrics):
        self.runs.append(run_name)
        yield

    def active_run(self):
        return SimpleNamespace(info=SimpleNamespace(run_id="one"))

    def set_tag(self, name, value):
        self.tags[name] = value

    def log_param(self, name, value):
        self.params[name] = value

    def log_params(self, params, run_id=None):
        for name, value in params.items():
            assert self.params.setdefault(name, value) == value, name

    def log_metric(self, name, value, step=None, run_id=None):
        self.metrics.setdefault(name, []).append(value)

    def log_artifact(self, path, artifact_path=None):
        raise AssertionError(path)


@pytest.fixture
def mlflow(monkeypatch):
    recorded = Recorded()
    monkeypatch.setitem(sys.modules, "mlflow", recorded)
    monkeypatch.setattr(scvi.settings, "mlflow_set_tracking_uri", "somewhere")
    return recorded


def test_a_model_of_cells(toy, mlflow):
    mixvi.GMVAE.setup_anndata(toy)
    model = mixvi.GMVAE(toy, n_components=5, n_hidden=16)
    model.train(3, init_epochs=2, batch_size=100, train_size=0.8, weight_decay=0.5, **CPU)
    # one run, of the epochs that were asked for
    assert len(mlflow.runs) == 1 and mlflow.tags == {"status": "success"}
    expected = {
        "n_components": 5,
        "n_hidden": 16,
        "likelihood": "gaussian",
        "max_epochs": 3,
        "batch_size": 100,
        "weight_decay": 0.5,
        "lr": 3e-4,
        "n_train": 400,
        "n_val": 100,
        "n_vars": 16,
    }
    assert {name: mlflow.params[name] for name in expected} == expected
    elbo = model.history["elbo_validation"]["elbo_validation"].astype(float)
    assert mlflow.metrics["elbo_validation"] == elbo.tolist()
    assert model.run_id == "one"


def test_a_model_of_images(mlflow):
    adata = blobs(90)
    mixvi.images.GenerativeInference.setup_anndata(adata)
    model = mixvi.images.GenerativeInference(
        adata, "vae", n_latent=2, backbone="mlp", backbone_kwargs={"n_hidden": 8}
    )
    model.train(2, batch_size=30, **CPU)
    assert mlflow.params["objective"] == "vae" and mlflow.params["batch_size"] == 30
    assert len(mlflow.metrics["train_loss"]) == 2


def test_a_lost_run_says_why(toy, mlflow, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "log_artifact", lambda *args, **kwargs: None, raising=False)
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=16)
    with pytest.raises(FloatingPointError):
        model.train(3, lr=1e12, gradient_clip_val=None, batch_size=100, **CPU)
    assert mlflow.tags["status"] == "failed" and "NaN" in mlflow.params["error_message"]
