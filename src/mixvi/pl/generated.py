"""Generated cells among real ones."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.patheffects import withStroke
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mixvi.core.arguments import check_positive, near_matches
from mixvi.metrics.pairs import finite_pair, on_components_of
from mixvi.pl.latent import category_colours, colour_bar, value_range

_DOT_AREA = 20_000
_MISSING = "0.8"


def hybrid_umap(
    real: AnnData,
    generated: AnnData,
    color: str | Sequence[str],
    *,
    n_pcs: int = 30,
    n_neighbors: int = 15,
    layer: str | None = "auto",
    titles: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
    seed: int = 0,
) -> list[Axes]:
    """Joint UMAP of real cells (dots) and generated ones (crosses), by origin and by ``color``.

    Parameters
    ----------
    real, generated
        Annotated cells with the same genes; not changed.
    color
        Columns of ``obs`` that both sides have, one panel each. Cells without a value are grey.
    n_pcs
        Wider data are projected on so many principal components of the real cells.
    n_neighbors, seed
        Of the UMAP, which is fitted on both sides.
    layer
        As in :func:`mixvi.metrics.mean_expression_r2`.
    titles
        Titles of the panels, that by origin first; default ``"origin"`` and the columns' names.
    axes
        Axes to draw on, one a panel; default new ones.

    Returns
    -------
    One axes a panel, that by origin first.

    Raises
    ------
    KeyError
        If one of the sides lacks a column or the layer.
    ValueError
        If the genes differ, a side has no cells, values are not finite, the sides are not on one
        scale, or titles or axes are not one a panel.
    """
    columns = [color] if isinstance(color, str) else list(color)
    for column in columns:
        _check_column(real, generated, column)
    for name, given in (("titles", titles), ("axes", axes)):
        if given is not None and len(given) != len(columns) + 1:
            raise ValueError(
                f"{name} needs one entry a panel ({len(columns) + 1}), has {len(given)}."
            )
    points = _joint_umap(real, generated, n_pcs, n_neighbors, layer, seed)
    if axes is None:
        n = len(columns) + 1
        _, grid = plt.subplots(1, n, figsize=(5.2 * n, 4.2), squeeze=False, layout="constrained")
        axes = list(grid.ravel())
    titles = titles or ["origin", *columns]
    is_real = np.arange(len(points)) < real.n_obs
    # cells are drawn in random order, so that no group hides another
    order = np.random.default_rng(seed).permutation(len(points))
    sides = [order[is_real[order]], order[~is_real[order]]]
    _scatter(axes[0], points, sides, [["0.75"], ["tab:red"]])
    _legend(axes[0], {"real": ("o", "0.75"), "generated": ("x", "tab:red")})
    for ax, column in zip(axes[1:], columns, strict=True):
        _draw_column(ax, points, sides, real.obs[column], generated.obs[column])
    for ax, title in zip(axes, titles, strict=True):
        ax.set(xlabel="UMAP 1", ylabel="UMAP 2", title=title, xticks=[], yticks=[])
        ax.spines[["top", "right"]].set_visible(False)
    return list(axes)


def _check_column(real: AnnData, generated: AnnData, column: str) -> None:
    for name, side in (("real", real), ("generated", generated)):
        if column not in side.obs:
            raise KeyError(
                f"color={column!r} is not in {name}.obs; both sides need it. Copy it from the "
                f"column that has it. {near_matches(column, side.obs.columns)}"
            )


def _joint_umap(
    real: AnnData,
    generated: AnnData,
    n_pcs: int,
    n_neighbors: int,
    layer: str | None,
    seed: int,
) -> np.ndarray:
    """Coordinates ``(n_real + n_generated, 2)``, real cells first."""
    check_positive("n_pcs", n_pcs)
    check_positive("n_neighbors", n_neighbors)
    x, y = finite_pair(real, generated, ("real", "generated"), layer)
    values = np.vstack(on_components_of(x, y, n_pcs)).astype(np.float32)
    from umap import UMAP

    # the neighbour search raises torch's thread count, which would slow later training
    threads = torch.get_num_threads()
    try:
        return UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(values)
    finally:
        torch.set_num_threads(threads)


def _scatter(ax: Axes, points: np.ndarray, sides: Sequence[np.ndarray], colours: Sequence) -> None:
    """Dots, then crosses; ``sides`` are the rows of each, ``colours`` one or one a row."""
    size = np.clip(_DOT_AREA / len(points), 2, 20)
    real, generated = sides
    ax.scatter(*points[real].T, s=size, c=colours[0], linewidths=0, marker="o")
    crosses = ax.scatter(*points[generated].T, s=3 * size, c=colours[1], linewidths=1, marker="x")
    # an outline, else they vanish among dots of their colour
    crosses.set_path_effects([withStroke(linewidth=2.2, foreground="black")])


def _draw_column(
    ax: Axes,
    points: np.ndarray,
    sides: Sequence[np.ndarray],
    real: pd.Series,
    generated: pd.Series,
) -> None:
    both = [real, generated]
    if all(is_numeric_dtype(v) and not is_bool_dtype(v) for v in both):
        values = np.concatenate([v.to_numpy(dtype=float, na_value=np.nan) for v in both])
        cmap = plt.get_cmap("viridis").with_extremes(bad=_MISSING)
        norm = value_range(values)
        shades = np.ma.masked_invalid(values)
        _scatter(ax, points, sides, [cmap(norm(shades[rows])) for rows in sides])
        colour_bar(plt.cm.ScalarMappable(norm, cmap), ax)
        return
    # as text, since the sides may hold the same labels in different types
    text = pd.concat([v.astype(object).map(str, na_action="ignore") for v in both])
    codes, names = pd.factorize(text.to_numpy(), sort=True)
    names, colours = list(names), category_colours(len(names))
    if (codes < 0).any():
        # code -1 of missing values picks the last colour
        names, colours = [*names, "missing"], [*colours, _MISSING]
    rgba = to_rgba_array(colours)
    _scatter(ax, points, sides, [rgba[codes[rows]] for rows in sides])
    _legend(ax, {n: ("o", c) for n, c in zip(names, colours, strict=True)})


def _legend(ax: Axes, entries: dict[str, tuple[str, object]]) -> None:
    for name, (marker, colour) in entries.items():
        ax.scatter([], [], s=30, color=colour, marker=marker, label=name)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=8,
        ncols=1 + (len(entries) - 1) // 18,
        handletextpad=0.2,
    )
