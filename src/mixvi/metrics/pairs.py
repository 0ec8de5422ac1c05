"""Two populations of cells side by side: brought to matrices, checked, projected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA


def dense(x) -> np.ndarray:
    """``(n, G)`` in double precision from a dense or sparse matrix or an AnnData."""
    x = x.X if isinstance(x, AnnData) else x
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    return np.atleast_2d(x).astype(np.float64)


def pair(
    left, right, names: tuple[str, str] = ("predicted", "real")
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides dense, once it is sure that their columns are the same genes.

    Parameters
    ----------
    left, right
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    names
        How messages call them.

    Raises
    ------
    ValueError
        If the genes differ or a side has no cells.
    """
    x, y = dense(left), dense(right)
    a, b = names
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{a} has {x.shape[1]} genes, {b} has {y.shape[1]}; both need the "
            "same genes in the same order."
        )
    if not len(x) or not len(y):
        raise ValueError(f"{a} and {b} need at least one cell each.")
    if isinstance(left, AnnData) and isinstance(right, AnnData):
        if not left.var_names.equals(right.var_names):
            raise ValueError(
                f"{a} and {b} name their genes differently or in another order. "
                f"Reorder first: {b} = {b}[:, {a}.var_names]."
            )
    return x, y


def finite_pair(
    left, right, names: tuple[str, str] = ("predicted", "real")
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`pair`, with a ValueError for NaN and infinite values too."""
    sides = pair(left, right, names)
    for name, x in zip(names, sides, strict=True):
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"{name} has NaN or infinite values in {bad} cells; drop those cells first."
            )
    return sides


def of_each_cell(values: Sequence, n: int, name: str) -> np.ndarray:
    """``values`` as an array ``(n,)``; ValueError if one is missing or the length differs."""
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"{name} must have one entry a cell ({n}), but has {len(values)}.")
    if pd.isna(values).any():
        raise ValueError(f"{name} has missing values (NaN); drop those cells first.")
    return values


def on_components_of(
    real: np.ndarray, other: np.ndarray, n_pcs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both ``(n, G)`` on the first principal components of ``real``; as they are if G <= n_pcs.

    Of fewer than ``n_pcs`` real cells, as many components as there are cells.
    """
    if real.shape[1] <= n_pcs:
        return real, other
    pca = PCA(min(n_pcs, len(real)), random_state=0).fit(real)
    return pca.transform(real), pca.transform(other)
