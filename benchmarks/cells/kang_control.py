"""Acceptance rows 18-20: Kang control cells, alone and labelled from pbmc3k.

The thesis's own cells are not at hand: figures are on this part. Megakaryocytes are left out, as in
the thesis. ``train`` and ``valid`` are random cells of a seed; maps from components to types are
fitted on each set itself as the thesis scores (``own map``), and on the training set (``valid``).
"""

from __future__ import annotations

import numpy as np
import scanpy as sc
import scvi
import torch
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER

import mixvi
from mixvi.cells import cluster_cells, join_studies, transfer_labels
from mixvi.metrics import accuracy_by_overlap, component_table, overlap_map, per_label_recall

SETTINGS = {
    "data": "kang control_12261 without megakaryocytes; source: pbmc3k without megakaryocytes",
    "n_train": 4000,
    "n_valid": 1000,
    "scaling": "log-normalised; unsupervised also per gene, clipped at 10",
    "unsupervised": {
        "n_components": 21,
        "n_latent_z": 12,
        "n_latent_w": 12,
        "n_hidden": 256,
        "n_layers": 2,
        "likelihood": "mse",
    },
    "unsupervised_stages": [(1e-3, 30), (1e-4, 10)],
    "transfer": {
        "n_latent_z": 18,
        "n_latent_w": 18,
        "n_hidden": 256,
        "n_layers": 2,
        "dropout_rate": 0.25,
        "likelihood": "mse",
        "output_activation": "softplus",
        "classification_weight": 50.0,
    },
    "transfer_stages": [(1e-3, 20), (1e-4, 10)],
    "source_clusters": 8,
}


def _normalised(adata):
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    torch.set_num_threads(1)
    return adata


KANG = mixvi.datasets.kang("control_12261")
KANG = _normalised(KANG[KANG.obs["cell_type"] != "Megakaryocytes"].copy())
SOURCE = mixvi.datasets.pbmc3k(drop_megakaryocytes=True)
SOURCE = _normalised(SOURCE[:, SOURCE.var_names.isin(KANG.var_names)].copy())


def _split(seed: int):
    rows = np.random.default_rng(seed).permutation(KANG.n_obs)
    n, m = SETTINGS["n_train"], SETTINGS["n_valid"]
    return KANG[np.sort(rows[:n])].copy(), KANG[np.sort(rows[n : n + m])].copy()


def _types(cells):
    return cells.obs["cell_type"].astype(str).to_numpy()


def leiden(case: str, seed: int) -> dict[str, float]:
    """Row 18: Leiden on either set, resolution 1."""
    out = {}
    for name, cells in zip(("train", "valid"), _split(seed), strict=True):
        clusters = cluster_cells(cells, seed=seed)
        out[f"{name}_own_map"] = accuracy_by_overlap(clusters, _types(cells))
        out[f"{name}_clusters"] = int(clusters.nunique())
    return out


def unsupervised(case: str, seed: int) -> dict[str, float]:
    """Row 19: three times as many components as types."""
    train, valid = _split(seed)
    mean, std = train.X.mean(axis=0), train.X.std(axis=0)
    for cells in (train, valid):
        cells.X = np.clip((cells.X - mean) / np.maximum(std, 1e-3), -10, 10)
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(train)
    model = mixvi.GMVAE(train, **SETTINGS["unsupervised"])
    model.train(stages=SETTINGS["unsupervised_stages"], **TRAINER)
    found, held = model.predict(), model.predict(valid)
    mapping = overlap_map(component_table(found, _types(train)))
    recall = per_label_recall(found.map(mapping).to_numpy(), _types(train))
    return {
        "train_own_map": accuracy_by_overlap(found, _types(train)),
        "valid_own_map": accuracy_by_overlap(held, _types(valid)),
        "valid": accuracy_by_overlap(held, _types(valid), mapping),
        "types_with_component": len(set(mapping.values())),
        "dendritic_recall": float(recall["Dendritic cells"]),
        "lowest_recall": float(recall.min()),
    }


def _transfer(seed: int, **options) -> dict[str, float]:
    train, valid = _split(seed)
    source = SOURCE.copy()
    source.obs["cluster"] = cluster_cells(source, n_clusters=SETTINGS["source_clusters"], seed=seed)
    of_cluster = overlap_map(component_table(source.obs["cluster"], _types(source)))
    scvi.settings.seed = seed
    result = transfer_labels(
        source,
        train,
        "cluster",
        model_kwargs=SETTINGS["transfer"],
        stages=SETTINGS["transfer_stages"],
        seed=seed,
        **options,
        **TRAINER,
    )
    joint = join_studies(source, valid, "cluster")
    ours = np.flatnonzero(joint.obs["study"] == "target")
    held = result.model.predict(joint, ours, level="label")
    names = {str(k): v for k, v in of_cluster.items()}
    found = result.labels.astype(str).map(names).to_numpy()
    return {
        "train": float((found == _types(train)).mean()),
        "valid": float((held.astype(str).map(names).to_numpy() == _types(valid)).mean()),
        "train_own_map": accuracy_by_overlap(result.labels, _types(train)),
        "valid_own_map": accuracy_by_overlap(held, _types(valid)),
        "types_with_component": len(set(names.values())),
        "lowest_recall": float(per_label_recall(found, _types(train)).min()),
    }


def transfer(case: str, seed: int) -> dict[str, float]:
    """Row 20: Leiden labels of pbmc3k, no study covariate, as in the thesis."""
    return _transfer(seed, study_as_batch=False)


def transfer_batch(case: str, seed: int) -> dict[str, float]:
    """Row 20 with the study as a batch."""
    return _transfer(seed, study_as_batch=True)


METHODS = {
    "Leiden": leiden,
    "unsupervised K=21": unsupervised,
    "transfer": transfer,
    "transfer, study as batch": transfer_batch,
}


def main() -> None:
    """Run all seeds and write the record."""
    compare("cells/kang_control", METHODS, ["Kang control"], SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
