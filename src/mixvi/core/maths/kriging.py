"""Values at places from those at others, the nearer the more (Gaussian-process regression)."""

from __future__ import annotations

import torch
from torch import Tensor

_LENGTHS = torch.logspace(-1.3, 1.3, 10, dtype=torch.float64)
_SIZES = torch.logspace(-1.5, 1.0, 9, dtype=torch.float64)
_JITTER = 1e-6


def kriging_weights(places: Tensor, values: Tensor, noise: float, known: Tensor) -> Tensor:
    """Weights by which known places foretell every other one, ``(K, K)``.

    Ordinary kriging (Cressie 1993, Statistics for Spatial Data, 3.2): the columns of ``values`` are
    Gaussian processes around means of their own, with one squared-exponential covariance, of which
    length and size are those of the greatest restricted likelihood on a grid.

    Parameters
    ----------
    places
        ``(K, D)``; what counts is how far they are from each other.
    values
        Of each place, ``(K, G)``; those of unknown places do not count.
    noise
        Variance of a known value.
    known
        Which places have values, ``(K,)``.

    Returns
    -------
    Rows that sum to one; a place has no part in its own, nor has an unknown one in any.
    """
    places, values = places.double(), values.double()
    rows = torch.nonzero(known).flatten()
    weights = torch.zeros(len(places), len(places), dtype=torch.float64, device=places.device)
    if len(rows) > 2:
        covariance = _covariance(torch.cdist(places, places).square(), values[rows], noise, rows)
    else:
        # two values say nothing of how far likeness reaches
        covariance = torch.eye(len(places), dtype=torch.float64, device=places.device)
    for place in range(len(places)):
        others = rows[rows != place]
        if len(others):
            own = covariance[others][:, others].clone()
            own.diagonal().add_(noise + _JITTER * float(own.diagonal().mean()))
            inverse = torch.linalg.inv(own)
            row = covariance[place, others] @ inverse
            weights[place, others] = row + (1 - row.sum()) * inverse.sum(0) / inverse.sum()
    return weights.to(torch.get_default_dtype())


def _covariance(squared: Tensor, values: Tensor, noise: float, rows: Tensor) -> Tensor:
    """The likeliest, without the noise, ``(K, K)``."""
    n, n_values = values.shape
    between = squared[rows][:, rows]
    middle = between[~torch.eye(n, dtype=torch.bool, device=rows.device)].median().clamp_min(1e-12)
    products = values @ values.T
    spread = (values - values.mean(0)).square().mean().clamp_min(1e-12)
    best, found = -torch.inf, torch.eye(len(squared), dtype=torch.float64, device=rows.device)
    for length in _LENGTHS.tolist():
        alike = torch.exp(-squared / (2 * length * middle))
        for size in (_SIZES * spread).tolist():
            own = size * alike[rows][:, rows]
            own.diagonal().add_(noise + _JITTER * size)
            inverse = torch.linalg.inv(own)
            total, ones = inverse.sum(), inverse.sum(0)
            logs = torch.logdet(own) + total.log()
            misfit = (inverse * products).sum() - ones @ products @ ones / total
            likelihood = -0.5 * float(n_values * logs + misfit)
            if likelihood > best:
                best, found = likelihood, size * alike
    return found
