"""Scores of filled gaps on entries that were measured and hidden, by length of the gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri

from mixvi.core.arguments import check_positive

_LEVEL = 0.9
ALL = "all"


def gap_lengths(valid: np.ndarray) -> np.ndarray:
    """Number of consecutive dates without a measurement that an entry lies among.

    Parameters
    ----------
    valid
        What could be seen, ``(n, T, ...)`` bool: after hiding, if entries were hidden.

    Returns
    -------
    Whole numbers of the same shape: 0 where valid; a gap at the first or last date ends there.
    """
    # valid (n, T, ...): dates of the last valid entry before and of the next one after
    valid = np.asarray(valid, bool)
    n_dates = valid.shape[1]
    at = np.arange(n_dates).reshape(1, -1, *[1] * (valid.ndim - 2))
    before = np.maximum.accumulate(np.where(valid, at, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, at, n_dates)[:, ::-1], axis=1)[:, ::-1]
    return np.where(valid, 0, after - before - 1)


def imputation_scores(
    truth: np.ndarray,
    estimate: np.ndarray,
    hidden: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    sd: np.ndarray | None = None,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    bands: Sequence[str] | None = None,
    gap_starts: Sequence[int] = (1, 2, 3, 6, 11),
    peak: float = 1.0,
) -> pd.DataFrame:
    """Errors of imputed values on hidden entries alone, by band and by length of the gap.

    Other entries may have any value, NaN too. ``"rmse"`` and ``"mae"`` are in units of ``truth``;
    ``"psnr"`` is 10 log10(peak² / MSE) in decibels; ``"spectral_angle"`` the mean angle in degrees
    between true and imputed spectrum, over pixels and dates of which all bands are hidden (Kruse
    et al. 1993); ``"nll"`` the mean negative log density of a Gaussian, in nats; ``"coverage_90"``
    the share of entries within the 90 % interval.

    Parameters
    ----------
    truth, estimate
        Series ``(n, T, C, H, W)`` as measured and as imputed.
    hidden
        Entries to score, ``(n, T, C or 1, H, W)`` bool, as of
        :func:`mixvi.datasets.hide_with_real_clouds`.
    valid
        What could be seen, ``(n, T, C or 1, H, W)``, without the hidden entries. ``None``: no
        scores by gap.
    sd
        Predictive standard deviation, of the shape of ``truth``: gives ``"nll"`` and, without
        ``interval``, ``"coverage_90"``.
    interval
        Lower and upper end of a 90 % interval, each of the shape of ``truth``.
    bands
        Names of the C bands; ``None``: numbers.
    gap_starts
        First length, in dates, of each class of gaps: by default 1, 2, 3-5, 6-10, 11 and longer.
    peak
        Largest value that the signal may have, for ``"psnr"``.

    Returns
    -------
    DataFrame with one number a row: ``metric``, ``band`` (a name or ``"all"``), ``gap`` (such as
    ``"3-5"``, ``"11+"``, or ``"all"``), ``value`` and ``n``, the entries (or spectra) it is the
    mean of. Gaps of which there is none have no row.

    Raises
    ------
    ValueError
        If shapes do not fit, nothing is hidden, a hidden entry is also valid, or values at hidden
        entries are not finite.
    """
    truth, estimate = np.asarray(truth), np.asarray(estimate)
    if truth.ndim != 5:
        raise ValueError(f"truth must be (n, T, C, H, W), but has the shape {truth.shape}.")
    check_positive("peak", peak, integer=False)
    shape = truth.shape
    hidden = _broadcast("hidden", hidden, shape)
    if not hidden.any():
        raise ValueError("hidden marks no entry.")
    if bands is None:
        bands = [str(i) for i in range(shape[2])]
    elif len(bands) != shape[2]:
        raise ValueError(f"There are {len(bands)} names in bands, but {shape[2]} bands.")
    columns = {"truth": truth, "estimate": estimate}
    if sd is not None:
        columns["sd"] = sd
    if interval is not None:
        columns["lower"], columns["upper"] = interval
    entries = _entries(columns, hidden)
    entries["band"] = np.nonzero(hidden)[2]
    entries["gap"] = 0
    spectra = _spectra(truth, estimate, hidden)
    if valid is not None:
        valid = _broadcast("valid", valid, shape)
        if (valid & hidden).any():
            raise ValueError("An entry is both hidden and valid: pass what was left to be seen.")
        lengths = gap_lengths(valid)
        starts = np.array(sorted(gap_starts))
        entries["gap"] = np.searchsorted(starts, lengths[hidden], side="right")
        spectra["gap"] = np.searchsorted(starts, lengths.max(axis=2)[_whole(hidden)], side="right")
    names = dict(enumerate(_gap_names(sorted(gap_starts))))
    groups = [(ALL, entries, spectra)]
    if valid is not None:
        groups += [
            (names[gap], entries[entries["gap"] == gap], spectra[spectra["gap"] == gap])
            for gap in np.unique(entries["gap"])
        ]
    rows = []
    for gap, part, part_spectra in groups:
        rows += [(metric, ALL, gap, value, len(part)) for metric, value in _errors(part, peak)]
        if len(part_spectra):
            angle = part_spectra["angle"].mean()
            rows.append(("spectral_angle", ALL, gap, angle, len(part_spectra)))
        for band, of_band in part.groupby("band"):
            rows += [
                (metric, str(bands[band]), gap, value, len(of_band))
                for metric, value in _errors(of_band, peak)
            ]
    return pd.DataFrame(rows, columns=["metric", "band", "gap", "value", "n"])


def _broadcast(name: str, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(mask, bool)
    if mask.shape not in (shape, (*shape[:2], 1, *shape[3:])):
        raise ValueError(f"{name} has the shape {mask.shape}, but truth {shape}.")
    return np.broadcast_to(mask, shape)


def _entries(columns: dict[str, np.ndarray], hidden: np.ndarray) -> pd.DataFrame:
    """Hidden values, float64, one entry a row."""
    frame = {}
    for name, values in columns.items():
        values = np.asarray(values)
        if values.shape != hidden.shape:
            raise ValueError(f"{name} has the shape {values.shape}, but truth {hidden.shape}.")
        frame[name] = values[hidden].astype(np.float64)
        if not np.isfinite(frame[name]).all():
            n = (~np.isfinite(frame[name])).sum()
            raise ValueError(f"{name} is not finite at {n} hidden entries.")
    if "sd" in frame and not (frame["sd"] > 0).all():
        raise ValueError("sd must be positive at all hidden entries.")
    return pd.DataFrame(frame)


def _spectra(truth: np.ndarray, estimate: np.ndarray, hidden: np.ndarray) -> pd.DataFrame:
    """Angle in degrees of the spectra that are hidden as a whole."""
    whole = _whole(hidden)
    x, y = (np.moveaxis(values, 2, -1)[whole].astype(np.float64) for values in (truth, estimate))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (x * y).sum(axis=1) / lengths
    # a dark spectrum of zeros has no direction: NaN, which the mean leaves out
    return pd.DataFrame({"angle": np.degrees(np.arccos(cosine.clip(-1, 1))), "gap": 0})


def _whole(hidden: np.ndarray) -> np.ndarray:
    """Where all bands are hidden ``(n, T, H, W)``; nowhere of a single band, which has no angle."""
    return hidden.all(axis=2) & (hidden.shape[2] > 1)


def _errors(entries: pd.DataFrame, peak: float) -> list[tuple[str, float]]:
    error = entries["estimate"] - entries["truth"]
    mse = float((error**2).mean())
    with np.errstate(divide="ignore"):
        psnr = float(10 * np.log10(peak**2 / np.float64(mse)))
    scores = [("rmse", mse**0.5), ("mae", float(error.abs().mean())), ("psnr", psnr)]
    if "sd" in entries:
        nll = 0.5 * (error / entries["sd"]) ** 2 + np.log(entries["sd"]) + 0.5 * np.log(2 * np.pi)
        scores.append(("nll", float(nll.mean())))
    if "lower" in entries:
        inside = entries["truth"].between(entries["lower"], entries["upper"])
        scores.append(("coverage_90", float(inside.mean())))
    elif "sd" in entries:
        half = ndtri(0.5 + _LEVEL / 2) * entries["sd"]
        scores.append(("coverage_90", float((error.abs() <= half).mean())))
    return scores


def _gap_names(starts: list[int]) -> list[str]:
    """Such as "<1", "1", "2", "3-5", "6-10", "11+"; of the first there is none by default."""
    names = [
        str(first) if last == first + 1 else f"{first}-{last - 1}"
        for first, last in zip(starts, starts[1:], strict=False)
    ]
    return [f"<{starts[0]}", *names, f"{starts[-1]}+"]
