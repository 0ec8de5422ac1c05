"""Callbacks and loggers of lightning and scvi-tools see the epochs that were asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from conftest import CPU
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from scvi.train import LoudEarlyStopping, SaveCheckpoint

import mixvi
from mixvi.core.data.files import read_model

TRAIN = {"accelerator": "cpu", "batch_size": 100, "init_epochs": 2}


@pytest.fixture
def model(toy):
    mixvi.GMVAE.setup_anndata(toy)
    return mixvi.GMVAE(toy, n_components=5, n_hidden=16, n_layers=1)


class Count(Callback):
    def __init__(self):
        self.epochs = 0

    def on_train_epoch_end(self, *args):
        self.epochs += 1


@pytest.mark.parametrize("bar", [True, False])
@pytest.mark.parametrize("callback", [LearningRateMonitor, Timer, Count, RichProgressBar])
def test_callbacks(model, callback, bar):
    if callback is RichProgressBar and not bar:
        pytest.skip("lightning refuses a bar that is not shown")
    callbacks = [callback()]
    model.train(2, callbacks=callbacks, enable_progress_bar=bar, **TRAIN)
    assert len(callbacks) == 1 and len(model.history["elbo_train"]) == 2
    if callback is Count:
        assert callbacks[0].epochs == 2
    model.train(1, callbacks=callbacks[0], enable_progress_bar=bar, **TRAIN)
    assert len(model.history["elbo_train"]) == 3


def test_learning_rates_are_recorded_by_step(model):
    """Their index counts steps; epochs of a later call are numbered by epochs all the same."""
    for _ in range(2):
        model.train(2, callbacks=[LearningRateMonitor()], **TRAIN)
    assert list(model.history["elbo_train"].index) == [0, 1, 2, 3]
    (rates,) = (table for name, table in model.history.items() if name.startswith("lr-"))
    assert rates.index.is_unique and rates.index.is_monotonic_increasing
    assert "lr" not in "".join(model.start_history)


@pytest.mark.parametrize("kind", [EarlyStopping, LoudEarlyStopping])
@pytest.mark.parametrize("record", ["elbo_validation", "elbo_train"])
def test_early_stopping_as_a_callback(model, kind, record):
    """A record of training needs no validation cells."""
    size = {"train_size": 0.8} if "validation" in record else {}
    options = {"warmup_epochs": 0} if kind is LoudEarlyStopping else {}
    stopping = kind(monitor=record, patience=2, min_delta=1e6, **options)
    model.train(50, callbacks=[stopping], **TRAIN, **size)
    assert len(model.history["elbo_train"]) == 3


def test_early_stopping_by_a_record_of_training(model):
    options = {"early_stopping_patience": 2, "early_stopping_min_delta": 1e6}
    options |= {"early_stopping_monitor": "train_loss", "train_size": 1.0}
    model.train(50, early_stopping=True, **options, **TRAIN)
    assert len(model.history["elbo_train"]) == 3


WATCHING = {
    "early_stopping": {"early_stopping": True},
    "enable_checkpointing": {"enable_checkpointing": True},
    "reduce_lr_on_plateau": {"plan_kwargs": {"reduce_lr_on_plateau": True}},
    "EarlyStopping": {"callbacks": [EarlyStopping("elbo_validation")]},
    "SaveCheckpoint": {"callbacks": [SaveCheckpoint(monitor="elbo_validation")]},
    "ModelCheckpoint": {"callbacks": ModelCheckpoint(monitor="validation_loss")},
}


@pytest.mark.parametrize("name", WATCHING)
def test_what_watches_validation_needs_some(model, name):
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    with pytest.raises(ValueError, match=f"{name} watches '.*validation.*train_size"):
        model.train(2, train_size=1.0, **WATCHING[name], **TRAIN)
    for key, value in model.module.state_dict().items():
        assert torch.equal(value, before[key])
    assert model.start_history is None


def test_checkpoints_of_scvi_tools(model, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)
    model.train(2, enable_checkpointing=True, train_size=0.8, **TRAIN)
    saved = list(tmp_path.glob("*/epoch*"))
    assert len(saved) == 1
    loaded = mixvi.GMVAE.load(saved[0], toy)
    assert loaded.is_trained_ and loaded.get_latent_representation().shape == (500, 12)


@pytest.mark.parametrize("cls", [mixvi.GMVAE, mixvi.CGMVAE])
def test_a_checkpoint_is_a_whole_model(toy, tmp_path, cls):
    """Labels of components and statistics of cells are those of its weights."""
    conditional = cls is mixvi.CGMVAE
    setup = {"condition_key": "condition"} if conditional else {}
    cls.setup_anndata(toy, labels_key="cell_type", **setup)
    model = cls(toy, n_components=7, n_hidden=32)
    saving = SaveCheckpoint(dirpath=tmp_path, monitor="elbo_validation", save_top_k=-1)
    model.train(6, callbacks=[saving], train_size=0.8, lr=5e-3, **TRAIN)
    paths = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("=")[1].split("-")[0]))
    assert len(paths) == 6
    last = cls.load(paths[-1], toy)
    assert last.component_labels == model.component_labels and last.trained_with_labels_
    assert (last.predict(level="label") == model.predict(level="label")).all()
    np.testing.assert_array_equal(last.train_indices, model.train_indices)
    if conditional:
        converted = [
            m.counterfactual(to="condition 1", route="shift", keep_residual=False).X
            for m in (last, model)
        ]
        np.testing.assert_allclose(*converted, atol=1e-5)


@pytest.mark.parametrize("run", [True, False])
def test_the_best_weights_come_back(model, tmp_path, run):
    """Also with a directory of checkpoints of the run, which are no models of one's own."""
    best = SaveCheckpoint(
        dirpath=tmp_path / "best", monitor="elbo_validation", load_best_on_end=True
    )
    directory = {"checkpoint_dir": tmp_path / "run"} if run else {}
    stages = [(1e-2, 3), (0.3, 3)]
    model.train(stages=stages, callbacks=[best], train_size=0.8, **directory, **TRAIN)
    elbo = model.history["elbo_validation"]["elbo_validation"].astype(float)
    assert elbo.argmin() < 5
    assert float(best.best_model_score) == pytest.approx(elbo.min())
    assert [path.name for path in (tmp_path / "best").iterdir()] == [
        best.best_model_path.rpartition("/")[2]
    ]
    _, weights = read_model(best.best_model_path, "GMVAE")
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert model.is_trained_ and len(elbo) == 6


def test_the_best_weights_where_a_run_is_lost(model, tmp_path):
    """The reason of the stop is what is said."""

    class Spoil(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.current_epoch == 3:
                with torch.no_grad():
                    next(pl_module.module.parameters()).fill_(float("nan"))

    best = SaveCheckpoint(dirpath=tmp_path, monitor="elbo_validation", check_nan_gradients=True)
    stages = [(1e-2, 2), (0.3, 3)]
    with pytest.raises(FloatingPointError, match="epoch 4, where") as caught:
        model.train(stages=stages, callbacks=[best, Spoil()], train_size=0.8, **TRAIN)
    assert best.best_model_path in caught.value.__notes__[0]
    _, weights = read_model(best.best_model_path, "GMVAE")
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert model.is_trained_ and len(model.history["elbo_train"]) == 3


@pytest.mark.parametrize("logger", ["csv", False, True, None, "two"])
def test_history_whatever_the_logger(model, tmp_path, monkeypatch, logger):
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)
    mine = CSVLogger(tmp_path)
    choice = {"csv": mine, "two": [mine, CSVLogger(tmp_path / "other")]}.get(logger, logger)
    model.train(2, logger=choice, **TRAIN, enable_progress_bar=False)
    assert list(model.history["elbo_train"].index) == [0, 1]
    if logger in ("csv", "two"):
        assert model.trainer.logger is mine
        table = pd.read_csv(f"{mine.log_dir}/metrics.csv")
        written = table["elbo_train"].dropna().to_numpy()
        np.testing.assert_allclose(written, model.history["elbo_train"].to_numpy(float).ravel())


def test_unknown_arguments(model):
    with pytest.raises(TypeError, match="train has no argument 'max_epoch'.*'max_epochs'"):
        model.train(max_epoch=2, **CPU)
    with pytest.raises(TypeError, match="no argument 'early_stoping_patience'"):
        model.train(2, early_stoping_patience=2, **CPU)
    with pytest.raises(ValueError, match="early_stopping_patience has no effect without"):
        model.train(2, early_stopping_patience=2, **CPU)
    with pytest.raises(ValueError, match="accelerator='tpu'.*accelerator='auto'"):
        model.train(2, accelerator="tpu", enable_progress_bar=False)
    assert not model.is_trained_


def test_long_trainings_say_so(toy, lines, monkeypatch):
    """Once for a part, after it has timed some minibatches; short ones say nothing."""
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=8, n_layers=1)
    model.train(3, batch_size=100, **CPU)
    assert not lines()
    monkeypatch.setattr("mixvi.core.training.callbacks._LONG", 0.0)
    model.train(3, batch_size=100, **CPU)
    (line,) = lines()
    assert line.startswith("This training takes about 0 minutes: 3 epochs of 5 minibatches.")
    assert "max_epochs" in line
