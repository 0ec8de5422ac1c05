"""Grids of images: as they come, reconstructions below originals, clusters in rows, failures."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from mixvi.core.arguments import check_positive
from mixvi.core.data.alignment import in_order_of, names_of
from mixvi.core.data.checks import check_key
from mixvi.core.data.fields import name_of
from mixvi.core.data.images import image_array, signed_sides
from mixvi.metrics.clustering import component_table, overlap_map
from mixvi.metrics.pairs import dense, of_each_cell

_GAP = 1
# height of a tile's caption, by that of the tile
_CAPTION = 0.5


def images(
    images,
    *,
    n_images: int = 100,
    n_columns: int | None = None,
    row_labels: Sequence | None = None,
    column_labels: Sequence | None = None,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Grid of grey or coloured images in their order.

    Parameters
    ----------
    images
        Array or tensor ``(n, C, H, W)`` with one or three channels, or an AnnData with images in
        ``obsm["image"]``, or in ``X`` with ``uns["image_shape"]``.
    n_images
        So many are drawn at most, the first ones.
    n_columns
        Images a row; default a grid that is about square.
    row_labels, column_labels
        One a row and a column; default none.
    value_range
        Values drawn black and white (of each channel); others are clipped. Default: 0 and 255 for
        bytes, -1 and 1 or 0 and 1 for floats that lie there, else the smallest and the largest.
    title, ax
        Title, and the axes to draw on.

    Raises
    ------
    KeyError
        If an AnnData has no images.
    ValueError
        If images are not ``(n, C, H, W)`` with one or three channels, or labels are not one a row
        or column.
    """
    check_positive("n_images", n_images)
    x = _checked(images, "images")
    black_white = _range(x, value_range)
    x = x[:n_images]
    rows, columns = _in_order(len(x), n_columns)
    return _draw(_tiles(x), (rows, columns), row_labels, column_labels, black_white, title, ax)


def reconstructions(
    originals,
    reconstructed,
    *,
    n_images: int = 40,
    n_columns: int = 10,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Originals, and below each its reconstruction.

    Parameters
    ----------
    originals, reconstructed
        Images as for :func:`images`, the same number and shape.
    n_images
        So many pairs are drawn at most, the first ones.
    n_columns
        Pairs a row.
    value_range
        As for :func:`images`, by the originals; bytes and floats are brought to one range.
    title, ax
        Title, and the axes to draw on.

    Raises
    ------
    KeyError
        If an AnnData has no images.
    ValueError
        If the shapes differ, or as :func:`images`.
    """
    check_positive("n_images", n_images)
    check_positive("n_columns", n_columns)
    x, y = _checked(originals, "originals"), _checked(reconstructed, "reconstructed")
    if x.shape != y.shape:
        raise ValueError(
            f"originals have the shape {x.shape}, reconstructed {y.shape}; both need the same."
        )
    if value_range is None and (x.dtype == np.uint8) != (y.dtype == np.uint8):
        # bytes beside floats, each on a range of its own
        x, y = signed_sides({"originals": x, "reconstructed": y}).values()
    black_white = _range(x, value_range)
    x, y = x[:n_images], y[:n_images]
    rows, columns = _in_order(len(x), min(n_columns, len(x)))
    places = np.concatenate([2 * rows, 2 * rows + 1]), np.tile(columns, 2)
    names = ["original", "reconstructed"] * (rows.max() + 1)
    both = np.concatenate([_tiles(x), _tiles(y)])
    return _draw(both, places, names, None, black_white, title, ax)


def images_by_cluster(
    images,
    clusters: str | Sequence,
    *,
    n_columns: int = 10,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images of each cluster in a row of its own.

    Parameters
    ----------
    images
        As for :func:`images`; real ones or samples.
    clusters
        Cluster of each image, ``(n,)``, or the column of ``obs`` that has it. Clusters of a
        categorical column are in its order, others sorted; one without images has no row.
    n_columns
        Images a cluster at most, the first ones.
    value_range
        As for :func:`images`.
    title, ax
        Title, and the axes to draw on.

    Raises
    ------
    KeyError
        If an AnnData has no images or no such column.
    ValueError
        If clusters are not one an image or some are missing, or as :func:`images`.
    """
    check_positive("n_columns", n_columns)
    x = _checked(images, "images")
    clusters = in_order_of(names_of(images), _column(images, clusters, "clusters"), "clusters")
    of_each_cell(clusters, len(x), "clusters")
    if isinstance(getattr(clusters, "dtype", None), pd.CategoricalDtype):
        codes, names = pd.factorize(pd.Categorical(clusters).remove_unused_categories(), sort=True)
    else:
        codes, names = pd.factorize(np.asarray(clusters), sort=True)
    columns = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    shown = columns < n_columns
    return _draw(
        _tiles(x[shown]),
        (codes[shown], columns[shown]),
        list(names),
        None,
        _range(x, value_range),
        title,
        ax,
    )


def failures(
    images,
    predicted: str | Sequence,
    labels: str | Sequence,
    confidence: str | Sequence | None = None,
    *,
    of_clusters: bool = False,
    n_images: int = 40,
    n_columns: int = 10,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images whose predicted label is not the true one, the most confident first.

    Below each the true label, and after an arrow the predicted one (Astorga 2021, figure C.6).

    Parameters
    ----------
    images
        As for :func:`images`.
    predicted, labels
        Predicted and true label of each image, ``(n,)``, or the columns of ``obs`` that have them;
        labels are the same where their names are.
    confidence
        Of the prediction, ``(n,)`` or a column; it orders the images and is written below them.
        ``None``: images are in their order.
    of_clusters
        Whether ``predicted`` are clusters: each then stands for the label that most of its images
        have.
    n_images
        So many are drawn at most.
    n_columns
        Images a row.
    value_range
        As for :func:`images`.
    title, ax
        Title, default how many images are wrong, and the axes to draw on.

    Raises
    ------
    KeyError
        If an AnnData has no images or no such column.
    ValueError
        If labels or confidences are not one an image or some are missing, if there is no failure,
        or as :func:`images`.
    """
    check_positive("n_images", n_images)
    check_positive("n_columns", n_columns)
    x, names = _checked(images, "images"), names_of(images)
    given = {"predicted": predicted, "labels": labels, "confidence": confidence}
    found = {
        name: of_each_cell(_column(images, values, name), len(x), name, names)
        for name, values in given.items()
        if values is not None
    }
    if of_clusters:
        label_of = overlap_map(component_table(found["predicted"], found["labels"]))
        found["predicted"] = [label_of[cluster] for cluster in found["predicted"]]
    pairs = [
        tuple(map(name_of, pair)) for pair in zip(found["labels"], found["predicted"], strict=True)
    ]
    wrong = np.flatnonzero([true != other for true, other in pairs])
    if not len(wrong):
        raise ValueError(f"There is no failure to draw: all {len(x)} images have their label.")
    sureness = np.asarray(found.get("confidence", np.zeros(len(x))), dtype=float)
    shown = wrong[np.argsort(-sureness[wrong], kind="stable")][:n_images]
    black_white = _range(x, value_range)
    tiles, places = _tiles(x[shown]), _in_order(len(shown), min(n_columns, len(shown)))
    height, width = tiles.shape[1:3]
    band = max(1, round(_CAPTION * height))
    # grey images are white where there is no value, coloured ones where it is the largest
    empty = np.nan if tiles.ndim == 3 else black_white[1]
    room = [(0, 0), (0, band), (0, 0), (0, 0)][: tiles.ndim]
    tiles = np.pad(tiles, room, constant_values=empty)
    title = title or f"{len(wrong)} of {len(x)} images wrong"
    ax = _draw(tiles, places, None, None, black_white, title, ax)
    for i, row, column in zip(shown, *places, strict=True):
        text = "{}\n→ {}".format(*pairs[i])
        if confidence is not None:
            text += f"\n{sureness[i]:.2f}"
        left, top = column * (width + _GAP), row * (height + band + _GAP) + height
        ax.text(left + 0.5 * (width - 1), top, text, ha="center", va="top", fontsize=5.5)
    return ax


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
    ax = _draw(
        x.reshape(-1, height, width),
        (rows, columns),
        (row_names if row_labels is None else row_labels),
        (column_names if column_labels is None else column_labels),
        (vmin, vmax),
        title,
        ax,
    )
    if isinstance(images, AnnData) and column_names is not None:
        ax.set(xlabel="component", ylabel="draw of w")
        ax.xaxis.set_label_position("top")
    return ax


def _draw(
    tiles: np.ndarray,
    places: tuple[np.ndarray, np.ndarray],
    row_labels: Sequence | None,
    column_labels: Sequence | None,
    black_white: tuple[float | None, float | None],
    title: str | None,
    ax: Axes | None,
) -> Axes:
    """Mosaic of tiles ``(n, H, W)`` or ``(n, H, W, 3)`` at rows and columns, white between."""
    rows, columns = places
    n_rows, n_columns = rows.max() + 1, columns.max() + 1
    for name, labels, n in (
        ("row_labels", row_labels, n_rows),
        ("column_labels", column_labels, n_columns),
    ):
        if labels is not None and len(labels) != n:
            raise ValueError(f"{name} needs {n} entries, but has {len(labels)}.")
    height, width = tiles.shape[1:3]
    empty = np.nan
    if tiles.ndim == 4:
        # matplotlib draws colours in [0, 1] and has none for missing ones
        low, high = black_white
        tiles, empty = ((tiles - low) / (high - low)).clip(0, 1), 1.0
    # places without an image, and the gaps, stay empty and are drawn white
    mosaic = np.full(
        (n_rows * (height + _GAP) - _GAP, n_columns * (width + _GAP) - _GAP, *tiles.shape[3:]),
        empty,
    )
    for tile, i, j in zip(tiles, rows, columns, strict=True):
        top, left = i * (height + _GAP), j * (width + _GAP)
        mosaic[top : top + height, left : left + width] = tile
    if ax is None:
        scale = 0.7 / max(height, width)
        size = (0.6 + scale * mosaic.shape[1], 0.6 + scale * mosaic.shape[0])
        _, ax = plt.subplots(figsize=size, layout="constrained")
    cmap = plt.get_cmap("gray").with_extremes(bad="white")
    vmin, vmax = black_white
    ax.imshow(mosaic, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.set_xticks(*_ticks(column_labels, width), fontsize=8)
    ax.set_yticks(*_ticks(row_labels, height), fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)
    return ax


def _column(images, values: str | Sequence, argument: str) -> Sequence:
    """Values of a column of ``obs`` if they are named by it, as they are otherwise."""
    if not isinstance(values, str):
        return values
    if not isinstance(images, AnnData):
        raise ValueError(f"{argument}={values!r} names a column, but images have no obs.")
    check_key(images, "obs", values, argument)
    return images.obs[values]


def _checked(images, name: str) -> np.ndarray:
    x = image_array(images, name)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"{name} must have one or three channels, but have {x.shape[1]}.")
    return x


def _tiles(x: np.ndarray) -> np.ndarray:
    """Grey images ``(n, H, W)`` or coloured ones ``(n, H, W, 3)`` of ``(n, C, H, W)``."""
    return (x[:, 0] if x.shape[1] == 1 else np.moveaxis(x, 1, -1)).astype(np.float64)


def _range(x: np.ndarray, given: tuple[float, float] | None) -> tuple[float, float]:
    """Values of black and white."""
    if given is not None:
        low, high = given
        if not low < high:
            raise ValueError(f"value_range must be (low, high) with low < high, but is {given!r}.")
        return low, high
    if x.dtype == np.uint8:
        return 0, 255
    low, high = float(np.nanmin(x)), float(np.nanmax(x))
    if -1 <= low and high <= 1:
        return (-1, 1) if low < 0 else (0, 1)
    return low, max(high, np.nextafter(low, np.inf))


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
    return *_in_order(n, n_columns), None, None


def _in_order(n: int, n_columns: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each image, row by row."""
    n_columns = ceil(sqrt(n)) if n_columns is None else n_columns
    check_positive("n_columns", n_columns)
    return np.divmod(np.arange(n), n_columns)


def _ticks(labels: Sequence | None, size: int) -> tuple[np.ndarray, list[str]]:
    labels = [] if labels is None else [str(label) for label in labels]
    return np.arange(len(labels)) * (size + _GAP) + (size - 1) / 2, labels
