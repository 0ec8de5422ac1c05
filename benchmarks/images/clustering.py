"""Clustering MNIST: VaDE and MPCC beside GMVAE, and k-means, a mixture and Leiden on components.

Each gives ten clusters and is scored on the images it has seen, none of them with its digit: by the
most frequent digit of each cluster (majority), by one cluster a digit (Hungarian), NMI and ARI.
VaDE has the paper's networks, MPCC light ones for a CPU and fewer steps of critic and encoder. Both
have a learning curve in the record: majority accuracy on 5,000 of the images.
"""

from __future__ import annotations

import argparse
import time

import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from benchmarks.compare import compare, derive_again
from benchmarks.record import TRAINER, add_device, use_device
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import mixvi
from mixvi.images import MPCC, VaDE
from mixvi.metrics import accuracy_by_overlap, clustering_report

SETTINGS = {
    "n_images": None,
    "n_clusters": 10,
    "vade": {"n_latent": 10, "likelihood": "bernoulli"},
    "vade_train": {"max_epochs": 60, "pretrain_epochs": 40, "batch_size": 100},
    "vade_leiden_train": {
        "init": "leiden",
        "pretrain_epochs": 5,
        "teach_epochs": 10,
        "max_epochs": 10,
        "lr": 2e-4,
        "batch_size": 100,
    },
    "mpcc": {
        "n_latent": 24,
        "backbone": "conv",
        "backbone_kwargs": {"n_channels": 32, "n_hidden": 256},
        "conditioning": "class_norm",
        "d_steps": 2,
        "e_steps": 1,
    },
    "mpcc_train": {
        "max_epochs": 40,
        # the critic's larger rate keeps it ahead (Heusel et al. 2017)
        "lr": {"image_critic": 2e-3, "encoder": 1e-3, "generator": 1e-3, "prior": 4e-3},
        "plan_kwargs": {"lr_decay": 0.3, "decay_epochs": 28},
        "batch_size": 50,
    },
    "mpcc_leiden": {"d_steps": 1},
    "mpcc_leiden_train": {
        "init": "leiden",
        "teach_epochs": 5,
        "max_epochs": 1,
        "lr": {"image_critic": 2e-3, "encoder": 1e-3, "generator": 5e-4, "prior": 2e-3},
        "batch_size": 50,
    },
    "gmvae": {
        "n_latent_z": 16,
        "n_latent_w": 16,
        "n_hidden": 512,
        "n_layers": 2,
        "dropout_rate": 0.1,
        "likelihood": "bernoulli",
    },
    "gmvae_train": {
        "init": "leiden",
        "init_epochs": 8,
        "stages": [(1e-4, 8)],
        "batch_size": 256,
    },
    "n_components_pca": 50,
    "curve": {"n_images": 5000, "every_epochs": 2},
}


def _images(seed: int):
    """All images, or as many as are asked for, and their digits."""
    digits = mixvi.datasets.mnist()
    if SETTINGS["n_images"] is not None:
        rng = np.random.default_rng(seed)
        rows = rng.choice(digits.n_obs, SETTINGS["n_images"], replace=False)
        digits = digits[np.sort(rows)].copy()
    return digits, digits.obs.pop("digit").astype(str).to_numpy()


def _scores(clusters, digits) -> dict[str, float]:
    report = clustering_report(np.asarray(clusters), digits)
    return {
        "accuracy_majority": report["accuracy_overlap"],
        "accuracy_hungarian": report["accuracy_hungarian"],
        "nmi": report["nmi"],
        "ari": report["ari"],
        "clusters": report["n_clusters"],
    }


class Curve(pl.Callback):
    """Majority accuracy while a model trains, at each second epoch or so.

    Parameters
    ----------
    model
        VaDE or MPCC.
    images, digits
        All of them; some are scored.
    """

    def __init__(self, model, images, digits):
        own = SETTINGS["curve"]
        rows = np.random.default_rng(0).permutation(len(digits))[: own["n_images"]]
        x = torch.from_numpy(images.obsm["image"][rows]).float()
        low, high = model.pixel_range
        self._x = (x - low) * (2.0 / (high - low)) - 1.0
        self._digits = digits[rows]
        self._every = own["every_epochs"]
        self._epoch = 0
        self._start = time.perf_counter()
        self.points: list[dict] = []

    @torch.no_grad()
    def on_train_epoch_end(self, trainer, plan) -> None:
        self._epoch += 1
        if self._epoch % self._every:
            return
        module = plan.module
        module.eval()
        parts = self._x.to(module.device).split(500)
        found = torch.cat([module.prior.assign(module.encode(x)[0]) for x in parts])
        module.train()
        accuracy = accuracy_by_overlap(found.cpu().numpy(), self._digits)
        seconds = time.perf_counter() - self._start
        self.points.append({"epoch": self._epoch, "accuracy": accuracy, "seconds": seconds})


def vade(case: str, seed: int, train: str = "vade_train") -> dict:
    """The paper's networks; mixture of the codes as start."""
    images, digits = _images(seed)
    scvi.settings.seed = seed
    VaDE.setup_anndata(images)
    model = VaDE(images, SETTINGS["n_clusters"], **SETTINGS["vade"])
    curve = Curve(model, images, digits)
    model.train(**SETTINGS[train], callbacks=[curve], **TRAINER, precision="bf16-mixed")
    return _scores(model.get_cluster_assignments(), digits) | {"curve": curve.points}


def vade_leiden(case: str, seed: int) -> dict:
    """The same from Leiden clusters of the codes; the curve begins after teaching."""
    return vade(case, seed, "vade_leiden_train")


def mpcc(case: str, seed: int, options: dict | None = None, train: str = "mpcc_train") -> dict:
    """Light networks; the prior starts as it is."""
    images, digits = _images(seed)
    scvi.settings.seed = seed
    MPCC.setup_anndata(images)
    model = MPCC(images, SETTINGS["n_clusters"], **(SETTINGS["mpcc"] | (options or {})))
    curve = Curve(model, images, digits)
    model.train(**SETTINGS[train], callbacks=[curve], **TRAINER, precision="bf16-mixed")
    return _scores(model.get_cluster_assignments(), digits) | {"curve": curve.points}


def mpcc_leiden(case: str, seed: int) -> dict:
    """The same, taught Leiden clusters first; the curve begins after teaching."""
    return mpcc(case, seed, SETTINGS["mpcc_leiden"], "mpcc_leiden_train")


def gmvae(case: str, seed: int) -> dict[str, float]:
    """Components start at Leiden clusters."""
    images, digits = _images(seed)
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(images)
    model = mixvi.GMVAE(images, n_components=SETTINGS["n_clusters"], **SETTINGS["gmvae"])
    model.train(mode="unsupervised", **SETTINGS["gmvae_train"], **TRAINER)
    return _scores(model.predict(), digits)


def _components(seed: int):
    images, digits = _images(seed)
    return PCA(SETTINGS["n_components_pca"], random_state=seed).fit_transform(images.X), digits


def kmeans(case: str, seed: int) -> dict[str, float]:
    """K-means on principal components."""
    z, digits = _components(seed)
    fitted = KMeans(SETTINGS["n_clusters"], n_init=10, random_state=seed).fit(z)
    return _scores(fitted.labels_, digits)


def mixture(case: str, seed: int) -> dict[str, float]:
    """A Gaussian mixture with full covariances on principal components."""
    z, digits = _components(seed)
    fitted = GaussianMixture(SETTINGS["n_clusters"], random_state=seed, reg_covar=1e-3)
    return _scores(fitted.fit_predict(z), digits)


def leiden(case: str, seed: int) -> dict[str, float]:
    """Leiden on the graph of principal components."""
    images, digits = _images(seed)
    found = mixvi.cells.cluster_cells(images, n_clusters=SETTINGS["n_clusters"], seed=seed)
    return _scores(found, digits)


METHODS = {
    "VaDE": vade,
    "VaDE, Leiden start": vade_leiden,
    "MPCC, light": mpcc,
    "MPCC, light, Leiden start": mpcc_leiden,
    "GMVAE, Leiden start": gmvae,
    "k-means on PCA": kmeans,
    "mixture on PCA": mixture,
    "Leiden on PCA": leiden,
}


def against_the_teacher(rows: dict[str, list[dict]]) -> dict[str, str]:
    """What a model that starts at Leiden clusters adds to the accuracy of Leiden's, by seed.

    The rest of its accuracy is Leiden's.
    """
    teacher = {run["seed"]: run["accuracy_majority"] for run in rows.get("Leiden on PCA", [])}
    found = {}
    for name, runs in rows.items():
        added = [
            run["accuracy_majority"] - teacher[run["seed"]]
            for run in runs
            if run["seed"] in teacher
        ]
        if added and name.endswith("Leiden start"):
            found[f"accuracy of {name} over Leiden on PCA"] = (
                f"{np.median(added):+.3f} ({min(added):+.3f} to {max(added):+.3f})"
            )
    return found


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, help="as many of the 70,000, drawn anew by seed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--mpcc-epochs", type=int, default=SETTINGS["mpcc_train"]["max_epochs"])
    parser.add_argument("--epochs", type=int, help="of VaDE and MPCC each, to try the script")
    parser.add_argument("--name", default="images/clustering", help="of the record")
    parser.add_argument("--resume", action="store_true", help="run what the record lacks")
    parser.add_argument("--derive", action="store_true", help="findings anew, from the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    if given.derive:
        derive_again(given.name, against_the_teacher)
        return
    SETTINGS["n_images"] = given.images
    SETTINGS["mpcc_train"]["max_epochs"] = given.mpcc_epochs
    if given.epochs is not None:
        SETTINGS["mpcc_leiden_train"]["teach_epochs"] = given.epochs
        for part in ("vade_train", "vade_leiden_train", "mpcc_train", "mpcc_leiden_train"):
            SETTINGS[part]["max_epochs"] = given.epochs
        for part in ("vade_train", "vade_leiden_train"):
            SETTINGS[part]["pretrain_epochs"] = given.epochs
    methods = {name: METHODS[name] for name in given.methods}
    derive, resume = against_the_teacher, given.resume
    compare(given.name, methods, ["MNIST"], SETTINGS, given.seeds, given.jobs, derive, resume)


if __name__ == "__main__":
    main()
