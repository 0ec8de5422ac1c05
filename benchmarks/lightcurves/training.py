"""Short training of the room's models, the same in all of its benchmarks."""

from __future__ import annotations

from math import ceil
from typing import Any

import scvi
from anndata import AnnData
from benchmarks.record import TRAINER

# chosen on Debosscher's stars, which are not scored
SHORT: dict[str, Any] = {
    "width": 64,
    "batch_size": 64,
    "lr": 1e-3,
    # in few updates components would hardly leave where they start
    "lr_of_prior": 2e-2,
    "lcvade": {"warmup": 500, "classification_ratio": 20.0},
    "setup": {"epoch_key": "epoch", "max_points": 100},
    "without period": {"features": ["mean", "log_spread"]},
}


def setup_of(with_period: bool) -> dict[str, Any]:
    """Arguments of ``setup_anndata`` but the labels."""
    return SHORT["setup"] | ({} if with_period else SHORT["without period"])


def epochs_of(updates: int, train: AnnData) -> int:
    """Passes over the curves that have so many updates."""
    return ceil(updates / (train.n_obs // min(SHORT["batch_size"], train.n_obs)))


def trained(
    cls: type,
    train: AnnData,
    seed: int,
    updates: int,
    with_period: bool = True,
    labels_key: str = "label",
    **options,
):
    """A model after so many updates."""
    scvi.settings.seed = seed
    cls.setup_anndata(train, labels_key=labels_key, **setup_of(with_period))
    model = cls(train, width=SHORT["width"], **options)
    lr = dict.fromkeys(model.module.network_names, SHORT["lr"])
    if "prior" in lr:
        lr["prior"] = SHORT["lr_of_prior"]
    batch_size = min(SHORT["batch_size"], train.n_obs)
    model.train(epochs_of(updates, train), lr=lr, batch_size=batch_size, **TRAINER)
    return model
