"""Land cover from few labelled pixels: scribbles and blocks, clouds, by pixels and by U-Nets.

Tiles of one place are split into train, validation and test by the seed; of training tiles a share
of the labelled pixels is shown. Settings, and the epoch of models, are those of the best accuracy
on validation tiles, whose labels all are used for that by every method. Three quarters of the
labels of Sentinel-2 are forest; the toy series are made up. To try: ``--seeds 1 --updates 20
--cases "toy, no clouds, 5% scribbles" --name satellite/trial``.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.record import add_device, use_device
from benchmarks.satellite.peers import FOREST, LOGISTIC, QUANTILES, Task, forest, logistic, majority
from benchmarks.satellite.segmenters import KINDS, trained

from mixvi.core.data.keys import UNLABELLED
from mixvi.datasets import (
    mato_grosso_raster,
    partial_labels,
    sentinel2_patch,
    split_blocks,
    toy_satellite_series,
)

SETTINGS: dict = {
    "quantiles": QUANTILES,
    "forest": FOREST,
    "logistic": LOGISTIC,
    "neighbours": 5,
    "looks": 4,
    "batch_size": 4,
    "lr": 2e-3,
    "network": {"width": 8, "n_levels": 2},
    "augmentation": {},
    # what differs from its defaults
    "mixmatch": {},
    "toy": {"n_tiles": 24, "n_dates": 24, "size": 24},
    # name: data set, its cloud fraction, share of labelled pixels, form
    "cases": {
        f"{name}, {share:.0%} {form}": [data, clouds, share, form]
        for name, data, clouds, shares, forms in (
            ("Sentinel-2", "sentinel2", None, (0.01, 0.05, 0.2), ("scribbles", "blocks")),
            ("MODIS Mato Grosso", "mato_grosso", None, (0.01, 0.05, 0.2), ("scribbles", "blocks")),
            ("MODIS Mato Grosso", "mato_grosso", None, (1.0,), ("scribbles",)),
            ("toy, no clouds", "toy", 0.0, (0.05,), ("scribbles",)),
            ("toy, 40% clouds", "toy", 0.4, (0.05,), ("scribbles",)),
            ("toy, 80% clouds", "toy", 0.8, (0.05,), ("scribbles",)),
        )
        for share in shares
        for form in forms
    },
}


def _tiles(data: str, clouds: float | None, seed: int) -> AnnData:
    """Tiles with all their labels."""
    if data == "sentinel2":
        tiles = sentinel2_patch(tile=20)
    elif data == "mato_grosso":
        tiles = mato_grosso_raster(tile=12)
    else:
        return toy_satellite_series(**SETTINGS["toy"], cloud_fraction=clouds, seed=seed)
    # places without any label teach and score nothing, and tiles without a valid pixel are refused
    labelled = tiles.obs["block"][(tiles.obsm["labels"] >= 0).any(axis=(1, 2))]
    seen = tiles.obsm["valid"].any(axis=(1, 2, 3, 4))
    return tiles[tiles.obs["block"].isin(labelled).to_numpy() & seen].copy()


def prepared(case: str, seed: int) -> Task:
    """Tiles of which a part of the training labels is shown, the same for every method."""
    data, clouds, share, form = SETTINGS["cases"][case]
    tiles = _tiles(data, clouds, seed)
    split = split_blocks(tiles, seed=seed).to_numpy()
    truth = tiles.obsm["labels"].copy()
    shown = partial_labels(truth, share, form, seed)
    train = (split == "train")[:, None, None]
    tiles.obsm["labels"] = np.where(train | (shown < UNLABELLED), shown, UNLABELLED)
    return Task(tiles, truth, split == "val", split == "test")


def _forest(case: str, seed: int) -> dict:
    task = prepared(case, seed)
    around = SETTINGS["neighbours"]
    return {"pixel": forest(task, seed), "with neighbours": forest(task, seed, around)}


def _model(kind: str, case: str, seed: int) -> dict:
    return trained(kind, prepared(case, seed), seed, SETTINGS)


METHODS = {
    "majority": lambda case, seed: majority(prepared(case, seed)),
    "logistic regression": lambda case, seed: logistic(prepared(case, seed), seed),
    "random forest": _forest,
    **{kind: partial(_model, kind) for kind in KINDS},
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=400, help="of models")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cases", nargs="+", default=list(SETTINGS["cases"]))
    parser.add_argument("--resume", action="store_true", help="keep the runs of the record")
    parser.add_argument("--name", default="satellite/few_labels", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS["updates"] = given.updates
    methods = {name: METHODS[name] for name in given.methods}
    compare(
        given.name, methods, given.cases, SETTINGS, given.seeds, given.jobs, resume=given.resume
    )


if __name__ == "__main__":
    main()
