"""Between a raster scene and an AnnData of its tiles, there and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pandas as pd
import torch
import xarray as xr
from anndata import AnnData

from mixvi.core.arguments import check_positive
from mixvi.core.data.checks import check_key
from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite.georeference import georeferenced
from mixvi.satellite.grid import TileGrid, blended_rows
from mixvi.satellite.scene import Scene, checked_scene

# what padding holds
_PADDING = {"series": 0, "valid": False, "labels": VOID}
# pixels are read in windows of about so many bytes of values
_WINDOW_BYTES = 2**27


def tile(
    scene: xr.Dataset | xr.DataArray,
    size: int = 128,
    overlap: int = 16,
    *,
    nodata: float | None = None,
    classes: Sequence[str] | None = None,
    block_size: int | None = None,
) -> AnnData:
    """Square tiles of a raster scene, one a row of ``obs``.

    Tiles begin at multiples of ``size - overlap``; those at the lower and right edge are padded.
    A scene larger than memory is read by :func:`iter_tiles` instead.

    Parameters
    ----------
    scene
        Dataset with ``series`` and optionally ``valid`` (bool) and ``labels``, or ``series`` alone
        as a DataArray. ``series`` has the dimensions ``y`` and ``x`` and optionally ``time`` and
        ``band``; ``valid`` has some of them, ``labels`` ``y`` and ``x`` and optionally ``time``.
        Arrays of dask are read by windows.
    size
        Pixels of a tile's side.
    overlap
        Pixels that neighbours share, at most half of ``size``.
    nodata
        Value of pixels without a measurement; default what the scene's attributes say.
    classes
        Names of classes by their codes, for ``uns["classes"]``.
    block_size
        Pixels of the side of the spatial blocks in ``obs["block"]``, by which train and test are
        split; default no such column. Overlapping tiles of two blocks share pixels: tile with
        ``overlap=0`` what is to be split.

    Returns
    -------
    AnnData without variables: ``obsm["series"]`` (n, T, C, size, size), in the scene's dtype if
    that is float32 or at most 16 bits of integers, else float32; ``obsm["valid"]`` of that shape,
    False where a value is not finite, is ``nodata``, is not valid in the scene or is padding;
    ``obsm["time"]`` (n, T), days since 1970-01-01, if the scene has dates; ``obsm["labels"]``
    (n, size, size) or (n, T, size, size), missing ones -1 and padding -2; ``obs["row"]`` and
    ``obs["column"]``, the upper left pixel; ``uns["bands"]``, ``uns["classes"]`` and
    ``uns["scene"]``, which :func:`stitch` reads.

    Raises
    ------
    TypeError
        If the scene is no raster of xarray, or ``valid`` is not boolean.
    ValueError
        If dimensions are not those above, dates are unsorted, repeated or missing, coordinates are
        not evenly spaced, or size and overlap do not fit.
    """
    checked, grid = _prepared(scene, size, overlap, nodata, block_size)
    n = len(grid.rows) * len(grid.columns)
    return _tiles(_cut(checked, grid), n, checked, grid, classes, block_size)


def iter_tiles(
    scene: xr.Dataset | xr.DataArray,
    size: int = 128,
    overlap: int = 16,
    *,
    batch_size: int = 16,
    nodata: float | None = None,
    classes: Sequence[str] | None = None,
    block_size: int | None = None,
) -> Iterator[AnnData]:
    """The tiles of :func:`tile`, in the same order, ``batch_size`` at a time.

    Only a window of the scene is in memory: full rows of tiles while these take less than 128 MB,
    else a part of one row.

    Parameters
    ----------
    scene, size, overlap, nodata, classes, block_size
        As for :func:`tile`.
    batch_size
        Tiles in each AnnData; the last has what is left.

    Raises
    ------
    TypeError, ValueError
        As :func:`tile`, at once.
    """
    check_positive("batch_size", batch_size)
    checked, grid = _prepared(scene, size, overlap, nodata, block_size)
    return _batches(checked, grid, batch_size, classes, block_size)


def stitch(
    adata: AnnData,
    key: str | np.ndarray | torch.Tensor,
    *,
    dims: Sequence[str] | None = None,
    soft: bool = True,
    margin: int = 0,
) -> xr.DataArray:
    """One raster of what was found for the tiles of a scene.

    Where tiles overlap, floats are averaged with weights that fall smoothly towards the edges of a
    tile and sum to one; values that are equal in all tiles stay as they are to the last bit.
    Integers and booleans are cropped: each pixel is that of the tile whose edge is farther.

    Parameters
    ----------
    adata
        Tiles as :func:`tile` left them, all or some, in any order.
    key
        Key of ``obsm`` with values ``(n, ..., size, size)``, or the values.
    dims
        Names of the axes between tiles and pixels. Default: none for (n, size, size); ``class``
        for floats and ``time`` for others for (n, k, size, size); ``time, band`` for
        (n, T, C, size, size).
    soft
        False: the most probable ``class`` after averaging, as codes.
    margin
        Pixels at a tile's edges that do not count, unless at the edge of the scene, at most half of
        the overlap: half of the receptive field makes a convolutional network's map the one of the
        whole scene.

    Returns
    -------
    DataArray ``(..., y, x)`` with the scene's georeference, and its dates, bands and the classes as
    coordinates. Pixels that no tile covers are NaN, -1 in integers and False in booleans.

    Raises
    ------
    KeyError
        If ``obsm`` has no such key, or ``obs`` or ``uns`` lack what :func:`tile` wrote.
    ValueError
        If shapes do not fit, tiles are repeated or not where the grid has them, or the margin is
        too wide.
    """
    grid, places = grid_of(adata)
    values = _values(adata, key)
    name = key if isinstance(key, str) else "values"
    sides = values.shape[-2:]
    if adata.n_obs == 1 and sides == (grid.height, grid.width) and max(sides) <= grid.size:
        # a tile that is the whole scene need not be square
        pads = [(0, grid.size - side) for side in sides]
        values = np.pad(values, [(0, 0)] * (values.ndim - 2) + pads)
    check_tile_values(values, adata.n_obs, grid.size, name)
    if adata.n_obs == 0:
        raise ValueError("adata has no tiles.")
    blend = Blend(grid, values, name, dims=dims, soft=soft, margin=margin)
    order = sorted(range(len(places)), key=places.__getitem__)
    if len(set(places)) < len(places):
        raise ValueError("adata has tiles more than once: obs['row'] and obs['column'] repeat.")
    parts = blend.rows((*places[k], values[k]) for k in order)
    return raster(adata, joined(parts, grid), blend.dims, name)


class Blend:
    """How values of tiles become rows of a raster.

    Parameters
    ----------
    grid
        Where tiles lie.
    values
        Values ``(n, ..., size, size)`` of some tiles, whose shape and dtype tell.
    name
        What messages call them.
    dims, soft, margin
        As for :func:`stitch`.

    Raises
    ------
    ValueError
        If dims or soft do not fit the values, or the margin is too wide.
    """

    def __init__(
        self,
        grid: TileGrid,
        values: np.ndarray,
        name: str,
        *,
        dims: Sequence[str] | None = None,
        soft: bool = True,
        margin: int = 0,
    ):
        is_float = values.dtype.kind == "f"
        axes = axes_between(values, dims, name)
        if not soft and (not is_float or "class" not in axes):
            raise ValueError(
                f"soft=False takes the most probable class, but {name} has the axes "
                f"{', '.join(axes) or 'of pixels alone'} and the dtype {values.dtype}, and must be "
                "probabilities with an axis 'class'."
            )
        self._grid = grid
        self._ramp = grid.smooth_ramp(margin)
        if not is_float:
            self._ramp = grid.crop_ramp()
        self._class_axis = None if soft else axes.index("class")
        self._dtype = _blended_dtype(values.dtype)
        self.dims = (*(d for d in axes if soft or d != "class"), "y", "x")

    def rows(
        self, tiles: Iterator[tuple[int, int, np.ndarray]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """First row and values ``(..., h, width)`` of each part of the raster, from above."""
        cast = ((i, j, values.astype(self._dtype, copy=False)) for i, j, values in tiles)
        for start, rows, covered in blended_rows(self._grid, cast, self._ramp):
            if self._class_axis is not None:
                covered = covered & np.isfinite(rows).all(self._class_axis)
                rows = rows.argmax(self._class_axis).astype(np.int16)
            rows[..., ~covered] = _FILL[rows.dtype.kind]
            yield start, rows


_FILL = {"f": np.nan, "i": UNLABELLED, "b": False}


def raster(adata: AnnData, values: np.ndarray, dims: Sequence[str], name: str) -> xr.DataArray:
    """Values ``(..., y, x)`` of a scene with the coordinates that its tiles tell."""
    scene = adata.uns["scene"]
    known = {"band": adata.uns.get("bands"), "class": adata.uns.get("classes")}
    if "time" in adata.obsm:
        # milliseconds, which float days hold exactly enough
        days = np.asarray(adata.obsm["time"])[0]
        known["time"] = (days * 86_400_000).round().astype("datetime64[ms]").astype("M8[ns]")
    coords = {
        dim: np.asarray(known[dim])
        for dim, n in zip(dims, values.shape, strict=True)
        if known.get(dim) is not None and len(known[dim]) == n
    }
    array = xr.DataArray(values, coords, tuple(dims), name=name)
    if values.dtype.kind == "i":
        array.attrs["_FillValue"] = UNLABELLED
    return georeferenced(array, scene["crs"], list(scene["transform"]))


def joined(parts: Iterator[tuple[int, np.ndarray]], grid: TileGrid) -> np.ndarray:
    """The raster ``(..., height, width)`` of its rows."""
    whole = None
    for start, rows in parts:
        if whole is None:
            whole = np.empty((*rows.shape[:-2], grid.height, grid.width), rows.dtype)
        whole[..., start : start + rows.shape[-2], :] = rows
    return whole


def check_tile_values(values: np.ndarray, n: int, size: int, name: str) -> None:
    """Raise ValueError unless values are ``(n, ..., size, size)`` numbers."""
    if values.ndim < 3 or len(values) != n or values.shape[-2:] != (size, size):
        raise ValueError(
            f"{name} must have the shape ({n}, ..., {size}, {size}), one entry a tile, but has "
            f"{values.shape}."
        )
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, but has the dtype {values.dtype}.")


def axes_between(values: np.ndarray, dims: Sequence[str] | None, name: str) -> tuple[str, ...]:
    """Names of the axes between tiles and pixels; see :func:`stitch`."""
    between = values.ndim - 3
    if dims is None:
        is_float = values.dtype.kind == "f"
        default = {0: (), 1: ("class" if is_float else "time",), 2: ("time", "band")}
        if between in default:
            return default[between]
    if dims is None or len(dims) != between or isinstance(dims, str):
        raise ValueError(
            f"dims must be a list of {between} names, one an axis of {name} between tiles and "
            f"pixels, whose shape is {values.shape}, but is {dims!r}."
        )
    return tuple(dims)


def as_array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """The array of an array or a tensor."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _prepared(
    scene, size: int, overlap: int, nodata: float | None, block_size: int | None
) -> tuple[Scene, TileGrid]:
    if block_size is not None:
        check_positive("block_size", block_size)
    checked = checked_scene(scene, nodata)
    return checked, TileGrid(*checked.shape[2:], size, overlap)


def _batches(
    scene: Scene, grid: TileGrid, batch_size: int, classes, block_size: int | None
) -> Iterator[AnnData]:
    n = len(grid.rows) * len(grid.columns)
    tiles = _cut(scene, grid)
    for first in range(0, n, batch_size):
        m = min(batch_size, n - first)
        yield _tiles(tiles, m, scene, grid, classes, block_size)


def _tiles(
    tiles: Iterator, n: int, scene: Scene, grid: TileGrid, classes, block_size: int | None
) -> AnnData:
    """The next ``n`` tiles of the iterator."""
    arrays: dict[str, np.ndarray] = {}
    corners = np.empty((n, 2), int)
    for k, (row, column, parts) in enumerate(islice(tiles, n)):
        corners[k] = row, column
        for name, part in parts.items():
            arrays.setdefault(name, np.empty((n, *part.shape), part.dtype))[k] = part
    if scene.time is not None:
        arrays["time"] = np.tile(scene.time, (n, 1))
    obs = pd.DataFrame(corners, [f"{row}_{column}" for row, column in corners], ["row", "column"])
    if block_size is not None:
        blocks = obs // block_size
        names = blocks["row"].astype(str) + "_" + blocks["column"].astype(str)
        obs["block"] = pd.Categorical(names)
    uns = {
        "bands": list(scene.bands),
        "scene": {
            "crs": scene.crs,
            "transform": [float(v) for v in scene.transform],
            "height": grid.height,
            "width": grid.width,
            "size": grid.size,
            "overlap": grid.overlap,
        },
    }
    if classes is not None:
        uns["classes"] = list(classes)
    return AnnData(obs=obs, obsm=arrays, uns=uns)


def _cut(scene: Scene, grid: TileGrid) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """First row and column and the arrays of every tile, row after row."""
    rows, columns = grid.rows, grid.columns
    per_tile = np.prod(scene.shape[:2]) * grid.size * grid.step * scene.dtype.itemsize
    m = int(np.clip(_WINDOW_BYTES // per_tile, 1, len(columns)))
    # several rows of tiles at once only if these are whole: the order is row after row
    k = int(np.clip(_WINDOW_BYTES // (per_tile * m), 1, len(rows))) if m == len(columns) else 1
    for i in range(0, len(rows), k):
        for j in range(0, len(columns), m):
            window = rows[i : i + k], columns[j : j + m]
            extents = [slice(int(at[0]), int(at[-1]) + grid.size) for at in window]
            arrays = scene.read(*extents)
            for row in window[0]:
                for column in window[1]:
                    at = row - extents[0].start, column - extents[1].start
                    parts = {
                        name: _padded(array, at, grid.size, _PADDING[name])
                        for name, array in arrays.items()
                    }
                    yield int(row), int(column), parts


def _padded(array: np.ndarray, at: tuple[int, int], size: int, padding) -> np.ndarray:
    """The tile ``(..., size, size)`` of ``(..., h, w)`` that begins at row and column ``at``."""
    row, column = at
    part = array[..., row : row + size, column : column + size]
    h, w = part.shape[-2:]
    if (h, w) == (size, size):
        return part
    whole = np.full((*part.shape[:-2], size, size), padding, part.dtype)
    whole[..., :h, :w] = part
    return whole


def grid_of(adata: AnnData) -> tuple[TileGrid, list[tuple[int, int]]]:
    """Grid of the scene, and each tile's row and column of tiles."""
    check_key(adata, "uns", "scene", "The scene")
    for column in ("row", "column"):
        check_key(adata, "obs", column, "The place of tiles")
    scene = adata.uns["scene"]
    grid = TileGrid(*(int(scene[name]) for name in ("height", "width", "size", "overlap")))
    corners = zip(adata.obs["row"], adata.obs["column"], strict=True)
    return grid, [grid.place(row, column) for row, column in corners]


def _values(adata: AnnData, key: str | np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(key, str):
        check_key(adata, "obsm", key, "key")
        key = adata.obsm[key]
    return as_array(key)


def _blended_dtype(dtype: np.dtype) -> np.dtype:
    """A dtype that holds averages, or -1 where no tile lies."""
    if dtype.kind == "f":
        return np.promote_types(dtype, np.float32)
    return np.promote_types(dtype, np.int8) if dtype.kind == "u" else dtype
