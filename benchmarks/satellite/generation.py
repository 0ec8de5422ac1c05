"""Images generated from maps, and whether a segmenter of its own finds the maps again.

Cycle consistency is the mean IoU of a U-Net, trained on real images and their labels, between the
map that an image was generated from and what the U-Net says of the image. Maps are those of test
images. Draws are scored, not means. The ceiling is the U-Net on the test images themselves, the
floor on these in another order; a simple baseline draws each pixel from the mean and the standard
deviation of its class. "Spread" is the standard deviation between images of the mean of each band,
as a share of that of real images: a model that forgets its codes has none. To try: ``--seeds 1
--updates 8 --name satellite/trial``.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import NamedTuple

import numpy as np
import scvi
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device
from benchmarks.satellite import camvid
from scipy.ndimage import distance_transform_edt

from mixvi.datasets import toy_region_images
from mixvi.metrics import segmentation_scores
from mixvi.satellite import HierarchicalVAE, SymmetricHVAE, SymmetricVAE, UNetSegmenter

SETTINGS: dict = {
    "batch_size": 8,
    "lr": 2e-3,
    "unet": {"width": 8, "n_levels": 2},
    "regions": {"size": 16, "images": 2000, "test": 200},
    "camvid": {"unet": {"width": 8, "n_levels": 1}},
    "cases": ["made-up regions, 200 labelled", "CamVid, all labelled"],
}
MODELS = {
    "SymmetricHVAE": SymmetricHVAE,
    "SymmetricVAE": SymmetricVAE,
    "ladder VAE": HierarchicalVAE,
}


class Images(NamedTuple):
    """Images that train, and those whose maps are generated from.

    Attributes
    ----------
    train
        Some or all have labels.
    test
        ``obsm["series"]`` without gaps.
    maps
        Labels of the test images, ``(n, H, W)``; what is void does not score.
    """

    train: AnnData
    test: AnnData
    maps: np.ndarray


def prepared(case: str, seed: int) -> Images:
    """Images of a case, the same for every method."""
    if case.startswith("CamVid"):
        task = camvid.prepared("all", seed)
        return Images(
            task.tiles[~(task.val | task.test)].copy(),
            task.tiles[task.test].copy(),
            task.truth[task.test],
        )
    settings = SETTINGS["regions"]
    size, n_labelled = settings["size"], int(case.split()[-2])
    train = toy_region_images(settings["images"], n_labelled, size, seed=2 * seed)
    test = toy_region_images(settings["test"], 0, size, seed=2 * seed + 1)
    maps = test.obsm["true_labels"]
    return Images(train, _images(test.obsm["complete"], test), maps)


def _images(series: np.ndarray, like: AnnData) -> AnnData:
    """Whole images, without labels."""
    valid = np.ones((*series.shape[:2], 1, *series.shape[3:]), bool)
    return AnnData(obs=like.obs.copy(), obsm={"series": series, "valid": valid})


def complete(maps: np.ndarray) -> np.ndarray:
    """Maps in which void pixels have the class of the nearest that has one."""
    filled = maps.copy()
    for i, of_image in enumerate(maps):
        nearest = distance_transform_edt(of_image < 0, return_distances=False, return_indices=True)
        filled[i] = of_image[tuple(nearest)]
    return filled


def segmenter(case: str, images: Images, seed: int) -> UNetSegmenter:
    """A U-Net of labelled images that no generator has had a hand in."""
    train = images.train
    if not case.startswith("CamVid"):
        settings = SETTINGS["regions"]
        n = settings["images"]
        train = toy_region_images(n, n, settings["size"], seed=1000 + seed)
    scvi.settings.seed = 1000 + seed
    UNetSegmenter.setup_anndata(train)
    of = SETTINGS["camvid"]["unet"] if case.startswith("CamVid") else SETTINGS["unet"]
    model = UNetSegmenter(train, augmentation=_augmentation(case), **of)
    model.train(_epochs(train), batch_size=SETTINGS["batch_size"], lr=SETTINGS["lr"], **TRAINER)
    return model


def _augmentation(case: str) -> dict:
    return camvid.SETTINGS["augmentation"] if case.startswith("CamVid") else {}


def _epochs(train: AnnData) -> int:
    return max(1, SETTINGS["updates"] // (train.n_obs // SETTINGS["batch_size"]))


def scored(case: str, seed: int, images: Images, series: np.ndarray) -> dict[str, float]:
    """Figures of generated images, one of each map."""
    found = segmenter(case, images, seed).predict(_images(series, images.test))
    scores = segmentation_scores(images.maps, found, images.train.uns["classes"])
    of_image, of_real = (x.mean((1, 3, 4)).std(0) for x in (series, images.test.obsm["series"]))
    return {
        "cycle_mean_iou": scores.mean_iou,
        "cycle_accuracy": scores.accuracy,
        "spread": float((of_image / of_real).mean()),
    }


def generated(name: str, case: str, seed: int) -> dict:
    """Of a model."""
    images, kind = prepared(case, seed), MODELS[name]
    scvi.settings.seed = seed
    kind.setup_anndata(images.train)
    model = kind(images.train, augmentation=_augmentation(case))
    epochs = _epochs(images.train)
    model.train(epochs, batch_size=SETTINGS["batch_size"], lr=SETTINGS["lr"], **TRAINER)
    series = model.generate(complete(images.maps), give_mean=False)
    return scored(case, seed, images, series)


def of_classes(case: str, seed: int) -> dict:
    """Each pixel drawn from the colours of its class, by itself."""
    images = prepared(case, seed)
    x, labels = images.train.obsm["series"][:, 0], images.train.obsm["labels"]
    maps = complete(images.maps)
    series = np.zeros_like(images.test.obsm["series"])
    rng = np.random.default_rng(seed)
    for label in np.unique(maps):
        for band in range(x.shape[1]):
            values = x[:, band][labels == label]
            values = values[np.isfinite(values)]
            at = maps == label
            drawn = rng.normal(values.mean(), values.std(), int(at.sum()))
            series[:, 0, band][at] = drawn
    return scored(case, seed, images, series)


def real(in_order: bool, case: str, seed: int) -> dict:
    """The test images themselves, or each with the map of another; neighbours are of one drive."""
    images = prepared(case, seed)
    series = images.test.obsm["series"]
    if not in_order:
        series = np.random.default_rng(seed).permutation(series)
    return scored(case, seed, images, series)


METHODS = {
    "real images": partial(real, True),
    "images of other maps": partial(real, False),
    "colours of classes": of_classes,
    **{name: partial(generated, name) for name in MODELS},
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=400, help="of each network")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cases", nargs="+", default=SETTINGS["cases"])
    parser.add_argument("--resume", action="store_true", help="keep the runs of the record")
    parser.add_argument("--name", default="satellite/generation", help="of the record")
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
