"""A training that is killed twenty times, beside one that is not.

Each process goes on in the same ``checkpoint_dir`` and is killed (SIGKILL) at a random moment of a
random epoch, in either phase of a GMVAE's training. After each kill every checkpoint is read. An
epoch counts as lost if it had been followed by the start of another and is trained again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import scvi
import torch
from benchmarks.compare import in_child
from benchmarks.record import quiet, write
from benchmarks.speed import synthetic

import mixvi
from mixvi.core.training.plan import StagedTrainingPlan
from mixvi.core.training.resuming import WholeFiles, read_checkpoint

N_CELLS = 2000
# different, because phases are told apart by them
INIT_EPOCHS, MAX_EPOCHS = 20, 40
TOTAL = INIT_EPOCHS + MAX_EPOCHS
MODEL = {"n_components": 10, "likelihood": "nb", "n_hidden": 128, "n_layers": 1}
CELLS = synthetic(N_CELLS)


def _count_epochs(counts) -> None:
    """Note the first epoch of this process and the running one, over both parts of training."""
    begin = StagedTrainingPlan.on_train_epoch_start

    def on_train_epoch_start(plan: StagedTrainingPlan) -> None:
        # callbacks do not see the epochs in which components start
        before = 0 if plan.trainer.max_epochs == INIT_EPOCHS else INIT_EPOCHS
        if counts[0] < 0:
            counts[0] = before + plan.current_epoch
        counts[1] = before + plan.current_epoch
        begin(plan)

    StagedTrainingPlan.on_train_epoch_start = on_train_epoch_start


def _train(seed: int, counts, directory: Path | None, out: Path | None) -> dict:
    quiet()
    # this process is a child of its own, and trains once
    _count_epochs(counts)
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(CELLS)
    model = mixvi.GMVAE(CELLS, **MODEL)
    start = time.perf_counter()
    model.train(
        MAX_EPOCHS,
        init_epochs=INIT_EPOCHS,
        train_size=0.9,
        accelerator="cpu",
        enable_progress_bar=False,
        checkpoint_dir=directory,
        resume=directory is not None,
    )
    seconds = time.perf_counter() - start
    if out is not None:
        tables = {"start": model.start_history, "training": model.history}
        history = {
            part: {name: table[name].tolist() for name, table in parts.items()}
            for part, parts in tables.items()
        }
        torch.save({"weights": model.module.state_dict(), "history": history}, out)
    return {"train_seconds": seconds}


def _killed(context, life: int, directory: Path, target: int, wait: float) -> dict:
    """Start a process, kill it ``wait`` seconds into epoch ``target``, and read what it left."""
    counts = context.RawArray("i", [-1, -1])
    process = context.Process(target=_train, args=(life, counts, directory, None))
    process.start()
    while counts[1] < target:
        if not process.is_alive():
            raise RuntimeError("The process ended before it was killed.")
        time.sleep(0.001)
    time.sleep(wait)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError("The process was not killed.")
    first, begun = counts
    stored, unreadable = 0, 0
    for i, phase in enumerate(("start", "training")):
        path = directory / f"{phase}.ckpt"
        if path.exists():
            try:
                stored = i * INIT_EPOCHS + read_checkpoint(path)["epoch"]
            except ValueError:
                unreadable += 1
    return {
        "first_epoch": first,
        "epoch_running": begun,
        "seconds_after_target": wait,
        "epoch_stored": stored,
        "unreadable": unreadable,
        "while_writing": any(directory.glob("*.partial")),
    }


def _write_seconds(checkpoint: dict, path: Path) -> float:
    """Median time of writing a checkpoint to the disk."""
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        WholeFiles().save_checkpoint(checkpoint, path)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    quiet()
    draw = random.Random(0)
    context = multiprocessing.get_context("fork")
    # the last epochs are left out, so that no process ends before it is killed
    targets = sorted(draw.randrange(TOTAL - 5) for _ in range(kills))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = context.RawArray("i", [-1, -1])
        uninterrupted = in_child(_train, 0, counts, None, folder / "whole.pt")
        directory = folder / "killed"
        epoch_seconds = uninterrupted["train_seconds"] / TOTAL
        runs = [
            _killed(context, i, directory, target, draw.uniform(0.0, epoch_seconds))
            for i, target in enumerate(targets)
        ]
        # one more process ends the run
        last = context.RawArray("i", [-1, -1])
        in_child(_train, kills, last, directory, folder / "killed.pt")
        whole, killed = (torch.load(folder / f"{n}.pt") for n in ("whole", "killed"))
        checkpoint = directory / "training.ckpt"
        megabytes = checkpoint.stat().st_size / 2**20
        write_seconds = _write_seconds(read_checkpoint(checkpoint), folder / "again.ckpt")
    starts = [*(run["first_epoch"] for run in runs[1:]), last[0]]
    lost = [max(0, r["epoch_running"] - s) for r, s in zip(runs, starts, strict=True)]
    equal = all(torch.equal(t, killed["weights"][k]) for k, t in whole["weights"].items())
    summary = {
        "kills": kills,
        "kills_while_writing": sum(run["while_writing"] for run in runs),
        "unreadable_checkpoints": sum(run["unreadable"] for run in runs),
        "complete_epochs_lost": sum(lost),
        "weights_equal": equal,
        "records_equal": whole["history"] == killed["history"],
        "checkpoint_mb": megabytes,
        "checkpoint_seconds": write_seconds,
        "epoch_seconds": epoch_seconds,
    }
    settings = {"n_cells": N_CELLS, "init_epochs": INIT_EPOCHS, "max_epochs": MAX_EPOCHS, **MODEL}
    write("resume", settings, runs, summary)


if __name__ == "__main__":
    main()
