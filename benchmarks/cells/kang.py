"""The Kang parts, prepared once for the benchmarks."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData

import mixvi


def prepared() -> AnnData:
    """Log-normalised cells with raw counts in ``layers["counts"]``."""
    adata = mixvi.datasets.kang("both_1556")
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    return adata


def held_out(adata: AnnData, share: float, seed: int) -> np.ndarray:
    """Mask of held-out cells, the same share of every type and condition, ``(n_obs,)``."""
    rng = np.random.default_rng(seed)
    groups = adata.obs.groupby(["cell_type", "condition"], observed=True).indices
    mask = np.zeros(adata.n_obs, dtype=bool)
    for rows in groups.values():
        mask[rng.choice(rows, round(share * len(rows)), replace=False)] = True
    return mask
