"""What a model misses at observed values of a series, carried into its gaps.

A model of tiles says what tiles are like; of this place and these dates the values beside a gap say
more. Residuals are read between dates (as linear interpolation does), between pixels of a date
(weighted by a Gaussian of their distance) and from the leading modes of the series (as DINEOF
does, Beckers and Rixen 2003). How much of each a gap has is found on the series itself, where
the gaps of other dates are put over observed values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls
from torch import Tensor

from mixvi.satellite.interpolation import dineof
from mixvi.satellite.series import Series, between_dates

# share of a series' dates under gaps of others
OTHER_GAPS = 0.3
# fewer dates have hardly modes, and no gaps to spare
LEAST_DATES = 8
# standard deviations in pixels of the weights of a date's other pixels
_WIDTHS = (3.0, 6.0, 20.0)
# the modes are also of what is left of this width
_WIDTH_BEFORE_MODES = 6.0
# weight of a residual of zero, in pixels that are seen nowhere near
_DAMPING = 0.1
# entries hidden anew that a band must have, and of which as many serve at most
_LEAST_HIDDEN, _MOST_HIDDEN = 200, 50_000


class Carried(NamedTuple):
    """Residuals of a series in its gaps, and what its model's deviations are worth there.

    Attributes
    ----------
    residual
        ``(1, C, T, H, W)``.
    sd_factor
        Of each band ``(C,)``.
    known
        Of which bands enough was hidden anew to tell, ``(C,)`` bool.
    """

    residual: Tensor
    sd_factor: Tensor
    known: Tensor


def carried_residuals(
    residual: Tensor, series: Series, hidden_residual: Tensor, variance: Tensor, seen: Series
) -> Carried:
    """Residuals in the gaps of one series, by what they would have been under other gaps.

    Parameters
    ----------
    residual
        Observed values less the model's means ``(1, C, T, H, W)``.
    series
        The series they are of.
    hidden_residual, variance
        The same, and the model's variance, where the model saw ``seen``.
    seen
        The series under more gaps.
    """
    hidden = (series.observed & ~seen.observed).transpose(1, 2).cpu().numpy()[0]
    truth = hidden_residual.cpu().numpy()[0]
    n_bands = len(truth)
    carried = torch.zeros_like(residual)
    factor, known = torch.ones(n_bands), torch.zeros(n_bands, dtype=torch.bool)
    enough = hidden.reshape(n_bands, -1).sum(1) >= _LEAST_HIDDEN
    if enough.any():
        tried, wanted = _estimates(hidden_residual, seen), _estimates(residual, series)
        for band in np.flatnonzero(enough):
            at = np.argwhere(hidden[band])
            at = tuple(at[:: 1 + len(at) // _MOST_HIDDEN].T)
            estimates = np.stack([x[band][at] for x in tried], axis=1)
            weights, _ = nnls(estimates, truth[band][at])
            total = sum(w * x[band] for w, x in zip(weights, wanted, strict=True))
            carried[0, band] = torch.as_tensor(total, dtype=carried.dtype)
            left = np.square(truth[band][at] - estimates @ weights).mean()
            expected = variance[0, band].cpu().numpy()[at].mean()
            factor[band] = float(np.sqrt(left / max(expected, 1e-12)))
            known[band] = True
    device = residual.device
    return Carried(carried, factor.to(device), known.to(device))


def _estimates(residual: Tensor, series: Series) -> list[np.ndarray]:
    """Residuals ``(C, T, H, W)`` of all pixels from those of observed ones, in several ways."""
    observed = series.observed.transpose(1, 2)
    residual = torch.where(observed, residual, 0.0)
    between = between_dates(residual, observed, series.time)[0].cpu().double().numpy()
    x, observed = residual[0].cpu().double().numpy(), observed[0].cpu().numpy()
    time = series.time[0].cpu().double().numpy()
    around = {width: _around(x, observed, width) for width in _WIDTHS}
    first = around[_WIDTH_BEFORE_MODES]
    return [
        between,
        *around.values(),
        _modes(x, observed, time),
        first + _modes(x - first, observed, time),
    ]


def _around(x: np.ndarray, observed: np.ndarray, width: float) -> np.ndarray:
    """Mean of a date's observed values, near ones more."""
    sigma = (0, 0, width, width)
    total = gaussian_filter(np.where(observed, x, 0.0), sigma, mode="constant")
    weight = gaussian_filter(observed.astype(float), sigma, mode="constant")
    return total / (weight + _DAMPING)


def _modes(x: np.ndarray, observed: np.ndarray, time: np.ndarray) -> np.ndarray:
    """What the leading modes say; bands without any observed value stay zero."""
    filled = np.zeros(x.shape)
    bands = observed.any(axis=(1, 2, 3))
    if bands.any():
        if not np.isfinite(time).all() or (np.diff(time) <= 0).any():
            time = np.arange(x.shape[1], dtype=float)
        as_series = [a[bands].swapaxes(0, 1)[None] for a in (x, observed)]
        filled[bands] = dineof(*as_series, time)[0].swapaxes(0, 1)
    return filled
