"""How near predicted populations come to real ones (Kolb 2022, section 11.3; spec 10.4, 10.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.stats import linregress


def _dense(x) -> np.ndarray:
    x = x.X if isinstance(x, AnnData) else x
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    return np.atleast_2d(x).astype(np.float64)


def mean_expression_r2(predicted, real, genes: Sequence[int] | None = None) -> float:
    """Squared correlation of per-gene means, scGen's ``reg_mean_plot`` figure.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``. A single row serves as
        a mean itself.
    genes
        Column numbers to compare; default all.

    Raises
    ------
    ValueError
        If the numbers of genes differ or a side has no cells.
    """
    predicted, real = _dense(predicted), _dense(real)
    if predicted.shape[1] != real.shape[1]:
        raise ValueError(
            f"predicted has {predicted.shape[1]} genes, real has {real.shape[1]}; both need the "
            "same genes in the same order."
        )
    if not len(predicted) or not len(real):
        raise ValueError("predicted and real need at least one cell each.")
    x, y = predicted.mean(axis=0), real.mean(axis=0)
    if genes is not None:
        x, y = x[genes], y[genes]
    return float(linregress(x, y).rvalue ** 2)


def mean_expression_table(
    predicted, real, predicted_groups: Sequence, real_groups: Sequence
) -> pd.DataFrame:
    """:func:`mean_expression_r2` for each group found on both sides, and over all cells.

    Parameters
    ----------
    predicted, real
        ``(n, G)`` and ``(m, G)``.
    predicted_groups, real_groups
        Group of each row (e.g. the cell type), ``(n,)`` and ``(m,)``.

    Returns
    -------
    DataFrame with ``r2``, ``n_predicted`` and ``n_real``, one row a group and one ``"all"``.
    """
    predicted, real = _dense(predicted), _dense(real)
    left, right = np.asarray(predicted_groups), np.asarray(real_groups)
    rows = {}
    for group in sorted(set(left) & set(right)):
        p, r = predicted[left == group], real[right == group]
        rows[group] = {"r2": mean_expression_r2(p, r), "n_predicted": len(p), "n_real": len(r)}
    rows["all"] = {
        "r2": mean_expression_r2(predicted, real),
        "n_predicted": len(predicted),
        "n_real": len(real),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def class_mean_baseline(
    x, groups: Sequence, conditions: Sequence, target: str
) -> dict[str, np.ndarray]:
    """Mean expression of every group under the target condition, the baseline to beat.

    Parameters
    ----------
    x
        Training cells ``(n, G)``.
    groups, conditions
        Of each cell, ``(n,)``.
    target
        The target condition.

    Returns
    -------
    Group to mean ``(G,)``.
    """
    x, groups, conditions = _dense(x), np.asarray(groups), np.asarray(conditions)
    at_target = conditions == target
    if not at_target.any():
        raise ValueError(f"No cell has the condition {target!r}.")
    return {g: x[at_target & (groups == g)].mean(axis=0) for g in sorted(set(groups[at_target]))}


def variance_ratio(predicted, real) -> np.ndarray:
    """Predicted over real variance of each gene, ``(G,)``; NaN where the real one is zero."""
    real_variance = _dense(real).var(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _dense(predicted).var(axis=0) / real_variance
    return np.where(real_variance > 0, ratio, np.nan)
