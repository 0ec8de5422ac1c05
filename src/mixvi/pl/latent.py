"""Latent coordinates as a scatter or a UMAP."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from pandas.api.types import is_numeric_dtype

from mixvi.core.checks import check_choice, check_key

_MARKER_AREA = 60_000


def latent(
    adata: AnnData,
    basis: str = "X_gmvae_z",
    color: str | Sequence[str] | None = None,
    *,
    method: str = "auto",
    titles: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
) -> list[Axes]:
    """Scatter of a latent, one panel for each colouring.

    Parameters
    ----------
    adata
        Annotated cells; not changed.
    basis
        Key of ``obsm`` with the coordinates ``(n_obs, D)``.
    color
        Columns of ``obs``.
    method
        ``"scatter"`` (the first two dimensions), ``"umap"``, or ``"auto"``: a scatter if D = 2.
    titles
        Titles of the panels; default the columns' names.
    axes
        Axes to draw on, one a panel; default new ones.
    n_neighbors, seed
        Of the UMAP.

    Returns
    -------
    One axes a panel.

    Raises
    ------
    KeyError
        If the basis or a column is missing.
    """
    check_key(adata, "obsm", basis, "basis")
    check_choice("method", method, ("auto", "scatter", "umap"))
    columns = [color] if color is None or isinstance(color, str) else list(color)
    for column in columns:
        check_key(adata, "obs", column, "color")
    flat = method == "scatter" or (method == "auto" and adata.obsm[basis].shape[1] == 2)
    points = _points(np.asarray(adata.obsm[basis]), flat, n_neighbors, seed)
    label = basis.removeprefix("X_") if flat else "UMAP"
    if axes is None:
        _, grid = plt.subplots(
            1, len(columns), figsize=(5.2 * len(columns), 4.2), squeeze=False, layout="constrained"
        )
        axes = list(grid.ravel())
    # points are drawn in random order, so that no group hides another
    order = np.random.default_rng(seed).permutation(len(points))
    for ax, column, title in zip(axes, columns, titles or columns, strict=True):
        values = None if column is None else adata.obs[column]
        _draw(ax, points, order, values)
        ax.set(xlabel=f"{label} 1", ylabel=f"{label} 2", title=title or basis, xticks=[], yticks=[])
        ax.spines[["top", "right"]].set_visible(False)
    return list(axes)


def _points(values: np.ndarray, flat: bool, n_neighbors: int, seed: int) -> np.ndarray:
    if flat:
        return values[:, :2]
    import scanpy as sc

    shadow = AnnData(np.zeros((len(values), 1), dtype=np.float32), obsm={"latent": values})
    # the neighbour search raises torch's thread count, which would slow later training
    threads = torch.get_num_threads()
    try:
        sc.pp.neighbors(shadow, use_rep="latent", n_neighbors=n_neighbors, random_state=seed)
        sc.tl.umap(shadow, random_state=seed)
    finally:
        torch.set_num_threads(threads)
    return shadow.obsm["X_umap"]


def _draw(ax: Axes, points: np.ndarray, order: np.ndarray, values: pd.Series | None) -> None:
    size = np.clip(_MARKER_AREA / len(points), 2, 30)
    x, y = points[order].T
    if values is None:
        ax.scatter(x, y, s=size, c="0.5", linewidths=0)
    elif is_numeric_dtype(values):
        drawn = ax.scatter(x, y, s=size, c=values.to_numpy()[order], cmap="viridis", linewidths=0)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    else:
        categories = values.astype("category").cat.remove_unused_categories()
        names = list(categories.cat.categories)
        colours = category_colours(len(names))
        codes = categories.cat.codes.to_numpy()[order]
        ax.scatter(x, y, s=size, c=[colours[i] for i in codes], linewidths=0)
        for name, colour in zip(names, colours, strict=True):
            ax.scatter([], [], s=30, color=colour, label=str(name))
        ax.legend(
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=8,
            ncols=1 + (len(names) - 1) // 18,
            handletextpad=0.2,
        )


def category_colours(n: int) -> list:
    """``n`` colours that are told apart: tab10, tab20, then a cut through a cyclic map."""
    if n <= 10:
        return [plt.get_cmap("tab10")(i) for i in range(n)]
    if n <= 20:
        return [plt.get_cmap("tab20")(i) for i in range(n)]
    return [plt.get_cmap("gist_ncar")((i + 0.5) / n) for i in range(n)]
