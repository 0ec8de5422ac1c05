"""Clustering Kang control cells: GMVAE beside Leiden on principal components and SCVI + Leiden.

No method sees a type. Each gives as many clusters as there are types (8) and twice as many; Leiden
searches its resolution for that number. A random part of the cells a seed, the same for all.
"""

from __future__ import annotations

import time

import numpy as np
import scvi
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER

import mixvi
from mixvi.cells import cluster_cells
from mixvi.metrics import clustering_report

SETTINGS = {
    "data": "kang control_12261, donor as batch",
    "n_cells": 4000,
    "n_clusters": [8, 16],
    "gmvae": {"likelihood": "nb", "n_hidden": 128, "n_layers": 2},
    "gmvae_epochs": 60,
    "scvi": {"gene_likelihood": "nb", "n_hidden": 128, "n_layers": 2, "n_latent": 12},
    "scvi_epochs": 100,
}
CELLS = mixvi.datasets.kang("control_12261")


def _part(seed: int):
    rows = np.random.default_rng(seed).choice(CELLS.n_obs, SETTINGS["n_cells"], replace=False)
    cells = CELLS[np.sort(rows)].copy()
    types = cells.obs.pop("cell_type").astype(str)
    return cells, types


def _scores(clusters, types) -> dict[str, float]:
    report = clustering_report(clusters, types)
    return {
        "ari": report["ari"],
        "nmi": report["nmi"],
        "accuracy": report["accuracy_overlap"],
        "types_with_cluster": report["labels_with_component"],
        "dendritic_recall": report["recall"]["Dendritic cells"],
        "clusters": int(len(set(clusters))),
    }


def _gmvae(seed: int, init: str) -> dict[str, dict[str, float]]:
    cells, types = _part(seed)
    mixvi.GMVAE.setup_anndata(cells, batch_key="donor")
    out = {}
    for k in SETTINGS["n_clusters"]:
        scvi.settings.seed = seed
        start = time.perf_counter()
        model = mixvi.GMVAE(cells, n_components=k, **SETTINGS["gmvae"])
        model.train(SETTINGS["gmvae_epochs"], init=init, **TRAINER)
        clusters = model.predict()
        out[f"K={k}"] = _scores(clusters, types) | {"seconds": time.perf_counter() - start}
    return out


def gmvae_leiden(case: str, seed: int) -> dict[str, dict[str, float]]:
    """Components start at Leiden clusters."""
    return _gmvae(seed, "leiden")


def gmvae_kmeans(case: str, seed: int) -> dict[str, dict[str, float]]:
    """Components start at k-means clusters, the default."""
    return _gmvae(seed, "kmeans")


def leiden(case: str, seed: int) -> dict[str, dict[str, float]]:
    """Leiden on 30 principal components of log-normalised counts."""
    cells, types = _part(seed)
    out = {}
    for k in SETTINGS["n_clusters"]:
        start = time.perf_counter()
        clusters = cluster_cells(cells, n_clusters=k, is_count=True, seed=seed)
        out[f"K={k}"] = _scores(clusters, types) | {"seconds": time.perf_counter() - start}
    return out


def scvi_leiden(case: str, seed: int) -> dict[str, dict[str, float]]:
    """Leiden on SCVI's latent space; its training counts for either number of clusters."""
    cells, types = _part(seed)
    scvi.settings.seed = seed
    start = time.perf_counter()
    scvi.model.SCVI.setup_anndata(cells, batch_key="donor")
    model = scvi.model.SCVI(cells, **SETTINGS["scvi"])
    model.train(SETTINGS["scvi_epochs"], **TRAINER)
    cells.obsm["z"] = model.get_latent_representation()
    trained = time.perf_counter() - start
    out = {}
    for k in SETTINGS["n_clusters"]:
        start = time.perf_counter()
        clusters = cluster_cells(cells, n_clusters=k, basis="z", seed=seed)
        seconds = trained + time.perf_counter() - start
        out[f"K={k}"] = _scores(clusters, types) | {"seconds": seconds}
    return out


METHODS = {
    "GMVAE, Leiden start": gmvae_leiden,
    "GMVAE, k-means start": gmvae_kmeans,
    "Leiden on PCA": leiden,
    "SCVI + Leiden": scvi_leiden,
}


def main() -> None:
    """Run all seeds and write the record."""
    compare("cells/clustering", METHODS, ["Kang control"], SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
