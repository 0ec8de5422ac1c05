"""What a model misses at observed values of a series, carried into its gaps.

A model of tiles says what tiles are like; of this place and these dates the values beside a gap say
more. Residuals are read between dates (as linear interpolation does), between pixels of a date
(weighted by a Gaussian of their distance) and from the leading modes of the series (as DINEOF
does, Beckers and Rixen 2003). How much of each a gap has is found on the series itself, where
the gaps of other dates are put over observed values.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls
from torch import Tensor

from mixvi.satellite.interpolation import dineof
from mixvi.satellite.series import Series, between_dates

# share of a series' dates under gaps of others
OTHER_GAPS = 0.3
# times that a series is put under other gaps to find out about its own
N_TRIALS = 3
# fewer dates have hardly modes, and no gaps to spare
LEAST_DATES = 8
# standard deviations in pixels of the weights of a date's other pixels
_WIDTHS = (3.0, 6.0, 20.0)
# the modes are also of what is left of this width
_WIDTH_BEFORE_MODES = 6.0
# a few steps do: it is run several times a series
_MODES = {"n_iterations": 30, "tolerance": 1e-2}
# weight of a residual of zero, as a share of that of a date that is seen all over
_DAMPING = 0.1
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
    residual, variance
        Observed values less the model's means where it saw ``seen``, and its variance,
        ``(1, C, T, H, W)``.
    """

    seen: Series
    residual: Tensor
    variance: Tensor


def carried_residuals(
    residual: Tensor, series: Series, trials: Sequence[Hidden], share: Tensor
) -> Carried:
    """Residuals in the gaps of one series, by what they would have been under other gaps.

    Parameters
    ----------
    residual
        Observed values less the model's means ``(1, C, T, H, W)``.
    series
        The series they are of.
    trials
        Other gaps; one draw hides a few dates, which need not be like the others.
    share
        What gaps have of the residuals of neighbouring dates elsewhere ``(C,)``: with few gaps,
        weights stay near it.
    """
    n_bands, n_dates = residual.shape[1:3]
    gaps = [gap for trial in trials for gap in _gaps(series, trial)]
    wanted = _estimates(residual, series)
    is_seen = _is_seen(series)
    carried = torch.zeros_like(residual)
    factor, known = torch.ones(n_bands, n_dates), torch.zeros(n_bands, n_dates, dtype=torch.bool)
    for band, seen in product(range(n_bands), (True, False)):
        dates = np.flatnonzero(is_seen[band] == seen)
        found = _found(gaps, band, seen, float(share[band])) if len(dates) else None
        if found is not None:
            weights, factor[band, dates] = found
            known[band, dates] = True
            total = sum(w * x[band, dates] for w, x in zip(weights, wanted, strict=True))
            carried[0, band, dates] = torch.as_tensor(total).to(carried)
    return Carried(carried, factor.to(residual.device), known.to(residual.device))


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
    left, left_by_share = 0.0, sum(gap.error(first) for gap in gaps)
    for gap in gaps:
        left += gap.error(_weights([other for other in gaps if other is not gap], first))
    if left >= left_by_share:
        weights, left = first, left_by_share
    factor = np.sqrt(left / max(sum(gap.variance for gap in gaps), 1e-12))
    return weights, max(float(factor), _LEAST_FACTOR)


def _is_seen(series: Series) -> np.ndarray:
    """Whether enough of a date is seen to tell of its other pixels, by band ``(C, T)``."""
    share = series.observed[0].float().mean((2, 3)).T
    return (share >= _LEAST_SEEN).cpu().numpy()


class _Gap(NamedTuple):
    """Sums over the ``n`` values of a band and date that a trial hides; what is left of it.

    ``gram`` (K, K) and ``product`` (K,) are of estimates with each other and with the truth,
    ``square`` is of the truth, and ``variance`` what the model expects.
    """

    band: int
    seen: bool
    n: int
    gram: np.ndarray
    product: np.ndarray
    square: float
    variance: float

    def error(self, weights: np.ndarray) -> float:
        """Sum of squares of what estimates so weighted leave."""
        left = self.square - 2 * weights @ self.product + weights @ self.gram @ weights
        return max(left, 0.0)


def _gaps(series: Series, trial: Hidden) -> list[_Gap]:
    hidden = (series.observed & ~trial.seen.observed).transpose(1, 2).cpu().numpy()[0]
    truth, variance = (x[0].cpu().double().numpy() for x in (trial.residual, trial.variance))
    estimates = _estimates(trial.residual, trial.seen)
    is_seen, gaps = _is_seen(trial.seen), []
    for band, date in np.argwhere(hidden.any(axis=(2, 3))):
        mask = hidden[band, date]
        x = np.stack([of[band, date][mask] for of in estimates]).astype(float)
        y = truth[band, date][mask]
        sums = x @ x.T, x @ y, float(y @ y), float(variance[band, date][mask].sum())
        gaps.append(_Gap(band, bool(is_seen[band, date]), len(y), *sums))
    return gaps


def _weights(gaps: Sequence[_Gap], first: np.ndarray) -> np.ndarray:
    """Weights ``(K,)`` of the estimates, none below 0, as if a few gaps more had said ``first``."""
    if not gaps:
        return first
    gram, product = (sum(getattr(gap, name) for gap in gaps) for name in ("gram", "product"))
    prior = gram.diagonal() * (_PRIOR_GAPS / len(gaps)) + 1e-9
    lower = np.linalg.cholesky(gram + np.diag(prior))
    return nnls(lower.T, solve_triangular(lower, product + prior * first, lower=True))[0]


def _estimates(residual: Tensor, series: Series) -> list[np.ndarray]:
    """Residuals ``(C, T, H, W)`` of all pixels from those of observed ones, in several ways."""
    observed = series.observed.transpose(1, 2)
    residual = torch.where(observed, residual, 0.0)
    between = between_dates(residual, observed, series.time)[0].cpu().numpy()
    x, observed = residual[0].cpu().double().numpy(), observed[0].cpu().numpy()
    time = series.time[0].cpu().double().numpy()
    around = {width: _around(x, observed, width) for width in _WIDTHS}
    first = around[_WIDTH_BEFORE_MODES]
    modes = _modes(x, observed, time)
    left = first + _modes(x - first, observed, time)
    # single precision: there are many of them, as large as the series
    return [of.astype(np.float32) for of in (between, *around.values(), modes, left)]


def _around(x: np.ndarray, observed: np.ndarray, width: float) -> np.ndarray:
    """Mean of a date's observed values, near ones more, and zero as far as none is near."""

    def near(values: np.ndarray) -> np.ndarray:
        sigma = (*[0] * (values.ndim - 2), width, width)
        return gaussian_filter(values, sigma, mode="constant")

    # of a small tile not much lies within a wide kernel, whatever is observed of it
    most = near(np.ones(x.shape[-2:]))
    total, share = near(np.where(observed, x, 0.0)) / most, near(observed.astype(float)) / most
    return total / (share + _DAMPING)


def _modes(x: np.ndarray, observed: np.ndarray, time: np.ndarray) -> np.ndarray:
    """What the leading modes say; bands without any observed value stay zero."""
    filled = np.zeros(x.shape)
    bands = observed.any(axis=(1, 2, 3))
    if bands.any():
        if not np.isfinite(time).all() or (np.diff(time) <= 0).any():
            time = np.arange(x.shape[1], dtype=float)
        as_series = [a[bands].swapaxes(0, 1)[None] for a in (x, observed)]
        filled[bands] = dineof(*as_series, time, **_MODES)[0].swapaxes(0, 1)
    return filled
