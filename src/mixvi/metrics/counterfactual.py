"""How near predicted populations come to real ones (Kolb 2022, section 11.3).

Functions of several populations compare one matrix of all of them, see ``layer``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import linregress

from mixvi.core.data.alignment import names_of
from mixvi.metrics.pairs import common_layer, dense, of_each_cell, pair


def gene_columns(genes: Sequence | None, *sides) -> Sequence[int] | slice:
    """Column numbers of genes given by number, by mask or (of an AnnData) by name."""
    if genes is None or isinstance(genes, slice):
        return slice(None) if genes is None else genes
    chosen = np.asarray(genes)
    if not chosen.size or (chosen.dtype.kind == "b" and not chosen.any()):
        raise ValueError("genes chooses none; name one or more, or pass genes=None for all.")
    if chosen.dtype.kind not in "OUS":
        _check_numbers(chosen, sides[0])
        return genes
    named = next((side.var_names for side in sides if isinstance(side, AnnData)), None)
    if named is None:
        raise ValueError("Genes are given by name, so predicted or real must be an AnnData.")
    missing = [g for g in genes if g not in named]
    if missing:
        raise ValueError(f"{len(missing)} genes are not in var_names, e.g. {missing[0]!r}.")
    if not named.is_unique:
        raise ValueError(
            f"var_names repeat, e.g. {named[named.duplicated()][0]!r}, so that genes cannot be "
            "found by name. Call var_names_make_unique(), or give them by number."
        )
    return named.get_indexer(list(genes))


def _check_numbers(chosen: np.ndarray, side) -> None:
    """Raise unless numbers or a mask are of columns that there are."""
    n = (side.shape if hasattr(side, "shape") else np.shape(side))[-1]
    if chosen.dtype.kind == "b":
        if chosen.shape != (n,):
            raise ValueError(f"genes is a mask of {len(chosen)} entries, but there are {n} genes.")
    elif chosen.dtype.kind not in "iu" or chosen.min() < -n or chosen.max() >= n:
        raise ValueError(f"genes must be whole numbers below {n}, the number of genes, or names.")


def mean_expression_r2(
    predicted, real, genes: Sequence | None = None, *, layer: str | None = "auto"
) -> float:
    """Squared correlation of per-gene means, scGen's ``reg_mean_plot`` figure.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``. A single row serves as
        a mean itself.
    genes
        Genes to compare, as column numbers, a mask or (of an AnnData) names; default all.
    layer
        Layer of both sides (of an AnnData) that is compared, ``None``: ``X``. ``"auto"``: of cells
        that a mixvi model predicted, the matrix that the model reads, which they name in
        ``uns["mixvi_prediction"]``; else ``X``.

    Returns
    -------
    In [0, 1]; NaN if either mean is the same for all genes, as of one gene alone.

    Raises
    ------
    KeyError
        If a side has no such layer.
    ValueError
        If the genes differ, one of ``genes`` is unknown, a side has no cells, or the sides are
        not on one scale: predicted cells say which theirs is.
    """
    columns = gene_columns(genes, predicted, real)
    predicted, real = pair(predicted, real, layer=layer)
    x, y = predicted.mean(axis=0)[columns], real.mean(axis=0)[columns]
    if not np.ptp(x) or not np.ptp(y):
        return float("nan")
    return float(linregress(x, y).rvalue ** 2)


def mean_expression_table(
    predicted,
    real,
    predicted_groups: Sequence,
    real_groups: Sequence,
    genes: Sequence | None = None,
    *,
    layer: str | None = "auto",
) -> pd.DataFrame:
    """:func:`mean_expression_r2` for each group found on both sides, and over all cells.

    Parameters
    ----------
    predicted, real
        ``(n, G)`` and ``(m, G)``.
    predicted_groups, real_groups
        Group of each row (e.g. the cell type), ``(n,)`` and ``(m,)``; a Series by cell name.
    genes, layer
        As in :func:`mean_expression_r2`.

    Returns
    -------
    DataFrame with ``r2``, ``n_predicted`` and ``n_real``, one row a group and one ``"all"``.

    Raises
    ------
    ValueError
        As :func:`mean_expression_r2`; also if groups are missing or not one a cell.
    """
    columns = gene_columns(genes, predicted, real)
    names = names_of(predicted), names_of(real)
    predicted, real = pair(predicted, real, layer=layer)
    left = of_each_cell(predicted_groups, len(predicted), "predicted_groups", names[0])
    right = of_each_cell(real_groups, len(real), "real_groups", names[1])
    rows = {}
    for group in sorted(set(left) & set(right)):
        p, r = predicted[left == group], real[right == group]
        r2 = mean_expression_r2(p, r, columns)
        rows[group] = {"r2": r2, "n_predicted": len(p), "n_real": len(r)}
    rows["all"] = {
        "r2": mean_expression_r2(predicted, real, columns),
        "n_predicted": len(predicted),
        "n_real": len(real),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def class_mean_baseline(
    x, groups: Sequence, conditions: Sequence, target: str, *, layer: str | None = None
) -> dict[str, np.ndarray]:
    """Mean expression of every group under the target condition, the baseline to beat.

    Parameters
    ----------
    x
        Training cells ``(n, G)``, dense, sparse or AnnData.
    groups, conditions
        Of each cell, ``(n,)``; a Series by cell name.
    target
        The target condition.
    layer
        Layer of an AnnData; ``None``: ``X``.

    Returns
    -------
    Group to mean ``(G,)``.

    Raises
    ------
    ValueError
        If no cell has the target condition, or groups or conditions are missing or not one a cell.
    """
    names, x = names_of(x), dense(x, layer)
    groups = of_each_cell(groups, len(x), "groups", names)
    conditions = of_each_cell(conditions, len(x), "conditions", names)
    at_target = conditions == target
    if not at_target.any():
        raise ValueError(f"No cell has the condition {target!r}.")
    return {g: x[at_target & (groups == g)].mean(axis=0) for g in sorted(set(groups[at_target]))}


def responding_genes(
    control, treated, predicted=None, *, layer: str | None = "auto"
) -> pd.DataFrame:
    """How the mean expression of each gene changes, the greatest changes first.

    Parameters
    ----------
    control, treated
        Real cells before and after, or as predicted: ``(n, G)`` and ``(m, G)``. Genes are named by
        the first AnnData among them, else by their column numbers.
    predicted
        Cells predicted of the controls, to see beside the treated ones.
    layer
        As in :func:`mean_expression_r2`.

    Returns
    -------
    DataFrame by gene with ``control``, ``treated`` and ``change`` (and ``predicted`` and
    ``predicted_change``), sorted by the size of ``change``.

    Raises
    ------
    KeyError, ValueError
        As :func:`mean_expression_r2`.
    """
    sides = {"control": control, "treated": treated, "predicted": predicted}
    layer = common_layer(layer, sides)
    before, after = pair(control, treated, ("control", "treated"), layer)
    named = [side.var_names for side in sides.values() if isinstance(side, AnnData)]
    table = pd.DataFrame(
        {"control": before.mean(axis=0), "treated": after.mean(axis=0)},
        index=named[0] if named else None,
    )
    table["change"] = table["treated"] - table["control"]
    if predicted is not None:
        # what it says of its scale holds for both, which may say nothing
        pair(predicted, treated, ("predicted", "treated"), layer)
        ours, _ = pair(predicted, control, ("predicted", "control"), layer)
        table["predicted"] = ours.mean(axis=0)
        table["predicted_change"] = table["predicted"] - table["control"]
    return table.sort_values("change", key=np.abs, ascending=False, kind="stable")


def variance_ratio(predicted, real, *, layer: str | None = "auto") -> np.ndarray:
    """Predicted over real variance of each gene, ``(G,)``; NaN where the real one is zero.

    Parameters
    ----------
    predicted, real, layer
        As in :func:`mean_expression_r2`.

    Raises
    ------
    KeyError, ValueError
        As :func:`mean_expression_r2`.
    """
    predicted, real = pair(predicted, real, layer=layer)
    real_variance = real.var(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = predicted.var(axis=0) / real_variance
    return np.where(real_variance > 0, ratio, np.nan)
