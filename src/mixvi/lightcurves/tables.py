"""Tables of observations as an AnnData of light curves, one object a row."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import near_matches
from mixvi.core.data.fields import name_of
from mixvi.core.data.light_curves import counted_curves, padded_curves
from mixvi.lightcurves.observations import Observations, by_band, check_coverage, check_values

# of a magnitude for a relative error of flux: 2.5 / ln 10
_POGSON = 2.5 / np.log(10.0)
_MJD_ZERO = np.datetime64("1858-11-17")
# warnings name the line outside that called
_PACKAGE = str(Path(__file__).parents[1])


def from_tables(
    tables: Any,
    *,
    object_key: str = "object_id",
    time_key: str = "time",
    magnitude_key: str = "magnitude",
    error_key: str = "error",
    band_key: str | None = None,
    bands: Sequence[str] | None = None,
    objects: pd.DataFrame | None = None,
    drop_missing: bool = False,
) -> AnnData:
    """Light curves of a table of observations, or of one table an object.

    Parameters
    ----------
    tables
        In long format, one row an observation: a pandas DataFrame, or an astropy Table or
        TimeSeries. Or several of them, one an object, as a dict by name or as a list; lightkurve's
        light curves are such tables, and become magnitudes relative to their median flux.
    object_key
        Column that names the object, of a table of several.
    time_key, magnitude_key, error_key
        Columns of times, magnitudes and their standard errors. astropy's times keep their own scale
        if they are numbers, and are Julian dates otherwise; dates of pandas become modified Julian
        dates, of UTC if they have a time zone.
    band_key
        Column that names the band; ``None``: there is one.
    bands
        Names of the bands, in the order that arrays are to have. ``None``: sorted.
    objects
        What else is known of the objects, one row each, by name as index or in a column
        ``object_key``: periods and classes, say. It becomes ``obs``; the AnnData has the objects
        of the observations alone.
    drop_missing
        Leave observations out of which a time, magnitude or error is NaN or masked, rather than
        refusing them. Objects of which nothing is left are left out, too, with a warning.

    Returns
    -------
    AnnData: ``obsm["time"]`` float64, ``obsm["magnitude"]`` and ``obsm["error"]`` float32, NaN
    beyond a curve's end, ``obsm["valid"]`` bool, each ``(n, L)`` or ``(n, L, n_bands)``, in the
    order of time; ``uns["bands"]`` with several bands.

    Raises
    ------
    KeyError
        If a column or a band is missing.
    TypeError
        If there is nothing in ``tables`` that could be read, or ``objects`` is no table.
    ValueError
        If curves have missing values, errors that are not positive, or fewer than five points;
        they are counted, and the first is named. If rows name no object or no band, names of
        columns or bands repeat, or the median of fluxes is not positive.

    Warns
    -----
    UserWarning
        If times of curves were not in order or repeated: they are sorted, and observations of one
        time and band are joined by the weights of their errors. If curves lack a band, a table is
        empty, or ``drop_missing`` leaves nothing of an object.
    """
    columns = {"time": time_key, "magnitude": magnitude_key, "error": error_key}
    if band_key is not None:
        columns["band"] = band_key
    table = _long(tables, object_key, columns)
    if drop_missing:
        table = _without_missing(table, object_key)
    if not len(table):
        raise ValueError("tables has no observation.")
    codes, names = pd.factorize(_text(table["object"], object_key))
    names = pd.Index(names).astype(str)
    band_codes, bands = _band_codes(table, band_key, bands)
    n_bands = len(bands or ("",))
    flat = {name: table[name].to_numpy(np.float64) for name in ("time", "magnitude", "error")}
    options = {"n_objects": len(names), "n_bands": n_bands}
    check_values(_laid(codes, flat, bands=band_codes, **options), names)
    codes, band_codes, flat = _merged(codes, band_codes, flat, names, n_bands)
    arrays = padded_curves(codes, **flat, bands=band_codes, **options)
    check_coverage(_laid(codes, flat, bands=band_codes, **options), names)
    adata = AnnData(obs=_known(objects, names, object_key), obsm=arrays)
    if bands is not None:
        adata.uns["bands"] = list(bands)
    return adata


def _without_missing(table: pd.DataFrame, object_key: str) -> pd.DataFrame:
    """Observations with a time, magnitude and error; warns of objects that have none."""
    complete = np.isfinite(table[["time", "magnitude", "error"]]).all(axis=1)
    found, gone = table[complete], table["object"][~complete].dropna()
    kept = set(_text(found["object"], object_key))
    lost = [name for name in pd.unique(_text(gone, object_key)) if name not in kept]
    if kept:
        _warn_of_lost(lost, "drop_missing=True leaves nothing of")
    return found


def _warn_of_lost(names: Sequence[str], why: str) -> None:
    if len(names):
        warnings.warn(
            f"{why} {len(names)} objects, the first is {names[0]!r}: they are left out.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def _long(tables: Any, object_key: str, columns: dict[str, str]) -> pd.DataFrame:
    """Columns object, time, magnitude, error and band, whatever was given."""
    if isinstance(tables, pd.DataFrame) or _is_table(tables):
        if hasattr(tables, "flux") and object_key not in _columns(tables):
            return _of_object(tables, _label(tables, "0"), columns)
        # fluxes of several objects have no median of their own
        table = _of_object(tables, "", columns, has_flux=False)
        return table.assign(object=_column(tables, object_key, "object_key"))
    if isinstance(tables, str) or not _has_parts(tables):
        raise TypeError(
            f"tables is a {type(tables).__name__}. Pass a pandas DataFrame or an astropy Table of "
            "all observations, or a dict or list of tables, one an object."
        )
    parts = {name: _of_object(part, name, columns) for name, part in _named(tables)}
    if not parts:
        raise ValueError("tables is empty: there is no light curve.")
    table = pd.concat(parts.values(), ignore_index=True)
    if len(table):
        empty = [str(name) for name, part in parts.items() if not len(part)]
        _warn_of_lost(empty, "There is no observation of")
    return table


def _has_parts(tables: Any) -> bool:
    # lightkurve's collections are gone through by number, and are no Iterable to Python
    return isinstance(tables, Iterable) or hasattr(tables, "__getitem__")


def _columns(table: Any) -> list:
    return list(table.columns if isinstance(table, pd.DataFrame) else table.colnames)


def _text(values: Sequence, key: str) -> np.ndarray:
    """Names of objects or bands as text, by which 1, 1.0 and "1" are one.

    Raises
    ------
    ValueError
        If some are missing.
    """
    codes, found = pd.factorize(np.asarray(values, dtype=object))
    missing = codes < 0
    if missing.any():
        raise ValueError(
            f"{int(missing.sum())} rows have no name in {key!r} (NaN or masked). Leave them out, "
            "or name what they are of."
        )
    # text of FITS files comes as bytes
    names = [name_of(v.decode() if isinstance(v, bytes) else v) for v in found]
    return np.array(names, dtype=object)[codes]


def _is_table(value: Any) -> bool:
    """Whether it has the columns of an astropy Table; astropy itself need not be there."""
    return hasattr(value, "colnames")


def _named(tables: Iterable) -> Iterator[tuple[str, Any]]:
    if isinstance(tables, Mapping):
        yield from tables.items()
        return
    seen = set()
    for i, part in enumerate(tables):
        name = _label(part, str(i))
        numbers = map(str, count(i))
        while name in seen:
            name = next(numbers)
        seen.add(name)
        yield name, part


def _label(table: Any, otherwise: str) -> str:
    """What lightkurve calls the object."""
    meta = getattr(table, "meta", None) or {}
    return str(meta.get("LABEL") or meta.get("OBJECT") or otherwise)


def _of_object(
    table: Any, name: str, columns: dict[str, str], has_flux: bool = True
) -> pd.DataFrame:
    if not (isinstance(table, pd.DataFrame) or _is_table(table)):
        raise TypeError(
            f"The table of {name!r} is a {type(table).__name__}; a pandas DataFrame, an astropy "
            "Table or TimeSeries, or a light curve of lightkurve is needed."
        )
    has_flux = has_flux and hasattr(table, "flux") and hasattr(table, "flux_err")
    values: dict[str, np.ndarray] = {}
    if has_flux and columns["magnitude"] not in _columns(table):
        values = _magnitudes_of_flux(table, name)
    others = {key: column for key, column in columns.items() if key not in values}
    values |= {key: _column(table, column, f"{key}_key") for key, column in others.items()}
    return pd.DataFrame({"object": name, **values})


def _magnitudes_of_flux(table: Any, name: str) -> dict[str, np.ndarray]:
    flux = _column(table, "flux", "flux")
    known = np.isfinite(flux)
    # without any, magnitudes are missing like others
    median = np.median(flux[known]) if known.any() else 1.0
    if not median > 0:
        raise ValueError(
            f"The median flux of {name!r} is {median:g}. Magnitudes are relative to it, so that it "
            "must be positive: add the flux that was subtracted, or leave this object out."
        )
    relative = flux / median
    # there is no magnitude of a flux that is not positive
    relative = np.where(relative > 0, relative, np.nan)
    error = _POGSON * _column(table, "flux_err", "flux_err") / np.abs(flux)
    return {"magnitude": -2.5 * np.log10(relative), "error": error}


def _column(table: Any, column: str, argument: str) -> np.ndarray:
    """A column as numbers or names, NaN where it is masked."""
    known = _columns(table)
    if known.count(column) > 1:
        raise ValueError(f"{argument}={column!r} is the name of {known.count(column)} columns.")
    if column not in known:
        alone = " A table of one object is passed as {name: table}."
        raise KeyError(
            f"{argument}={column!r} is not a column of the table. {near_matches(column, known)}"
            f"{alone if argument == 'object_key' else ''}"
        )
    values = table[column]
    if getattr(getattr(values, "dtype", None), "tz", None) is not None:
        # dates of a time zone are read as those of UTC
        values = values.dt.tz_convert(None)
    if hasattr(values, "jd") and hasattr(values, "scale"):
        own = values.value
        own = own if np.asarray(own).dtype.kind in "iuf" else values.jd
        values = own
    values = getattr(values, "value", values) if hasattr(values, "unit") else values
    if argument in ("object_key", "band_key"):
        # numbers of 64 bits stay what they are: names of catalogues have 19 digits
        names = np.asarray(values).astype(object)
        masked = isinstance(values, np.ma.MaskedArray)
        return np.where(np.ma.getmaskarray(values), None, names) if masked else names
    if isinstance(values, np.ma.MaskedArray):
        numbers = values.dtype.kind in "iuf"
        values = values.astype(np.float64).filled(np.nan) if numbers else values.filled()
    elif hasattr(values, "filled") and hasattr(values, "mask"):
        values = values.filled(np.nan)
    values = np.asarray(values)
    if values.dtype.kind == "M":
        values = values - _MJD_ZERO
    if values.dtype.kind == "m":
        values = values / np.timedelta64(1, "D")
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{argument}={column!r} holds {values.dtype}, not numbers.") from error


def _band_codes(
    table: pd.DataFrame, band_key: str | None, bands: Sequence[str] | None
) -> tuple[np.ndarray, list[str] | None]:
    if band_key is None:
        return np.zeros(len(table), np.int64), None
    column = _text(table["band"], band_key)
    names = sorted(set(column)) if bands is None else [name_of(band) for band in bands]
    if len(set(names)) < len(names):
        raise ValueError(f"bands={names} has a name more than once.")
    codes = pd.Index(names).get_indexer(column)
    if (codes < 0).any():
        other = column[codes < 0][0]
        raise KeyError(
            f"{int((codes < 0).sum())} observations are in bands that bands={names} has not, such "
            f"as {other!r}."
        )
    return codes, names


def _laid(codes: np.ndarray, flat: dict[str, np.ndarray], **options: Any) -> Observations:
    arrays = padded_curves(codes, **flat, **options)
    return Observations(*(by_band(arrays[k]) for k in ("time", "magnitude", "error", "valid")))


def _merged(
    codes: np.ndarray,
    bands: np.ndarray,
    flat: dict[str, np.ndarray],
    names: pd.Index,
    n_bands: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """One observation a time, object and band; one warning of what was done."""
    rows, time = codes * n_bands + bands, flat["time"]
    grouped = np.argsort(rows, kind="stable")
    same = np.diff(rows[grouped]) == 0
    backwards = same & (np.diff(time[grouped]) < 0)
    order = np.lexsort((time, rows))
    again = (np.diff(rows[order]) == 0) & (np.diff(time[order]) == 0)
    if not (backwards.any() or again.any()):
        return codes, bands, flat
    told = []
    for what, mask, by in (
        ("have times that are not in order", backwards, grouped),
        ("have times that repeat", again, order),
    ):
        affected = np.zeros(len(names), bool)
        affected[codes[by[1:][mask]]] = True
        if affected.any():
            told.append(f"{counted_curves(affected, names)} {what}")
    joined = int(again.sum())
    warnings.warn(
        f"{', and '.join(told)}: they were sorted"
        + (f", and {joined} observations joined with others of their time." if joined else "."),
        UserWarning,
        skip_file_prefixes=(_PACKAGE,),
    )
    starts = np.flatnonzero(np.concatenate([[True], ~again]))
    weights = 1.0 / np.square(flat["error"][order])
    total = np.add.reduceat(weights, starts)
    # from the first of each group, so that single observations stay as they are to the last bit
    first = flat["magnitude"][order][starts]
    sizes = np.diff(np.append(starts, len(order)))
    off = flat["magnitude"][order] - np.repeat(first, sizes)
    joined_values = {
        "time": time[order][starts],
        "magnitude": first + np.add.reduceat(weights * off, starts) / total,
        "error": 1.0 / np.sqrt(total),
    }
    return codes[order][starts], bands[order][starts], joined_values


def _known(objects: pd.DataFrame | None, names: pd.Index, object_key: str) -> pd.DataFrame:
    """What is known of the objects, in the order of the curves."""
    if objects is None:
        return pd.DataFrame(index=names)
    if _is_table(objects):
        objects = objects.to_pandas()
    if not isinstance(objects, pd.DataFrame):
        raise TypeError(
            f"objects is a {type(objects).__name__}; a pandas DataFrame or an astropy Table with a "
            "row an object is needed."
        )
    if object_key in objects.columns:
        objects = objects.set_index(object_key)
    objects = objects.set_axis(pd.Index(_text(objects.index, object_key)).astype(str))
    if not objects.index.is_unique:
        twice = objects.index[objects.index.duplicated()][0]
        raise ValueError(f"objects has more than one row of {twice!r}.")
    missing = ~names.isin(objects.index)
    if missing.any():
        raise KeyError(f"{counted_curves(missing, names)} have no row in objects.")
    return objects.reindex(names)
