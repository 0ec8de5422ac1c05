"""Readings of symmetric equilibrium learning, term by term, on images whose truth is known.

The made-up images of ``toy_region_images`` have 16 x 16 pixels, a few of them labels; a pixel's
colour is set by its class and by two bits of its image. Rows are `SymmetricHVAE` with terms left
out or dreams changed, the flat `SymmetricVAE`, the ladder VAE and the U-Net, all with one number of
updates. "Unpaired maps" start dreams from true maps of other images, which no other row has, and
"learnt maps" from draws of a distribution that is learnt from the labelled images' maps alone.
Accuracy is of test images without gaps, and inside gaps; errors are in units of a value's standard
deviation, inside gaps of what was filled in, elsewhere of what is decoded from all latents. The
noise alone is 0.49 of it. To try: ``--seeds 1 --images 100 --epochs 2 --name satellite/trial``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import scvi
import torch
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device

from mixvi.datasets import toy_region_images
from mixvi.satellite import HierarchicalVAE, SymmetricHVAE, SymmetricVAE, UNetSegmenter
from mixvi.satellite.ladder_model import LadderModel
from mixvi.satellite.symmetric_hvae import SymmetricModule

SETTINGS: dict = {
    "images": 2020,
    "test": 500,
    "size": 16,
    "layers": "light",
    "width": 0.75,
    "n_code": 4,
    "unet": {"width": 8, "n_levels": 2},
    "epochs": 20,
    "batch_size": 32,
    "lr": 2e-3,
}


class _CompleteDreams(SymmetricModule):
    """Dreams without gaps."""

    def dream(self, series):
        path, dream = super().dream(series)
        values = self.standard(path.image.sample())
        return path, dream.with_values(values, torch.ones_like(dream.observed))


class _LatentsAlone(SymmetricModule):
    """Dreams that score neither segmentation nor code, as equation 3.3 of the thesis is printed."""

    def scored(self, path, evidence):
        path = super().scored(path, evidence)
        for name in self.top:
            del path.z[name]
        return path

    def q_dream(self, series):
        with torch.no_grad():
            path, dream = self.dream(series)
        path = self.scored(path, self.evidence(dream))
        n_places = series.x.shape[1] * series.x.shape[3] * series.x.shape[4]
        return -sum(value.mean() for value in path.log_q().values()) / n_places, {}


STILL = {"flips": False, "turns": False, "shift": 0}
LEARNT = {"dream_maps": "learned"}
UNPAIRED = {"dream_maps": "external", "maps_key": "other_labels"}


class Row(NamedTuple):
    """A model, and what is different of it."""

    options: Mapping = {}
    module: type[SymmetricModule] | None = None
    sees_all: bool = True
    """Whether it sees images without labels."""
    model: type[LadderModel] = SymmetricHVAE


ROWS = {
    "cross-entropy alone": Row({"weight_dream": 0.0}),
    "labelled images alone": Row(sees_all=False),
    "all terms": Row(),
    "all terms, no augmentation": Row({"augmentation": STILL}),
    "all terms, guessed maps a tenth": Row({"weight_unlabelled": 0.1}),
    "all terms, learnt maps": Row(LEARNT),
    "all terms, unpaired maps": Row(UNPAIRED),
    "unpaired maps, dreams without gaps": Row(UNPAIRED, _CompleteDreams),
    "unpaired maps, dreams score z > 0": Row(UNPAIRED, _LatentsAlone),
    "SymmetricVAE": Row(model=SymmetricVAE),
    "ladder VAE": Row(model=HierarchicalVAE),
}


def images(case: str, seed: int) -> tuple[AnnData, AnnData, int]:
    """Images that train and that test; how many of the first have labels."""
    settings, labelled = {"size": SETTINGS["size"]}, int(case.split()[-2])
    train = toy_region_images(SETTINGS["images"], labelled, seed=2 * seed, **settings)
    test = toy_region_images(SETTINGS["test"], 0, seed=2 * seed + 1, **settings)
    return train, test, labelled


def accuracies(model, test: AnnData) -> dict[str, float]:
    """Of images without gaps, and inside gaps."""
    whole = test.copy()
    whole.obsm["series"], whole.obsm["valid"] = test.obsm["complete"], test.obsm["valid"] | True
    truth, hidden = test.obsm["true_labels"], ~test.obsm["valid"][:, 0, 0]
    return {
        "accuracy": float((model.predict(whole) == truth).mean()),
        "accuracy_in_gaps": float((model.predict(test) == truth)[hidden].mean()),
    }


def generative(row: str, case: str, seed: int) -> dict:
    """Figures of one row."""
    options, module, sees_all, cls = ROWS[row]
    train, test, labelled = images(case, seed)
    n_epochs = SETTINGS["epochs"]
    if not sees_all:
        # the same number of updates
        n_epochs *= max(1, SETTINGS["images"] // max(labelled, SETTINGS["batch_size"]))
        train = train[:labelled].copy()
    scvi.settings.seed = seed
    cls.setup_anndata(train)
    sizes = {name: SETTINGS[name] for name in ("layers", "width", "n_code")}
    model = cls(train, **sizes, **options)
    if module is not None:
        model.module.__class__ = module
    model.train(n_epochs, batch_size=SETTINGS["batch_size"], lr=SETTINGS["lr"], **TRAINER)
    found = accuracies(model, test)
    if not options.get("weight_dream", 1.0):
        return found
    complete, valid = test.obsm["complete"], test.obsm["valid"]
    sd = complete.std((0, 1, 3, 4), keepdims=True)
    shape = complete.shape
    for name, estimate, where in (
        ("rmse_in_gaps", model.impute(test, n_samples=20), ~valid),
        ("rmse_decoded", model.get_reconstruction(test), valid),
    ):
        error = ((estimate - complete) / sd)[np.broadcast_to(where, shape)]
        found[name] = float(np.sqrt(np.square(error).mean()))
    return found


def unet(norm: str, case: str, seed: int) -> dict:
    """A supervised network of its own."""
    train, test, n_labelled = images(case, seed)
    labelled = train[:n_labelled].copy()
    # the same number of updates
    n_epochs = SETTINGS["epochs"] * SETTINGS["images"] // max(n_labelled, SETTINGS["batch_size"])
    scvi.settings.seed = seed
    UNetSegmenter.setup_anndata(labelled)
    model = UNetSegmenter(labelled, norm=norm, **SETTINGS["unet"])
    model.train(n_epochs, batch_size=SETTINGS["batch_size"], lr=SETTINGS["lr"], **TRAINER)
    return accuracies(model, test)


def band_mean(case: str, seed: int) -> dict:
    """What each band is on average."""
    train, test, _ = images(case, seed)
    mean = np.nanmean(train.obsm["series"], (0, 1, 3, 4), keepdims=True)
    complete = test.obsm["complete"]
    error = (complete - mean) / complete.std((0, 1, 3, 4), keepdims=True)
    hidden = np.broadcast_to(~test.obsm["valid"], error.shape)
    return {"rmse_in_gaps": float(np.sqrt(np.square(error[hidden]).mean()))}


METHODS = {
    "band mean": band_mean,
    "U-Net": partial(unet, "group"),
    "U-Net without normalisation": partial(unet, "none"),
    **{row: partial(generative, row) for row in ROWS},
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labelled", type=int, nargs="+", default=[20], help="images with labels")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--images", type=int, default=SETTINGS["images"])
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--name", default="satellite/symmetric", help="of the record")
    parser.add_argument("--resume", action="store_true", help="run what the record lacks")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS.update(images=given.images, epochs=given.epochs)
    methods = {name: METHODS[name] for name in given.methods}
    cases = [f"{SETTINGS['size']} x {SETTINGS['size']}, {n} labelled" for n in given.labelled]
    compare(given.name, methods, cases, SETTINGS, given.seeds, given.jobs, resume=given.resume)


if __name__ == "__main__":
    main()
