"""A process that is killed in training leaves what the next one needs."""

from __future__ import annotations

import subprocess
import sys

import torch

SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch, scvi, mixvi
from mixvi.core.training.resuming import read_checkpoint

torch.set_num_threads(1)
folder = Path(sys.argv[1])

def begin(name, out):
    # forked before anything is trained: a process of its own, without another import
    process = os.fork()
    if process:
        return process
    adata = mixvi.datasets.toy_conditional_blobs(n_per_group=25)
    scvi.settings.seed = 0
    mixvi.GMVAE.setup_anndata(adata)
    model = mixvi.GMVAE(adata, n_components=5, n_hidden=16, n_layers=1)
    model.train(20, init_epochs=20, accelerator="cpu", enable_progress_bar=False, batch_size=50,
                checkpoint_dir=folder / name, resume=True)
    torch.save(model.module.state_dict(), folder / out)
    os._exit(0)

for phase in ("start", "training"):
    path = folder / "killed" / f"{phase}.ckpt"
    process = begin("killed", "killed.pt")
    while not path.exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.1))
    os.kill(process, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    print(phase, read_checkpoint(path)["epoch"])
assert not (folder / "killed.pt").exists()
for name in ("killed", "whole"):
    assert os.waitpid(begin(name, f"{name}.pt"), 0)[1] == 0
"""


def test_a_killed_process(tmp_path):
    """SIGKILL at random moments, once in either phase; the third process ends the run."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = torch.load(tmp_path / "killed.pt", weights_only=True)
    for name, tensor in torch.load(tmp_path / "whole.pt", weights_only=True).items():
        assert torch.equal(tensor, weights[name]), (name, done.stdout)
