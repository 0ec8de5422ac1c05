"""CamVid with few labelled images: a U-Net by labels alone, and by MixMatch with the other images.

Images of a quarter of the size; the usual split, of which half of the training images and all
validation images are of one drive. Both have the same network, augmentation, number of updates and
labelled images an update, which of MixMatch has as many others and takes longer; so has
`SymmetricHVAE`, whose network is its default. Each is looked at several times while it trains, and
the look of the best validation accuracy is scored on test images. ``--estimate`` only says how long
a run would take. To try: ``--seeds 1 --updates 8 --labelled 10 --name satellite/trial``.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from benchmarks.compare import compare
from benchmarks.record import add_device, quiet, use_device
from benchmarks.satellite.peers import Task, majority
from benchmarks.satellite.segmenters import KINDS, seconds_an_update, trained

from mixvi.core.data.keys import UNLABELLED
from mixvi.datasets import camvid

LABELLED = ("10", "50", "100", "all")
SETTINGS: dict = {
    "shrunk_by": 4,
    "looks": 3,
    "batch_size": 8,
    "lr": 2e-3,
    "network": {"width": 8, "n_levels": 1},
    "augmentation": {"flips": "horizontal", "turns": False},
    # what differs from its defaults
    "mixmatch": {},
}


def prepared(case: str, seed: int) -> Task:
    """Shrunk images; of the training ones ``case``, drawn by the seed, keep their labels."""
    images = camvid()
    by = SETTINGS["shrunk_by"]
    x = images.obsm["series"]
    *lead, height, width = x.shape
    x = x.reshape(*lead, height // by, by, width // by, by).mean(axis=(-3, -1))
    truth = np.ascontiguousarray(images.obsm["labels"][:, ::by, ::by])
    del images.obsm["series"], images.obsm["labels"]
    split = images.obs["split"].to_numpy()
    train = np.flatnonzero(split == "train")
    if case != "all":
        train = np.random.default_rng(seed).permutation(train)[: int(case)]
    labels = np.full_like(truth, UNLABELLED)
    labels[train] = truth[train]
    images.obsm["series"], images.obsm["labels"] = x.astype(np.float32), labels
    images.obsm["valid"] = np.ones((*x.shape[:2], 1, *x.shape[3:]), bool)
    return Task(images, truth, split == "val", split == "test")


def _model(kind: str, case: str, seed: int) -> dict:
    return trained(kind, prepared(case, seed), seed, SETTINGS)


METHODS = {
    "majority": lambda case, seed: majority(prepared(case, seed)),
    **{kind: partial(_model, kind) for kind in KINDS},
}


def estimate(cases: list[str], n_seeds: int) -> None:
    """Print how long training would take on this machine if nothing else ran."""
    quiet()
    total = 0.0
    for kind in KINDS:
        seconds = seconds_an_update(kind, prepared("10", 0), SETTINGS)
        hours = seconds * SETTINGS["updates"] * len(cases) * n_seeds / 3600
        total += hours
        print(f"{kind}: {seconds:.3f} s an update, {hours:.1f} h in all")
    print(f"Together {total:.1f} h on one thread, without looks at validation and test images.")


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=540, help="of each model")
    parser.add_argument("--labelled", nargs="+", choices=LABELLED, default=list(LABELLED))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--estimate", action="store_true", help="say how long it takes, and stop")
    parser.add_argument("--resume", action="store_true", help="keep the runs of the record")
    parser.add_argument("--name", default="satellite/camvid", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS["updates"] = given.updates
    if given.estimate:
        estimate(given.labelled, given.seeds)
        return
    methods = {name: METHODS[name] for name in given.methods}
    compare(
        given.name,
        methods,
        given.labelled,
        SETTINGS,
        given.seeds,
        given.jobs,
        resume=given.resume,
    )


if __name__ == "__main__":
    main()
