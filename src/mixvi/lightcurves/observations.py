"""Observations of curves as arrays with bands before times, and what is wrong with them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.data.checks import check_key
from mixvi.core.data.light_curves import counted_curves

FEWEST_POINTS = 5
# warnings name the line outside that called
_PACKAGE = str(Path(__file__).parents[1])
_KEYS = ("time_key", "magnitude_key", "error_key", "valid_key")
DEFAULT_KEYS = {
    "time_key": "time",
    "magnitude_key": "magnitude",
    "error_key": "error",
    "valid_key": None,
}


@dataclass(frozen=True)
class Observations:
    """What is known of n curves in B bands, at most L times each.

    Attributes
    ----------
    time, magnitude, error
        ``(n, B, L)``; anything where nothing is valid.
    valid
        Bool ``(n, B, L)``: whether there is an observation.
    """

    time: np.ndarray
    magnitude: np.ndarray
    error: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, rows: slice | np.ndarray) -> Observations:
        """Some of the curves."""
        return Observations(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def n_points(self) -> np.ndarray:
        """Observations of each curve and band, ``(n, B)``."""
        return self.valid.sum(-1)


def by_band(array: np.ndarray) -> np.ndarray:
    """An array ``(n, L)`` or ``(n, L, B)`` as ``(n, B, L)``, not copied."""
    return array[:, None] if array.ndim == 2 else array.transpose(0, 2, 1)


def as_stored(array: np.ndarray, n_bands: int) -> np.ndarray:
    """An array ``(n, B, T)`` in the form that ``obsm`` has: ``(n, T)`` of one band."""
    return array[:, 0] if n_bands == 1 else array.transpose(0, 2, 1)


def resolve_keys(adata: AnnData, keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of arrays, with ``valid_key`` found if it is there.

    Raises
    ------
    KeyError
        If a key is missing (near matches are named).
    """
    keys = dict(keys)
    if keys["valid_key"] is None and "valid" in adata.obsm:
        keys["valid_key"] = "valid"
    for name in _KEYS:
        check_key(adata, "obsm", keys[name], name)
    return keys


def read_observations(adata: AnnData, keys: dict[str, Any]) -> Observations:
    """The registered observations; without a key of validity what is finite is valid.

    Raises
    ------
    TypeError
        If an array does not hold numbers.
    ValueError
        If shapes differ or are none of light curves.
    """
    arrays = {}
    for name in _KEYS[:3]:
        array = adata.obsm[keys[name]]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(
                f"adata.obsm[{keys[name]!r}] ({name}) holds {kind}; a NumPy array of numbers "
                "(n, L), or (n, L, bands), is needed."
            )
        arrays[name] = array
    shape = arrays["magnitude_key"].shape
    if len(shape) not in (2, 3) or min(shape[1:]) < 1:
        raise ValueError(
            f"adata.obsm[{keys['magnitude_key']!r}] (magnitude_key) has shape {shape}, but light "
            "curves are (n, L), or (n, L, bands)."
        )
    valid = np.isfinite(arrays["magnitude_key"]) & np.isfinite(arrays["time_key"])
    if keys["valid_key"] is not None:
        arrays["valid_key"] = valid = np.asarray(adata.obsm[keys["valid_key"]])
        if valid.dtype != bool and not np.isin(np.unique(valid), (0, 1)).all():
            raise TypeError(
                f"adata.obsm[{keys['valid_key']!r}] (valid_key) holds {valid.dtype}, but marks "
                "observations as True or False."
            )
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(
                f"adata.obsm[{keys[name]!r}] ({name}) has shape {array.shape}, but magnitudes have "
                f"{shape}."
            )
    time, magnitude, error = (by_band(arrays[name]) for name in _KEYS[:3])
    return Observations(time, magnitude, error, by_band(valid.astype(bool)))


def checked_observations(adata: AnnData, keys: dict[str, Any]) -> Observations:
    """The observations by the usual keys, or those that are given instead.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such key, or curves are unusable.
    """
    unknown = [name for name in keys if name not in DEFAULT_KEYS]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is none of {', '.join(DEFAULT_KEYS)}.")
    observations = read_observations(adata, resolve_keys(adata, DEFAULT_KEYS | keys))
    check_observations(observations, adata.obs_names)
    return observations


def check_observations(of: Observations, names: pd.Index) -> None:
    """Raise, or warn, of curves that no model can read; nothing is changed.

    Raises
    ------
    ValueError
        See :func:`check_values` and :func:`check_coverage`.

    Warns
    -----
    UserWarning
        If curves lack a band.
    """
    check_values(of, names)
    check_coverage(of, names)


def check_values(of: Observations, names: pd.Index) -> None:
    """Raise ValueError of observations that are not numbers, or whose errors are not positive.

    Curves that have some are counted, and the first is named.
    """
    valid = of.valid
    bad = {
        "magnitudes that are NaN or infinite": valid & ~np.isfinite(of.magnitude),
        "times that are NaN or infinite": valid & ~np.isfinite(of.time),
        "errors that are not positive numbers": valid & ~(np.isfinite(of.error) & (of.error > 0)),
    }
    for what, mask in bad.items():
        curves = mask.any((1, 2))
        if curves.any():
            raise ValueError(
                f"{counted_curves(curves, names)} have {what}, {int(mask.sum())} in all. Mark "
                "these observations as not valid, or leave them out (from_tables: "
                "drop_missing=True does so with NaN); an error that is not known may be set to the "
                "survey's typical one."
            )


def check_coverage(of: Observations, names: pd.Index) -> None:
    """Raise ValueError of curves with fewer than five points; warn of those that lack a band."""
    few = of.n_points.sum(1) < FEWEST_POINTS
    if few.any():
        raise ValueError(
            f"{counted_curves(few, names)} have fewer than {FEWEST_POINTS} points, from which no "
            "shape can be told. Leave them out."
        )
    lacking = (of.n_points == 0).any(1)
    if lacking.any():
        warnings.warn(
            f"{counted_curves(lacking, names)} lack at least one of {of.valid.shape[1]} bands: "
            "what is said of these is inferred from the others.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def as_numbers(column: pd.Series) -> np.ndarray:
    """A column as float64 ``(n,)``, whatever its type; NaN of what is no number."""
    return pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float64)


def check_periods(periods: pd.Series, key: str) -> None:
    """Raise ValueError unless all periods are positive numbers."""
    values = as_numbers(periods)
    for what, bad in (
        ("no period (NaN)", np.isnan(values)),
        ("a period that is not positive", ~(np.nan_to_num(values, nan=1.0) > 0)),
        ("an infinite period", np.isinf(values)),
    ):
        if bad.any():
            raise ValueError(
                f"{counted_curves(bad, periods.index)} have {what} in adata.obs[{key!r}]. Leave "
                "them out, find periods by mixvi.lightcurves.find_periods(adata), or pass "
                "fold=False."
            )
