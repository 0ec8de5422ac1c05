"""Whether generated populations are distributed as real ones: distances, markers, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import KNeighborsClassifier

from mixvi.core.arguments import check_choice, check_positive, near_matches
from mixvi.core.data.alignment import names_of
from mixvi.core.data.checks import check_key
from mixvi.core.maths.sparse import distinct_entries
from mixvi.metrics.pairs import (
    common_layer,
    finite_pair,
    matrix,
    of_each_cell,
    on_components_of,
)

_METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")


def energy_distance(
    predicted, real, n_cells: int = 2000, seed: int = 0, *, layer: str | None = "auto"
) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely & Rizzo 2013), Euclidean.

    The terms within a side run over pairs of different cells (the zeros of a cell with itself are
    left out), so that the estimate has no bias: it is 0 on average for equal distributions and
    may fall below.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    n_cells
        Cells a side at most; of more, a random subset.
    seed
        Of the subset.
    layer
        As in :func:`mean_expression_r2`.

    Raises
    ------
    KeyError
        If a side has no such layer.
    ValueError
        If the genes differ, a side has fewer than two cells, values are not finite, or the sides
        are not on one scale.
    """
    x, y = _drawn(predicted, real, n_cells, seed, layer)
    between = euclidean_distances(x, y).mean()
    within = _mean_off_diagonal(euclidean_distances(x)) + _mean_off_diagonal(euclidean_distances(y))
    return float(2 * between - within)


def mmd(
    predicted,
    real,
    bandwidths: float | Sequence[float] | None = None,
    n_cells: int = 2000,
    seed: int = 0,
    *,
    layer: str | None = "auto",
) -> float:
    """Squared maximum mean discrepancy (Gretton et al. 2012, unbiased, equation 3).

    The kernel is the mean of Gaussians ``exp(-d² / (2 b²))`` over the bandwidths b. As for
    :func:`energy_distance`, equal distributions give 0 on average.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    bandwidths
        One or several. ``None``: a half, one and two times the median distance between the
        cells of both sides. That depends on the cells: to compare models, pass the same to all.
    n_cells, seed, layer
        As in :func:`energy_distance`.

    Raises
    ------
    KeyError, ValueError
        As :func:`energy_distance`; also if a bandwidth is not positive or the median is zero.
    """
    x, y = _drawn(predicted, real, n_cells, seed, layer)
    squared = euclidean_distances(np.vstack([x, y]), squared=True)
    kernel = np.zeros_like(squared)
    widths = _widths(bandwidths, squared)
    for width in widths:
        kernel += np.exp(-squared / (2 * width**2)) / len(widths)
    n = len(x)
    within = _mean_off_diagonal(kernel[:n, :n]) + _mean_off_diagonal(kernel[n:, n:])
    return float(within - 2 * kernel[:n, n:].mean())


@dataclass(frozen=True)
class MarkerOverlap:
    """Marker genes of real and of predicted cells, the strongest first."""

    real: list[str]
    predicted: list[str]

    @property
    def shared(self) -> list[str]:
        """Markers of both, in the order of the real ones."""
        return [gene for gene in self.real if gene in set(self.predicted)]

    @property
    def n_shared(self) -> int:
        """Number of shared markers."""
        return len(self.shared)


def marker_overlap(
    predicted,
    real,
    control,
    n_genes: int = 10,
    method: str = "wilcoxon",
    *,
    layer: str | None = "auto",
) -> MarkerOverlap:
    """Which genes real and predicted cells both raise above control, by scanpy's ranking.

    Only genes with a positive score count, so a list may be shorter than ``n_genes``. The
    Wilcoxon score is bounded: genes that part predicted from control without overlap tie, and
    their order is arbitrary; ``method="t-test"`` tells them apart.

    Parameters
    ----------
    predicted, real, control
        Cells by genes, dense, sparse or AnnData, best log-normalised. Genes are named by the first
        AnnData among real, predicted and control, else by their column numbers.
    n_genes
        Length of each list.
    method
        ``"wilcoxon"``, ``"t-test"`` or ``"t-test_overestim_var"``.
    layer
        As in :func:`mean_expression_r2`. Of counts predicted, log-normalise ``X`` of all three
        and pass ``layer=None``.

    Raises
    ------
    KeyError
        If a side has no such layer.
    ValueError
        If the genes differ, a side has fewer than two cells, values are not finite, the sides are
        not on one scale, there are fewer than ``n_genes`` genes, or the method is unknown.
    """
    named = next((x.var_names for x in (real, predicted, control) if isinstance(x, AnnData)), None)
    layer = common_layer(layer, {"predicted": predicted, "real": real, "control": control})
    finite_pair(predicted, real, layer=layer)
    lists = {}
    for name, side in (("real", real), ("predicted", predicted)):
        x, reference = finite_pair(side, control, (name, "control"), layer)
        genes = pd.RangeIndex(x.shape[1]) if named is None else named
        ranked = _ranked(x, reference, genes.astype(str), n_genes, method, (name, "control"))
        lists[name] = list(ranked["names"][ranked["scores"] > 0])
    return MarkerOverlap(**lists)


def top_de_genes(
    adata: AnnData,
    condition_key: str,
    target: str,
    reference: str,
    n_genes: int = 100,
    method: str = "wilcoxon",
    *,
    layer: str | None = None,
) -> list[str]:
    """The genes that rank highest in one condition against another (scGen's convention).

    scGen scores predictions on the first 100 of the Wilcoxon ranking of the conditions within
    the cells of one type, so pass the cells of that type. The strongest comes first; as in
    scanpy, genes that the target lowers rank last.

    Parameters
    ----------
    adata
        Annotated cells, log-normalised; not changed.
    condition_key
        Column of ``obs`` with the conditions.
    target, reference
        Condition whose genes are ranked, and the one it is compared to.
    n_genes
        Number of genes.
    method
        As in :func:`marker_overlap`.
    layer
        Layer that is compared; ``None``: ``X``.

    Raises
    ------
    KeyError
        If the column or the layer is missing.
    ValueError
        If a condition is unknown or has fewer than two cells, both are the same, there are fewer
        than ``n_genes`` genes, or the method is unknown.
    """
    check_key(adata, "obs", condition_key, "condition_key")
    conditions = adata.obs[condition_key]
    for name, value in (("target", target), ("reference", reference)):
        if not (conditions == value).any():
            raise ValueError(
                f"No cell has the condition {name}={value!r}. "
                f"{near_matches(str(value), conditions.dropna().unique())}"
            )
    if target == reference:
        raise ValueError(f"target and reference are both {target!r}; compare two conditions.")
    values = matrix(adata, layer)
    if sparse.issparse(values):
        # scanpy's variances would count entries that repeat one by one
        values = distinct_entries(values).tocsr()
    x, y = (values[(conditions == value).to_numpy()] for value in (target, reference))
    names = (f"target={target!r}", f"reference={reference!r}")
    return list(_ranked(x, y, adata.var_names, n_genes, method, names)["names"])


def knn_agreement(
    generated,
    real,
    generated_labels: Sequence,
    real_labels: Sequence,
    n_neighbors: int = 15,
    n_pcs: int = 30,
    *,
    layer: str | None = "auto",
) -> float:
    """Share of generated cells whose nearest real cells mostly have their label, in [0, 1].

    Of labels with equally many neighbours, the one that sorts first counts. Labels are compared
    as text.

    Parameters
    ----------
    generated, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    generated_labels, real_labels
        Label of each row, ``(n,)`` and ``(m,)``; a Series by cell name.
    n_neighbors
        Real cells that vote, nearest by Euclidean distance.
    n_pcs
        Wider data are projected on so many principal components of the real cells.
    layer
        As in :func:`mean_expression_r2`.

    Raises
    ------
    KeyError
        If a side has no such layer.
    ValueError
        If the genes differ, a side has no cells, values are not finite, the sides are not on one
        scale, labels are missing or not one a cell, or there are fewer than ``n_neighbors`` real
        cells.
    """
    check_positive("n_neighbors", n_neighbors)
    check_positive("n_pcs", n_pcs)
    x, y = finite_pair(generated, real, ("generated", "real"), layer)
    own = of_each_cell(generated_labels, len(x), "generated_labels", names_of(generated))
    voters = of_each_cell(real_labels, len(y), "real_labels", names_of(real))
    own, voters = own.astype(str), voters.astype(str)
    if n_neighbors > len(y):
        raise ValueError(
            f"n_neighbors={n_neighbors}, but there are {len(y)} real cells; choose fewer."
        )
    y, x = on_components_of(y, x, n_pcs)
    # scanpy's neighbour search would raise torch's thread count
    majority = KNeighborsClassifier(n_neighbors).fit(y, voters).predict(x)
    return float((majority == own).mean())


def _drawn(
    predicted, real, n_cells: int, seed: int, layer: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``n_cells`` random rows of each side, and at least two."""
    check_positive("n_cells", n_cells)
    rng = np.random.default_rng(seed)
    sides = []
    both = finite_pair(predicted, real, layer=layer)
    for name, x in zip(("predicted", "real"), both, strict=True):
        if min(len(x), n_cells) < 2:
            raise ValueError(f"{name} needs two cells or more (and n_cells two or more).")
        sides.append(x if len(x) <= n_cells else x[rng.choice(len(x), n_cells, replace=False)])
    return sides[0], sides[1]


def _mean_off_diagonal(square: np.ndarray) -> float:
    n = len(square)
    return (square.sum() - np.trace(square)) / (n * (n - 1))


def _widths(bandwidths: float | Sequence[float] | None, squared: np.ndarray) -> np.ndarray:
    if bandwidths is None:
        median = np.median(np.sqrt(squared[np.triu_indices(len(squared), 1)]))
        if median == 0:
            raise ValueError("The median distance is zero (most cells are equal); pass bandwidths.")
        return median * np.array([0.5, 1.0, 2.0])
    widths = np.atleast_1d(np.asarray(bandwidths, dtype=float))
    if widths.ndim > 1 or not widths.size or not ((widths > 0) & np.isfinite(widths)).all():
        raise ValueError(f"bandwidths must be positive numbers, but are {bandwidths!r}.")
    return widths


def _ranked(
    case, reference, genes: pd.Index, n_genes: int, method: str, names: tuple[str, str]
) -> pd.DataFrame:
    """``names`` and ``scores`` of the ``n_genes`` that score highest in case over reference."""
    import scanpy as sc

    check_choice("method", method, _METHODS)
    check_positive("n_genes", n_genes)
    if n_genes > len(genes):
        raise ValueError(f"n_genes={n_genes}, but there are {len(genes)} genes; ask for fewer.")
    for name, x in zip(names, (case, reference), strict=True):
        if x.shape[0] < 2:
            raise ValueError(f"{name} needs two cells or more for a ranking, but has one.")
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
    return pd.DataFrame({key: found[key]["case"] for key in ("names", "scores")})
