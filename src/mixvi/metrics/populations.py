"""Whether generated populations have the markers and the neighbours of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

from mixvi.core.arguments import check_positive, near_matches
from mixvi.core.data.alignment import names_of
from mixvi.core.data.checks import check_key
from mixvi.core.maths.sparse import distinct_entries
from mixvi.metrics.differential import ranked_genes
from mixvi.metrics.pairs import (
    common_layer,
    finite_pair,
    matrix,
    of_each_cell,
    on_components_of,
)


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
        ranked = ranked_genes(x, reference, genes.astype(str), n_genes, method, (name, "control"))
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
        If a condition is unknown or has fewer than two cells, both are the same, values are not
        finite, there are fewer than ``n_genes`` genes, or the method is unknown.
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
    return list(ranked_genes(x, y, adata.var_names, n_genes, method, names)["names"])


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
