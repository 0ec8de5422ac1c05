"""Gap filling without learning: the references that imputations are compared with.

Every function returns a filled copy of the series. Where a pixel has no valid date in a band, the
mean of the band is taken.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import savgol_filter

from mixvi.core.arguments import check_positive
from mixvi.satellite.setup import as_days, as_mask

_YEAR = 365.25


def band_mean(series: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Gaps filled with the mean of the valid entries of their band, over all tiles.

    Parameters
    ----------
    series
        ``(n, T, C, H, W)``; values that are not valid are never read.
    valid
        Where it is to be trusted, bool ``(n, T, C or 1, H, W)``.

    Returns
    -------
    A filled copy ``(n, T, C, H, W)`` in double precision; valid entries are as they were.

    Raises
    ------
    ValueError
        If shapes do not fit, a valid entry is not finite, or a band has no valid entry.
    """
    x, valid = _checked(series, valid)
    return np.where(valid, x, _means(x, valid))


def nearest_date(series: np.ndarray, valid: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Gaps filled with the value of the nearest valid date of the pixel, the earlier of two.

    Parameters
    ----------
    series, valid
        As for :func:`band_mean`.
    time
        Increasing days since 1970-01-01, or datetime64, ``(n, T)`` or ``(T,)``.

    Raises
    ------
    ValueError
        As :func:`band_mean`; also if days are not increasing.
    """
    x, valid = _checked(series, valid)
    days = _days(time, x.shape)
    before, after = _neighbours(valid)
    # the first and last date have a valid one on one side only, and some pixels none at all
    to_before = np.where(before >= 0, days - _at(days, before), np.inf)
    to_after = np.where(after < x.shape[1], _at(days, after) - days, np.inf)
    near = _at(x, np.where(to_before <= to_after, before, after))
    return _filled(x, valid, near)


def linear_interpolation(series: np.ndarray, valid: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Gaps filled linearly in time between valid dates; constant before the first, after the last.

    Parameters
    ----------
    series, valid, time
        As for :func:`nearest_date`.

    Raises
    ------
    ValueError
        As :func:`nearest_date`.
    """
    x, valid = _checked(series, valid)
    days = _days(time, x.shape)
    before, after = _neighbours(valid)
    before, after = (
        np.where(before >= 0, before, after),
        np.where(after < x.shape[1], after, before),
    )
    start, span = _at(days, before), _at(days, after) - _at(days, before)
    share = np.where(span > 0, (days - start) / np.where(span > 0, span, 1), 0)
    return _filled(x, valid, (1 - share) * _at(x, before) + share * _at(x, after))


def seasonal_climatology(
    series: np.ndarray, valid: np.ndarray, time: np.ndarray, window: float = 16
) -> np.ndarray:
    """Gaps filled with the pixel's mean at that time of the year, over all years of the series.

    Parameters
    ----------
    series, valid, time
        As for :func:`nearest_date`.
    window
        Days before and after, of the year, whose valid values are averaged. Where there are none it
        is doubled. Of a series of one year the result is a moving average.

    Raises
    ------
    ValueError
        As :func:`band_mean`; also if ``window`` is not positive.
    """
    check_positive("window", window, integer=False)
    x, valid = _checked(series, valid)
    days = _days(time, x.shape, increasing=False)[:, :, 0, 0, 0]
    apart = np.abs(days[:, :, None] - days[:, None]) % _YEAR
    apart = np.minimum(apart, _YEAR - apart)
    estimate, missing = np.zeros(x.shape), np.ones(x.shape, bool)
    while missing.any():
        near = (apart <= window).astype(float)
        counts = np.einsum("nst,ntchw->nschw", near, valid.astype(float))
        sums = np.einsum("nst,ntchw->nschw", near, x)
        new = missing & (counts > 0)
        estimate[new] = sums[new] / counts[new]
        missing &= ~new
        if window > _YEAR / 2:
            break
        window *= 2
    return _filled(x, valid, estimate)


def savitzky_golay(
    series: np.ndarray,
    valid: np.ndarray,
    time: np.ndarray,
    window: int = 7,
    degree: int = 2,
) -> np.ndarray:
    """Gaps filled by linear interpolation and smoothed by a polynomial filter (Chen et al. 2004).

    The filter wants even steps: the interpolated series is read at the median interval of its
    dates, smoothed, and read again at the dates.

    Parameters
    ----------
    series, valid, time
        As for :func:`nearest_date`.
    window
        Steps in the filter, an odd number above ``degree``; less if the series is shorter.
    degree
        Of the polynomial.

    Raises
    ------
    ValueError
        As :func:`nearest_date`; also if the window is even or not above the degree.
    """
    check_positive("window", window)
    check_positive("degree", degree)
    if window % 2 == 0 or window <= degree:
        raise ValueError(f"window must be odd and above degree={degree}, but is {window}.")
    x, valid = _checked(series, valid)
    days = _days(time, x.shape)[:, :, 0, 0, 0]
    filled = linear_interpolation(series, valid, time)
    smooth = np.empty_like(filled)
    for i, at in enumerate(days):
        step = np.median(np.diff(at)) if len(at) > 1 else 1.0
        grid = np.arange(at[0], at[-1] + step, step)
        even = _read_at(filled[i], at, grid)
        width = min(window, len(grid) - (len(grid) + 1) % 2)
        if width > degree:
            even = savgol_filter(even, width, degree, axis=0)
        smooth[i] = _read_at(even, grid, at)
    return np.where(valid, x, smooth)


def whittaker(
    series: np.ndarray,
    valid: np.ndarray,
    time: np.ndarray,
    smoothing: float = 1e6,
) -> np.ndarray:
    """Gaps filled by Whittaker's smoother with second differences (Eilers 2003).

    It minimises the squared distance to valid values plus ``smoothing`` times the squared second
    divided differences of the dates, for each pixel and band.

    Parameters
    ----------
    series, valid, time
        As for :func:`nearest_date`.
    smoothing
        Weight of roughness for days as the unit of time: larger is smoother. The package
        whittaker-eilers calls it ``lmbda`` and gives the same.

    Raises
    ------
    ValueError
        As :func:`nearest_date`; also if ``smoothing`` is not positive.
    """
    check_positive("smoothing", smoothing, integer=False)
    x, valid = _checked(series, valid)
    if x.shape[1] < 3:
        return linear_interpolation(series, valid, time)
    days = _days(time, x.shape)[:, :, 0, 0, 0]
    smooth = np.stack(
        [
            _penalised(values, weights.astype(float), at, smoothing)
            for values, weights, at in zip(x, valid, days, strict=True)
        ]
    )
    # fewer than two valid dates leave the slope open
    few = valid.sum(axis=1, keepdims=True) < 2
    if few.any():
        smooth = np.where(few, nearest_date(series, valid, time), smooth)
    return np.where(valid, x, smooth)


def hants(
    series: np.ndarray,
    valid: np.ndarray,
    time: np.ndarray,
    n_harmonics: int = 2,
    *,
    damping: float = 0.1,
    tolerance: float | None = None,
    n_iterations: int = 10,
) -> np.ndarray:
    """Gaps filled by harmonics of the year, fitted to valid dates (HANTS; Roerink et al. 2000).

    Pixels with fewer valid dates than the fit has numbers are interpolated linearly.

    Parameters
    ----------
    series, valid, time
        As for :func:`nearest_date`.
    n_harmonics
        Harmonics of the year, beside its mean.
    damping
        Added to the diagonal of the normal equations but for the mean, against swings where dates
        are few or cover a part of a year.
    tolerance
        Valid values that lie below the fit by more are taken for overlooked clouds: of those of a
        pixel and band, the half that lies lowest is left out of the next fit. ``None``: none are.
    n_iterations
        Fits at most.

    Raises
    ------
    ValueError
        As :func:`nearest_date`; also if a number is not positive.
    """
    check_positive("n_harmonics", n_harmonics)
    check_positive("damping", damping, integer=False)
    check_positive("n_iterations", n_iterations)
    if tolerance is not None:
        check_positive("tolerance", tolerance, integer=False)
    x, valid = _checked(series, valid)
    days = _days(time, x.shape)[:, :, 0, 0, 0]
    angles = 2 * np.pi * days[..., None] * np.arange(1, n_harmonics + 1) / _YEAR
    waves = np.concatenate([np.ones((*days.shape, 1)), np.cos(angles), np.sin(angles)], axis=-1)
    ridge = np.diag([0.0] + [damping] * (2 * n_harmonics))
    used = valid
    for _ in range(n_iterations):
        weights = used.astype(float)
        left = np.einsum("nti,ntchw,ntj->nchwij", waves, weights, waves, optimize=True) + ridge
        right = np.einsum("nti,ntchw->nchwi", waves, weights * x)
        # a pixel without dates has no mean
        left[..., 0, 0] += ~used.any(1)
        factors = np.linalg.solve(left, right[..., None])[..., 0]
        fit = np.einsum("nti,nchwi->ntchw", waves, factors)
        if tolerance is None:
            break
        below = np.where(used, fit - x, 0)
        out = (below > tolerance) & (below >= below.max(1, keepdims=True) / 2)
        # as many dates must stay as the fit has numbers
        out &= (used & ~out).sum(1, keepdims=True) >= waves.shape[-1]
        if not out.any():
            break
        used = used & ~out
    few = valid.sum(1, keepdims=True) < waves.shape[-1]
    if few.any():
        fit = np.where(few, linear_interpolation(series, valid, time), fit)
    return _filled(x, valid, fit)


def dineof(
    series: np.ndarray,
    valid: np.ndarray,
    time: np.ndarray,
    *,
    max_modes: int = 8,
    held_out: float = 0.03,
    least_seen: float = 0.02,
    n_iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> np.ndarray:
    """Gaps filled from the leading empirical orthogonal functions (Beckers and Rixen 2003).

    Each tile is a matrix of dates by bands and pixels, standardised by band, so that a whole scene
    tells more than its tiles. Gaps start at zero; the leading modes, first one and then more, give
    them new values until they move no more. The number of modes is the one that predicts entries
    best which were held out (Alvera-Azcárate et al. 2005). Dates of which almost nothing is seen
    tell no mode: they are left out and read linearly between the others. Own code from the papers:
    the package pydineof is under the GPL.

    Parameters
    ----------
    series, valid, time
        As for :func:`nearest_date`.
    max_modes
        Largest number of modes that is tried.
    held_out
        Share of the valid entries by which the number is chosen.
    least_seen
        Share of a date's entries that must be valid.
    n_iterations, tolerance
        Iterations end after so many, or when gaps move by less than ``tolerance`` times the
        standard deviation of their band.
    seed
        Of the entries held out.

    Raises
    ------
    ValueError
        As :func:`nearest_date`; also if a number is out of range.
    """
    check_positive("max_modes", max_modes)
    check_positive("n_iterations", n_iterations)
    check_positive("tolerance", tolerance, integer=False)
    for name, share in (("held_out", held_out), ("least_seen", least_seen)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie in (0, 1), but is {share!r}.")
    x, valid = _checked(series, valid)
    rng = np.random.default_rng(seed)
    means = _means(x, valid)
    scale = np.sqrt(_means((x - means) ** 2 * valid, valid))
    scale[scale == 0] = 1
    limits = n_iterations, tolerance
    filled, seen = x.copy(), valid.mean(axis=(2, 3, 4)) >= least_seen
    for i, dates in enumerate(seen):
        if not dates.any():
            continue
        anomalies = ((x[i, dates] - means[0]) / scale[0] * valid[i, dates]).reshape(dates.sum(), -1)
        known = valid[i, dates].reshape(anomalies.shape)
        n_modes = _best_number_of_modes(anomalies, known, max_modes, held_out, limits, rng)
        for k in range(1, n_modes + 1):
            anomalies = _from_modes(anomalies, known, k, limits)
        filled[i, dates] = anomalies.reshape(-1, *x.shape[2:]) * scale[0] + means[0]
    dates = seen[..., None, None, None]
    return linear_interpolation(np.where(valid, x, filled), valid | dates, time)


def _best_number_of_modes(
    anomalies: np.ndarray,
    known: np.ndarray,
    max_modes: int,
    held_out: float,
    limits: tuple[int, float],
    rng: np.random.Generator,
) -> int:
    """The number of modes, 0 of them too, that predicts held-out entries best."""
    places = np.argwhere(known)
    if len(places) < 2:
        return 0
    chosen = rng.choice(len(places), max(1, round(held_out * len(places))), replace=False)
    at = tuple(places[chosen].T)
    train = known.copy()
    train[at] = False
    truth, start = anomalies[at], np.where(train, anomalies, 0)
    best, least = 0, np.mean(truth**2)
    for n_modes in range(1, min(max_modes, min(anomalies.shape) - 1) + 1):
        # gaps start from those of fewer modes: from zeros, many modes fit what is known too well
        start = _from_modes(start, train, n_modes, limits)
        error = np.mean((start[at] - truth) ** 2)
        if error < least:
            best, least = n_modes, error
        elif n_modes > best + 1:
            break
    return best


def _from_modes(
    start: np.ndarray, known: np.ndarray, n_modes: int, limits: tuple[int, float]
) -> np.ndarray:
    """A matrix whose gaps are what its leading modes say; known entries as they are."""
    n_iterations, tolerance = limits
    if known.all():
        return start
    x = start
    for _ in range(n_iterations):
        # the dates are few: their products give the modes without the long side
        _, vectors = np.linalg.eigh(x @ x.T)
        leading = vectors[:, -n_modes:]
        new = np.where(known, start, leading @ (leading.T @ x))
        moved = np.sqrt(np.mean((new - x)[~known] ** 2))
        x = new
        if moved < tolerance:
            break
    return x


def _penalised(x: np.ndarray, weights: np.ndarray, days: np.ndarray, smoothing: float):
    """Whittaker's smooth of ``(T, C, H, W)``: a system of five diagonals for each pixel."""
    n = len(days)
    # rows of second divided differences: days (T,) -> (T - 2, T)
    first = np.diff(np.eye(n), axis=0) / np.diff(days)[:, None]
    second = np.diff(first, axis=0) / (days[2:] - days[:-2])[:, None]
    penalty = smoothing * second.T @ second
    # factors L D L' of (weights + penalty) for all pixels at once, and L^-1 of the right side;
    # one and two are the entries of L below its diagonal, two rows of zeros stand before the first
    d, z = ([np.ones(x.shape[1:])] * 2 for _ in range(2))
    one, two = ([0.0] * 2 for _ in range(2))
    bands = np.pad(penalty, ((0, 0), (2, 0)))
    for t in range(n):
        l2 = bands[t, t] / d[t]
        l1 = (bands[t, t + 1] - l2 * d[t] * one[t + 1]) / d[t + 1]
        rest = weights[t] + bands[t, t + 2] - l1**2 * d[t + 1] - l2**2 * d[t]
        # a pixel with fewer than two valid dates has no solution; the caller fills it otherwise
        d.append(np.where(rest > 0, rest, 1))
        z.append(weights[t] * x[t] - l1 * z[t + 1] - l2 * z[t])
        one.append(l1)
        two.append(l2)
    one, two = [*one[2:], 0.0, 0.0], [*two[2:], 0.0, 0.0]
    d, z = d[2:], z[2:]
    smooth = np.zeros((n + 2, *x.shape[1:]))
    for t in reversed(range(n)):
        smooth[t] = z[t] / d[t] - one[t + 1] * smooth[t + 1] - two[t + 2] * smooth[t + 2]
    return smooth[:n]


def _checked(series: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Double precision with zeros in the gaps, and validity of the same shape."""
    series, valid = np.asarray(series), as_mask(np.asarray(valid), "valid")
    if series.ndim != 5:
        raise ValueError(f"series must be (n, T, C, H, W), but has the shape {series.shape}.")
    if valid.shape not in (series.shape, (*series.shape[:2], 1, *series.shape[3:])):
        raise ValueError(f"valid has the shape {valid.shape}, but series {series.shape}.")
    valid = np.broadcast_to(valid, series.shape)
    x = np.where(valid, series, 0).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"series is not finite at {(~np.isfinite(x)).sum()} valid entries.")
    if not valid.any(axis=(0, 1, 3, 4)).all():
        raise ValueError("A band has no valid entry.")
    return x, valid


def _days(time: np.ndarray, shape: tuple[int, ...], increasing: bool = True) -> np.ndarray:
    """Days ``(n, T, 1, 1, 1)``."""
    days = as_days(time, "time")
    if days.shape not in (shape[:2], shape[1:2]):
        raise ValueError(f"time has the shape {days.shape}, but series {shape}.")
    if not np.isfinite(days).all() or (increasing and (np.diff(days, axis=-1) <= 0).any()):
        raise ValueError("time must be days in increasing order, none twice.")
    return np.broadcast_to(days, shape[:2])[..., None, None, None]


def _means(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean of the valid entries of each band ``(1, 1, C, 1, 1)``."""
    axes = (0, 1, 3, 4)
    return x.sum(axis=axes, keepdims=True) / valid.sum(axis=axes, keepdims=True)


def _neighbours(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the last valid date up to each date (-1: none) and of the next (T: none)."""
    n_dates = valid.shape[1]
    at = np.arange(n_dates).reshape(1, -1, 1, 1, 1)
    before = np.maximum.accumulate(np.where(valid, at, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, at, n_dates)[:, ::-1], axis=1)[:, ::-1]
    return before, after


def _at(x: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Values at numbers of dates; those beyond the series at its ends."""
    return np.take_along_axis(
        np.broadcast_to(x, dates.shape), dates.clip(0, x.shape[1] - 1), axis=1
    )


def _filled(x: np.ndarray, valid: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Valid entries as they are, gaps from the estimate, of the band's mean if never seen."""
    seen = valid.any(axis=1, keepdims=True)
    return np.where(valid, x, np.where(seen, estimate, _means(x, valid)))


def _read_at(x: np.ndarray, days: np.ndarray, new_days: np.ndarray) -> np.ndarray:
    """Values ``(T, ...)`` at other days, linearly; constant beyond the ends."""
    if len(days) == 1:
        return np.repeat(x, len(new_days), axis=0)
    after = np.searchsorted(days, new_days).clip(1, len(days) - 1)
    before = after - 1
    share = ((new_days - days[before]) / (days[after] - days[before])).clip(0, 1)
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    return (1 - share) * x[before] + share * x[after]
