"""CIFAR-10 with 250 labels: MixMatch beside the same network taught by labels alone.

Both have the same images, views, updates, learning rate and moving average of the weights; taught
by labels alone is MixMatch that never ends its warm-up. A logistic regression on principal
components of the labelled images is the floor, and the same network with all labels the ceiling.
Without ``--complete``, which downloads all images, there are 20,000 to train and 1,000 to test:
figures are "on this part". The last update is scored, and no setting was chosen: they are the
paper's (Berthelot et al. 2019), but for a shorter rise of the weight of guesses. To try:
``--seeds 1 --updates 50 --name images/trial``.
"""

from __future__ import annotations

import argparse
from functools import partial

import lightning.pytorch as pl
import numpy as np
import scvi
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import mixvi
from mixvi.images import MixMatchClassifier

SETTINGS: dict = {
    "labels_a_class": 25,
    "backbone": "conv",
    "backbone_kwargs": {"width": 16},
    "batch_size": 128,
    "lr": 2e-3,
    "lambda_u": 75.0,
    "updates": 5000,
    "looks": 10,
    "components": 50,
}
DATA: dict[str, AnnData] = {}


def load(complete: bool) -> None:
    """Images that train and images that test."""
    images = mixvi.datasets.prepare_images(mixvi.datasets.cifar10(complete))
    for part in ("train", "test"):
        DATA[part] = images[images.obs["split"].to_numpy() == part].copy()


def with_labels(seed: int, a_class: int | None) -> AnnData:
    """Training images of which as many a class have a label; None: all."""
    images = DATA["train"].copy()
    if a_class is None:
        return images
    objects = images.obs["object"].astype(str).to_numpy()
    rng = np.random.default_rng(seed)
    known = np.full(len(objects), "Unknown", dtype=object)
    for name in np.unique(objects):
        rows = rng.choice(np.flatnonzero(objects == name), a_class, replace=False)
        known[rows] = name
    images.obs["object"] = known
    return images


class Curve(pl.Callback):
    """Accuracy on test images at every look of training, which stops after the updates."""

    def __init__(self, model: MixMatchClassifier):
        self._model = model
        self._n_updates = 0
        self.points: list[dict] = []

    def on_train_batch_end(self, trainer, plan, *args) -> None:
        self._n_updates += 1
        if self._n_updates % (SETTINGS["updates"] // SETTINGS["looks"]) == 0:
            # verbs ask whether the model is trained
            self._model.is_trained_ = True
            self.points.append({"updates": self._n_updates, "accuracy": accuracy(self._model)})
            plan.module.train()
        trainer.should_stop |= self._n_updates >= SETTINGS["updates"]


def accuracy(model: MixMatchClassifier) -> float:
    """Share of test images that are right."""
    predicted = model.predict(DATA["test"]).astype(str).to_numpy()
    return float((predicted == DATA["test"].obs["object"].astype(str).to_numpy()).mean())


def network(a_class: int | None, guesses: bool, case: str, seed: int) -> dict:
    """MixMatch, or its network taught by labels alone."""
    images = with_labels(seed, a_class)
    n = SETTINGS["updates"]
    scvi.settings.seed = seed
    MixMatchClassifier.setup_anndata(images, labels_key="object")
    steps = {"rampup_steps": n} if guesses else {"warmup_steps": n}
    names = ("backbone", "backbone_kwargs", "lambda_u")
    model = MixMatchClassifier(images, **{name: SETTINGS[name] for name in names}, **steps)
    curve = Curve(model)
    options = {name: SETTINGS[name] for name in ("batch_size", "lr")}
    model.train(100_000, callbacks=[curve], **options, **TRAINER)
    return {"accuracy": accuracy(model), "curve": curve.points}


def logistic(case: str, seed: int) -> dict:
    """Logistic regression on principal components of the images with labels."""
    images = with_labels(seed, SETTINGS["labels_a_class"])
    labelled = images[images.obs["object"] != "Unknown"]
    n = min(SETTINGS["components"], labelled.n_obs)
    classifier = make_pipeline(PCA(n, random_state=0), LogisticRegression(max_iter=2000))
    classifier.fit(_pixels(labelled), labelled.obs["object"].astype(str))
    test = DATA["test"]
    return {"accuracy": classifier.score(_pixels(test), test.obs["object"].astype(str))}


def _pixels(images: AnnData) -> np.ndarray:
    return np.asarray(images.obsm["image"], dtype=np.float32).reshape(images.n_obs, -1)


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--complete", action="store_true", help="download all of CIFAR-10")
    parser.add_argument(
        "--thesis", action="store_true", help="Wide ResNet 28-2 and 200,000 updates, for a GPU"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--name", default="images/few_labels", help="of the record")
    parser.add_argument("--resume", action="store_true", help="run what the record lacks")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    if given.thesis:
        SETTINGS.update(backbone="wide_resnet", backbone_kwargs={}, updates=200_000)
    SETTINGS["updates"] = given.updates or SETTINGS["updates"]
    load(given.complete)
    n = SETTINGS["labels_a_class"]
    methods = {
        "logistic regression on PCA": logistic,
        "labels alone": partial(network, n, False),
        "MixMatch": partial(network, n, True),
        "all labels": partial(network, None, False),
    }
    case = f"{10 * n} labels, " + ("complete" if given.complete else "this part")
    compare(given.name, methods, [case], SETTINGS, given.seeds, given.jobs, resume=given.resume)


if __name__ == "__main__":
    main()
