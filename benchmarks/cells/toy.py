"""cGMVAE without labels on toy blobs, both priors of w (acceptance rows 22 to 24)."""

from __future__ import annotations

import argparse
import time

import numpy as np
import scvi
from record import medians, quiet, write
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import mixvi

SETTINGS = {
    "n_components": 5,
    "n_latent": 2,
    "n_hidden": 128,
    "n_layers": 1,
    "likelihood": "mse",
    "output_activation": "relu",
    "batch_size": 256,
    "stages": [(1e-3, 40), (1e-4, 10)],
    "weight_decay": 1e-4,
}


def run(w_prior: str, init: str | None, seed: int) -> dict:
    """Train on blobs of this seed and score."""
    adata = mixvi.datasets.toy_conditional_blobs(seed=seed)
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(adata, condition_key="condition")
    model = mixvi.CGMVAE(
        adata,
        n_components=SETTINGS["n_components"],
        w_prior=w_prior,
        n_latent_z=SETTINGS["n_latent"],
        n_latent_w=SETTINGS["n_latent"],
        n_hidden=SETTINGS["n_hidden"],
        n_layers=SETTINGS["n_layers"],
        likelihood=SETTINGS["likelihood"],
        output_activation=SETTINGS["output_activation"],
    )
    start = time.perf_counter()
    model.train(
        stages=SETTINGS["stages"],
        weight_decay=SETTINGS["weight_decay"],
        batch_size=SETTINGS["batch_size"],
        init=init,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    seconds = time.perf_counter() - start
    report = mixvi.metrics.clustering_report(model.predict(), adata.obs["cell_type"].astype(str))
    w = model.get_latent_representation(which="w")
    probe = cross_val_score(
        LogisticRegression(max_iter=1000), w, adata.obs["condition"].astype(str), cv=5
    )
    result = {
        "w_prior": w_prior,
        "init": init or "random",
        "seed": seed,
        "seconds": seconds,
        "accuracy": report["accuracy_overlap"],
        "accuracy_hungarian": report["accuracy_hungarian"],
        "ari": report["ari"],
        "condition_from_w": float(np.mean(probe)),
    }
    print(result, flush=True)
    return result


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    runs, summary = [], {}
    for init in ("kmeans", None):
        for prior in ("standard", "learned"):
            ours = [run(prior, init, seed) for seed in range(arguments.seeds)]
            runs += ours
            summary[f"{prior}, init {init or 'random'}"] = medians(
                ours, ["accuracy", "accuracy_hungarian", "ari", "condition_from_w", "seconds"]
            )
    write("toy", SETTINGS | {"target": 0.99}, runs, summary)


if __name__ == "__main__":
    main()
