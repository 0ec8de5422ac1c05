"""Maps of scenes that are larger than memory: tiles are read, predicted, blended and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from os import PathLike

import numpy as np
import torch
import xarray as xr
from anndata import AnnData

from mixvi.satellite.rasters import write_rows
from mixvi.satellite.tiling import (
    Blend,
    as_array,
    axes_between,
    check_tile_values,
    grid_of,
    iter_tiles,
    joined,
    raster,
)

_NAME = "what predict returned"


def predict_scene(
    predict: Callable[[AnnData], np.ndarray | torch.Tensor],
    scene: xr.Dataset | xr.DataArray,
    path: str | PathLike | None = None,
    *,
    size: int = 128,
    overlap: int = 16,
    batch_size: int = 16,
    margin: int = 0,
    soft: bool = False,
    dims: Sequence[str] | None = None,
    nodata: float | None = None,
    classes: Sequence[str] | None = None,
) -> xr.DataArray | None:
    """Predict a scene tile by tile and join the tiles, with bounded memory.

    In memory are one window of the scene (:func:`iter_tiles`), one row of tiles of the prediction,
    and the whole map only if there is no path. Tiles without any valid pixel are not predicted.

    Parameters
    ----------
    predict
        Takes tiles as :func:`tile` returns them and returns ``(n, L, size, size)`` probabilities of
        L classes, ``(n, size, size)`` or any ``(n, ..., size, size)``: for a model's verb
        ``lambda tiles: model.predict(tiles, soft=True)``.
    scene, size, overlap, nodata, classes
        As for :func:`tile`.
    path
        GeoTIFF to write, or a folder without a suffix for a series, one GeoTIFF a date. It is
        there only when it is whole. Default: the map is returned.
    batch_size
        Tiles in each call of ``predict``.
    margin, dims
        As for :func:`stitch`.
    soft
        Probabilities of all classes; default the most probable class, as int16.

    Returns
    -------
    The map, as :func:`stitch` returns it; None if it was written to ``path``.

    Raises
    ------
    ImportError
        If there is a path and the extra ``satellite`` is not installed.
    TypeError
        As :func:`tile`.
    ValueError
        As :func:`tile` and :func:`stitch`, if what ``predict`` returns has another shape, if no
        pixel of the scene is valid, or if a path does not suit the dimensions.
    """
    batches = iter_tiles(
        scene, size, overlap, batch_size=batch_size, nodata=nodata, classes=classes
    )
    predictions = _predictions(predict, batches, size)
    first = next(predictions, None)
    if first is None:
        raise ValueError("No pixel of the scene is valid, so that nothing can be predicted.")
    tiles, values = first
    grid, _ = grid_of(tiles)
    has_classes = values.dtype.kind == "f" and "class" in axes_between(values, dims, _NAME)
    blend = Blend(grid, values, _NAME, dims=dims, soft=soft or not has_classes, margin=margin)
    parts = blend.rows(_placed(chain([first], predictions)))
    if path is None:
        return raster(tiles, joined(parts, grid), blend.dims, "prediction")
    start, rows = next(parts)
    # the coordinates of a map whose values are not in memory
    shape = (*rows.shape[:-2], grid.height, grid.width)
    empty = np.broadcast_to(np.zeros((), rows.dtype), shape)
    like = raster(tiles, empty, blend.dims, "prediction")
    write_rows(like, chain([(start, rows)], parts), path)
    return None


def _predictions(
    predict: Callable, batches: Iterator[AnnData], size: int
) -> Iterator[tuple[AnnData, np.ndarray]]:
    """Tiles with a valid pixel, and what is predicted for them."""
    for tiles in batches:
        seen = tiles.obsm["valid"].any((1, 2, 3, 4))
        if not seen.any():
            continue
        if not seen.all():
            tiles = tiles[seen].copy()
        values = as_array(predict(tiles))
        check_tile_values(values, tiles.n_obs, size, _NAME)
        yield tiles, values


def _placed(
    predictions: Iterator[tuple[AnnData, np.ndarray]],
) -> Iterator[tuple[int, int, np.ndarray]]:
    for tiles, values in predictions:
        for (i, j), of_tile in zip(grid_of(tiles)[1], values, strict=True):
            yield i, j, of_tile
