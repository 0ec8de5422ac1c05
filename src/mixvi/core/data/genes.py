"""Cells brought onto the genes of a model: in its order, zeros where a gene is missing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mixvi.core.data import checks
from mixvi.core.data.backed import is_backed


def with_genes(adata: AnnData, names: pd.Index, min_overlap: float) -> AnnData:
    """Cells with the genes ``names`` in their order.

    Parameters
    ----------
    adata
        Cells; not changed.
    names
        Genes of the model, ``(G,)``.
    min_overlap
        Smallest share of them that the cells must have.

    Returns
    -------
    AnnData ``(n_obs, G)``, ``X`` and layers of the formats and types they had. Where genes were
    added, ``var`` has missing values for them, and ``varm`` and ``varp`` are left out.

    Raises
    ------
    ValueError
        If fewer genes overlap, or names repeat.
    """
    _check(adata, names)
    positions = adata.var_names.get_indexer(names)
    missing = names[positions < 0]
    if len(missing) == 0:
        return adata[:, names].copy()
    share = len(missing) / len(names)
    text = (
        f"adata lacks {len(missing)} of the model's {len(names)} genes ({share:.1%}), e.g. "
        f"{', '.join(map(repr, missing[:3]))}"
    )
    if len(missing) == len(names) or 1.0 - share < min_overlap:
        raise ValueError(
            f"{text}. At least {min_overlap:.0%} are needed (min_overlap). The model's are e.g. "
            f"{names[0]!r}, those of adata {adata.var_names[0]!r}: name genes alike in both, or "
            "train a model on the genes that both data sets share."
        )
    warnings.warn(f"{text}. They are filled up with zeros.", UserWarning, stacklevel=3)
    filled = AnnData(
        _padded(adata.X, positions),
        obs=adata.obs.copy(),
        var=adata.var.reindex(names),
        uns=dict(adata.uns),
        obsm=dict(adata.obsm),
        obsp=dict(adata.obsp),
        layers={key: _padded(layer, positions) for key, layer in adata.layers.items() if key},
    )
    if adata.raw is not None:
        filled.raw = adata.raw.to_adata()
    return filled


def _check(adata: AnnData, names: pd.Index) -> None:
    checks.check_anndata(adata)
    for owner, index in (("adata", adata.var_names), ("the model", names)):
        if not index.is_unique:
            raise ValueError(
                f"Gene names of {owner} repeat, e.g. {index[index.duplicated()][0]!r}, and cannot "
                "be found by name. Call adata.var_names_make_unique() before set-up and training."
            )
    if any(is_backed(matrix) for matrix in (adata.X, *adata.layers.values())):
        raise ValueError("adata is on disk. Take it into memory first: adata = adata.to_memory().")


def _padded(x: Any, positions: np.ndarray) -> Any:
    """Columns of a matrix at ``positions``, and zeros at those that are -1."""
    if x is None:
        return None
    if sparse.issparse(x):
        zeros = type(x)((x.shape[0], 1), dtype=x.dtype)
        # the last column is the zeros'
        return sparse.hstack([x, zeros], format=x.format)[:, positions]
    x = np.asarray(x)
    padded = np.zeros((x.shape[0], len(positions)), dtype=x.dtype)
    padded[:, positions >= 0] = x[:, positions[positions >= 0]]
    return padded
