"""Two processes train what one does."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch

import mixvi
from mixvi.core.training.resuming import read_checkpoint

CPU = {"accelerator": "cpu", "enable_progress_bar": False}
# each process runs it whole, as it would a user's
SCRIPT = """
import os
import sys
from pathlib import Path

import numpy as np
import scvi
import torch

import mixvi
from mixvi.core.training.plan import StagedTrainingPlan

torch.set_num_threads(1)
folder, devices = Path(sys.argv[1]), int(sys.argv[2])
common = {"accelerator": "cpu", "enable_progress_bar": False, "lr": 5e-3}
common |= {"devices": devices, "batch_size": 64 // devices}
if devices > 1:
    common["strategy"] = "ddp"
adata = mixvi.datasets.toy_conditional_blobs(n_per_group=50)
truth = adata.obs["cell_type"].astype(str).to_numpy()
adata.obs["label"] = np.where(np.arange(500) % 3 == 0, "Unknown", truth)


def build(**setup):
    scvi.settings.seed = 0
    mixvi.GMVAE.setup_anndata(adata, **setup)
    return mixvi.GMVAE(adata, n_components=5, n_hidden=32, n_layers=1)


def kept(model):
    history = {name: table[name].to_numpy(float).tolist() for name, table in model.history.items()}
    return {
        "weights": model.module.state_dict(),
        "history": history,
        "train_indices": torch.as_tensor(model.train_indices),
    }


def stop_at(epoch):
    def on_train_batch_end(plan, *args):
        if plan.current_epoch == epoch:
            raise InterruptedError

    # callbacks do not see the epochs in which components start
    StagedTrainingPlan.on_train_batch_end = on_train_batch_end


model = build(labels_key="label")
model.train(30, labelled_fraction=0.3, train_size=0.9, early_stopping=True, **common)
results = {"semi": kept(model)}
results["semi"]["accuracy"] = float((model.predict(level="label") == truth).mean())
model.save(folder / f"model{os.environ.get('LOCAL_RANK', 0)}")
if devices > 1:
    train = common | {"init_epochs": 3, "train_size": 0.9}
    model = build()
    model.train(4, **train)
    results["whole"] = kept(model)
    model = build()
    stop_at(2)
    try:
        model.train(4, checkpoint_dir=folder / "run", **train)
    except InterruptedError:
        pass
    # in the first phase; then in the second
    stop_at(3)
    try:
        model.train(4, checkpoint_dir=folder / "run", resume=True, **train)
    except InterruptedError:
        pass
    stop_at(None)
    model.train(4, checkpoint_dir=folder / "run", resume=True, **train)
    results["resumed"] = kept(model)
torch.save(results, folder / f"rank{os.environ.get('LOCAL_RANK', 0)}.pt")
"""


def results(folder, rank=0):
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def assert_equal(ours, others):
    assert ours["history"] == others["history"]
    assert torch.equal(ours["train_indices"], others["train_indices"])
    for name, tensor in ours["weights"].items():
        assert torch.equal(tensor, others["weights"][name]), name


def test_two_processes(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "2"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = results(tmp_path), results(tmp_path, rank=1)
    # what was saved is an ordinary model
    adata = mixvi.datasets.toy_conditional_blobs(n_per_group=50)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    adata.obs["label"] = np.where(np.arange(500) % 3 == 0, "Unknown", truth)
    model = mixvi.GMVAE.load(tmp_path / "model0", adata)
    assert (model.predict(level="label") == truth).mean() > 0.99
    folder = tmp_path / "one"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [str(script), str(folder), "1"])
    runpy.run_path(str(script))
    one = results(folder)
    for case in ("semi", "whole", "resumed"):
        assert_equal(first[case], second[case])
    assert_equal(first["whole"], first["resumed"])
    alone, together = one["semi"]["history"], first["semi"]["history"]
    assert alone.keys() == together.keys()
    for name in ("elbo_train", "elbo_validation"):
        start, end = alone[name][0], np.mean(alone[name][-5:])
        assert np.mean(together[name][-5:]) < 0.5 * start
        # seeds differ by a tenth
        assert np.mean(together[name][-5:]) == pytest.approx(end, rel=0.15)
    assert one["semi"]["accuracy"] > 0.99 and first["semi"]["accuracy"] > 0.99
    checkpoint = read_checkpoint(tmp_path / "run" / "training.ckpt")
    assert len(checkpoint["mixvi"]["random"]) == 2


def test_processes_that_could_give_no_model_back_are_refused(toy):
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=8)
    for strategy in ("ddp_spawn", "ddp_fork"):
        with pytest.raises(ValueError, match="strategy='ddp' in a script"):
            model.train(1, devices=2, strategy=strategy, **CPU)
    assert not model.is_trained_
