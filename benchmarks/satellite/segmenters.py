"""Models that segment, trained for a number of updates, at their best look on validation tiles."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import scvi
from anndata import AnnData
from benchmarks.record import TRAINER
from benchmarks.satellite.peers import Task, figures, validation_accuracy

from mixvi.satellite import MixMatchSegmenter, SymmetricHVAE, UNetSegmenter

KINDS = {"U-Net": UNetSegmenter, "MixMatch": MixMatchSegmenter, "SymmetricHVAE": SymmetricHVAE}
LABELLED_FRACTION = 0.5
# one rate for all looks
_PLAN = {"plan_kwargs": {"lr_decay": 1.0}}


def trained(kind: str, task: Task, seed: int, settings: Mapping) -> dict:
    """Figures of a model that is trained on the tiles that neither validate nor test.

    Parameters
    ----------
    kind
        A key of ``KINDS``.
    settings
        ``updates``, ``looks``, ``batch_size``, ``lr`` and ``augmentation``, the same for all kinds,
        ``network`` of both U-Nets, ``mixmatch`` of MixMatch alone. Minibatches of MixMatch and
        `SymmetricHVAE` have as many tiles with labels as the U-Net's, and more without. Updates are
        rounded down to whole epochs.
    """
    model, tiles = _built(kind, task, seed, settings)
    batch_size = _batch_size(kind, tiles, settings)
    an_epoch = _updates_an_epoch(kind, tiles, batch_size)
    part = max(1, settings["updates"] // settings["looks"] // an_epoch)
    p = np.zeros(
        (len(task.truth), len(task.tiles.uns["classes"]), *task.truth.shape[1:]), np.float32
    )
    val, test = (task.tiles[rows].copy() for rows in (task.val, task.test))
    best, most, updates = None, -1.0, 0
    for look in range(1, settings["looks"] + 1):
        model.train(part, batch_size=batch_size, lr=settings["lr"], **_PLAN, **TRAINER)
        p[task.val] = model.predict(val, soft=True)
        accuracy = validation_accuracy(task, p)
        if accuracy > most:
            p[task.test] = model.predict(test, soft=True)
            best, most, updates = p.copy(), accuracy, look * part * an_epoch
    # updates at the look that is scored
    return figures(task, best) | {"updates": updates}


def seconds_an_update(kind: str, task: Task, settings: Mapping) -> float:
    """Measured over one epoch, after one to warm up; on a CPU its time, which others may share."""
    clock = time.process_time if TRAINER["accelerator"] == "cpu" else time.perf_counter
    model, tiles = _built(kind, task, 0, settings)
    batch_size = _batch_size(kind, tiles, settings)
    options = {"batch_size": batch_size, "lr": settings["lr"], **_PLAN, **TRAINER}
    model.train(1, **options)
    start = clock()
    model.train(1, **options)
    return (clock() - start) / _updates_an_epoch(kind, tiles, batch_size)


def _built(kind: str, task: Task, seed: int, settings: Mapping):
    tiles = task.tiles[~(task.val | task.test)].copy()
    scvi.settings.seed = seed
    KINDS[kind].setup_anndata(tiles)
    network, mixmatch = settings["network"], settings["mixmatch"]
    own = {"U-Net": network, "MixMatch": network | mixmatch, "SymmetricHVAE": {}}
    return KINDS[kind](tiles, augmentation=settings["augmentation"], **own[kind]), tiles


def _batch_size(kind: str, tiles: AnnData, settings: Mapping) -> int:
    size = settings["batch_size"]
    some_lack_labels = not _has_labels(tiles).all()
    return round(size / LABELLED_FRACTION) if kind != "U-Net" and some_lack_labels else size


def _has_labels(tiles: AnnData) -> np.ndarray:
    return (tiles.obsm["labels"] >= 0).any(axis=(1, 2))


def _updates_an_epoch(kind: str, tiles: AnnData, batch_size: int) -> int:
    labelled = _has_labels(tiles).sum()
    passed = labelled
    if kind != "U-Net" and labelled < tiles.n_obs:
        # passes are over tiles without a label, which fill a share of each minibatch
        passed = (tiles.n_obs - labelled) / (1 - LABELLED_FRACTION)
    return max(1, int(passed // batch_size))
