"""cGMVAE without labels on toy blobs, both priors of w (acceptance rows 22 to 24)."""

from __future__ import annotations

import numpy as np
import scvi
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import mixvi

SETTINGS = {
    "model": {
        "n_components": 5,
        "n_latent_z": 2,
        "n_latent_w": 2,
        "n_hidden": 128,
        "n_layers": 1,
        "likelihood": "mse",
        "output_activation": "relu",
    },
    "train": {
        "batch_size": 256,
        "stages": [(1e-3, 40), (1e-4, 10)],
        "weight_decay": 1e-4,
    },
}


def _run(w_prior: str, init: str | None, seed: int) -> dict[str, float]:
    """Train on blobs of this seed and score."""
    adata = mixvi.datasets.toy_conditional_blobs(seed=seed)
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(adata, condition_key="condition")
    model = mixvi.CGMVAE(adata, w_prior=w_prior, **SETTINGS["model"])
    model.train(init=init, **SETTINGS["train"], **TRAINER)
    types, conditions = (adata.obs[key].astype(str) for key in ("cell_type", "condition"))
    report = mixvi.metrics.clustering_report(model.predict(), types)
    w = model.get_latent_representation(which="w")
    probe = cross_val_score(LogisticRegression(max_iter=1000), w, conditions, cv=5)
    return {
        "accuracy": report["accuracy_overlap"],
        "accuracy_hungarian": report["accuracy_hungarian"],
        "ari": report["ari"],
        "condition_from_w": float(np.mean(probe)),
    }


def from_kmeans(case: str, seed: int) -> dict[str, float]:
    """Components start at k-means clusters, the default."""
    return _run(case.removesuffix(" prior"), "kmeans", seed)


def from_random(case: str, seed: int) -> dict[str, float]:
    """Components start at random, as in the thesis."""
    return _run(case.removesuffix(" prior"), None, seed)


METHODS = {"k-means start": from_kmeans, "random start": from_random}


def main() -> None:
    """Run all seeds and write the record."""
    cases = ["standard prior", "learned prior"]
    compare("cells/toy", METHODS, cases, SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
