"""Periods of curves, when their phase is zero, and folding by them."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_choice, check_positive
from mixvi.lightcurves.fourier import fourier_curve, fourier_fit
from mixvi.lightcurves.observations import (
    Observations,
    as_numbers,
    check_periods,
    checked_observations,
)

EXTRA = "It comes with the extra lightcurves: pip install 'mixvi[lightcurves]'."
_GRID = 256
_CHUNK = 1024
# warnings name the line outside that called
_PACKAGE = str(Path(__file__).parents[1])


def fold(time: np.ndarray, period: np.ndarray, epoch: np.ndarray | float = 0.0) -> np.ndarray:
    """Phases in [0, 1): ``mod(time - epoch, period) / period`` (Astorga 2021, eq. 9.1).

    Parameters
    ----------
    time
        ``(n, ...)``, in double precision if they are Julian dates.
    period, epoch
        ``(n,)``, in the unit of time; the phase is zero at the epoch.
    """
    shape = (-1, *[1] * (np.ndim(time) - 1))
    period = np.asarray(period, np.float64).reshape(shape)
    phase = (np.asarray(time, np.float64) - np.reshape(epoch, shape)) / period
    phase = phase - np.floor(phase)
    # a tiny negative number is rounded up to 1
    return np.where(phase >= 1.0, 0.0, phase)


def find_periods(
    adata: AnnData,
    *,
    min_period: float = 0.05,
    max_period: float | None = None,
    n_terms: int = 1,
    oversampling: float = 5.0,
    key_added: str = "period",
    **keys: Any,
) -> None:
    """Find the period of each curve by astropy's Lomb-Scargle periodogram.

    All curves are searched alike, whatever their class. The nifty-ls package makes it several times
    faster where it is installed. Of eclipsing stars it often is half the orbital period, and with
    few nights its alias by a day.

    Parameters
    ----------
    adata
        Curves as :func:`mixvi.lightcurves.from_tables` lays them out.
    min_period, max_period
        Between which it is searched, in the unit of time. ``None``: half of each curve's span.
    n_terms
        Fourier terms of the model; several suit eclipses.
    oversampling
        Frequencies for each ``1 / span``.
    key_added
        ``obs[key_added]`` becomes the period, ``obs[f"{key_added}_power"]`` the periodogram there,
        between 0 and 1; ``uns[key_added]`` has the settings.
    **keys
        ``time_key``, ``magnitude_key``, ``error_key`` and ``valid_key``, as of ``setup_anndata``.

    Raises
    ------
    ImportError
        If astropy is not installed.
    ValueError
        If curves are unusable, a period is not positive, or ``max_period`` is not above
        ``min_period``.

    Warns
    -----
    UserWarning
        If columns of these names are replaced that were not found here.
    """
    check_positive("min_period", min_period, integer=False)
    check_positive("n_terms", n_terms)
    check_positive("oversampling", oversampling, integer=False)
    if max_period is not None:
        check_positive("max_period", max_period, integer=False)
    if max_period is not None and max_period <= min_period:
        raise ValueError(f"max_period={max_period!r} must be above min_period={min_period!r}.")
    observations = checked_observations(adata, keys)
    periods, powers = np.full((2, len(observations)), np.nan)
    for row in range(len(observations)):
        curve = observations.take(slice(row, row + 1))
        frequencies = _frequencies(curve, min_period, max_period, oversampling)
        power = _power(curve, frequencies, n_terms)
        best = int(np.argmax(power))
        periods[row], powers[row] = 1.0 / frequencies[best], power[best]
    settings = {
        "min_period": float(min_period),
        "max_period": "half of the span" if max_period is None else float(max_period),
        "n_terms": int(n_terms),
        "oversampling": float(oversampling),
    }
    columns = {key_added: periods, f"{key_added}_power": powers}
    _write(adata, columns, {"found_by": "find_periods"} | settings)


def _write(adata: AnnData, columns: dict[str, np.ndarray], note: dict[str, Any]) -> None:
    """Write columns and how they were found, with a warning before others are replaced.

    Parameters
    ----------
    columns
        By name; the first is what ``uns`` names the note for.
    note
        ``found_by`` and settings; the columns' sum is added, by which one's own are known again.
    """
    key, known = next(iter(columns)), adata.uns.get(next(iter(columns)))
    is_note = isinstance(known, dict) and "found_by" in known
    sums = known["sums"] if is_note and known["found_by"] == note["found_by"] else {}
    taken = [
        f"obs[{name!r}]"
        for name in columns
        if name in adata.obs and not (name in sums and sums[name] == _sum(adata.obs[name]))
    ]
    if key in adata.uns and not is_note:
        taken.append(f"uns[{key!r}]")
    if taken:
        warnings.warn(
            f"{note['found_by']} replaces {', '.join(taken)}, which it did not write. Pass "
            "key_added=... to keep both.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )
    for name, values in columns.items():
        adata.obs[name] = values
    adata.uns[key] = note | {"sums": {name: _sum(adata.obs[name]) for name in columns}}


def _sum(column: pd.Series) -> float:
    """Of numbers; NaN, which nothing equals, of other columns."""
    return float(as_numbers(column).sum()) if pd.api.types.is_numeric_dtype(column) else np.nan


def _frequencies(
    curve: Observations, min_period: float, max_period: float | None, oversampling: float
) -> np.ndarray:
    times = curve.time[curve.valid]
    span = float(times.max() - times.min())
    lowest = 1.0 / (max_period or max(0.5 * span, 2.0 * min_period))
    step = 1.0 / (oversampling * max(span, min_period))
    n = max(int(np.ceil((1.0 / min_period - lowest) / step)), 2)
    return lowest + step * np.arange(n)


def _power(curve: Observations, frequencies: np.ndarray, n_terms: int) -> np.ndarray:
    """The periodogram of one curve at evenly spaced frequencies."""
    try:
        from astropy.timeseries import LombScargle, LombScargleMultiband
    except ImportError as error:
        raise ImportError(f"find_periods needs astropy. {EXTRA}") from error
    _, bands, _ = np.nonzero(curve.valid)
    data = [array[curve.valid].astype(np.float64) for array in (curve.time, curve.magnitude)]
    errors = curve.error[curve.valid].astype(np.float64)
    if len(np.unique(bands)) > 1:
        search = LombScargleMultiband(
            *data, bands, errors, nterms_base=n_terms, nterms_band=min(n_terms, 1)
        )
        return search.power(frequencies)
    search = LombScargle(*data, errors, nterms=n_terms)
    if find_spec("nifty_ls") is not None:
        # tells astropy of its methods when it is imported
        import nifty_ls  # noqa: F401

        method = "fastnifty" if n_terms == 1 else "fastnifty_chi2"
    else:
        method = "fast" if n_terms == 1 else "fastchi2"
    return search.power(frequencies, method=method, assume_regular_frequency=True)


def find_epochs(
    adata: AnnData,
    *,
    at: str = "minimum",
    n_harmonics: int = 4,
    period_key: str = "period",
    key_added: str = "epoch",
    **keys: Any,
) -> None:
    """Find a time at which each curve is at its faintest or brightest, so that phases are alike.

    By a Fourier series fitted to the folded curve, of several bands that with the most points.
    ``setup_anndata(epoch_key="epoch")`` then folds from there.

    Parameters
    ----------
    adata
        Curves as :func:`mixvi.lightcurves.from_tables` lays them out, with periods in ``obs``.
    at
        ``"minimum"`` or ``"maximum"`` of brightness.
    n_harmonics
        Terms of the series.
    period_key
        Column of ``obs``.
    key_added
        ``obs[key_added]`` becomes the time, within one period of zero; ``uns[key_added]`` has the
        settings.
    **keys
        As of :func:`find_periods`.

    Raises
    ------
    KeyError
        If there are no periods.
    ValueError
        If curves or periods are unusable, or ``at`` is unknown.

    Warns
    -----
    UserWarning
        If columns of these names are replaced that were not found here.
    """
    check_choice("at", at, ("minimum", "maximum"))
    check_positive("n_harmonics", n_harmonics)
    observations = checked_observations(adata, keys)
    if period_key not in adata.obs:
        raise KeyError(f"period_key={period_key!r} is not in adata.obs. find_periods finds them.")
    check_periods(adata.obs[period_key], period_key)
    periods = as_numbers(adata.obs[period_key])
    grid, sign = np.arange(_GRID) / _GRID, 1.0 if at == "maximum" else -1.0
    phases = []
    for start in range(0, len(observations), _CHUNK):
        part = observations.take(slice(start, start + _CHUNK))
        rows = np.arange(len(part)), part.n_points.argmax(1)
        phase = fold(part.time[rows], periods[start : start + _CHUNK])
        fits = fourier_fit(
            phase, part.magnitude[rows], part.error[rows], part.valid[rows], n_harmonics
        )
        # magnitudes grow as brightness falls
        phases.append(grid[(sign * fourier_curve(fits, grid)).argmin(1)])
    settings = {"at": at, "n_harmonics": int(n_harmonics), "period_key": period_key}
    epochs = np.concatenate(phases) * periods
    _write(adata, {key_added: epochs}, {"found_by": "find_epochs"} | settings)
