"""Non-negative expression with many zeros: whether a gene is seen, and how much of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-12
_FEWEST_VALUES = 10


class Hurdle(NamedTuple):
    """Two-part distribution of each gene given its mean (Cragg 1971, Econometrica 39, 829).

    A value is positive with probability ``1 - exp(-mean / unit)``, as that of a Poisson count in
    units of ``unit``; positive values are gamma distributed. A decoder's mean alone decides
    between a gene that few cells show and one that all show a little: the unit tells them apart.
    """

    unit: Tensor
    """Size of one count, ``(G,)``: about the smallest value seen. Near zero: no zeros."""
    spread: Tensor
    """Coefficient of variation of the positive values, ``(G,)``."""
    power: Tensor = torch.zeros(())
    """Power of the level by which positive values of a gene spread, ``()`` in [0, 1]."""

    @classmethod
    def fit(cls, x: Tensor, mean: Tensor) -> Hurdle:
        """Unit and spread of each gene that agree with the shares of zeros found.

        Parameters
        ----------
        x
            Data, never negative, ``(n, G)``.
        mean
            What a decoder expects of them, ``(n, G)``.
        """
        mean, seen = mean.clamp_min(0.0), x > 0
        n_seen = seen.sum(0)
        low = torch.full_like(mean[0], 1e-6)
        high = mean.max(0).values.clamp_min(1.0) * 100.0
        # the expected number falls as the unit grows: bisection, on logarithms
        for _ in range(40):
            unit = (low * high).sqrt()
            too_many = (-torch.expm1(-mean / unit)).sum(0) > n_seen
            low, high = torch.where(too_many, unit, low), torch.where(too_many, high, unit)
        fitted = cls((low * high).sqrt(), torch.ones_like(low))
        squares = seen * (x / fitted.level(mean) - 1.0).square()
        spread = (squares.sum(0) / n_seen.clamp_min(1)).sqrt()
        known = n_seen >= _FEWEST_VALUES
        if known.any():
            # of a gene hardly seen, as of the others
            spread = torch.where(known, spread, spread[known].median())
        level = fitted.level(mean)
        return cls(fitted.unit, spread.clamp_min(1e-3), _power(x - level, level, seen))

    def to(self, device: torch.device) -> Hurdle:
        """The same on another device."""
        return Hurdle(*(part.to(device) for part in self))

    def share(self, mean: Tensor) -> Tensor:
        """Probability of a positive value, ``(B, G)``."""
        return -torch.expm1(-mean.clamp_min(0.0) / self.unit)

    def level(self, mean: Tensor) -> Tensor:
        """Mean of the positive values, ``(B, G)``: between the unit and the mean or above."""
        share = self.share(mean)
        return torch.where(share > 1e-6, mean / share.clamp_min(1e-6), self.unit)

    def sample(self, mean: Tensor) -> Tensor:
        """One draw for each cell and gene, ``(B, G)``."""
        seen = torch.rand_like(mean) < self.share(mean)
        return seen * self._positive(mean)

    def carry_over(self, x: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """``x`` as it would be had the mean been ``there`` instead of ``here``, ``(B, G)``.

        So many zeros turn positive, or positive values zero, as the probability changes; a
        positive value that stays moves with the mean of such values, up by addition and down by
        scaling; upwards its distance from the mean grows by the ``power`` of the rise. Where the
        mean does not change, nothing does.
        """
        share, share_there = self.share(here), self.share(there)
        level, level_there = self.level(here), self.level(there)
        u = torch.rand_like(x)
        stays = u * share <= share_there
        appears = u * (1.0 - share) < share_there - share
        ratio = level_there / level.clamp_min(_TINY)
        up = level_there + (x - level) * ratio.clamp_min(1.0) ** self.power
        moved = torch.where(level_there < level, x * ratio, up)
        return torch.where(x > 0, stays * moved, appears * self._positive(there))

    def _positive(self, mean: Tensor) -> Tensor:
        shape = self.spread.square().reciprocal().expand_as(mean)
        unit_mean = torch.distributions.Gamma(shape, shape).sample()
        return unit_mean * self.level(mean)


def _power(residual: Tensor, level: Tensor, seen: Tensor) -> Tensor:
    """By which power of its level a gene's positive values spread, ``()`` in [0, 1].

    Least squares of log |residual| on log level within genes; 0 unless it is two standard errors
    above, so that what no data show changes nothing.

    Parameters
    ----------
    residual, level
        Distance of each value from the level expected of it, and that level, ``(n, G)``.
    seen
        Which values are positive, ``(n, G)``.
    """
    n = seen.sum(0).clamp_min(1)
    size, place = residual.abs().clamp_min(1e-6).log(), level.clamp_min(1e-6).log()
    size, place = ((of - (of * seen).sum(0) / n) * seen for of in (size, place))
    across = place.square().sum().clamp_min(_TINY)
    slope = (size * place).sum() / across
    error = ((size - slope * place).square().sum() / (across * n.sum())).sqrt()
    return torch.where(slope > 2 * error, slope.clamp(0.0, 1.0), 0.0)
