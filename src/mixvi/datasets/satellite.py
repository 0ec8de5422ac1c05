"""Satellite image series of one place, cut into tiles on demand."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_choice
from mixvi.core.data.keys import UNLABELLED
from mixvi.datasets.fetch import DataFile, fetch
from mixvi.datasets.tiles import days, scenes_adata

SENTINEL2_PATCH = DataFile(
    "sentinel2_patch",
    "sentinel2_patch.npz",
    "6a2bc0a29ce4e221288728629cd0b6e5d99340e3a8e7ab4fe1447c0fab0e737e",
    "Contains modified Copernicus Sentinel data 2015-2017; the example data of the repository "
    "sentinel-hub/eo-learn (MIT).",
)
CBERS_PATCH = DataFile(
    "cbers_patch",
    "cbers_patch.npz",
    "b161537dee676384ee0c2f8be611877ea698635ff526cfd3eb94d1930bd960ac",
    "INPE, Brazil Data Cube (public), by way of the R package sits.",
)
SINOP_RASTER = DataFile(
    "modis_matogrosso",
    "sinop_raster_2013_2014.npz",
    "a6ea562f9046f779906f40ef1dfd0ea0d8207344d48347140c0df522e9b01aaa",
    "MODIS (public domain), by way of the R package sits.",
)
MATO_GROSSO_RASTER = DataFile(
    "modis_matogrosso",
    "matogrosso_raster_2007_2013.npz",
    "78b87c5055319e037446e0b95fde5ecf875e3c20ab408eb45192bb0ce8f8165a",
    "MODIS (public domain), by way of the R package dtwSat (Maus et al. 2019).",
)
_WORLDCEREAL = "tests of the repository WorldCereal/worldcereal-classification (MIT)."
_GFMAP = "tests of the repository Open-EO/openeo-gfmap (Apache-2.0)."
S2_PATCHES = {
    "belgium2_monthly": DataFile(
        "s2_patches",
        "belgium2_monthly.npz",
        "26e6e4f31a7495f906c84b2fa18f6b53d3f15e6d89ab090d7063c2da3fb9a405",
        "Contains modified Copernicus Sentinel data 2020-2021; " + _WORLDCEREAL,
    ),
    "gfmap_2022winter_quintads": DataFile(
        "s2_patches",
        "gfmap_2022winter_quintads.npz",
        "e495e020c87fa07bd07c0ad110a4fdbdaf5d8a17cd67948f507207b7f98fb698",
        "Contains modified Copernicus Sentinel data 2022-2023; " + _GFMAP,
    ),
    "gfmap_2023autumn": DataFile(
        "s2_patches",
        "gfmap_2023autumn.npz",
        "ea1cd3baa33c3d8ab181446dc78dda0ec817606c1f22ef6b1fc8db55c50514b7",
        "Contains modified Copernicus Sentinel data 2023; " + _GFMAP,
    ),
}
_SENTINEL2_BANDS = (
    *(f"B{i:02}" for i in range(1, 9)),
    "B8A",
    *(f"B{i:02}" for i in range(9, 13)),
)
# codes in the file of the classes from 0; its 0 is no data
_SLOVENIA = {
    1: "cultivated",
    2: "forest",
    3: "grassland",
    4: "shrubland",
    8: "artificial surface",
}
# corners in metres of UTM 33N, west, south, east, north: TestEOPatch/bbox.geojson of eo-learn
_SENTINEL2_CORNERS = (
    465_181.0522318204,
    5_079_244.8912012065,
    466_180.53145382757,
    5_080_254.63349641,
)
# what Sen2Cor calls dark, vegetation, bare soil, water and unclassified
_CLEAR = (2, 4, 5, 6, 7)


def sentinel2_patch(
    bands: Literal["ndvi", "all"] = "ndvi", tile: int | None = None, *, verify: bool = True
) -> AnnData:
    """Sentinel-2 over 101 x 100 pixels of 10 m in Slovenia, with real clouds and land cover.

    Parameters
    ----------
    bands
        ``"ndvi"``: the vegetation index on 68 dates from 2015-07-11 to 2017-12-22, of which clouds
        hide 39.6 % of the pixels. ``"all"``: reflectance in 13 bands on five dates, which the file
        does not name; there is no cloud mask, and the first date looks cloudy.
    tile
        Height and width of tiles in pixels; those at the right and lower border are padded (not
        valid, labels void). ``None``: one tile.
    verify
        Whether the file must have the expected checksum.

    Returns
    -------
    AnnData, one tile a row: ``obsm["series"]`` (n, T, 1 or 13, H, W) float32,
    ``obsm["valid"]`` (n, T, 1, H, W), ``obsm["labels"]`` (n, H, W) with five classes of land cover
    (155 pixels of no data are unlabelled), ``obsm["elevation"]`` (n, H, W) in metres; with
    ``"ndvi"`` also ``obsm["time"]`` (n, T) in days since 1970 and ``obsm["cloud_probability"]``
    (n, T, 1, H, W), which a cloud detector gave. ``obs["row"]``, ``obs["column"]``,
    ``obs["block"]`` (the tile); ``uns["bands"]``, ``uns["classes"]``, ``uns["scene"]``
    (UTM 33N, as eo-learn gives its corners). Three quarters of the labelled pixels are forest.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum is another.
    """
    check_choice("bands", bands, ("ndvi", "all"))
    with np.load(fetch(SENTINEL2_PATCH, verify)) as file:
        cover = file["land_cover"][..., 0]
        maps = {"elevation": file["elevation"][None, ..., 0]}
        if bands == "ndvi":
            series, names = _channels_first(file["ndvi"]), ["NDVI"]
            valid = _channels_first(file["is_valid"])
            time = days(file["timestamps"])[None]
            maps["cloud_probability"] = _channels_first(file["cloud_probability"])
        else:
            series, names = _channels_first(file["reference_scene"]), _SENTINEL2_BANDS
            valid = time = None
    labels = np.full(cover.shape, UNLABELLED)
    for code, value in enumerate(_SLOVENIA):
        labels[cover == value] = code
    west, south, east, north = _SENTINEL2_CORNERS
    height, width = cover.shape
    transform = ((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)
    return scenes_adata(
        series,
        bands=names,
        valid=valid,
        time=time,
        labels=labels[None],
        classes=list(_SLOVENIA.values()),
        maps=maps,
        crs="EPSG:32633",
        transform=transform,
        tile=tile,
    )


def cbers_patch(tile: int | None = None, *, verify: bool = True) -> AnnData:
    """CBERS-4 AWFI over 50 x 50 pixels of 64 m in west Bahia, 24 dates, four bands, no labels.

    16-day composites from 2017-08-29 to 2018-08-29; 0.8 % of the pixels are cloudy, nearly all on
    one date.

    Parameters
    ----------
    tile, verify
        As for :func:`sentinel2_patch`.

    Returns
    -------
    AnnData as of :func:`sentinel2_patch`, without labels: ``obsm["series"]`` (n, 24, 4, H, W) in
    reflectance (blue, green, red, NIR), ``obsm["valid"]``, ``obsm["time"]``.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`sentinel2_patch`.
    """
    with np.load(fetch(CBERS_PATCH, verify)) as file:
        return scenes_adata(
            _channels_first(file["reflectance_1e4"]) / np.float32(1e4),
            bands=["blue", "green", "red", "nir"],
            valid=(file["cloud_mask"] == 0)[None, :, None],
            time=days(file["dates"])[None],
            tile=tile,
        )


def sinop_raster(tile: int | None = None, *, verify: bool = True) -> AnnData:
    """MODIS NDVI and EVI over 144 x 254 pixels at Sinop, Mato Grosso, 23 dates, no labels.

    16-day composites from 2013-09-14 to 2014-08-29 without gaps. The original is compressed,
    probably with loss: a few indices exceed 1.

    Parameters
    ----------
    tile, verify
        As for :func:`sentinel2_patch`.

    Returns
    -------
    AnnData as of :func:`sentinel2_patch`, without labels: ``obsm["series"]`` (n, 23, 2, H, W),
    ``obsm["valid"]`` (all, but padding), ``obsm["time"]``.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`sentinel2_patch`.
    """
    with np.load(fetch(SINOP_RASTER, verify)) as file:
        series = np.stack([file["ndvi_1e4"], file["evi_1e4"]], axis=1)[None]
        time = days(file["dates"])[None]
    return scenes_adata(series / np.float32(1e4), bands=["NDVI", "EVI"], time=time, tile=tile)


def mato_grosso_raster(
    by_season: bool = True, tile: int | None = None, *, verify: bool = True
) -> AnnData:
    """MODIS over 27 x 37 pixels of 250 m in Mato Grosso, six years, 603 labelled pixel seasons.

    Composites of 16 days from 2007-09-14 to 2013-08-29. A label holds for one pixel from September
    to August; all five crops and forests are field labels (Maus et al. 2019).

    Parameters
    ----------
    by_season
        ``True``: six series of 23 dates, one a season, with one label map each; one date of the
        last is absent. ``False``: one series of 137 dates with a label map for each date.
    tile, verify
        As for :func:`sentinel2_patch`.

    Returns
    -------
    AnnData, one tile (and season) a row: ``obsm["series"]`` (n, T, 6, H, W) float32 (blue, red,
    NIR, MIR, NDVI, EVI), ``obsm["valid"]`` (n, T, 1, H, W), ``obsm["frame"]`` (n, T) where there is
    a composite, ``obsm["time"]`` (n, T), ``obsm["labels"]`` (n, H, W) or (n, T, H, W) with five
    classes, ``obsm["day_of_year"]`` (n, T, H, W), the true day of each pixel. ``obs["season"]``
    such as ``"2007/08"``, ``obs["block"]`` the place, the same in all seasons.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`sentinel2_patch`.
    """
    with np.load(fetch(MATO_GROSSO_RASTER, verify)) as file:
        file = dict(file)
    series = _channels_first(file["x_1e4"])[0] / np.float32(1e4)
    valid, time, day = file["valid"], days(file["dates"]), file["doy"]
    classes = [str(name) for name in file["class_names"]]
    starts, ends = days(file["sample_from"]), days(file["sample_to"])
    labels = np.full(valid.shape, UNLABELLED)
    for i, code in enumerate(file["sample_label"]):
        dates = (starts[i] <= time) & (time < ends[i])
        labels[dates, file["sample_row"][i], file["sample_col"][i]] = code
    frame = np.ones(len(time), bool)
    if by_season:
        # 2013-07-28 is absent
        gap = np.flatnonzero(np.diff(time) > 16)[0] + 1
        series, labels, day = (np.insert(x, gap, x[gap - 1], axis=0) for x in (series, labels, day))
        valid, frame = (np.insert(x, gap, False, axis=0) for x in (valid, frame))
        time = np.insert(time, gap, time[gap - 1] + 16)
    n_dates = 23 if by_season else len(time)
    series, valid, labels, day, frame, time = (
        x.reshape(-1, n_dates, *x.shape[1:])
        for x in (series, valid[:, None], labels, day, frame, time)
    )
    if by_season:
        labels = labels[:, 0]
    adata = scenes_adata(
        series,
        bands=[str(band) for band in file["bands"]],
        valid=valid,
        time=time,
        labels=labels,
        classes=classes,
        maps={"day_of_year": day},
        tile=tile,
    )
    n_tiles = adata.n_obs // len(frame)
    adata.obsm["frame"] = np.repeat(frame, n_tiles, axis=0)
    if by_season:
        seasons = [f"{year}/{year % 100 + 1:02}" for year in range(2007, 2013)]
        adata.obs["season"] = pd.Categorical(np.repeat(seasons, n_tiles))
    return adata


def s2_patches(name: str, tile: int | None = None, *, verify: bool = True) -> AnnData:
    """Small Sentinel-2 patches at 10 m, for code paths and not for claims of accuracy.

    Parameters
    ----------
    name
        ``"belgium2_monthly"``: 12 monthly composites of 2020/21, 9 bands, 100 x 100 pixels, two
        months empty. Its labels are predictions of WorldCereal's classifier from the same
        satellites, no ground truth: say so with every figure.
        ``"gfmap_2022winter_quintads"``: 20 composites of five days, 4 bands, 66 x 64 pixels,
        ``"gfmap_2023autumn"``: 19 dates, 4 bands, 52 x 46 pixels; both without labels, valid where
        Sen2Cor sees no cloud, shadow or snow (26 and 13 %).
    tile, verify
        As for :func:`sentinel2_patch`.

    Returns
    -------
    AnnData as of :func:`sentinel2_patch`: ``obsm["series"]`` (n, T, C, H, W) in reflectance,
    ``obsm["valid"]``, ``obsm["time"]``; ``uns["scene"]`` has the transform of the scene (pixel size
    and corner in UTM 31N). ``"belgium2_monthly"`` also has ``obsm["labels"]`` (n, H, W), predicted
    cropland or not, ``uns["labels_are_predictions"]``, ``obsm["s1"]`` (n, T, 2, H, W), Sentinel-1
    VV and VH in decibels, and ``obsm["elevation"]``; the others ``obsm["scene_class"]``
    (n, T, H, W), Sen2Cor's code.

    Raises
    ------
    FileNotFoundError
        As :func:`sentinel2_patch`.
    ValueError
        Also if the name is unknown.
    """
    check_choice("name", name, S2_PATCHES)
    with np.load(fetch(S2_PATCHES[name], verify)) as file:
        file = dict(file)
    maps, labels, classes = {}, None, None
    if "scl" in file:
        maps["scene_class"] = file["scl"][None]
        valid = np.isin(file["scl"], _CLEAR)
    else:
        valid = file["valid"]
        labels, classes = file["predicted_cropland"][None], ["no cropland", "cropland"]
        maps["elevation"] = file["elevation"][None].astype(np.float32)
        maps["s1"] = decibels(np.stack([file["s1_vv"], file["s1_vh"]], axis=1))[None]
    x, y = file["x"], file["y"]
    step_x, step_y = x[1] - x[0], y[1] - y[0]
    transform = (step_x, 0.0, x[0] - step_x / 2, 0.0, step_y, y[0] - step_y / 2)
    adata = scenes_adata(
        _channels_first(file["reflectance_1e4"]) / np.float32(1e4),
        bands=[str(band) for band in file["bands"]],
        valid=valid[None, :, None],
        time=days(file["dates"])[None],
        labels=labels,
        classes=classes,
        maps=maps,
        crs="EPSG:32631",
        transform=transform,
        tile=tile,
    )
    if labels is not None:
        adata.uns["labels_are_predictions"] = True
    return adata


def decibels(scaled: np.ndarray) -> np.ndarray:
    """Sentinel-1 backscatter in decibels of WorldCereal's whole numbers; 0 and 65535 are none."""
    scaled = scaled.astype(np.float32)
    scaled[(scaled <= 0) | (scaled == 65_535)] = np.nan
    return 20 * np.log10(scaled) - 83


def _channels_first(x: np.ndarray) -> np.ndarray:
    """One series ``(T, H, W, C)`` as ``(1, T, C, H, W)``."""
    return np.moveaxis(x, -1, 1)[None]
