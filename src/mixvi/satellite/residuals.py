"""What a model misses at observed values of a series, carried into its gaps.

A model of tiles says what tiles are like; of this place and these dates the values beside a gap say
more. Residuals are read between dates (as linear interpolation does), between pixels of a date
(weighted by a Gaussian of their distance), from the leading modes of the series (as DINEOF
does, Beckers and Rixen 2003) and from the season: the same time of all years, and harmonics of the
year (as in HANTS, Roerink et al. 2000). What values of the season say without the model is told as
such a residual, too. How much of each a gap has is found on the series itself, where the gaps of
other dates are put over observed values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls
from scipy.special import ndtri
from torch import Tensor

from mixvi.satellite.interpolation import dineof, hants
from mixvi.satellite.series import DAYS_A_YEAR, Series, between_dates

# share of a series' dates under gaps of others
OTHER_GAPS = 0.3
# times that a series is put under other gaps to find out about its own, and share of the draws that
# each has: a trial hides few dates, which tell more the more they are
N_TRIALS = 6
DRAWS_A_TRIAL = 0.5
# fewer dates have hardly modes, and no gaps to spare
LEAST_DATES = 8
# standard deviations in pixels of the weights of a date's other pixels
_WIDTHS = (3.0, 6.0, 20.0)
# standard deviation in days of the weights of other dates of the season
_SEASON = 32.0
# the modes are also of what is left of this width
_WIDTH_BEFORE_MODES = 6.0
# a few steps do: it is run several times a series
_MODES = {"n_iterations": 30, "tolerance": 1e-2}
# weight of a zero, as a share of that of a date that is seen all over, or of one of the same day
_DAMPING = 0.1
# share of the values within an interval by which deviations are scaled
_LEVEL = 0.9
# values a trial of which quantiles are taken, about
_N_VALUES = 100_000
# entries hidden anew that a band must have
_LEAST_HIDDEN = 100
# what is left of a series without any noise is nothing, but is not known to be
_LEAST_FACTOR = 1e-3
# share of a date; below, other pixels tell nothing, and gaps have weights of their own
_LEAST_SEEN = 0.05
# gaps that what training found counts for
_PRIOR_GAPS = 2.0


class Carried(NamedTuple):
    """Residuals of a series in its gaps, and what its model's deviations are worth there.

    Attributes
    ----------
    residual
        ``(1, C, T, H, W)``.
    sd_factor
        Of each band and date ``(C, T)``, by gaps whose weights are those of the other gaps.
    known
        Of which enough was hidden anew to tell, ``(C, T)`` bool.
    """

    residual: Tensor
    sd_factor: Tensor
    known: Tensor


class Hidden(NamedTuple):
    """A series under more gaps than it has, and what the model says of it.

    Attributes
    ----------
    seen
        The series under these gaps.
    mean, variance
        Of the model where it saw ``seen``, ``(1, C, T, H, W)``.
    """

    seen: Series
    mean: Tensor
    variance: Tensor


def carried_residuals(
    mean: Tensor, series: Series, trials: Sequence[Hidden], share: Tensor
) -> Carried:
    """Residuals in the gaps of one series, by what they would have been under other gaps.

    Parameters
    ----------
    mean
        What the model says of the series, ``(1, C, T, H, W)``.
    series
        The series, one row of standardised values.
    trials
        Other gaps; one draw hides a few dates, which need not be like the others.
    share
        What gaps have of the residuals of neighbouring dates elsewhere ``(C,)``: with few gaps,
        weights stay near it.
    """
    n_bands, n_dates = mean.shape[1:3]
    gaps = [gap for trial in trials for gap in _gaps(series, trial)]
    wanted = _estimates(mean, series)
    is_seen = _is_seen(series)
    carried = torch.zeros_like(mean)
    factor, known = torch.ones(n_bands, n_dates), torch.zeros(n_bands, n_dates, dtype=torch.bool)
    for band, seen in product(range(n_bands), (True, False)):
        dates = np.flatnonzero(is_seen[band] == seen)
        found = _found(gaps, band, seen, float(share[band])) if len(dates) else None
        if found is not None:
            weights, factor[band, dates] = found
            known[band, dates] = True
            total = sum(w * x[band, dates] for w, x in zip(weights, wanted, strict=True))
            carried[0, band, dates] = torch.as_tensor(total).to(carried)
    return Carried(carried, factor.to(mean.device), known.to(mean.device))


def _found(
    gaps: Sequence[_Gap], band: int, seen: bool, share: float
) -> tuple[np.ndarray, float] | None:
    """Weights of the estimates and a factor of deviations for the dates of one kind.

    Of too few values of that kind, those of both kinds; None if these are too few, too.
    """
    of_band = [gap for gap in gaps if gap.band == band]
    alike = [gap for gap in of_band if gap.seen == seen]
    gaps = alike if sum(gap.n for gap in alike) >= _LEAST_HIDDEN else of_band
    if sum(gap.n for gap in gaps) < _LEAST_HIDDEN:
        return None
    first = np.zeros(len(gaps[0].product))
    first[0] = share
    weights = _weights(gaps, first)
    of_others = [_weights([other for other in gaps if other is not gap], first) for gap in gaps]
    if _error(gaps, of_others) >= _error(gaps, [first] * len(gaps)):
        weights, of_others = first, [first] * len(gaps)
    return weights, _factor(gaps, of_others)


def _error(gaps: Sequence[_Gap], weights: Sequence[np.ndarray]) -> float:
    return sum(gap.error(own) for gap, own in zip(gaps, weights, strict=True))


def _factor(gaps: Sequence[_Gap], weights: Sequence[np.ndarray]) -> float:
    """Factor of deviations whose Gaussian intervals hold as many values as they should.

    Errors have heavy tails: of root mean squares as large as theirs, intervals are too wide.
    """
    left = np.concatenate([gap.left(own) for gap, own in zip(gaps, weights, strict=True)])
    factor = np.quantile(left, _LEVEL) / ndtri(0.5 + _LEVEL / 2)
    return max(float(factor), _LEAST_FACTOR)


def _is_seen(series: Series) -> np.ndarray:
    """Whether enough of a date is seen to tell of its other pixels, by band ``(C, T)``."""
    share = series.observed[0].float().mean((2, 3)).T
    return (share >= _LEAST_SEEN).cpu().numpy()


class _Gap(NamedTuple):
    """Sums over the ``n`` values of a band and date that a trial hides; what is left of it.

    ``gram`` (K, K) and ``product`` (K,) are of estimates with each other and with the truth, and
    ``square`` is of the truth. ``some`` are estimates, truth and the model's deviations of a part
    of the values.
    """

    band: int
    seen: bool
    n: int
    gram: np.ndarray
    product: np.ndarray
    square: float
    some: tuple[np.ndarray, np.ndarray, np.ndarray]

    def error(self, weights: np.ndarray) -> float:
        """Sum of squares of what estimates so weighted leave."""
        left = self.square - 2 * weights @ self.product + weights @ self.gram @ weights
        return max(left, 0.0)

    def left(self, weights: np.ndarray) -> np.ndarray:
        """What estimates so weighted leave of some values, in the model's deviations."""
        estimates, truth, sd = self.some
        return np.abs(truth - weights @ estimates) / sd


def _gaps(series: Series, trial: Hidden) -> list[_Gap]:
    hidden = (series.observed & ~trial.seen.observed).transpose(1, 2).cpu().numpy()[0]
    residual = series.x.transpose(1, 2) - trial.mean
    truth, variance = (x[0].cpu().double().numpy() for x in (residual, trial.variance))
    estimates = _estimates(trial.mean, trial.seen)
    is_seen, gaps = _is_seen(trial.seen), []
    step = max(1, int(hidden.sum()) // _N_VALUES)
    for band, date in np.argwhere(hidden.any(axis=(2, 3))):
        mask = hidden[band, date]
        x = np.stack([of[band, date][mask] for of in estimates]).astype(float)
        y, sd = truth[band, date][mask], np.sqrt(variance[band, date][mask].clip(1e-12))
        sums = x @ x.T, x @ y, float(y @ y)
        some = x[:, ::step], y[::step], sd[::step]
        gaps.append(_Gap(band, bool(is_seen[band, date]), len(y), *sums, some))
    return gaps


def _weights(gaps: Sequence[_Gap], first: np.ndarray) -> np.ndarray:
    """Weights ``(K,)`` of the estimates, none below 0, as if a few gaps more had said ``first``."""
    if not gaps:
        return first
    gram, product = (sum(getattr(gap, name) for gap in gaps) for name in ("gram", "product"))
    prior = gram.diagonal() * (_PRIOR_GAPS / len(gaps)) + 1e-9
    lower = np.linalg.cholesky(gram + np.diag(prior))
    return nnls(lower.T, solve_triangular(lower, product + prior * first, lower=True))[0]


def _estimates(mean: Tensor, series: Series) -> list[np.ndarray]:
    """Residuals ``(C, T, H, W)`` of all pixels from those of observed ones, in several ways."""
    observed, values = series.observed.transpose(1, 2), series.x.transpose(1, 2)
    residual = torch.where(observed, values - mean, 0.0)
    between = between_dates(residual, observed, series.time)[0].cpu().numpy()
    x, values, mean = (a[0].cpu().double().numpy() for a in (residual, values, mean))
    observed, time = observed[0].cpu().numpy(), series.time[0].cpu().double().numpy()
    around = {width: _around(x, observed, width) for width in _WIDTHS}
    first = around[_WIDTH_BEFORE_MODES]
    modes = _filled(dineof, x, observed, time, **_MODES)
    left = first + _filled(dineof, x - first, observed, time, **_MODES)
    of_season = [_of_season(x, observed, time), _filled(hants, x, observed, time)]
    # all of one of these, and a gap has what values of its season are, whatever the model says
    values = [_of_season(values, observed, time), _filled(hants, values, observed, time)]
    found = between, *around.values(), modes, left, *of_season, *(of - mean for of in values)
    # single precision: there are many of them, as large as the series
    return [of.astype(np.float32) for of in found]


def _around(x: np.ndarray, observed: np.ndarray, width: float) -> np.ndarray:
    """Mean of a date's observed values, near ones more, and zero as far as none is near."""

    def near(values: np.ndarray) -> np.ndarray:
        sigma = (*[0] * (values.ndim - 2), width, width)
        return gaussian_filter(values, sigma, mode="constant")

    # of a small tile not much lies within a wide kernel, whatever is observed of it
    most = near(np.ones(x.shape[-2:]))
    total, share = near(np.where(observed, x, 0.0)) / most, near(observed.astype(float)) / most
    return total / (share + _DAMPING)


def _of_season(x: np.ndarray, observed: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Mean of a pixel's observed values by the time of the year, and zero as far as none is near.

    Of dates within a year it is smooth in time.
    """
    apart = np.abs(time[:, None] - time) % DAYS_A_YEAR
    near = np.exp(-0.5 * (np.minimum(apart, DAYS_A_YEAR - apart) / _SEASON) ** 2)
    # a date without an acquisition may be unknown
    near[~np.isfinite(near)] = 0.0
    total, share = (
        np.einsum("st,cthw->cshw", near, values)
        for values in (np.where(observed, x, 0.0), observed.astype(float))
    )
    return total / (share + _DAMPING)


def _filled(
    fill: Callable[..., np.ndarray],
    x: np.ndarray,
    observed: np.ndarray,
    time: np.ndarray,
    **options,
) -> np.ndarray:
    """What a reference fills gaps with; bands without any observed value stay zero."""
    filled = np.zeros(x.shape)
    bands = observed.any(axis=(1, 2, 3))
    if bands.any():
        if not np.isfinite(time).all() or (np.diff(time) <= 0).any():
            time = np.arange(x.shape[1], dtype=float)
        as_series = [a[bands].swapaxes(0, 1)[None] for a in (x, observed)]
        filled[bands] = fill(*as_series, time, **options)[0].swapaxes(0, 1)
    return filled
