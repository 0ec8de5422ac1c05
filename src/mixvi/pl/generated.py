"""Generated cells among real ones, and generated images."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.patheffects import withStroke
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mixvi.core.checks import check_positive, near_matches
from mixvi.metrics.pairs import dense, finite_pair, on_components_of
from mixvi.pl.latent import category_colours

_DOT_AREA = 20_000
_MISSING = "0.8"
_GAP = 1


def hybrid_umap(
    real: AnnData,
    generated: AnnData,
    color: str | Sequence[str],
    *,
    n_pcs: int = 30,
    n_neighbors: int = 15,
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
        If one of the sides lacks a column.
    ValueError
        If the genes differ, a side has no cells, values are not finite, or titles or axes are not
        one a panel.
    """
    columns = [color] if isinstance(color, str) else list(color)
    for column in columns:
        _check_column(real, generated, column)
    for name, given in (("titles", titles), ("axes", axes)):
        if given is not None and len(given) != len(columns) + 1:
            raise ValueError(
                f"{name} needs one entry a panel ({len(columns) + 1}), has {len(given)}."
            )
    points = _joint_umap(real, generated, n_pcs, n_neighbors, seed)
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


def image_grid(
    images,
    shape: tuple[int, int],
    *,
    n_columns: int | None = None,
    row_labels: Sequence | None = None,
    column_labels: Sequence | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Grid of grey images from the rows of a matrix or of generated cells.

    Parameters
    ----------
    images
        Images as rows ``(n, H * W)``, dense, sparse or AnnData. An AnnData from the ``sample`` of
        a mixture model is laid out with one row a ``w_index`` and one column a ``component``,
        others in their order.
    shape
        ``(H, W)``.
    n_columns
        Images a row, in their order; default a grid that is about square.
    row_labels, column_labels
        One a row and a column; default the ``w_index`` and the ``component``, or none.
    vmin, vmax
        Values drawn black and white; default the smallest and the largest of all images.
    title, ax
        Title, and the axes to draw on.

    Raises
    ------
    ValueError
        If there are no images, their width is not H * W, labels are not one a row or column, or
        several images belong to one ``w_index`` and ``component``.
    """
    x = dense(images)
    height, width = _checked_shape(x, shape)
    rows, columns, row_names, column_names = _places(images, len(x), n_columns)
    row_labels = row_names if row_labels is None else row_labels
    column_labels = column_names if column_labels is None else column_labels
    n_rows, n_columns = rows.max() + 1, columns.max() + 1
    for name, labels, n in (
        ("row_labels", row_labels, n_rows),
        ("column_labels", column_labels, n_columns),
    ):
        if labels is not None and len(labels) != n:
            raise ValueError(f"{name} needs {n} entries, but has {len(labels)}.")
    # places without an image, and the gaps, stay NaN and are drawn white
    mosaic = np.full((n_rows * (height + _GAP) - _GAP, n_columns * (width + _GAP) - _GAP), np.nan)
    for image, i, j in zip(x, rows, columns, strict=True):
        top, left = i * (height + _GAP), j * (width + _GAP)
        mosaic[top : top + height, left : left + width] = image.reshape(height, width)
    if ax is None:
        scale = 0.7 / max(height, width)
        size = (0.6 + scale * mosaic.shape[1], 0.6 + scale * mosaic.shape[0])
        _, ax = plt.subplots(figsize=size, layout="constrained")
    cmap = plt.get_cmap("gray").with_extremes(bad="white")
    ax.imshow(mosaic, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.set_xticks(*_ticks(column_labels, width), fontsize=8)
    ax.set_yticks(*_ticks(row_labels, height), fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if isinstance(images, AnnData) and column_names is not None:
        ax.set(xlabel="component", ylabel="draw of w")
        ax.xaxis.set_label_position("top")
    if title:
        ax.set_title(title)
    return ax


def _check_column(real: AnnData, generated: AnnData, column: str) -> None:
    for name, side in (("real", real), ("generated", generated)):
        if column not in side.obs:
            raise KeyError(
                f"color={column!r} is not in {name}.obs; both sides need it. Copy it from the "
                f"column that has it. {near_matches(column, side.obs.columns)}"
            )


def _joint_umap(
    real: AnnData, generated: AnnData, n_pcs: int, n_neighbors: int, seed: int
) -> np.ndarray:
    """Coordinates ``(n_real + n_generated, 2)``, real cells first."""
    check_positive("n_pcs", n_pcs)
    check_positive("n_neighbors", n_neighbors)
    x, y = finite_pair(real, generated, ("real", "generated"))
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
        norm = Normalize(np.nanmin(values), np.nanmax(values))
        shades = np.ma.masked_invalid(values)
        _scatter(ax, points, sides, [cmap(norm(shades[rows])) for rows in sides])
        ax.figure.colorbar(plt.cm.ScalarMappable(norm, cmap), ax=ax, shrink=0.8)
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


def _checked_shape(x: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"shape must be (height, width), but is {shape!r}.")
    height, width = shape
    check_positive("shape[0]", height)
    check_positive("shape[1]", width)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"images must be (n, height * width) with n > 0, but are {x.shape}.")
    if x.shape[1] != height * width:
        raise ValueError(
            f"images have {x.shape[1]} pixels, but shape={height, width} has {height * width}; "
            "pass the height and width of the images."
        )
    return height, width


def _places(
    images, n: int, n_columns: int | None
) -> tuple[np.ndarray, np.ndarray, list | None, list | None]:
    """Row and column of each image, and the names of rows and columns if they have some."""
    laid_out = isinstance(images, AnnData) and {"w_index", "component"} <= set(images.obs)
    if laid_out and n_columns is None:
        rows, row_names = pd.factorize(images.obs["w_index"])
        columns, column_names = pd.factorize(images.obs["component"].astype(str))
        twice = pd.Series(rows * len(column_names) + columns).duplicated()
        if twice.any():
            i = int(twice.idxmax())
            raise ValueError(
                f"images has several rows of w_index {row_names[rows[i]]} and component "
                f"{column_names[columns[i]]!r}. Choose one condition first, e.g. "
                "images[images.obs['condition'] == ...], or pass n_columns."
            )
        return rows, columns, list(row_names), list(column_names)
    n_columns = ceil(sqrt(n)) if n_columns is None else n_columns
    check_positive("n_columns", n_columns)
    return *np.divmod(np.arange(n), n_columns), None, None


def _ticks(labels: Sequence | None, size: int) -> tuple[np.ndarray, list[str]]:
    labels = [] if labels is None else [str(label) for label in labels]
    return np.arange(len(labels)) * (size + _GAP) + (size - 1) / 2, labels
