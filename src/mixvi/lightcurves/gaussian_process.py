"""Curves from a few induction points by a Gaussian process: a kernel, a solve and a decoder.

Induction points are values with a noise of their own at fixed times. The process that they
condition says mean and variance at any other time, in closed form and of any number of curves at
once (Astorga 2021, section 9.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import pi

import torch
from torch import Tensor

from mixvi.core.maths.mixture import expected_gaussian_log_prob

# of the kernel's variance; keeps the factor finite where noise is nearly none
JITTER = 1e-5
# in squared standard deviations of a curve
VARIANCE_FLOOR = 1e-4
# beside 1 nothing in single precision; numbers below the normal ones take several times as long
LEAST_EXPONENT = -60.0


@dataclass(frozen=True)
class SquaredExponential:
    """``k(t, u) = scale^2 exp(-(t - u)^2 / (2 length^2))`` (Astorga 2021, eq. 9.3).

    Attributes
    ----------
    scale, length
        Standard deviation and length scale of each process, ``(...)``, both positive.
    """

    scale: Tensor
    length: Tensor

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        """Covariances ``(..., T, U)`` between times ``(..., T)`` and ``(..., U)``."""
        return self.variance[..., None, None] * self._correlation(t, u)

    @property
    def variance(self) -> Tensor:
        """The covariance of a time with itself, ``(...)``."""
        return self.scale.square()

    def _correlation(self, t: Tensor, u: Tensor) -> Tensor:
        length = self.length[..., None]
        distance = (t / length)[..., :, None] - (u / length)[..., None, :]
        return (-0.5 * distance.square()).clamp_min(LEAST_EXPONENT).exp()


@dataclass(frozen=True)
class Periodic(SquaredExponential):
    """``k(t, u) = scale^2 exp(-sin^2(pi (t - u)) / (2 pi^2 length^2))``, of period 1.

    Near to the diagonal it is the squared exponential of the same length (MacKay 1998).
    """

    def _correlation(self, t: Tensor, u: Tensor) -> Tensor:
        # sin^2(a - b) by angles of t and u alone: no sine of (..., T, U) numbers
        double = 2.0 * pi
        cosine = (double * t).cos()[..., :, None] * (double * u).cos()[..., None, :]
        cosine = cosine + (double * t).sin()[..., :, None] * (double * u).sin()[..., None, :]
        rate = 1.0 / (2.0 * pi * self.length).square()
        return ((cosine - 1.0) * rate[..., None, None]).clamp_min(LEAST_EXPONENT).exp()


KERNELS = {"squared_exponential": SquaredExponential, "periodic": Periodic}


class CholeskySolve:
    """Solves with symmetric positive definite matrices ``(..., I, I)`` by their Cholesky factors.

    Raises
    ------
    torch.linalg.LinAlgError
        If a matrix is not positive definite.
    """

    def __init__(self, matrix: Tensor):
        self.factor = torch.linalg.cholesky(matrix)

    @cached_property
    def _inverse_factor(self) -> Tensor:
        # I is small: products with it are faster, forth and back, than a solve for each time
        identity = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype)
        identity = identity.to(self.factor.device).expand_as(self.factor)
        return torch.linalg.solve_triangular(self.factor, identity, upper=False)

    def whiten(self, columns: Tensor) -> Tensor:
        """``L^-1`` times columns ``(..., I, N)``, ``L`` being the lower factor."""
        return self._inverse_factor @ columns


class GaussianProcessDecoder:
    """Mean and variance of curves at any time, given induction points.

    Parameters
    ----------
    kernel
        Of processes ``(...)``.
    times
        Of the induction points, ``(I,)`` or ``(..., I)``.
    values, noise
        Mean and standard deviation of each point, ``(..., I)``; leading axes are broadcast with
        those of the kernel.
    """

    def __init__(self, kernel: SquaredExponential, times: Tensor, values: Tensor, noise: Tensor):
        self.kernel, self.times = kernel, times
        jitter = JITTER * kernel.variance[..., None]
        self.solve = CholeskySolve(kernel(times, times) + (noise.square() + jitter).diag_embed())
        self._whitened = self.solve.whiten(values[..., None])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance at times ``(..., T)``, each ``(..., T)`` (Astorga 2021, eq. 9.5)."""
        # of each time the variance alone: covariances of times are not asked for
        weights = self.solve.whiten(self.kernel(self.times, t))
        mean = (weights * self._whitened).sum(-2)
        variance = self.kernel.variance[..., None] - weights.square().sum(-2)
        return mean, variance.clamp_min(VARIANCE_FLOOR)


def induction_times(n: int, periodic: bool = False) -> Tensor:
    """Phases of the induction points, ``(n,)``.

    ``k / (n + 1)`` for k from 1 to n (Astorga 2021, eq. 9.2); on a circle ``k / n`` from 0, where
    all neighbours are equally far.
    """
    if periodic:
        return torch.arange(n) / n
    return torch.arange(1, n + 1) / (n + 1)


def expected_log_likelihood(
    x: Tensor, error: Tensor, mean: Tensor, variance: Tensor, valid: Tensor
) -> Tensor:
    """E log N(x'; mean, variance) for x' ~ N(x, error^2), summed over valid observations.

    The datum is a Gaussian, not a point, so that the best variance is that of the photometric error
    and the residual together (Astorga 2021, eqs. 9.6 and 9.7, with the factors one half that are
    missing there).

    Parameters
    ----------
    x, error
        Magnitudes and their standard errors, ``(B, n_bands, L)``.
    mean, variance
        Of the decoder, in the same shape.
    valid
        Bool, which of them are observations.

    Returns
    -------
    Tensor ``(B,)`` in nats.
    """
    each = expected_gaussian_log_prob(x, error.square(), mean, variance)
    # padding may hold anything, which no product would remove
    return torch.where(valid, each, 0.0).flatten(1).sum(1)
