"""Mean expression of predicted against real cells."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from mixvi.core.arguments import near_matches
from mixvi.metrics import mean_expression_r2, responding_genes
from mixvi.metrics.pairs import common_layer, pair

# where a name may stand beside its point, in points
_PLACES = [(4, 3, "left"), (-4, 3, "right"), (4, -9, "left"), (-4, -9, "right"), (0, 8, "center")]


def mean_expression(
    predicted: AnnData,
    real: AnnData,
    *,
    control: AnnData | None = None,
    genes: Sequence[str] | None = None,
    n_named: int = 8,
    layer: str | None = "auto",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Per-gene means of predicted cells against real ones, with R2 (scGen's ``reg_mean_plot``).

    Parameters
    ----------
    predicted, real
        Cells with the same genes.
    control
        Real cells before the change: the genes that respond most, up or down, are named.
    genes
        Genes to name instead; without either, none are.
    n_named
        How many responding genes are named.
    layer
        As in :func:`mixvi.metrics.mean_expression_r2`.
    ax, title
        Axes to draw on, and its title.

    Raises
    ------
    KeyError
        If a side has no such layer, or one of ``genes`` is unknown.
    ValueError
        If genes differ, a side has no cells, the sides are not on one scale, or genes are to be
        named and names repeat.
    """
    sides = {"predicted": predicted, "real": real, "control": control}
    layer = common_layer(layer, sides)
    x, y = (side.mean(axis=0) for side in pair(predicted, real, layer=layer))
    if genes is None and control is not None:
        genes = responding_genes(control, real, predicted, layer=layer).index[:n_named]
    positions = _positions(() if genes is None else genes, real.var_names)
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 4), layout="constrained")
    ends = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot(ends, ends, color="0.7", lw=1, zorder=1)
    ax.scatter(x, y, s=8, linewidths=0, color="tab:blue")
    if len(positions):
        ax.scatter(x[positions], y[positions], s=16, linewidths=0, color="tab:red")
    r2 = mean_expression_r2(predicted, real, layer=layer)
    name = f"{title}: " if title else ""
    ax.set(xlabel="predicted mean", ylabel="real mean", title=f"{name}R² = {r2:.3f}")
    _write_names(ax, x[positions], y[positions], real.var_names[positions])
    return ax


def _positions(genes: Sequence[str], known: pd.Index) -> np.ndarray:
    if len(genes) and not known.is_unique:
        raise ValueError(
            f"var_names repeat, e.g. {known[known.duplicated()][0]!r}, so that genes cannot be "
            "found by name. Call var_names_make_unique() on both sides."
        )
    positions = known.get_indexer(list(genes))
    if (positions < 0).any():
        missing = list(genes)[int(np.argmin(positions))]
        raise KeyError(f"genes has {missing!r}. {near_matches(missing, known)}")
    return positions


def _write_names(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write names beside their points, one that would lie on another is left out."""
    # places are known once the axes have theirs
    ax.figure.draw_without_rendering()
    taken = []
    for at_x, at_y, name in zip(x, y, names, strict=True):
        for dx, dy, side in _PLACES:
            text = ax.annotate(
                name,
                (at_x, at_y),
                fontsize=7,
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )
            box = text.get_window_extent()
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
