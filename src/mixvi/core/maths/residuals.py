"""What a prediction leaves unexplained of each row, carried over to another prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mixvi.core.maths.hurdle import Hurdle

_TINY = 1e-20
_DISPERSIONS = (1e-2, 1e6)


def carried_counts(x: Tensor, here: Tensor, there: Tensor, excess: Tensor | float) -> Tensor:
    """Whole counts: a lower rate thins the cell's own, a higher one adds to them, ``(B, G)``.

    Parameters
    ----------
    x
        Counts ``(B, G)``.
    here, there
        Rates that are expected of the cell, and that would be, ``(B, G)``.
    excess
        The cell's own rate over ``here``; of a Poisson 1.
    """
    kept = torch.binomial(x.round(), (there / here.clamp_min(_TINY)).clamp(0.0, 1.0))
    more = (there - here).clamp_min(0.0) * excess
    return torch.where(there < here, kept, x + torch.poisson(more))


def rate_excess(x: Tensor, rate: Tensor, dispersion: Tensor) -> Tensor:
    """A draw of a cell's rate over its mean given its counts, ``(B, G)``.

    NB(mu, theta) is Poisson(mu g) with g ~ Gamma(theta, theta), which is conjugate.

    Parameters
    ----------
    x, rate
        Counts, and their mean, ``(B, G)``.
    dispersion
        Inverse dispersion theta, broadcastable to ``(B, G)``.
    """
    return torch.distributions.Gamma(dispersion + x, dispersion + rate).sample()


class Residuals(NamedTuple):
    """How values spread around what is expected of them, by the values' support."""

    support: str
    """``"count"``, ``"non-negative"`` or ``"real"``."""
    hurdle: Hurdle | None = None
    """Of non-negative values."""
    dispersion: Tensor | None = None
    """Inverse dispersion of counts, ``(G,)``."""

    @classmethod
    def fit(cls, x: Tensor, mean: Tensor, support: str) -> Residuals:
        """Of values ``x`` and what is expected of them, each ``(n, G)``."""
        if support == "non-negative":
            return cls(support, hurdle=Hurdle.fit(x, mean))
        if support == "count":
            # by moments: var = mean + mean^2 / theta
            beyond = ((x - mean).square() - mean).sum(0).clamp_min(_TINY)
            return cls(support, dispersion=(mean.square().sum(0) / beyond).clamp(*_DISPERSIONS))
        return cls(support)

    def carry_over(self, x: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """The rows themselves, were ``there`` expected of them instead of ``here``, ``(B, G)``.

        They stay in the support; which zeros turn positive, and which counts are lost, is drawn.
        """
        if self.hurdle is not None:
            return self.hurdle.carry_over(x, here, there)
        if self.dispersion is not None:
            here, there = here.clamp_min(0.0), there.clamp_min(0.0)
            return carried_counts(x, here, there, rate_excess(x, here, self.dispersion))
        return x + there - here
