"""Unsupervised GMVAE on pbmc3k without megakaryocytes (acceptance row 15).

Labels are read after training alone, to score. They are themselves a Louvain clustering, so no
clustering method is compared here.
"""

from __future__ import annotations

import argparse
import time

import scanpy as sc
import scvi
from record import medians, quiet, write

import mixvi

SETTINGS = {
    "genes": 2000,
    "scaling": "log-normalised, per gene, clipped at 10",
    "likelihood": "mse",
    "n_latent": 12,
    "n_hidden": 256,
    "n_layers": 2,
    "batch_size": 128,
    "stages": [(1e-3, 60), (1e-4, 20)],
    "n_components": [9, 20],
}


def prepared():
    """Cells as the model sees them."""
    adata = mixvi.datasets.pbmc3k(drop_megakaryocytes=True)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=SETTINGS["genes"])
    adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.scale(adata, max_value=10)
    return adata


def run(adata, n_components: int, seed: int) -> dict:
    """Train without labels, then score."""
    scvi.settings.seed = seed
    cells = adata.copy()
    mixvi.GMVAE.setup_anndata(cells)
    model = mixvi.GMVAE(
        cells,
        n_components=n_components,
        n_latent_z=SETTINGS["n_latent"],
        n_latent_w=SETTINGS["n_latent"],
        n_hidden=SETTINGS["n_hidden"],
        n_layers=SETTINGS["n_layers"],
        likelihood=SETTINGS["likelihood"],
    )
    start = time.perf_counter()
    model.train(
        stages=SETTINGS["stages"],
        batch_size=SETTINGS["batch_size"],
        accelerator="cpu",
        enable_progress_bar=False,
    )
    seconds = time.perf_counter() - start
    report = mixvi.metrics.clustering_report(model.predict(), cells.obs["cell_type"].astype(str))
    last = {key: float(values.iloc[-1, 0]) for key, values in model.history.items()}
    result = {"n_components": n_components, "seed": seed, "seconds": seconds, **report}
    result["history_last"] = last
    print(n_components, seed, round(report["accuracy_overlap"], 4), flush=True)
    return result


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    adata = prepared()
    runs = [
        run(adata, k, seed) for k in SETTINGS["n_components"] for seed in range(arguments.seeds)
    ]
    keys = ["accuracy_overlap", "accuracy_hungarian", "ari", "nmi", "labels_with_component"]
    summary = {}
    for k in SETTINGS["n_components"]:
        ours = [r for r in runs if r["n_components"] == k]
        recalls = [{**r["recall"]} for r in ours]
        summary[f"K={k}"] = medians(ours, [*keys, "seconds"]) | {
            "median_recall": medians(recalls, sorted(recalls[0]))
        }
    write("pbmc3k", SETTINGS | {"n_cells": adata.n_obs, "target": 0.92}, runs, summary)


if __name__ == "__main__":
    main()
