"""Series of single pixels with labels of the field: height and width are one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_choice
from mixvi.datasets.fetch import DataFile, fetch
from mixvi.datasets.satellite import decibels
from mixvi.datasets.tiles import days

_SITS = "MODIS and Landsat (public domain), by way of the R package sits (Picoli et al. 2018)."
MATO_GROSSO_SAMPLES = {
    4: DataFile(
        "modis_matogrosso",
        "samples_mt_4bands.npz",
        "855ff268668113cff81b32cb9f6e116a55a5304ae7c36148f09863fa4b697a01",
        _SITS,
    ),
    6: DataFile(
        "modis_matogrosso",
        "samples_mt_6bands.npz",
        "47c16e7d55c0045349b38aa4e947a800d15ebda4caf30ac77eea7b4483ee3813",
        _SITS,
    ),
}
RONDONIA_SAMPLES = DataFile(
    "modis_matogrosso",
    "samples_l8_rondonia_2bands.npz",
    "b82977ad4ac3301abec9b5d85c51521a0621daf01be9f4dc6b70e0ad1d924d9b",
    _SITS,
)
S2_PIXEL_SERIES = {
    "worldcereal_eastafrica_500": DataFile(
        "s2_pixel_series",
        "worldcereal_eastafrica_500.npz",
        "c57dc664f05cb7114d01974e8a74758e30e6aceb4ba59bbeb8bb4e32a7483c2e",
        "Contains modified Copernicus Sentinel data 2016-2017; the tests of the repository "
        "WorldCereal/worldcereal-classification (MIT).",
    ),
    "formosat2_tempcnn": DataFile(
        "s2_pixel_series",
        "formosat2_tempcnn.npz",
        "454a4f287c8b2cfce1e79ce6ab0c3f946c2d23ac85771695bee04e564223cf19",
        "Formosat-2, a subsample of Pelletier et al. (2019) in the repository "
        "charlotte-pel/temporalCNN.",
    ),
}


def mato_grosso_samples(n_bands: int = 4, *, verify: bool = True) -> AnnData:
    """MODIS series of pixels in Mato Grosso with field labels of nine classes (Picoli et al. 2018).

    Parameters
    ----------
    n_bands
        4: 1,892 pixels (NDVI, EVI, NIR, MIR); 6: 425 pixels (blue, red, NIR, MIR, NDVI, EVI).
    verify
        Whether the file must have the expected checksum.

    Returns
    -------
    AnnData, one pixel a row: ``obsm["series"]`` (n, 23, n_bands, 1, 1) float32, 16-day composites
    of a season without gaps, ``obsm["time"]`` (n, 23), ``obsm["labels"]`` (n, 1, 1),
    ``obs["label"]`` by name, ``obs["longitude"]``, ``obs["latitude"]`` and ``obs["block"]``,
    squares of one degree by which to split; with 4 bands ``obs["cluster_label"]``, which its
    authors keep beside the label. ``uns["bands"]``, ``uns["classes"]``.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum is another, or there are no samples of so many bands.
    """
    if n_bands not in MATO_GROSSO_SAMPLES:
        raise ValueError(f"n_bands must be 4 or 6, but is {n_bands!r}.")
    return _samples_of_sits(MATO_GROSSO_SAMPLES[n_bands], verify)


def rondonia_samples(*, verify: bool = True) -> AnnData:
    """Landsat 8 NDVI and EVI of 160 pixels in Rondonia on 25 dates, four classes of 40.

    Returns
    -------
    AnnData as of :func:`mato_grosso_samples`: ``obsm["series"]`` (160, 25, 2, 1, 1); classes
    deforestation, forest, natural non-forest and pasture.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`mato_grosso_samples`.
    """
    return _samples_of_sits(RONDONIA_SAMPLES, verify)


def s2_pixel_series(name: str, *, verify: bool = True) -> AnnData:
    """Series of single pixels of Sentinel-2 or Formosat-2 with labels of field surveys.

    Parameters
    ----------
    name
        ``"worldcereal_eastafrica_500"``: 500 pixels in Uganda and South Sudan, 12 months from
        2016-12, 10 bands, 7 % missing; 13 kinds of crop and land cover, of which eight have fewer
        than ten pixels. Labels are independent of the imagery.
        ``"formosat2_tempcnn"``: 520 pixels near Toulouse, 149 steps (NIR, red, green), gaps filled
        by its authors on an even grid whose dates are not in the file; 13 classes of 40.
    verify
        Whether the file must have the expected checksum.

    Returns
    -------
    AnnData, one pixel a row: ``obsm["series"]`` (n, T, C, 1, 1) float32 in reflectance (of
    Formosat-2 the file's numbers over 1,000), ``obsm["valid"]``, ``obsm["labels"]`` (n, 1, 1),
    ``obs["label"]`` by name and ``obs["block"]`` by which to split: squares of one degree, or
    polygons. WorldCereal's also has ``obsm["time"]``, ``obsm["s1"]`` (n, 12, 2, 1, 1), Sentinel-1
    VV and VH in decibels, NaN where missing, and ``obs["label_full"]``, ``obs["ref_id"]`` (the
    survey), ``obs["longitude"]``, ``obs["latitude"]``, ``obs["elevation"]``. Formosat-2's has
    ``obs["split"]`` of its authors (no polygon on both sides) and ``uns["image"]``
    (1, 149, 3, 16, 16), an unlabelled piece of the scene.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum is another, or the name is unknown.
    """
    check_choice("name", name, S2_PIXEL_SERIES)
    with np.load(fetch(S2_PIXEL_SERIES[name], verify)) as file:
        file = dict(file)
    return _worldcereal(file) if name.startswith("worldcereal") else _formosat(file)


def _worldcereal(file: dict) -> AnnData:
    classes, codes = np.unique(file["label"], return_inverse=True)
    months = file["start_date"].astype("datetime64[M]")[:, None] + np.arange(12)
    adata = _pixels(
        file["reflectance_1e4"] / np.float32(1e4),
        codes,
        classes,
        bands=file["bands"],
        # a month's composite stands in its middle
        time=days(months.astype("datetime64[D]")) + 14,
        valid=file["valid"],
        longitude=file["lon"],
        latitude=file["lat"],
    )
    adata.obsm["s1"] = decibels(file["s1_scaled"])[..., None, None]
    for key in ("label_full", "ref_id"):
        adata.obs[key] = pd.Categorical(file[key])
    adata.obs["elevation"] = file["elevation"]
    return adata


def _formosat(file: dict) -> AnnData:
    x, codes, polygons = (
        np.concatenate([file[f"{part}_train"], file[f"{part}_test"]])
        for part in ("x", "y", "polygon")
    )
    scale = np.float32(1000)
    adata = _pixels(x / scale, codes, file["class_names"], bands=file["bands"])
    adata.obs["block"] = pd.Categorical(polygons.astype(str))
    n_train = len(file["x_train"])
    adata.obs["split"] = pd.Categorical(np.repeat(["train", "test"], [n_train, len(x) - n_train]))
    adata.uns["image"] = file["image"].transpose(2, 3, 0, 1)[None] / scale
    return adata


def _samples_of_sits(file: DataFile, verify: bool) -> AnnData:
    with np.load(fetch(file, verify)) as content:
        content = dict(content)
    adata = _pixels(
        content["x_1e4"] / np.float32(1e4),
        content["label"],
        content["class_names"],
        bands=content["bands"],
        time=content["dates_days_since_1970"],
        longitude=content["longitude"],
        latitude=content["latitude"],
    )
    if "cluster_label" in content:
        adata.obs["cluster_label"] = pd.Categorical(content["cluster_label"])
    return adata


def _pixels(
    series: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    *,
    bands: np.ndarray,
    time: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    longitude: np.ndarray | None = None,
    latitude: np.ndarray | None = None,
) -> AnnData:
    """AnnData of pixels from series ``(n, T, C)`` and codes ``(n,)``."""
    classes = [str(name) for name in classes]
    obs = pd.DataFrame(
        {"label": pd.Categorical.from_codes(codes, classes)},
        index=[f"pixel_{i}" for i in range(len(series))],
    )
    if longitude is not None:
        obs["longitude"], obs["latitude"] = longitude, latitude
        degrees = np.floor(np.stack([latitude, longitude], axis=1)).astype(int)
        obs["block"] = pd.Categorical([f"{south}_{west}" for south, west in degrees])
    if valid is None:
        valid = np.ones((*series.shape[:2], 1), bool)
    obsm = {
        "series": np.ascontiguousarray(series, np.float32)[..., None, None],
        "valid": valid[..., None, None],
        "labels": np.asarray(codes, np.int16)[:, None, None],
    }
    if time is not None:
        obsm["time"] = np.asarray(time, np.float64)
    uns = {"bands": [str(band) for band in bands], "classes": classes}
    return AnnData(obs=obs, obsm=obsm, uns=uns)
