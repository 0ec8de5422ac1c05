"""Where the pixels of a raster lie on the ground: read from and written to xarray coordinates.

Coordinates are those of the CF conventions as rioxarray writes them, so that either reads what the
other wrote; this file needs xarray alone.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

SPATIAL_REF = "spatial_ref"


def georeference(data: xr.DataArray | xr.Dataset, name: str = "scene") -> tuple[str, list[float]]:
    """Coordinate system and transform of a raster.

    Parameters
    ----------
    data
        Raster with the dimensions ``y`` and ``x``.
    name
        What messages call it.

    Returns
    -------
    The coordinate reference system as WKT, empty if there is none, and the six numbers
    ``a, b, c, d, e, f`` of the transform: the upper left corner of the pixel in row r and column q
    lies at ``x = a q + b r + c``, ``y = d q + e r + f``. Pixels are counted from 0 where there are
    no coordinates.

    Raises
    ------
    ValueError
        If coordinates are not evenly spaced.
    """
    attrs = _grid_mapping(data)
    crs = str(attrs.get("crs_wkt") or attrs.get("spatial_ref") or "")
    stored = _stored_transform(attrs)
    axes = {}
    for axis in ("x", "y"):
        if axis in data.coords and data[axis].ndim == 1 and data.sizes[axis] > 1:
            axes[axis] = _origin_and_step(np.asarray(data[axis], dtype=float), axis, name)
    if stored is not None and (len(axes) < 2 or _agree(stored, axes)):
        # exact, where means of coordinates would be off in the last digits
        return crs, stored
    (c, a), (f, e) = axes.get("x", (0.0, 1.0)), axes.get("y", (0.0, 1.0))
    return crs, [a, 0.0, c, 0.0, e, f]


def georeferenced(data: xr.DataArray, crs: str, transform: list[float]) -> xr.DataArray:
    """The raster with ``y``, ``x`` and ``spatial_ref`` as coordinates.

    Parameters
    ----------
    data
        Raster with the dimensions ``y`` and ``x``.
    crs, transform
        As :func:`georeference` returns them.
    """
    a, b, c, d, e, f = (float(v) for v in transform)
    attrs = {"GeoTransform": " ".join(repr(v) for v in (c, a, b, f, d, e))}
    if crs:
        attrs |= {"crs_wkt": crs, "spatial_ref": crs}
    data = data.assign_coords({SPATIAL_REF: xr.Variable((), 0, attrs)})
    if b == d == 0:
        data = data.assign_coords(
            x=c + a * (np.arange(data.sizes["x"]) + 0.5),
            y=f + e * (np.arange(data.sizes["y"]) + 0.5),
        )
    data.encoding["grid_mapping"] = SPATIAL_REF
    return data


def _grid_mapping(data: xr.DataArray | xr.Dataset) -> dict:
    """Attributes of the coordinate that describes the coordinate system; empty without one."""
    name = data.encoding.get("grid_mapping") or data.attrs.get("grid_mapping") or SPATIAL_REF
    return data.coords[name].attrs if name in data.coords else {}


def _stored_transform(attrs: dict) -> list[float] | None:
    if "GeoTransform" not in attrs:
        return None
    # in GDAL's order
    c, a, b, f, d, e = (float(v) for v in str(attrs["GeoTransform"]).split())
    return [a, b, c, d, e, f]


def _origin_and_step(centres: np.ndarray, axis: str, name: str) -> tuple[float, float]:
    """Where the first pixel begins, and the pixel's length with its sign."""
    steps = np.diff(centres)
    step = float((centres[-1] - centres[0]) / len(steps))
    if step == 0 or not np.allclose(steps, step, rtol=0, atol=1e-3 * abs(step)):
        raise ValueError(
            f"{axis} of {name} is not evenly spaced ({steps.min():g} to {steps.max():g} a pixel): "
            "rasters of several resolutions or grids were joined. Bring them onto one grid first, "
            "e.g. with rioxarray's reproject_match."
        )
    return float(centres[0]) - step / 2, step


def _agree(stored: list[float], axes: dict[str, tuple[float, float]]) -> bool:
    """Whether a stored transform is that of the coordinates; it is not of a part of a raster."""
    a, b, c, d, e, f = stored
    if b or d:
        return True
    return all(
        np.allclose((origin, step), expected, rtol=0, atol=1e-3 * abs(step))
        for (origin, step), expected in ((axes["x"], (c, a)), (axes["y"], (f, e)))
    )
