"""Latent coordinates as a scatter or a UMAP."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, is_color_like, to_rgba_array
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mixvi.core.arguments import check_choice, near_matches
from mixvi.core.data.checks import check_key
from mixvi.metrics.pairs import dense

_MARKER_AREA = 60_000
_MISSING = "0.8"


def latent(
    adata: AnnData,
    basis: str = "X_gmvae_z",
    color: str | Sequence[str] | None = None,
    *,
    method: str = "auto",
    titles: Sequence[str] | None = None,
    axes: Sequence[Axes] | None = None,
    layer: str | None = None,
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
        Columns of ``obs``, or genes. Cells without a value are light grey. Categories have the
        colours that scanpy left in ``uns``, if there are any.
    method
        ``"scatter"`` (the first two dimensions), ``"umap"``, or ``"auto"``: a scatter if D = 2.
    titles
        Titles of the panels; default the columns' names.
    axes
        Axes to draw on, one a panel; default new ones.
    layer
        Layer that genes are read from; ``None``: ``X``.
    n_neighbors, seed
        Of the UMAP.

    Returns
    -------
    One axes a panel.

    Raises
    ------
    KeyError
        If the basis, the layer, or a column or gene is missing.
    ValueError
        If there is no colouring, not one title or axes a panel, or a scatter lacks dimensions.
    """
    check_key(adata, "obsm", basis, "basis")
    check_choice("method", method, ("auto", "scatter", "umap"))
    columns = [color] if color is None or isinstance(color, str) else list(color)
    shown = [None if column is None else _colouring(adata, column, layer) for column in columns]
    if not columns:
        raise ValueError("color is empty: name columns of obs, or pass None for one plain panel.")
    for name, given in (("titles", titles), ("axes", axes)):
        if given is not None and len(given) != len(columns):
            raise ValueError(f"{name} needs one entry a panel ({len(columns)}), has {len(given)}.")
    flat = method == "scatter" or (method == "auto" and adata.obsm[basis].shape[1] == 2)
    if flat and adata.obsm[basis].shape[1] < 2:
        raise ValueError(f"adata.obsm[{basis!r}] has one dimension; draw it with method='umap'.")
    points = _points(np.asarray(adata.obsm[basis]), flat, n_neighbors, seed)
    label = basis.removeprefix("X_") if flat else "UMAP"
    if axes is None:
        _, grid = plt.subplots(
            1, len(columns), figsize=(5.2 * len(columns), 4.2), squeeze=False, layout="constrained"
        )
        axes = list(grid.ravel())
    # points are drawn in random order, so that no group hides another
    order = np.random.default_rng(seed).permutation(len(points))
    for ax, values, title in zip(axes, shown, titles or columns, strict=True):
        _draw(ax, points, order, values, adata)
        ax.set(xlabel=f"{label} 1", ylabel=f"{label} 2", title=title or basis, xticks=[], yticks=[])
        ax.spines[["top", "right"]].set_visible(False)
    return list(axes)


def _colouring(adata: AnnData, name: str, layer: str | None) -> pd.Series:
    """A column of ``obs``, or the expression of a gene, of each cell."""
    if name in adata.obs:
        return adata.obs[name]
    where = np.flatnonzero(adata.var_names == name)
    if len(where) != 1:
        found = "is neither in adata.obs nor a gene" if not len(where) else "names several genes"
        known = [*adata.obs.columns, *adata.var_names]
        raise KeyError(f"color={name!r} {found}. {near_matches(name, known)}")
    return pd.Series(dense(adata[:, where], layer)[:, 0], index=adata.obs_names, name=name)


def colour_bar(mappable: ScalarMappable, ax: Axes) -> None:
    """A bar beside the axes whose numbers can be read: none is a sum of two."""
    bar = ax.figure.colorbar(mappable, ax=ax, shrink=0.8)
    bar.ax.ticklabel_format(useOffset=False)


def value_range(values: np.ndarray) -> Normalize:
    """Limits of the colours: differences below a hundredth of the values look like none."""
    found = values[np.isfinite(values)]
    low, high = (found.min(), found.max()) if len(found) else (0.0, 1.0)
    return Normalize(min(low, high - (0.01 * max(abs(low), abs(high)) or 1.0)), high)


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


def _draw(
    ax: Axes, points: np.ndarray, order: np.ndarray, values: pd.Series | None, adata: AnnData
) -> None:
    size = np.clip(_MARKER_AREA / len(points), 2, 30)
    x, y = points[order].T
    if values is None:
        ax.scatter(x, y, s=size, c="0.5", linewidths=0)
    elif is_numeric_dtype(values) and not is_bool_dtype(values):
        shade = values.to_numpy(dtype=float, na_value=np.nan)[order]
        cmap = plt.get_cmap("viridis").with_extremes(bad=_MISSING)
        drawn = ax.scatter(
            x,
            y,
            s=size,
            c=shade,
            cmap=cmap,
            norm=value_range(shade),
            linewidths=0,
            plotnonfinite=True,
        )
        colour_bar(drawn, ax)
    else:
        known = values.astype("category")
        categories = known.cat.remove_unused_categories()
        names = list(categories.cat.categories)
        colours = _colours_of_scanpy(adata, known, names) or category_colours(len(names))
        if categories.isna().any():
            # code -1 of missing values picks the last colour
            names, colours = [*names, "missing"], [*colours, _MISSING]
        codes = categories.cat.codes.to_numpy()[order]
        ax.scatter(x, y, s=size, c=to_rgba_array([colours[i] for i in codes]), linewidths=0)
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


def _colours_of_scanpy(adata: AnnData, values: pd.Series, names: list) -> list | None:
    """Colours of some categories in ``uns``; None unless scanpy has one for each, all of them."""
    found = adata.uns.get(f"{values.name}_colors")
    categories = list(values.cat.categories)
    # a mapping or a single string is no list of colours
    if not isinstance(found, list | tuple | np.ndarray) or len(found) < len(categories):
        return None
    of = dict(zip(categories, found, strict=False))
    colours = [of[name] for name in names]
    return colours if all(is_color_like(colour) for colour in colours) else None


def category_colours(n: int) -> list:
    """``n`` colours that are told apart: tab10, then tab20 and tab20b, then scanpy's 102."""
    if n <= 10:
        return [plt.get_cmap("tab10")(i) for i in range(n)]
    # the greys of tab20 would pass for missing values
    colours = [plt.get_cmap("tab20")(i) for i in range(20) if i not in (14, 15)]
    colours += [plt.get_cmap("tab20b")(i) for i in range(20)]
    if n <= len(colours):
        return colours[:n]
    from scanpy.pl import palettes

    if n <= len(palettes.default_102):
        return list(palettes.default_102[:n])
    return [plt.get_cmap("gist_ncar")((i + 0.5) / n) for i in range(n)]
