"""Scenes from files and maps into files: GeoTIFF, NetCDF and zarr."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mixvi.core.arguments import near_matches
from mixvi.satellite.georeference import SPATIAL_REF, georeference
from mixvi.satellite.scene import checked_dates

_GEOTIFF = {".tif", ".tiff"}
_NETCDF = {".nc", ".nc4", ".cdf"}
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d\d)")
_CHUNKS = {"y": 512, "x": 512}
_WRITTEN_ROWS = 512


def read_scene(
    paths: str | PathLike | Sequence[str | PathLike],
    *,
    dates: Sequence | None = None,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    chunks: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """A scene from GeoTIFFs, a NetCDF file or a zarr store; pixels are read when they are needed.

    Parameters
    ----------
    paths
        One file; several GeoTIFFs, one a date, in any order; a folder of them; or a NetCDF file or
        zarr store with a variable ``series``, with one variable alone, or with one variable a band.
        All formats that GDAL reads as rasters are read like GeoTIFFs if they are named.
    dates
        Date of each file, or of each entry of ``time``; default those of NetCDF and zarr, and the
        first year, month and day in a file's name (``20170705``, ``2017-07-05``).
    bands
        Names of the bands to read, if the file tells names; else names for all. Default: those of
        the file, or ``1``, ``2``, ...
    nodata
        Value of pixels without a measurement; default that of each file.
    chunks
        Chunks of dask by dimension; default 512 x 512 pixels for GeoTIFFs and what the file has
        for others.

    Returns
    -------
    Dataset with ``series`` (time, band, y, x) and ``valid`` (bool, the same shape): what is not
    ``nodata`` and not NaN, and was valid in the file if it has such a variable. A raster without a
    date has no ``time``. Values are as stored: no scale or offset is applied to GeoTIFFs.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or none in the folder.
    ImportError
        If the extra ``satellite`` is not installed.
    ValueError
        If coordinate systems, grids or numbers of bands differ, several files lack a date, dates
        are repeated, or bands are not those of the file.
    """
    _check_extra()
    files = _files(paths)
    if len(files) == 1 and files[0].suffix in _NETCDF | {".zarr"}:
        scene = _read_arrays(files[0], bands, nodata, chunks)
        if dates is not None:
            scene = scene.assign_coords(time=("time", _dates_given(dates, scene.sizes["time"])))
        return scene if "time" not in scene.dims else scene.sortby("time")
    rasters = [_read_raster(file, bands, nodata, chunks) for file in files]
    _check_one_grid(files, rasters)
    when = _dates_of(files) if dates is None else _dates_given(dates, len(files))
    if when is None:
        return rasters[0]
    if not when.is_unique:
        checked_dates(when.sort_values())
    scene = xr.concat(
        rasters,
        pd.Index(when, name="time"),
        coords="minimal",
        compat="override",
        # the same grid, but for rounding
        join="override",
        combine_attrs="override",
    )
    return scene.sortby("time")


def write_raster(data: xr.DataArray | xr.Dataset, path: str | PathLike) -> None:
    """Write a map or a series with its georeference; an existing file is replaced.

    Parameters
    ----------
    data
        Raster of xarray; of dask, it is computed and written by parts.
    path
        What is written, by its suffix: ``.tif``, a GeoTIFF of ``(y, x)`` or ``(band, y, x)``, whose
        bands are called by the coordinate of the first dimension; none, a folder for a series
        ``(time, y, x)`` or ``(time, band, y, x)``, one GeoTIFF a date, which :func:`read_scene`
        reads; ``.nc``, NetCDF; ``.zarr``, zarr. The last two take any dimensions and datasets.

    Raises
    ------
    ImportError
        If the extra ``satellite`` is not installed.
    ValueError
        If the format is not known, or has no place for these dimensions.
    """
    _check_extra()
    path = Path(path)
    if path.suffix in _NETCDF:
        with _partial(path) as partial:
            data.to_netcdf(partial, engine="h5netcdf")
    elif path.suffix == ".zarr":
        data.to_zarr(path, mode="w", consolidated=False)
    elif isinstance(data, xr.Dataset):
        raise ValueError(
            f"{path.name} cannot hold a Dataset: write one of its variables, or .nc or .zarr."
        )
    else:
        write_rows(data, _rows(data), path)


def write_rows(
    like: xr.DataArray, parts: Iterable[tuple[int, np.ndarray]], path: str | PathLike
) -> None:
    """Write GeoTIFFs by rows.

    Parameters
    ----------
    like
        Raster whose dimensions, coordinates, dtype and georeference are written; not its values.
    parts
        First row and values ``(..., h, width)`` of each part.
    path
        As for :func:`write_raster`.

    Raises
    ------
    ImportError, ValueError
        As :func:`write_raster`.
    """
    _check_extra()
    layers = _layers(like, Path(path))
    with ExitStack() as stack:
        files = [stack.enter_context(_geotiff(file, like, names)) for file, names in layers]
        for start, rows in parts:
            h, width = rows.shape[-2:]
            for file, planes in zip(files, rows.reshape(len(files), -1, h, width), strict=True):
                file.write(
                    planes.astype(file.dtypes[0], copy=False),
                    window=((start, start + h), (0, width)),
                )


def _check_extra() -> None:
    """Raise ImportError unless the packages of the extra are there."""
    for name in ("rioxarray", "dask", "h5netcdf"):
        if find_spec(name) is None:
            raise ImportError(
                f"Raster files need {name}, which is not installed: pip install 'mixvi[satellite]'."
            )


def _files(paths: str | PathLike | Sequence[str | PathLike]) -> list[Path]:
    if isinstance(paths, str | PathLike):
        path = Path(paths)
        if path.is_dir() and path.suffix != ".zarr":
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in _GEOTIFF)
            if not found:
                raise FileNotFoundError(f"{path} has no GeoTIFF (.tif, .tiff).")
            return found
        paths = [path]
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError("paths is empty: name at least one file.")
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"There is no file {file}.")
    return files


def _read_raster(
    file: Path, bands: Sequence[str] | None, nodata: float | None, chunks: Mapping | None
) -> xr.Dataset:
    """``series`` and ``valid`` (band, y, x) of one GeoTIFF."""
    import rioxarray

    series = rioxarray.open_rasterio(file, chunks=dict(chunks or _CHUNKS), masked=False)
    names = series.attrs.pop("long_name", None)
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        # a name of the whole array, as rioxarray writes it, is no name of a band
        names = names if len(names) == series.sizes.get("band", 1) else None
    series = _with_bands(series, names, bands, file)
    if nodata is None:
        nodata = series.attrs.get("_FillValue")
    else:
        series.attrs["_FillValue"] = nodata
    return xr.Dataset({"series": series, "valid": _measured(series, nodata)})


def _read_arrays(
    file: Path, bands: Sequence[str] | None, nodata: float | None, chunks: Mapping | None
) -> xr.Dataset:
    """The scene of a NetCDF file or a zarr store."""
    options = {"chunks": dict(chunks or {}), "decode_coords": "all"}
    if file.suffix == ".zarr":
        found = xr.open_zarr(file, consolidated=False, **options)
    else:
        found = xr.open_dataset(file, engine="h5netcdf", **options)
    names = list(found.data_vars)
    if "series" in names:
        series = found["series"]
    elif len(names) == 1:
        series = found[names[0]]
    elif bands is not None and set(bands) <= set(names):
        series, bands = found[list(bands)].to_dataarray("band"), None
        series = series.transpose("time", "band", "y", "x", missing_dims="ignore")
    else:
        raise ValueError(
            f"{file.name} has no variable 'series': name its bands, bands=[...]. "
            f"{near_matches('series', names)}"
        )
    if bands is not None:
        stored = found["band"].to_numpy().astype(str).tolist() if "band" in found.coords else None
        series = _with_bands(series, stored, bands, file)
    valid = _measured(series, nodata)
    if "valid" in names:
        valid = valid & found["valid"].astype(bool).sel(
            {"band": series["band"]} if "band" in found["valid"].dims else {}
        )
    scene = xr.Dataset({"series": series, "valid": valid})
    if nodata is not None:
        scene["series"].attrs["_FillValue"] = nodata
    if "labels" in names:
        scene["labels"] = found["labels"]
    return scene


def _with_bands(
    series: xr.DataArray, stored: list[str] | None, wanted: Sequence[str] | None, file: Path
) -> xr.DataArray:
    """The wanted bands, or all by their names or numbers."""
    n = series.sizes.get("band", 1)
    if wanted is None:
        return series.assign_coords(band=stored or [str(i + 1) for i in range(n)])
    wanted = [str(band) for band in wanted]
    if stored is not None and set(wanted) <= set(stored):
        return series.assign_coords(band=stored).sel(band=wanted)
    if len(wanted) != n:
        has = f"bands {', '.join(stored)}" if stored else f"{n} bands without names"
        raise ValueError(f"bands names {', '.join(wanted)}, but {file.name} has {has}.")
    return series.assign_coords(band=wanted)


def _measured(series: xr.DataArray, nodata: float | None) -> xr.DataArray:
    valid = series.notnull()
    if nodata is not None and not np.isnan(nodata):
        valid = valid & (series != nodata)
    return valid


def _check_one_grid(files: list[Path], rasters: list[xr.Dataset]) -> None:
    """Raise ValueError where a raster lies on another grid than the first, or has other bands."""
    first = None
    for file, raster in zip(files, rasters, strict=True):
        found = _grid_facts(raster)
        if first is None:
            first = found
            continue
        for what, value in found.items():
            expected = first[what]
            same = value == expected
            if what in ("resolution", "origin"):
                same = np.allclose(value, expected, rtol=0, atol=1e-3 * abs(first["resolution"][0]))
            if not same:
                raise ValueError(
                    f"{file.name} has the {what} {value}, {files[0].name} {expected}; all files of "
                    "a scene need one. Bring them onto one grid, e.g. with rioxarray's "
                    "reproject_match."
                )


def _grid_facts(raster: xr.Dataset) -> dict:
    series = raster["series"]
    a, _, c, _, e, f = georeference(series)[1]
    return {
        "coordinate system": str(series.rio.crs),
        "resolution": (a, e),
        "origin": (c, f),
        "height and width": (series.sizes["y"], series.sizes["x"]),
        "bands": series["band"].to_numpy().tolist(),
    }


def _dates_of(files: list[Path]) -> pd.DatetimeIndex | None:
    """Dates in the names of files; None for one file without."""
    found = [_DATE.search(file.stem) for file in files]
    if len(files) == 1 and found[0] is None:
        return None
    without = [file.name for file, date in zip(files, found, strict=True) if date is None]
    if without:
        raise ValueError(
            f"{len(without)} names of files have no date (as 20170705 or 2017-07-05), e.g. "
            f"{without[0]}: pass dates=[...], one a file."
        )
    return pd.DatetimeIndex(["-".join(date.groups()) for date in found])


def _dates_given(dates: Sequence, n: int) -> pd.DatetimeIndex:
    if len(dates) != n:
        raise ValueError(f"dates has {len(dates)} entries, but there are {n} dates to name.")
    return pd.DatetimeIndex(dates)


def _rows(data: xr.DataArray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, data.sizes["y"], _WRITTEN_ROWS):
        yield start, data.isel(y=slice(start, start + _WRITTEN_ROWS)).to_numpy()


def _layers(like: xr.DataArray, path: Path) -> list[tuple[Path, list[str]]]:
    """Files, and the names of the bands in each; the planes of ``like`` in their order."""
    lead = list(like.dims[:-2])
    if list(like.dims[-2:]) != ["y", "x"]:
        raise ValueError(
            f"{path.name}: the last dimensions must be y and x, but are {', '.join(like.dims)}."
        )
    if path.suffix.lower() in _GEOTIFF and len(lead) <= 1:
        return [(path, _names(like, lead))]
    if not path.suffix and lead[:1] == ["time"] and len(lead) <= 2:
        if "time" not in like.coords:
            raise ValueError(f"{path.name}: time has no dates, by which files are named.")
        dates = checked_dates(pd.DatetimeIndex(like["time"].to_numpy()))
        daily = (dates == dates.normalize()).all()
        names = dates.strftime("%Y-%m-%d" if daily else "%Y-%m-%dT%H%M%S")
        return [(path / f"{name}.tif", _names(like, lead[1:])) for name in names]
    raise ValueError(
        f"{path.name} cannot hold the dimensions {', '.join(like.dims)}: .tif takes (y, x) and "
        "one more, a folder without a suffix a series by time; .nc and .zarr take any."
    )


def _names(like: xr.DataArray, dims: list[str]) -> list[str]:
    if not dims:
        return [str(like.name)] if like.name else [""]
    if dims[0] not in like.coords:
        return [""] * like.sizes[dims[0]]
    values = like[dims[0]].to_numpy()
    if values.dtype.kind == "M":
        values = np.datetime_as_string(values, unit="D")
    return [str(value) for value in values]


@contextmanager
def _geotiff(path: Path, like: xr.DataArray, names: list[str]) -> Iterator:
    """An open GeoTIFF, which has its name only after all is written."""
    import rasterio
    from rasterio.transform import Affine

    crs, transform = georeference(like)
    dtype = np.dtype("uint8") if like.dtype == bool else like.dtype
    nodata = like.attrs.get("_FillValue", np.nan if dtype.kind == "f" else None)
    profile = {
        "driver": "GTiff",
        "height": like.sizes["y"],
        "width": like.sizes["x"],
        "count": len(names),
        "dtype": "float32" if dtype == np.float16 else dtype.name,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    if SPATIAL_REF in like.coords or "x" in like.coords:
        profile |= {"transform": Affine(*transform), "crs": crs or None}
    with _partial(path) as partial, rasterio.open(partial, "w", **profile) as file:
        for i, name in enumerate(names):
            if name:
                file.set_band_description(i + 1, name)
        yield file


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` if nothing goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
