"""Clusters by defaults: GMVAE without a word beside Leiden on principal components and on SCVI.

Raw counts of all genes; no method sees a label. ``defaults`` is ``GMVAE(adata)`` and ``train()``,
which find the number of clusters themselves; the others are given that number, and the number of
labels, and for Leiden the number that silhouette prefers among resolutions as well. Labels of
pbmc3k are a Louvain clustering, those of Kang are the authors' annotation, and those of sorted_pbmc
are antibodies. ``separable`` counts the labels that a logistic regression on principal components
tells apart: a held-out F1 of 0.7 or more in five folds.

``calibration_error`` is of the labels that components overlap most with, fitted on all cells.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import anndata
import numpy as np
import scvi
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, silhouette_score
from sklearn.model_selection import cross_val_predict

import mixvi
from mixvi.cells import cluster_cells
from mixvi.cells.initial import principal_components
from mixvi.metrics import clustering_report, expected_calibration_error

SETTINGS = {
    "scvi": {"gene_likelihood": "nb", "n_latent": 12},
    "scvi_kl": "weight 1 from the first epoch",
    "scvi_epochs": 100,
    "resolutions": [0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0],
    "separable_f1": 0.7,
}
# loader, its column of labels and of batches
DATA = {
    "sorted_pbmc": (mixvi.datasets.sorted_pbmc, "sorted_population", None),
    "Kang control": (lambda: mixvi.datasets.kang("control_12261"), "cell_type", "donor"),
    "pbmc3k": (mixvi.datasets.pbmc3k, "cell_type", None),
}


def _cells(case: str, n_toy: int | None) -> tuple[anndata.AnnData, np.ndarray, str | None]:
    """Cells without labels, their labels, and the column of batches."""
    load, labels_key, batch_key = DATA[case]
    cells = load()
    if n_toy:
        rows = np.random.default_rng(0).choice(cells.n_obs, n_toy, replace=False)
        cells = cells[np.sort(rows), :500].copy()
        cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
    return cells, cells.obs.pop(labels_key).astype(str).to_numpy(), batch_key


def _scores(clusters: Sequence, labels: np.ndarray) -> dict[str, float]:
    report = clustering_report(clusters, labels)
    names, sizes = np.unique(labels, return_counts=True)
    return {
        "ari": report["ari"],
        "nmi": report["nmi"],
        "accuracy": report["accuracy_overlap"],
        "rarest_recall": report["recall"][names[sizes.argmin()]],
        "labels_with_cluster": report["labels_with_component"],
        "clusters": int(len(set(clusters))),
    }


def _gmvae(
    cells: anndata.AnnData, labels: np.ndarray, batch_key: str | None, seed: int, k: int | None
) -> dict[str, float]:
    scvi.settings.seed = seed
    start = time.perf_counter()
    mixvi.GMVAE.setup_anndata(cells, batch_key=batch_key)
    model = mixvi.GMVAE(cells, n_components=k)
    model.train(**TRAINER)
    seconds = time.perf_counter() - start
    scores = _scores(model.predict(), labels)
    confidence = float(model.predict(soft=True).max(axis=1).mean())
    cells.obs["label"] = labels
    model.assign_components("label")
    del cells.obs["label"]
    probs = model.predict(level="label", soft=True)
    return scores | {
        "confidence": confidence,
        "calibration_error": expected_calibration_error(probs, labels),
        "components": model.n_components,
        "seconds": seconds,
    }


def _preferred(cells: anndata.AnnData, points: np.ndarray, basis: str, seed: int) -> Sequence:
    """Leiden at the resolution whose clusters have the largest silhouette on ``points``."""
    best, chosen = -2.0, None
    for resolution in SETTINGS["resolutions"]:
        clusters = cluster_cells(cells, basis=basis, resolution=resolution, seed=seed)
        if clusters.nunique() > 1:
            sample = {"sample_size": min(5000, len(points)), "random_state": seed}
            score = silhouette_score(points, clusters, **sample)
            if score > best:
                best, chosen = score, clusters
    return np.zeros(len(points), dtype=int) if chosen is None else chosen


def _leiden(
    cells: anndata.AnnData, labels: np.ndarray, basis: str, numbers: dict[str, int], seed: int
) -> dict[str, dict[str, float]]:
    out = {}
    for name, k in numbers.items():
        start = time.perf_counter()
        clusters = cluster_cells(cells, basis=basis, n_clusters=k, seed=seed)
        seconds = time.perf_counter() - start
        out[name] = _scores(clusters, labels) | {"seconds": seconds}
    start = time.perf_counter()
    clusters = _preferred(cells, cells.obsm[basis], basis, seed)
    seconds = time.perf_counter() - start
    return out | {"silhouette's number": _scores(clusters, labels) | {"seconds": seconds}}


def _separable(points: np.ndarray, labels: np.ndarray) -> int:
    called = cross_val_predict(LogisticRegression(max_iter=2000), points, labels, cv=5)
    scores = f1_score(labels, called, average=None)
    return int((scores >= SETTINGS["separable_f1"]).sum())


def clusters(case: str, seed: int, n_toy: int | None = None) -> dict[str, dict[str, float]]:
    """All methods on one data set: peers are given the number that the defaults found."""
    cells, labels, batch_key = _cells(case, n_toy)
    n_labels = len(np.unique(labels))
    batches = None if batch_key is None else cells.obs[batch_key].cat.codes.to_numpy()
    points = principal_components(cells.X, is_count=True, seed=seed, groups=batches)
    found = _gmvae(cells, labels, batch_key, seed, None)
    out = {"GMVAE, defaults": found | {"separable": _separable(points, labels)}}
    out["GMVAE, number of labels"] = _gmvae(cells, labels, batch_key, seed, n_labels)

    numbers = {"the defaults' number": found["clusters"], "number of labels": n_labels}
    cells.obsm["pca"] = points
    for name, scores in _leiden(cells, labels, "pca", numbers, seed).items():
        out[f"Leiden on PCA, {name}"] = scores

    scvi.settings.seed = seed
    start = time.perf_counter()
    scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key)
    model = scvi.model.SCVI(cells, **SETTINGS["scvi"])
    epochs = 1 if n_toy else SETTINGS["scvi_epochs"]
    model.train(epochs, plan_kwargs={"n_epochs_kl_warmup": None}, **TRAINER)
    cells.obsm["scvi"] = model.get_latent_representation()
    seconds = time.perf_counter() - start
    for name, scores in _leiden(cells, labels, "scvi", numbers, seed).items():
        out[f"Leiden on SCVI, {name}"] = scores | {"seconds": scores["seconds"] + seconds}
    return out


def main() -> None:
    """Run all seeds and write the record; ``--toy``: few cells and genes, another record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--toy", type=int, metavar="CELLS", help="as many cells, 500 genes")
    parser.add_argument("--resume", action="store_true", help="keep the record's runs")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    name = "cells/default_clusters" + ("_toy" if given.toy else "")

    def method(case: str, seed: int) -> dict[str, dict[str, float]]:
        return clusters(case, seed, given.toy)

    settings = SETTINGS | {"toy": given.toy}
    compare(name, {"raw counts": method}, list(DATA), settings, given.seeds, resume=given.resume)


if __name__ == "__main__":
    main()
