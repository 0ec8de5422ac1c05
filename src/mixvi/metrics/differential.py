"""Genes that differ between two populations, and whether predicted cells have the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import average_precision_score

from mixvi.core.arguments import check_choice, check_positive, check_share
from mixvi.metrics.pairs import common_layer, finite_pair

DE_METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")
# of a gene that differs and has no spread, whose t is infinite: figures want numbers
_LARGEST_SCORE = 1e9


def de_table(
    cells, control, method: str = "wilcoxon", *, layer: str | None = "auto"
) -> pd.DataFrame:
    """How much each gene differs from control, by scanpy's tests.

    Parameters
    ----------
    cells, control
        Cells by genes, dense, sparse or AnnData, best log-normalised: ``(n, G)`` and ``(m, G)``.
    method
        ``"wilcoxon"``, ``"t-test"`` or ``"t-test_overestim_var"``.
    layer
        As in :func:`mixvi.metrics.mean_expression_r2`.

    Returns
    -------
    DataFrame by gene, in the order of the columns, with ``score`` (of the test, 1e9 in size at
    most; its sign is that of the change of ranks or means), ``p_adjusted`` (Benjamini and Hochberg
    1995) and ``change``, the difference of the means.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.marker_overlap`.
    """
    names = next((side.var_names for side in (cells, control) if isinstance(side, AnnData)), None)
    layer = common_layer(layer, {"cells": cells, "control": control})
    x, y = finite_pair(cells, control, ("cells", "control"), layer)
    genes = pd.RangeIndex(x.shape[1]) if names is None else names
    # scanpy names genes by text, which need not be unique
    places = pd.RangeIndex(len(genes)).astype(str)
    ranked = ranked_genes(x, y, places, len(genes), method, ("cells", "control"))
    ranked = ranked.set_index(ranked["names"].astype(int)).sort_index()
    return pd.DataFrame(
        {
            "score": ranked["scores"].to_numpy(float).clip(-_LARGEST_SCORE, _LARGEST_SCORE),
            "p_adjusted": ranked["pvals_adj"].to_numpy(float),
            "change": x.mean(axis=0) - y.mean(axis=0),
        },
        index=genes,
    )


def de_overlap(predicted: pd.DataFrame, real: pd.DataFrame, k: int = 50) -> float:
    """Share of the ``k`` genes that differ most in real cells that do so in predicted ones, too.

    Genes are ranked by the size of the test's score; genes that do not differ at all are in no
    list, so that cells without any change share none. By chance it is ``k`` over the number of
    genes.

    Parameters
    ----------
    predicted, real
        Tables of :func:`de_table`, of the same genes against the same control.
    k
        Length of the lists.

    Raises
    ------
    ValueError
        If the tables' genes differ, or there are fewer than ``k``.
    """
    _check_tables(predicted, real)
    check_positive("k", k)
    if k > len(real):
        raise ValueError(f"k={k}, but there are {len(real)} genes; ask for fewer.")
    return len(_most(predicted, k) & _most(real, k)) / k


def de_direction_match(
    predicted: pd.DataFrame, real: pd.DataFrame, threshold: float = 0.05
) -> float:
    """Share of the genes that differ in real cells whose predicted change has their direction.

    Parameters
    ----------
    predicted, real
        As in :func:`de_overlap`.
    threshold
        Adjusted p-values below it are of genes that differ.

    Returns
    -------
    In [0, 1], by chance a half; a predicted change of zero has no direction. NaN if no gene
    differs in real cells.

    Raises
    ------
    ValueError
        If the tables' genes differ.
    """
    differs = _differing(predicted, real, threshold)
    if not differs.any():
        return float("nan")
    ours, theirs = np.sign(predicted["change"].to_numpy()), np.sign(real["change"].to_numpy())
    return float((ours == theirs)[differs].mean())


def de_auprc(predicted: pd.DataFrame, real: pd.DataFrame, threshold: float = 0.05) -> float:
    """Average precision of the genes that differ in real cells, by the predicted cells' ranking.

    Genes are ranked by the size of the test's score. By chance it is the share of such genes.

    Parameters
    ----------
    predicted, real, threshold
        As in :func:`de_direction_match`.

    Returns
    -------
    In [0, 1]; NaN if no gene or every gene differs in real cells.

    Raises
    ------
    ValueError
        If the tables' genes differ.
    """
    differs = _differing(predicted, real, threshold)
    if not differs.any() or differs.all():
        return float("nan")
    return float(average_precision_score(differs, predicted["score"].abs().to_numpy()))


def _differing(predicted: pd.DataFrame, real: pd.DataFrame, threshold: float) -> np.ndarray:
    _check_tables(predicted, real)
    check_share("threshold", threshold)
    return (real["p_adjusted"] < threshold).to_numpy()


def _check_tables(predicted: pd.DataFrame, real: pd.DataFrame) -> None:
    if not predicted.index.equals(real.index):
        raise ValueError("Both tables must be of the same genes in the same order.")


def _most(table: pd.DataFrame, k: int) -> set[int]:
    """Positions of the ``k`` genes that differ most."""
    size = table["score"].abs().to_numpy()
    order = np.argsort(-size, kind="stable")[:k]
    return {int(at) for at in order if size[at] > 0}


def ranked_genes(
    case, reference, genes: pd.Index, n_genes: int, method: str, names: tuple[str, str]
) -> pd.DataFrame:
    """``names``, ``scores`` and ``pvals_adj`` of the genes that score highest over the reference.

    Parameters
    ----------
    case, reference
        Cells ``(n, G)`` and ``(m, G)``, both dense or both sparse.
    genes
        Their names, ``(G,)``.
    n_genes, method
        As in :func:`mixvi.metrics.marker_overlap`.
    names
        How messages call case and reference.

    Raises
    ------
    ValueError
        If a side has fewer than two cells or values that are not finite, there are fewer than
        ``n_genes`` genes, or the method is unknown.
    """
    import scanpy as sc

    check_choice("method", method, DE_METHODS)
    check_positive("n_genes", n_genes)
    if n_genes > len(genes):
        raise ValueError(f"n_genes={n_genes}, but there are {len(genes)} genes; ask for fewer.")
    for name, x in zip(names, (case, reference), strict=True):
        if x.shape[0] < 2:
            raise ValueError(f"{name} needs two cells or more for a ranking, but has one.")
        # ranks of NaN would be numbers, too
        if not np.isfinite(x.data if sparse.issparse(x) else x).all():
            raise ValueError(f"{name} has NaN or infinite values; drop those cells first.")
    both = (case, reference)
    x = sparse.vstack(both, "csr") if sparse.issparse(case) else np.vstack(both)
    group = pd.Categorical(np.repeat(["case", "reference"], [case.shape[0], reference.shape[0]]))
    cells = AnnData(x, var=pd.DataFrame(index=genes))
    cells.obs["group"] = group
    # fold changes of negative means (which predictions may have) are NaN; ranks do not use them
    with np.errstate(invalid="ignore", divide="ignore"):
        sc.tl.rank_genes_groups(
            cells,
            "group",
            groups=["case"],
            reference="reference",
            n_genes=n_genes,
            method=method,
            use_raw=False,
        )
    found = cells.uns["rank_genes_groups"]
    return pd.DataFrame({key: found[key]["case"] for key in ("names", "scores", "pvals_adj")})
