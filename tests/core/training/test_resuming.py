"""A stopped training goes on as if it had not been stopped."""

from __future__ import annotations

import json
import os
import random
import zipfile
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

import mixvi
from mixvi.core.training.plan import StagedTrainingPlan
from mixvi.core.training.resuming import read_checkpoint, whole_file

CPU = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 50}


@contextmanager
def watched(stop_after=None):
    """Epochs that are trained, in whichever part of training; it stops after so many minibatches.

    Callbacks would see only the part that was asked for.
    """
    epochs, left = [], stop_after
    begin = StagedTrainingPlan.on_train_epoch_start

    def on_train_epoch_start(plan):
        epochs.append(plan.current_epoch)
        begin(plan)

    def on_train_batch_end(plan, *args):
        nonlocal left
        left = left and left - 1
        if left == 0:
            raise InterruptedError("stopped")

    with (
        patch.object(StagedTrainingPlan, "on_train_epoch_start", on_train_epoch_start),
        patch.object(StagedTrainingPlan, "on_train_batch_end", on_train_batch_end),
        nullcontext() if stop_after is None else pytest.raises(InterruptedError),
    ):
        yield epochs


def build(cls, adata, seed=0, setup=None, **options):
    scvi.settings.seed = seed
    cls.setup_anndata(adata, **(setup or {}))
    return cls(adata, **({"n_hidden": 16, "n_layers": 1} | options))


def assert_same(model, other):
    weights, others = model.module.state_dict(), other.module.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
    for ours, others in (
        (model.history, other.history),
        (model.start_history, other.start_history),
    ):
        assert (ours or {}).keys() == (others or {}).keys()
        for name, table in (ours or {}).items():
            pd.testing.assert_frame_equal(table, others[name])
    for name in ("train_indices", "validation_indices"):
        np.testing.assert_array_equal(getattr(model, name), getattr(other, name))
    assert model.is_trained_ and other.is_trained_
    assert getattr(model, "assignment_", None) == getattr(other, "assignment_", None)


KEYS = {"labels_key": "cell_type", "condition_key": "condition"}
CASES = {
    "ae": (mixvi.AE, {}, {}, {}),
    "stages": (mixvi.VAE, {}, {}, {"stages": [(1e-3, 2), (1e-2, 2), (1e-4, 1)]}),
    "condition": (mixvi.CVAE, {"condition_key": "condition"}, {}, {}),
    "schedule": (
        mixvi.VAE,
        {},
        {},
        {
            "train_size": 0.7,
            "plan_kwargs": {
                "reduce_lr_on_plateau": True,
                "lr_patience": 0,
                "lr_threshold": 10.0,
                "lr_scheduler_metric": "elbo_validation",
            },
        },
    ),
    "schedule after kmeans": (
        mixvi.GMVAE,
        {},
        {"n_components": 5},
        {
            "init_epochs": 1,
            "train_size": 0.8,
            "plan_kwargs": {
                "reduce_lr_on_plateau": True,
                "lr_scheduler_metric": "elbo_validation",
            },
        },
    ),
    "kmeans": (mixvi.GMVAE, {}, {"n_components": 5}, {"init_epochs": 2, "train_size": 0.8}),
    "kmeans on chosen cells": (
        mixvi.GMVAE,
        {},
        {"n_components": 5},
        {"init_epochs": 2, "indices": np.arange(20, 220)},
    ),
    "semi": (mixvi.CGMVAE, KEYS, {}, {"labelled_fraction": 0.3, "train_size": 0.9}),
    "discriminant": (
        mixvi.GMVAE,
        {"labels_key": "cell_type"},
        {},
        {"init": "discriminant", "init_epochs": 2},
    ),
}


@pytest.fixture
def cells():
    adata = mixvi.datasets.toy_conditional_blobs(n_per_group=25)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.obs.loc[adata.obs_names[::3], "cell_type"] = "Unknown"
    return adata


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_ends_as_one_that_was_not(cells, tmp_path, case):
    """Stopped in each part of training, then resumed by another model with another seed."""
    cls, setup, options, train = CASES[case]
    train = CPU | ({} if "stages" in train else {"max_epochs": 5}) | train
    whole = build(cls, cells, setup=setup, **options)
    whole.train(**train)
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    with_directory = build(cls, cells, setup=setup, **options)
    with_directory.train(checkpoint_dir=tmp_path / "whole", **train)
    assert_same(whole, with_directory)
    for n_batches in (2, 14):
        directory = tmp_path / str(n_batches)
        stopped = build(cls, cells, setup=setup, **options)
        with watched(n_batches):
            stopped.train(checkpoint_dir=directory, **train)
        resumed = build(cls, cells, seed=1, setup=setup, **options)
        random.seed(n_batches)
        resumed.train(checkpoint_dir=directory, resume=True, **train)
        assert_same(whole, resumed)
        assert torch.equal(torch.get_rng_state(), states[0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    # the model that was stopped may itself go on
    stopped.train(checkpoint_dir=directory, resume=True, **train)
    assert_same(whole, stopped)


def test_pythons_generator_goes_on(cells, tmp_path):
    class Draw(Callback):
        drawn = []

        def on_train_epoch_end(self, *args):
            self.drawn.append((random.random(), np.random.normal()))

    random.seed(0)
    model = build(mixvi.VAE, cells)
    model.train(6, callbacks=[Draw()], **CPU)
    expected, Draw.drawn = Draw.drawn, []
    random.seed(0)
    model = build(mixvi.VAE, cells)
    with watched(18):
        model.train(6, callbacks=[Draw()], checkpoint_dir=tmp_path, **CPU)
    model.train(6, callbacks=[Draw()], checkpoint_dir=tmp_path, resume=True, **CPU)
    assert Draw.drawn == expected


def test_it_goes_on_after_the_last_complete_epoch(cells, tmp_path):
    model = build(mixvi.GMVAE, cells, n_components=5)
    train = CPU | {"init_epochs": 3, "checkpoint_dir": tmp_path}
    with watched(2 * 5 + 1):
        model.train(4, **train)
    assert read_checkpoint(tmp_path / "start.ckpt")["epoch"] == 2
    assert model.history is None and not model.is_trained_
    with watched(5 + 3 * 5 + 2) as epochs:
        model.train(4, resume=True, **train)
    assert epochs == [2, 0, 1, 2, 3]
    with watched() as epochs:
        model.train(4, resume=True, **train)
    # what is finished is not trained again
    assert epochs == [3]
    with watched() as epochs:
        model.train(4, resume=True, **train)
    assert epochs == []
    assert len(model.history["elbo_train"]) == 4
    assert len(model.start_history["elbo_train"]) == 3


@pytest.mark.parametrize(("warmup", "least"), [(0, 5.0), (6, 1e6)])
def test_early_stopping(cells, tmp_path, warmup, least):
    """The epochs it has waited are remembered, and so is that it has stopped."""
    train = CPU | {
        "max_epochs": 40,
        "lr": 0.02,
        "early_stopping": True,
        "early_stopping_patience": 3,
        "early_stopping_min_delta": least,
        "early_stopping_warmup_epochs": warmup,
    }
    whole = build(mixvi.VAE, cells)
    whole.train(**train)
    n_epochs = len(whole.history_["elbo_validation"])
    assert 5 < n_epochs < 20
    for epoch in (3, n_epochs - 1):
        directory = tmp_path / str(epoch)
        stopped = build(mixvi.VAE, cells)
        with watched(5 * epoch + 1):
            stopped.train(checkpoint_dir=directory, **train)
        resumed = build(mixvi.VAE, cells, seed=1)
        resumed.train(checkpoint_dir=directory, resume=True, **train)
        assert_same(whole, resumed)
    again = build(mixvi.VAE, cells, seed=2)
    with watched() as epochs:
        again.train(checkpoint_dir=directory, resume=True, **train)
    assert epochs == []
    assert_same(whole, again)


def test_records_of_earlier_calls_stay(cells, tmp_path):
    """A later call of train is resumed; the records from before it come from the directory."""
    whole = build(mixvi.VAE, cells)
    whole.train(2, **CPU)
    whole.train(3, **CPU)
    stopped = build(mixvi.VAE, cells)
    stopped.train(2, **CPU)
    with watched(8):
        stopped.train(3, checkpoint_dir=tmp_path, **CPU)
    resumed = build(mixvi.VAE, cells, seed=1)
    resumed.train(3, checkpoint_dir=tmp_path, resume=True, **CPU)
    assert_same(whole, resumed)
    assert len(resumed.history_["elbo_train"]) == 5


def test_backed_data(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    whole = build(mixvi.VAE, backed)
    whole.train(4, train_size=0.8, **CPU)
    stopped = build(mixvi.VAE, backed)
    train = CPU | {"train_size": 0.8, "checkpoint_dir": tmp_path / "run"}
    with watched(10):
        stopped.train(4, **train)
    stopped.train(4, resume=True, **train)
    assert_same(whole, stopped)


def test_sparse_counts_wherever_they_lie(counts, tmp_path):
    """The first layer's weights lie by column, and data may lie elsewhere when a run goes on."""
    counts = counts.copy()
    counts.X = counts.X.tocsr()
    model = {"likelihood": "nb", "setup": {"batch_key": "batch"}}
    whole = build(mixvi.VAE, counts, **model)
    whole.train(4, data_on="host", **CPU)
    stopped = build(mixvi.VAE, counts, **model)
    train = CPU | {"checkpoint_dir": tmp_path / "run"}
    with watched(10):
        stopped.train(4, data_on="host", **train)
    resumed = build(mixvi.VAE, counts, seed=1, **model)
    resumed.train(4, data_on="device", resume=True, **train)
    assert_same(whole, resumed)


def test_a_file_is_whole_or_the_last_one(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as file:
        file.write(b"first")
    with pytest.raises(InterruptedError), whole_file(path) as file:
        file.write(b"sec")
        raise InterruptedError
    assert path.read_bytes() == b"first"
    with whole_file(path) as file:
        file.write(b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def stopped_run(cells, tmp_path):
    """A directory with a run that was stopped in its third epoch."""
    with watched(12):
        build(mixvi.VAE, cells).train(4, checkpoint_dir=tmp_path / "run", **CPU)
    return tmp_path / "run"


def test_only_one_run_a_directory(cells, stopped_run):
    model = build(mixvi.VAE, cells)
    with pytest.raises(ValueError, match="holds a run already.*resume=True"):
        model.train(4, checkpoint_dir=stopped_run, **CPU)
    with pytest.raises(ValueError, match="resume=True needs checkpoint_dir"):
        model.train(4, resume=True, **CPU)
    with pytest.raises(ValueError, match="checkpoint_dir or ckpt_path"):
        model.train(4, checkpoint_dir=stopped_run, resume=True, ckpt_path="other.ckpt", **CPU)
    with pytest.raises(ValueError, match="is a file"):
        model.train(4, checkpoint_dir=stopped_run / "run.json", **CPU)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_epochs": 5}, r"max_epochs \(was 4, now 5\)"),
        ({"lr": 1e-2, "batch_size": 25}, "batch_size.*; lr"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val"),
        ({"plan_kwargs": {"eps": 1e-3}}, "plan_kwargs"),
    ],
)
def test_other_settings_are_refused(cells, stopped_run, change, named):
    model = build(mixvi.VAE, cells)
    with pytest.raises(ValueError, match=named):
        model.train(
            **({"max_epochs": 4, "checkpoint_dir": stopped_run} | CPU | change), resume=True
        )


def test_another_model_is_refused(cells, stopped_run):
    train = CPU | {"checkpoint_dir": stopped_run, "resume": True}
    with pytest.raises(ValueError, match=r"model \(was 'VAE', now 'AE'\)"):
        build(mixvi.AE, cells).train(4, **train)
    with pytest.raises(ValueError, match=r"n_latent \(was 12, now 3\)"):
        build(mixvi.VAE, cells, n_latent=3).train(4, **train)
    with pytest.raises(ValueError, match="data of 'condition'"):
        build(mixvi.VAE, cells, setup={"condition_key": "condition"}).train(4, **train)


def test_other_data_are_refused(cells, stopped_run):
    train = CPU | {"checkpoint_dir": stopped_run, "resume": True}
    with pytest.raises(ValueError, match="data shape"):
        build(mixvi.VAE, cells[:-1].copy()).train(4, **train)
    turned = cells[::-1].copy()
    with pytest.raises(ValueError, match="data total weighted by row"):
        build(mixvi.VAE, turned).train(4, **train)
    changed = cells.copy()
    changed.X[3, 2] += 0.5
    with pytest.raises(ValueError, match=r"data total \("):
        build(mixvi.VAE, changed).train(4, **train)
    renamed = cells.copy()
    renamed.var_names = [f"other_{name}" for name in renamed.var_names]
    with pytest.raises(ValueError, match="names of 'X'"):
        build(mixvi.VAE, renamed).train(4, **train)


def test_where_and_how_loud_may_differ(cells, stopped_run):
    model = build(mixvi.VAE, cells)
    model.train(
        4,
        checkpoint_dir=str(stopped_run),
        resume=True,
        callbacks=[Callback()],
        log_every_n_steps=3,
        **(CPU | {"devices": 1}),
    )
    assert model.is_trained_


def parts_content(path, part):
    with zipfile.ZipFile(path) as parts:
        return parts.read(part)


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        changed = bytearray(content)
        with zipfile.ZipFile(path) as parts:
            # between parts lies padding, which nothing reads
            largest = max(parts.infolist(), key=lambda part: part.file_size)
        changed[content.index(parts_content(path, largest)) + largest.file_size // 2] ^= 1
        path.write_bytes(bytes(changed))


@pytest.mark.parametrize("how", ["cut", "empty", "changed"])
def test_damaged_checkpoints_are_refused(cells, stopped_run, how):
    damage(stopped_run / "training.ckpt", how)
    with pytest.raises(ValueError, match="training.ckpt is damaged"):
        build(mixvi.VAE, cells).train(4, checkpoint_dir=stopped_run, resume=True, **CPU)


def test_what_a_kill_leaves_behind_is_ignored(cells, stopped_run):
    """A file that was being written has another name."""
    whole = build(mixvi.VAE, cells)
    whole.train(4, **CPU)
    (stopped_run / "training.ckpt.partial").write_bytes(b"half")
    (stopped_run / "run.json.partial").write_bytes(b"{")
    model = build(mixvi.VAE, cells, seed=1)
    model.train(4, checkpoint_dir=stopped_run, resume=True, **CPU)
    assert_same(whole, model)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_a_damaged_run_file_is_refused(cells, stopped_run, content):
    path = stopped_run / "run.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="run.json is missing or damaged"):
        build(mixvi.VAE, cells).train(4, checkpoint_dir=stopped_run, resume=True, **CPU)


def test_other_formats_are_refused(cells, stopped_run):
    path = stopped_run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        build(mixvi.VAE, cells).train(4, checkpoint_dir=stopped_run, resume=True, **CPU)


def test_other_processes_are_refused(cells, stopped_run):
    path = stopped_run / "training.ckpt"
    checkpoint = read_checkpoint(path)
    checkpoint["mixvi"]["random"] *= 2
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"had 2 process\(es\), now there are 1"):
        build(mixvi.VAE, cells).train(4, checkpoint_dir=stopped_run, resume=True, **CPU)


def test_a_malicious_checkpoint_is_not_executed(cells, stopped_run, tmp_path):
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (open, (str(sprung), "w"))

    checkpoint = read_checkpoint(stopped_run / "training.ckpt")
    torch.save(checkpoint | {"trap": Trap()}, stopped_run / "training.ckpt")
    with pytest.raises(ValueError, match="more than tensors"):
        build(mixvi.VAE, cells).train(4, checkpoint_dir=stopped_run, resume=True, **CPU)
    assert not sprung.exists()


def test_a_state_that_could_not_be_read_back_is_refused_at_once(cells, tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"path": tmp_path}

    with pytest.raises(ValueError, match="Leave out callbacks"):
        build(mixvi.VAE, cells).train(2, callbacks=[Odd()], checkpoint_dir=tmp_path / "run", **CPU)


def test_settings_that_failed_leave_no_run(cells, tmp_path):
    model = build(mixvi.GMVAE, cells, n_components=5)
    with pytest.raises(ValueError, match="batch_size"):
        model.train(2, checkpoint_dir=tmp_path / "run", **(CPU | {"batch_size": 1}))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="too few"):
        model.train(2, checkpoint_dir=tmp_path / "run", indices=[0, 1, 2], **CPU)
    model.train(2, checkpoint_dir=tmp_path / "run", **CPU)
    assert model.is_trained_
