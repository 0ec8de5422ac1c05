"""Acceptance rows 9-13: Fashion-MNIST through GMVAE, as ``mnist.py`` does MNIST.

Needs the authors' four files: ``python -m benchmarks.cells.fashion_mnist --directory DIR``.
"""

from __future__ import annotations

import argparse

import numpy as np
import scvi
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device

import mixvi
from mixvi.cells import cluster_cells, spread_labels, train_guided
from mixvi.metrics import accuracy_by_overlap, component_table, overlap_map

SETTINGS = {
    "model": {
        "n_latent_z": 16,
        "n_latent_w": 16,
        "n_hidden": 512,
        "n_layers": 2,
        "dropout_rate": 0.1,
        "likelihood": "bernoulli",
    },
    "batch_size": 256,
    "unsupervised": {"init": "leiden", "init_epochs": 8, "stages": [(1e-4, 8)]},
    "share": 0.1,
    "n_clusters": 60,
    "labels": {"labelled_fraction": 0.3, "stages": [(1e-4, 6)]},
    "supervised": {"stages": [(1e-3, 15), (1e-4, 5)]},
    "guided": {"supervised_stages": [(1e-3, 8)], "unsupervised_stages": [(1e-5, 6)]},
}
PICTURES: dict = {}


def _options() -> dict:
    return {"batch_size": SETTINGS["batch_size"], **TRAINER}


def _articles(name: str) -> np.ndarray:
    return PICTURES[name].obs["article"].astype(str).to_numpy()


def _scores(model: mixvi.GMVAE, mapping: dict | None = None) -> dict[str, float]:
    found = {name: model.predict(pictures) for name, pictures in PICTURES.items()}
    mapping = mapping or overlap_map(component_table(found["train"], _articles("train")))
    return {
        "train": accuracy_by_overlap(found["train"], _articles("train"), mapping),
        "test": accuracy_by_overlap(found["test"], _articles("test"), mapping),
        "test_own_map": accuracy_by_overlap(found["test"], _articles("test")),
    }


def _with_labels(share: float, seed: int) -> mixvi.GMVAE:
    train = PICTURES["train"]
    shown = np.random.default_rng(seed).random(train.n_obs) < share
    train.obs["shown"] = np.where(shown, _articles("train"), "Unknown")
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(train, labels_key="shown")
    return mixvi.GMVAE(train, n_components=10, classification_weight=100.0, **SETTINGS["model"])


def unsupervised(case: str, seed: int) -> dict[str, float]:
    """Row 9."""
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(PICTURES["train"])
    model = mixvi.GMVAE(PICTURES["train"], n_components=20, **SETTINGS["model"])
    model.train(mode="unsupervised", **SETTINGS["unsupervised"], **_options())
    return _scores(model)


def semi_supervised(case: str, seed: int) -> dict[str, float]:
    """Row 10."""
    model = _with_labels(SETTINGS["share"], seed)
    clusters = cluster_cells(model.adata, n_clusters=SETTINGS["n_clusters"], seed=seed)
    spread = spread_labels(clusters, model.adata.obs["shown"])
    model.train(mode="guided", clusters=spread, stages=[(1e-3, 8)], **_options())
    model.train(mode="semi", **SETTINGS["labels"], **_options())
    return _scores(model, model.component_labels)


def guided(case: str, seed: int) -> dict[str, float]:
    """Rows 11 and 12."""
    scvi.settings.seed = seed
    clusters = cluster_cells(PICTURES["train"], seed=seed)
    mixvi.GMVAE.setup_anndata(PICTURES["train"])
    k = clusters.nunique()
    model = mixvi.GMVAE(PICTURES["train"], n_components=k, **SETTINGS["model"])
    result = train_guided(model, clusters, **SETTINGS["guided"], **_options())
    alone = cluster_cells(PICTURES["test"], seed=seed)
    return _scores(model) | {
        "leiden_train": accuracy_by_overlap(clusters, _articles("train")),
        "leiden_test": accuracy_by_overlap(alone, _articles("test")),
        "agreement_taught": result.supervised,
        "agreement_after": result.unsupervised,
    }


def supervised(case: str, seed: int) -> dict[str, float]:
    """Row 13."""
    model = _with_labels(1.0, seed)
    model.train(mode="supervised", **SETTINGS["supervised"], **_options())
    return _scores(model, model.component_labels)


METHODS = {
    "unsupervised K=20": unsupervised,
    "10 % labels": semi_supervised,
    "guided by Leiden": guided,
    "supervised": supervised,
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    pictures = mixvi.datasets.fashion_mnist(given.directory)
    for name in ("train", "test"):
        PICTURES[name] = pictures[pictures.obs["split"] == name].copy()
    compare("cells/fashion_mnist", METHODS, ["Fashion-MNIST"], SETTINGS, given.seeds)


if __name__ == "__main__":
    main()
