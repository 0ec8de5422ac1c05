"""CIFAR-10 with the thesis's networks, for a GPU: probe of AIM and VAE, FID and clusters of MPCC.

Each run has a time limit and a learning curve. Without ``--complete``, which downloads all images,
there are 20,000 to train and 1,000 to test: figures are "on this part". FID is by a small
classifier of the training images, whose hash is in the record, or with ``--inception`` by the
standard network; probe and FID are on test images, FID of as many samples as there are of them.
"""

from __future__ import annotations

import argparse
import time

import lightning.pytorch as pl
import scvi
from benchmarks.compare import compare
from benchmarks.images.feature_network import feature_network
from benchmarks.record import TRAINER, add_device, use_device

import mixvi
from mixvi.images import MPCC, GenerativeInference, mpcc_recipe
from mixvi.metrics import clustering_report, fid, inception_score, linear_probe

SETTINGS: dict = {
    "minutes": 30.0,
    "curve_minutes": 5.0,
    "two_variables": {
        "n_latent": 128,
        "backbone": "resnet",
        "backbone_kwargs": {"n_channels": 96},
    },
    "train": {"batch_size": 64},
    "classifier": {"width": 32, "max_epochs": 10},
    "mpcc": {},
}
DATA: dict = {}


def load(complete: bool, standard: bool) -> None:
    """Images that train, images that test, and what FID and IS see of them."""
    images = mixvi.datasets.prepare_images(mixvi.datasets.cifar10(complete))
    objects = images.obs.pop("object").astype(str).to_numpy()
    split = images.obs["split"].to_numpy()
    for part in ("train", "test"):
        DATA[part] = images[split == part].copy(), objects[split == part]
    if standard:
        DATA["features"] = "inception"
        return
    DATA["features"], SETTINGS["classifier"] = feature_network(
        f"cifar10-{len(objects)}", DATA["train"], DATA["test"], SETTINGS["classifier"]
    )


def quality(model) -> dict[str, float]:
    """FID and Inception score of as many samples as there are test images."""
    test, _ = DATA["test"]
    samples = model.sample(test.n_obs)
    return {
        "fid": fid(test, samples, DATA["features"]),
        "inception_score": inception_score(samples, DATA["features"]).mean,
    }


def probe(model) -> dict[str, float]:
    """Accuracy of a linear probe on test images' codes."""
    (train, objects), (test, test_objects) = DATA["train"], DATA["test"]
    codes = model.get_latent_representation(train), model.get_latent_representation(test)
    return {"probe_accuracy": linear_probe(codes[0], objects, codes[1], test_objects)}


def clusters(model) -> dict[str, float]:
    """Accuracy of clusters on the training images, none of them with its label."""
    train, objects = DATA["train"]
    report = clustering_report(model.get_cluster_assignments(train).to_numpy(), objects)
    return {
        "accuracy_majority": report["accuracy_overlap"],
        "accuracy_hungarian": report["accuracy_hungarian"],
    }


class Curve(pl.Callback):
    """Figures each few minutes of training, whose clock stands still meanwhile."""

    def __init__(self, model, figures):
        self._model, self._figures = model, figures
        self._n_updates, self._seconds = 0, 0.0
        self._due = 60.0 * SETTINGS["curve_minutes"]
        self._start = time.perf_counter()
        self.points: list[dict] = []

    def on_train_batch_end(self, trainer, plan, *args) -> None:
        self._n_updates += 1
        seconds = self._seconds + time.perf_counter() - self._start
        done = seconds > 60.0 * SETTINGS["minutes"]
        if done or seconds > self._due:
            self._seconds = seconds
            self._due += 60.0 * SETTINGS["curve_minutes"]
            # verbs ask whether the model is trained
            self._model.is_trained_ = True
            point = {"minutes": seconds / 60.0, "minibatches": self._n_updates}
            for figures in self._figures:
                point |= figures(self._model)
            self.points.append(point)
            plan.module.train()
            self._start = time.perf_counter()
        trainer.should_stop |= done


def two_variables(objective: str, seed: int) -> dict:
    """VAE or AIM."""
    train = DATA["train"][0].copy()
    scvi.settings.seed = seed
    GenerativeInference.setup_anndata(train)
    model = GenerativeInference(train, objective, **SETTINGS["two_variables"])
    curve = Curve(model, [probe, quality])
    model.train(100_000, callbacks=[curve], **SETTINGS["train"], **TRAINER)
    return probe(model) | quality(model) | {"curve": curve.points}


def mpcc(seed: int) -> dict:
    """The thesis's settings for CIFAR-10, for as long as there is time."""
    train = DATA["train"][0].copy()
    recipe = mpcc_recipe("cifar10")
    scvi.settings.seed = seed
    MPCC.setup_anndata(train)
    model = MPCC(train, **recipe.model_kwargs | SETTINGS["mpcc"])
    curve = Curve(model, [clusters, quality])
    settings = recipe.train_kwargs | SETTINGS["train"] | {"max_epochs": 100_000, "batch_size": 50}
    model.train(**settings, callbacks=[curve], **TRAINER)
    return clusters(model) | quality(model) | {"curve": curve.points}


METHODS = {
    "VAE": lambda case, seed: two_variables("vae", seed),
    "AIM": lambda case, seed: two_variables("aim", seed),
    "MPCC": lambda case, seed: mpcc(seed),
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=SETTINGS["minutes"], help="of each run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--complete", action="store_true", help="download all of CIFAR-10")
    parser.add_argument("--inception", action="store_true", help="the standard network for FID")
    parser.add_argument("--channels", type=int, help="instead of 96, to try the script on a CPU")
    parser.add_argument("--name", default="images/cifar10", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS["minutes"] = given.minutes
    SETTINGS["curve_minutes"] = given.minutes / 6
    if given.channels is not None:
        SETTINGS["two_variables"]["backbone_kwargs"] = {"n_channels": given.channels}
        SETTINGS["mpcc"] = {"backbone_kwargs": {"n_channels": given.channels}}
    load(given.complete, given.inception)
    case = "complete" if given.complete else "this part"
    methods = {name: METHODS[name] for name in given.methods}
    compare(given.name, methods, [case], SETTINGS, given.seeds)


if __name__ == "__main__":
    main()
