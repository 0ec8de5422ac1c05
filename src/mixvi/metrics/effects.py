"""How near predicted changes come to real ones: of means, from control or another reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import shown
from mixvi.core.data.alignment import names_of
from mixvi.metrics.counterfactual import gene_columns
from mixvi.metrics.pairs import common_layer, finite_pair, of_each_cell, pair


def change_pearson(
    predicted, real, reference, genes: Sequence | None = None, *, layer: str | None = "auto"
) -> float:
    """Pearson correlation of the predicted with the real change of mean expression.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``. A single row serves as
        a mean itself.
    reference
        What both changes are from: control cells, or (one row) the mean of all perturbed ones.
        What treated cells have in common then counts no more (Viñas Torné et al. 2025, Systema).
    genes
        Genes to compare, as column numbers, a mask or (of an AnnData) names; default all.
    layer
        As in :func:`mixvi.metrics.mean_expression_r2`.

    Returns
    -------
    In [-1, 1]; NaN if either change is the same for all genes, as without any.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.mean_expression_r2`.
    """
    ours, theirs = _changes(predicted, real, reference, genes, layer)
    return _cosine(ours - ours.mean(), theirs - theirs.mean())


def change_cosine(
    predicted, real, reference, genes: Sequence | None = None, *, layer: str | None = "auto"
) -> float:
    """Cosine of the angle between the predicted and the real change of mean expression.

    Parameters
    ----------
    predicted, real, reference, genes, layer
        As in :func:`change_pearson`.

    Returns
    -------
    In [-1, 1]; NaN if either change is zero.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.mean_expression_r2`.
    """
    return _cosine(*_changes(predicted, real, reference, genes, layer))


def change_norm_ratio(
    predicted, real, reference, genes: Sequence | None = None, *, layer: str | None = "auto"
) -> float:
    """Length of the predicted over that of the real change: 1 is right, below 1 timid.

    Means of few cells differ by chance, which lengthens both.

    Parameters
    ----------
    predicted, real, reference, genes, layer
        As in :func:`change_pearson`.

    Returns
    -------
    At least 0; NaN if the real change is zero.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.mean_expression_r2`.
    """
    ours, theirs = _changes(predicted, real, reference, genes, layer)
    length = np.linalg.norm(theirs)
    return float(np.linalg.norm(ours) / length) if length else float("nan")


def change_rmse(
    predicted, real, genes: Sequence | None = None, *, layer: str | None = "auto"
) -> float:
    """Root mean squared error of the change of mean expression, the same from any reference.

    Parameters
    ----------
    predicted, real, genes, layer
        As in :func:`change_pearson`.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.mean_expression_r2`.
    """
    columns = gene_columns(genes, predicted, real)
    x, y = (side.mean(axis=0)[columns] for side in pair(predicted, real, layer=layer))
    return float(np.sqrt(((x - y) ** 2).mean()))


def change_r2(
    predicted,
    real,
    reference,
    weights: Sequence[float] | None = None,
    *,
    layer: str | None = "auto",
) -> float:
    """Share of the real change of mean expression that is explained, with genes weighted.

    The weighted R² of Mejia et al. 2025: ``1 - sum w (d - d')² / sum w (d - mean_w d)²`` for
    changes d and predicted ones d'.

    Parameters
    ----------
    predicted, real, reference, layer
        As in :func:`change_pearson`.
    weights
        Of the genes, ``(G,)``, such as those of :func:`de_weights`; ``None``: equal.

    Returns
    -------
    At most 1; NaN if the real change is the same for all genes that have weight.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.mean_expression_r2`; also for weights of another length, negative
        or all zero.
    """
    ours, theirs = _changes(predicted, real, reference, None, layer)
    w = np.ones(len(theirs)) if weights is None else np.asarray(weights, dtype=float)
    if w.shape != theirs.shape or not (w >= 0).all() or not w.sum() > 0:
        raise ValueError(
            f"weights must be {len(theirs)} numbers of at least 0, one a gene and not all 0."
        )
    spread = (w * (theirs - np.average(theirs, weights=w)) ** 2).sum()
    return float(1 - (w * (ours - theirs) ** 2).sum() / spread) if spread > 0 else float("nan")


def de_weights(scores: Sequence[float]) -> np.ndarray:
    """Weights of genes by how much they differ (Mejia et al. 2025), ``(G,)``, which sum to one.

    Parameters
    ----------
    scores
        Of a test, ``(G,)``, such as the column ``score`` of :func:`mixvi.metrics.de_table`. Their
        sizes are brought to [0, 1] and squared. Take them of training cells: weights by the cells
        that are scored favour what chance did to them.

    Raises
    ------
    ValueError
        If scores are not finite.
    """
    size = np.abs(np.asarray(scores, dtype=float))
    if not np.isfinite(size).all():
        raise ValueError("scores must be finite numbers.")
    span = size.max() - size.min()
    squares = ((size - size.min()) / span) ** 2 if span > 0 else np.ones_like(size)
    return squares / squares.sum()


def centroid_accuracy(
    predicted,
    real,
    predicted_groups: Sequence,
    real_groups: Sequence,
    *,
    layer: str | None = "auto",
) -> pd.Series:
    """Share of the other groups whose real mean is farther than the group's own, by group.

    Tells predictions that are particular to their perturbation from those that would do for any
    (Viñas Torné et al. 2025, Systema); by chance a half. With few groups it says little: have five
    or more.

    Parameters
    ----------
    predicted, real
        As in :func:`change_pearson`. Where groups have controls of their own, pass changes.
    predicted_groups, real_groups
        Perturbation of each row, ``(n,)`` and ``(m,)``; a Series by cell name.

    Returns
    -------
    Series by group of the predicted cells, in [0, 1]; the distance is Euclidean, ties count half.

    Raises
    ------
    KeyError, ValueError
        As :func:`mixvi.metrics.mean_expression_r2`; also if values are not finite, a predicted
        group has no real cells, or there is one group alone.
    """
    names = names_of(predicted), names_of(real)
    # a distance that is NaN would be no nearer than any
    x, y = finite_pair(predicted, real, layer=layer)
    left = of_each_cell(predicted_groups, len(x), "predicted_groups", names[0])
    right = of_each_cell(real_groups, len(y), "real_groups", names[1])
    groups = np.unique(right)
    missing = set(left) - set(groups)
    if missing or len(groups) < 2:
        what = f"no real cells of {shown(sorted(missing)[0])}" if missing else "one group alone"
        raise ValueError(f"Predicted means are told from those of other groups: there are {what}.")
    centres = np.stack([y[right == group].mean(axis=0) for group in groups])
    found = {}
    for group in np.unique(left):
        distances = np.linalg.norm(centres - x[left == group].mean(axis=0), axis=1)
        own, others = distances[groups == group][0], distances[groups != group]
        found[group] = (others > own).mean() + (others == own).mean() / 2
    return pd.Series(found, name="centroid_accuracy")


def normalised_score(value: float, floor: float, ceiling: float) -> float:
    """Where a figure lies between a floor and a ceiling: 0 at the one, 1 at the other.

    Above 1 it is better than the ceiling, which real cells of half the number may be. After
    Miller et al. 2025, who judge metrics by the range between negative and positive controls.

    Returns
    -------
    NaN if one is missing or there is no room between floor and ceiling.
    """
    room = ceiling - floor
    if not np.isfinite([value, room]).all() or abs(room) < 1e-12:
        return float("nan")
    return float((value - floor) / room)


def _changes(
    predicted, real, reference, genes: Sequence | None, layer: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and real change of the genes' means, each ``(G,)``."""
    columns = gene_columns(genes, predicted, real, reference)
    layer = common_layer(layer, {"predicted": predicted, "real": real, "reference": reference})
    x, y = pair(predicted, real, layer=layer)
    before = pair(real, reference, ("real", "reference"), layer)[1].mean(axis=0)[columns]
    if isinstance(predicted, AnnData) and isinstance(reference, AnnData):
        # what predicted cells say of their scale holds for the reference, too
        pair(predicted, reference, ("predicted", "reference"), layer)
    return x.mean(axis=0)[columns] - before, y.mean(axis=0)[columns] - before


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths > 0 else float("nan")
