"""Scenes as AnnData, one tile a row, and shares of tiles by where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_positive, near_matches
from mixvi.core.data.keys import VOID

SPLITS = ("train", "val", "test")


def days(dates: Sequence[str]) -> np.ndarray:
    """Dates in ISO form as days since 1970-01-01, float64, of the same shape."""
    return np.asarray(dates, dtype="datetime64[s]").astype(np.float64) / 86_400


def scenes_adata(
    series: np.ndarray,
    *,
    bands: Sequence[str],
    valid: np.ndarray | None = None,
    time: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    crs: str = "",
    transform: Sequence[float] = (1, 0, 0, 0, 1, 0),
    tile: int | None = None,
) -> AnnData:
    """AnnData of one or several series of one place, cut into tiles.

    Tiles at the right and lower border are padded: not valid, labels void.

    Parameters
    ----------
    series
        Reflectance ``(m, T, C, H, W)``.
    bands
        Names of the C bands.
    valid
        ``(m, T, 1 or C, H, W)``; ``None``: all of it.
    time
        Days since 1970 ``(m, T)``.
    labels, classes
        Codes ``(m, H, W)`` or ``(m, T, H, W)``, and the names of the codes from 0.
    maps
        Further arrays ``(m, ..., H, W)`` for ``obsm``, by key.
    crs, transform
        Coordinate system, and ``a, b, c, d, e, f`` by which row r and column q lie at
        ``x = a q + b r + c``, ``y = d q + e r + f``; of pixels alone if not known.
    tile
        Height and width of a tile in pixels; ``None``: the whole scene is one.

    Raises
    ------
    ValueError
        If ``tile`` is not a positive whole number.
    """
    m, _, _, height, width = series.shape
    if tile is not None:
        check_positive("tile", tile)
    size = (height, width) if tile is None else (tile, tile)
    if valid is None:
        valid = np.ones((m, series.shape[1], 1, height, width), bool)
    obsm = {"series": _cut(series, size, 0), "valid": _cut(valid, size, False)}
    for key, values in (maps or {}).items():
        obsm[key] = _cut(values, size, np.nan if values.dtype.kind == "f" else 0)
    uns = {
        "bands": list(bands),
        "scene": {
            "crs": crs,
            "transform": [float(value) for value in transform],
            "height": height,
            "width": width,
            "size": max(size),
            "overlap": 0,
        },
    }
    if labels is not None:
        obsm["labels"] = _cut(np.asarray(labels, np.int16), size, VOID)
        uns["classes"] = list(classes)
    corners = [(i, j) for i in range(0, height, size[0]) for j in range(0, width, size[1])]
    if time is not None:
        obsm["time"] = np.repeat(np.asarray(time, np.float64), len(corners), axis=0)
    rows, columns = np.array(corners * m).T
    names = [f"{i}_{j}" for i, j in corners]
    series_number = np.repeat(np.arange(m), len(corners))
    obs = pd.DataFrame(
        {"row": rows, "column": columns, "block": pd.Categorical(names * m)},
        index=[f"series_{s}_tile_{name}" for s, name in zip(series_number, names * m, strict=True)],
    )
    return AnnData(obs=obs, obsm=obsm, uns=uns)


def _cut(x: np.ndarray, size: tuple[int, int], fill: object) -> np.ndarray:
    """Arrays ``(m, ..., H, W)`` as tiles ``(m * n_tiles, ..., h, w)``, row by row of tiles."""
    m, *middle, height, width = x.shape
    h, w = size
    border = [(0, 0)] * (x.ndim - 2) + [(0, -height % h), (0, -width % w)]
    x = np.pad(x, border, constant_values=fill)
    n_rows, n_columns = x.shape[-2] // h, x.shape[-1] // w
    x = x.reshape(m, *middle, n_rows, h, n_columns, w)
    x = np.moveaxis(x, (-4, -2), (1, 2))
    return np.ascontiguousarray(x.reshape(m * n_rows * n_columns, *middle, h, w))


def spatial_blocks(adata: AnnData, size: int) -> pd.Series:
    """The square block of its scene in which each tile lies.

    Tiles of one block go to training or to test together: neighbouring pixels are alike, and a
    split by pixels scores what was learned by heart. ``adata.obs["block"]`` of the loaders is the
    tile itself; larger blocks keep neighbours together.

    Parameters
    ----------
    adata
        Tiles with ``obs["row"]`` and ``obs["column"]``, their upper left pixel in the scene.
    size
        Height and width of a block in pixels; tiles must not straddle two, so take a multiple of
        their size.

    Returns
    -------
    Categorical Series by ``obs_names``, such as ``"0_2"``: block row, block column.

    Raises
    ------
    KeyError
        If ``obs`` has no row or column.
    ValueError
        If a tile straddles two blocks.
    """
    check_positive("size", size)
    for key in ("row", "column"):
        if key not in adata.obs:
            raise KeyError(f"adata.obs has no {key!r}. {near_matches(key, adata.obs)}")
    extent = adata.obsm["series"].shape[-2:]
    first = adata.obs[["row", "column"]].to_numpy()
    blocks = first // size
    straddles = (blocks != (first + np.array(extent) - 1) // size).any(axis=1)
    if straddles.any():
        raise ValueError(
            f"{straddles.sum()} tiles of {extent[0]} x {extent[1]} pixels straddle blocks of "
            f"size={size}, e.g. {adata.obs_names[straddles.argmax()]}. Take a multiple of the tile."
        )
    names = [f"{row}_{column}" for row, column in blocks]
    return pd.Series(pd.Categorical(names), index=adata.obs_names, name="block")


def split_blocks(
    adata: AnnData,
    key: str = "block",
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> pd.Series:
    """``"train"``, ``"val"`` or ``"test"`` of each row; rows of one block have the same.

    Parameters
    ----------
    adata
        Tiles, images or pixel series.
    key
        Column of ``obs`` with the blocks, polygons or sequences that stay together.
    shares
        Of the blocks in each part; they sum to 1. A part of a positive share gets one at least.
    seed
        Of the order in which blocks are dealt out.

    Returns
    -------
    Categorical Series by ``obs_names``.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If shares do not sum to 1, or there are fewer blocks than parts.
    """
    if key not in adata.obs:
        raise KeyError(f"adata.obs has no {key!r}. {near_matches(key, adata.obs)}")
    shares = np.asarray(shares, float)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"shares must be three numbers from 0 that sum to 1, but is {shares}.")
    codes, names = pd.factorize(adata.obs[key], sort=True)
    if len(names) < (shares > 0).sum():
        raise ValueError(
            f"obs[{key!r}] has {len(names)} blocks, fewer than the parts they are to be shared "
            "among. Cut smaller tiles or take smaller blocks."
        )
    counts = np.where(shares > 0, np.maximum(1, np.round(shares * len(names))), 0).astype(int)
    # what rounding leaves over or lacks goes to the largest part
    counts[counts.argmax()] += len(names) - counts.sum()
    part = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), counts))
    split = pd.Categorical.from_codes(part[codes], list(SPLITS))
    return pd.Series(split, index=adata.obs_names, name="split")
