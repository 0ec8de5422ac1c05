"""What a raster scene is: dimensions, dates, validity and labels, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from mixvi.core.arguments import near_matches
from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite.georeference import georeference

DIMS = ("time", "band", "y", "x")
# other types of numbers are read as float32
_KEPT_DTYPES = ("float32", "int8", "uint8", "int16", "uint16")


@dataclass(frozen=True)
class Scene:
    """A checked scene; pixels are read when asked for.

    Parameters
    ----------
    data
        ``series`` (time, band, y, x), and ``valid`` and ``labels`` where the scene has them.
    time
        Days since 1970-01-01 ``(T,)``, or None.
    bands
        Names of bands.
    crs, transform
        Georeference, see :func:`mixvi.satellite.georeference.georeference`.
    nodata
        Value of pixels without a measurement, or None.
    no_label
        Value of pixels without a label in the file's own words, or None.
    """

    data: xr.Dataset
    time: np.ndarray | None
    bands: list[str]
    crs: str
    transform: list[float]
    nodata: float | None
    no_label: float | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Dates, bands, height and width."""
        return self.data["series"].shape

    @property
    def dtype(self) -> np.dtype:
        """In which values are read."""
        dtype = self.data["series"].dtype
        return dtype if dtype.name in _KEPT_DTYPES else np.dtype("float32")

    def read(self, rows: slice, columns: slice) -> dict[str, np.ndarray]:
        """A window: ``series`` and ``valid`` (T, C, h, w), ``labels`` ([T,] h, w) if there are."""
        window = self.data.isel(y=rows, x=columns).compute()
        values = window["series"].to_numpy()
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        if self.nodata is not None:
            valid &= values != self.nodata
        if "valid" in window:
            valid &= window["valid"].to_numpy()
        found = {"series": values.astype(self.dtype, copy=False), "valid": valid}
        if "labels" in window:
            found["labels"] = _label_codes(window["labels"].to_numpy(), self.no_label)
        return found


def checked_scene(scene: xr.Dataset | xr.DataArray, nodata: float | None = None) -> Scene:
    """The scene with its dimensions in order, after all checks.

    Raises
    ------
    TypeError
        If it is no raster of xarray, or ``valid`` or ``labels`` are of the wrong kind.
    ValueError
        If dimensions are missing or not known, dates are unsorted, repeated or missing, or
        coordinates are not evenly spaced.
    """
    if isinstance(scene, xr.DataArray):
        scene = scene.to_dataset(name="series")
    if not isinstance(scene, xr.Dataset):
        raise TypeError(
            f"scene must be an xarray Dataset or DataArray, but is a {type(scene).__name__}. "
            "mixvi.satellite.read_scene reads one from files."
        )
    if "series" not in scene:
        raise ValueError(
            f"scene has no variable 'series'. {near_matches('series', scene.data_vars)} Bands that "
            "are variables become one by scene[bands].to_dataarray('band')."
        )
    series = scene["series"]
    sizes = {dim: series.sizes.get(dim, 1) for dim in DIMS}
    crs, transform = georeference(series)
    data = xr.Dataset({"series": _in_order(series, DIMS, sizes)})
    if "valid" in scene:
        valid = scene["valid"]
        if valid.dtype != bool:
            raise TypeError(f"valid of the scene must be boolean, but has the dtype {valid.dtype}.")
        data["valid"] = _in_order(valid, DIMS, sizes)
    no_label = None
    if "labels" in scene:
        labels = scene["labels"]
        if labels.dtype.kind not in "biuf":
            raise TypeError(
                f"labels of the scene must be numbers of classes, but have the dtype "
                f"{labels.dtype}."
            )
        no_label = _stored_nodata(labels)
        dims = [dim for dim in DIMS if dim in labels.dims and dim != "band"]
        data["labels"] = _in_order(labels, dims, sizes)
    if nodata is None:
        nodata = _stored_nodata(series)
    return Scene(data, _days(series), _band_names(series), crs, transform, nodata, no_label)


def _in_order(array: xr.DataArray, dims: Sequence[str], sizes: dict[str, int]) -> xr.Variable:
    """The variable with exactly these dimensions, repeated along those that it lacks."""
    unknown = [dim for dim in array.dims if dim not in dims]
    missing = [dim for dim in ("y", "x") if dim not in array.dims]
    if unknown or missing:
        raise ValueError(
            f"{array.name} of the scene has the dimensions {', '.join(map(str, array.dims))}, but "
            "needs y and x and may have time and band (labels: time). Rename others: "
            "scene.rename(...)."
        )
    if 0 in array.shape:
        raise ValueError(f"{array.name} of the scene is empty: its shape is {array.shape}.")
    return array.variable.set_dims({dim: sizes[dim] for dim in dims}).transpose(*dims)


def _days(series: xr.DataArray) -> np.ndarray | None:
    """Dates as days since 1970-01-01 ``(T,)``; None if there are none."""
    if "time" not in series.coords:
        return None
    time = np.atleast_1d(series["time"].to_numpy())
    if time.dtype.kind == "M":
        dates = checked_dates(pd.DatetimeIndex(time))
        return ((dates - pd.Timestamp("1970-01-01")) / pd.Timedelta("1D")).to_numpy()
    if time.dtype.kind not in "iuf":
        raise ValueError(
            f"time of the scene must be dates (datetime64) or days since 1970-01-01, but has the "
            f"dtype {time.dtype}."
        )
    if not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise ValueError("time of the scene must rise: sort it with scene.sortby('time').")
    return time.astype(float)


def checked_dates(dates: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """The dates; ValueError if some are missing, unsorted or repeated."""
    if dates.hasnans:
        raise ValueError(f"{int(dates.isna().sum())} dates of the scene are missing (NaT).")
    if not dates.is_unique:
        twice = dates[dates.duplicated()].unique()
        raise ValueError(
            f"The scene has several acquisitions of {', '.join(map(str, twice[:3]))}"
            f"{', ...' if len(twice) > 3 else ''}. Merge them first, e.g. with "
            "scene.groupby('time').first()."
        )
    if not dates.is_monotonic_increasing:
        raise ValueError("Dates of the scene are not sorted: scene.sortby('time') sorts them.")
    return dates


def _band_names(series: xr.DataArray) -> list[str]:
    if "band" in series.coords:
        return [str(band) for band in np.atleast_1d(series["band"].to_numpy())]
    return [str(i + 1) for i in range(series.sizes.get("band", 1))]


def _stored_nodata(series: xr.DataArray) -> float | None:
    for place in (series.attrs, series.encoding):
        for name in ("_FillValue", "nodata", "missing_value"):
            if place.get(name) is not None:
                return float(place[name])
    return None


def _label_codes(labels: np.ndarray, no_label: float | None) -> np.ndarray:
    """Codes as int16, missing ones unlabelled; ValueError if that is not what they are."""
    if labels.dtype.kind == "f":
        labels = np.where(np.isfinite(labels), labels, UNLABELLED)
    missing = False if no_label is None else labels == no_label
    with np.errstate(invalid="ignore"):
        codes = np.where(missing, UNLABELLED, labels.astype(np.int16))
    bad = (codes != labels) & ~np.asarray(missing)
    if bad.any():
        raise ValueError(
            f"labels of the scene have {labels[bad][0]}, but must be numbers of classes from 0, "
            f"{UNLABELLED} where a pixel is unlabelled and {VOID} where it is void."
        )
    return codes.astype(np.int16)
