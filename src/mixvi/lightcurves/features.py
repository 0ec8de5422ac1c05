"""Numbers that sum up a curve, of all curves at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import near_matches
from mixvi.core.data.bands import band_names
from mixvi.lightcurves.fourier import fourier_fit
from mixvi.lightcurves.observations import (
    Observations,
    as_numbers,
    check_periods,
    checked_observations,
)
from mixvi.lightcurves.periods import fold

_CHUNK = 1024
_HARMONICS = 3
# of single precision, in which networks see magnitudes
_ROUNDING = float(np.finfo(np.float32).eps)


def centre_and_spread(of: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each band, ``(n, B)``; NaN of bands without observations.

    Where a band does not vary but by rounding its spread is the mean of its errors.
    """
    n = of.n_points
    at_least_one = np.maximum(n, 1)
    mean = _sum(of.magnitude, of.valid) / at_least_one
    off = of.magnitude - mean[..., None]
    spread = np.sqrt(_sum(off**2, of.valid) / at_least_one)
    least = _ROUNDING * np.abs(mean)
    spread = np.where(spread > least, spread, _sum(of.error, of.valid) / at_least_one)
    return np.where(n > 0, mean, np.nan), np.where(n > 0, spread, np.nan)


def _sum(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid, values, 0.0).sum(-1, dtype=np.float64)


def _mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return _sum(values, valid) / np.maximum(valid.sum(-1), 1)


def _standard(of: Observations) -> np.ndarray:
    mean, spread = centre_and_spread(of)
    return (of.magnitude - mean[..., None]) / spread[..., None]


def _quantiles(of: Observations, shares: Sequence[float]) -> list[np.ndarray]:
    """Observed magnitudes at the nearest ranks, each ``(n, B)``."""
    ordered = np.sort(np.where(of.valid, of.magnitude, np.inf), axis=-1)
    last = np.maximum(of.n_points - 1, 0)[..., None]
    places = [np.round(share * last).astype(np.int64) for share in shares]
    found = [np.take_along_axis(ordered, place, -1)[..., 0] for place in places]
    return [np.where(of.n_points > 0, values, np.nan) for values in found]


def _amplitude(of: Observations) -> np.ndarray:
    low, high = _quantiles(of, (0.05, 0.95))
    return high - low


def _quantile_shape(of: Observations) -> np.ndarray:
    low, middle, high = _quantiles(of, (0.05, 0.5, 0.95))
    # 0 of symmetric curves, towards -1 of eclipses, towards 1 of bursts
    return (2.0 * middle - low - high) / np.maximum(high - low, 1e-6)


def _von_neumann(of: Observations, phase: np.ndarray) -> np.ndarray:
    """Squared differences of neighbours in phase over those of any two: 1 without structure."""
    order = np.argsort(np.where(of.valid, phase, np.inf), axis=-1)
    ordered = np.take_along_axis(_standard(of), order, -1)
    valid = np.take_along_axis(of.valid, order, -1)
    return _mean(np.diff(ordered) ** 2, valid[..., 1:] & valid[..., :-1]) / 2.0


_SHAPES: dict[str, Callable[[Observations], np.ndarray]] = {
    "mean": lambda of: centre_and_spread(of)[0],
    "spread": lambda of: centre_and_spread(of)[1],
    "log_spread": lambda of: np.log(centre_and_spread(of)[1]),
    "amplitude": _amplitude,
    "quantile_shape": _quantile_shape,
    "skewness": lambda of: _mean(_standard(of) ** 3, of.valid),
    "kurtosis": lambda of: _mean(_standard(of) ** 4, of.valid) - 3.0,
    "beyond_one_spread": lambda of: _mean(np.abs(_standard(of)) > 1.0, of.valid),
    "mean_error": lambda of: _mean(of.error, of.valid),
    "reduced_chi2": lambda of: _mean(
        ((of.magnitude - centre_and_spread(of)[0][..., None]) / np.where(of.valid, of.error, 1.0))
        ** 2,
        of.valid,
    ),
}
_FOLDED = ("folded_scatter", "a1", "r21", "r31", "phi21", "phi31")
_PERIODS = ("period", "log_period")
FEATURES = (*_SHAPES, *_FOLDED, *_PERIODS)
"""Names of features: of magnitudes, of the folded curve, and of the period."""


def curve_features(
    adata: AnnData,
    names: Sequence[str] = FEATURES,
    *,
    period_key: str = "period",
    **keys: Any,
) -> pd.DataFrame:
    """Features of light curves, computed for all curves at once.

    ``folded_scatter`` is von Neumann's ratio in the order of phases; ``a1`` the amplitude of the
    first term of a Fourier series of three, ``r21`` and ``r31`` those of the next over it, and
    ``phi21`` and ``phi31`` the phases ``phi_k - k phi_1`` of cosines, in [0, 2 pi) (Simon and Lee
    1981).

    Parameters
    ----------
    adata
        Curves as :func:`mixvi.lightcurves.from_tables` lays them out.
    names
        Of :data:`FEATURES`, or of columns of ``obs``.
    period_key
        Column of ``obs`` with periods, which features of folded curves and of the period need.
    **keys
        ``time_key``, ``magnitude_key``, ``error_key`` and ``valid_key``, as of ``setup_anndata``.

    Returns
    -------
    DataFrame ``(n_obs, n_features)``; of several bands each feature of magnitudes has a column a
    band, ``<name>_<band>``, NaN where the band is missing.

    Raises
    ------
    KeyError
        If a feature or a key is unknown.
    ValueError
        If curves or periods are unusable.
    """
    check_features(adata, names, period_key)
    of = checked_observations(adata, keys)
    n_bands = of.valid.shape[1]
    bands = band_names(adata, n_bands) or [str(band) for band in range(n_bands)]
    return feature_table(adata, of, names, period_key, bands)


def check_features(adata: AnnData, names: Sequence[str], period_key: str | None) -> None:
    """Raise unless all features are known, and there are periods for those that need them."""
    if isinstance(names, str):
        raise TypeError(f"features must be a list of names: [{names!r}].")
    names = list(names)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"features has {twice[0]!r} more than once.")
    for name in names:
        if name not in FEATURES and name not in adata.obs:
            raise KeyError(
                f"{name!r} is neither a feature nor a column of adata.obs. "
                f"{near_matches(name, [*FEATURES, *adata.obs.columns])}"
            )
        if name not in FEATURES:
            _check_numbers(adata.obs[name], name)
    needing = [name for name in names if name in _FOLDED + _PERIODS]
    if needing and period_key not in adata.obs:
        raise KeyError(
            f"The feature {needing[0]!r} needs periods, but period_key={period_key!r} is not in "
            "adata.obs. mixvi.lightcurves.find_periods finds them."
        )
    if needing:
        check_periods(adata.obs[period_key], period_key)


def _check_numbers(column: pd.Series, name: str) -> None:
    other = column.notna().to_numpy() & np.isnan(as_numbers(column))
    if other.any():
        raise TypeError(
            f"adata.obs[{name!r}] (features) has {int(other.sum())} values that are no numbers, "
            f"such as {str(column[other].iloc[0])!r}. Features are numbers, NaN where they are not "
            "known: leave it out, or turn its categories into numbers."
        )


def feature_table(
    adata: AnnData,
    of: Observations,
    names: Sequence[str],
    period_key: str | None,
    bands: Sequence[str],
) -> pd.DataFrame:
    """What :func:`curve_features` returns, of observations that are checked."""
    periods = None
    if period_key in adata.obs:
        periods = as_numbers(adata.obs[period_key])
    parts = []
    for start in range(0, len(of), _CHUNK):
        rows = slice(start, start + _CHUNK)
        own = None if periods is None else periods[rows]
        parts.append(_columns(of.take(rows), names, own, bands))
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in names:
        if name not in FEATURES:
            table[name] = as_numbers(adata.obs[name])
    order = [column for name in names for column in _names(name, bands, table)]
    return pd.DataFrame(table, index=adata.obs_names)[order]


def _names(name: str, bands: Sequence[str], table: dict) -> list[str]:
    return [name] if name in table else [f"{name}_{band}" for band in bands]


def _columns(
    of: Observations,
    names: Sequence[str],
    periods: np.ndarray | None,
    bands: Sequence[str],
) -> dict[str, np.ndarray]:
    found = {name: _SHAPES[name](of) for name in names if name in _SHAPES}
    folded = [name for name in names if name in _FOLDED]
    if folded:
        phase = fold(np.where(of.valid, of.time, 0.0), periods)
        series = _series(of, phase) if set(folded) - {"folded_scatter"} else {}
        scatter = {"folded_scatter": _von_neumann(of, phase)} if "folded_scatter" in folded else {}
        found |= {name: (series | scatter)[name] for name in folded}
    seen = of.n_points > 0
    columns = {}
    for name, values in found.items():
        values = np.where(seen, values, np.nan)
        if len(bands) == 1:
            columns[name] = values[:, 0]
        else:
            columns |= {f"{name}_{band}": values[:, b] for b, band in enumerate(bands)}
    for name in names:
        if name in _PERIODS:
            columns[name] = periods if name == "period" else np.log(periods)
    return columns


def _series(of: Observations, phase: np.ndarray) -> dict[str, np.ndarray]:
    """Amplitudes and phases of the Fourier series of each band, ``(n, B)``."""
    shape = of.valid.shape
    flat = [a.reshape(-1, shape[-1]) for a in (phase, of.magnitude, of.error, of.valid)]
    terms = fourier_fit(*flat, n_harmonics=_HARMONICS)[:, 1:].reshape(*shape[:2], 2, _HARMONICS)
    cosines, sines = terms[..., 0, :], terms[..., 1, :]
    amplitude = np.hypot(cosines, sines)
    # a cos(k x) + b sin(k x) = A cos(k x + phi)
    angle = np.arctan2(-sines, cosines)
    first = np.maximum(amplitude[..., 0], 1e-9)
    found = {"a1": amplitude[..., 0]}
    for k in (2, 3):
        found[f"r{k}1"] = amplitude[..., k - 1] / first
        found[f"phi{k}1"] = np.mod(angle[..., k - 1] - k * angle[..., 0], 2.0 * np.pi)
    return found
