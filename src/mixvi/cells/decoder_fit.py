"""What the decoder misses of a change, learned from the training cells of each component.

A decoder smooths: means of its training groups differ from those of the cells. The difference is
known where a component was seen under both conditions, and elsewhere like that of components which
lie near in the latent space, as far as leaving each of them out says that this helps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixvi.cells.shifting import ConditionMeans

_TINY = 1e-12
_SHARE_OUTSIDE = 0.01
# how many components an unseen one's variance is worth, by which those of few are steadied
_PRIOR_COMPONENTS = 4.0

# mean of z of each component, their condition: the decoder's means, (K, D) -> (K, G)
Decode = Callable[[Tensor, int], Tensor]


class DecoderFit(NamedTuple):
    """Training cells of each component and condition against the decoder's means of them.

    Of counts, values are those at a library size (or size factor) of one.
    """

    bias: Tensor
    """Mean of the cells minus that of their reconstruction, ``(C, K, G)``."""
    variance: Tensor
    """Of the cells around their mean, ``(C, K, G)``."""
    floors: Tensor
    """Log density of z under each condition's components, below which 1 % of the training cells
    fall when they are moved there, of components that are seen there, ``(C,)``."""

    def corrections(
        self, means: ConditionMeans, decode: Decode, source: int, target: int
    ) -> Corrections:
        """What is to be added to the decoder's means of each component.

        Parameters
        ----------
        means
            Mean z of the same components and conditions.
        decode
            The decoder's means at the components' mean z.
        source, target
            Codes of the conditions.
        """
        own, none = self.bias[source], torch.zeros_like(self.bias[source])
        if source == target:
            return Corrections(own, none, none, own.new_zeros(()))
        seen = means.enough[source] & means.enough[target]
        n = means.cells[[source, target], :, None].clamp_min(1.0)
        noise = (self.variance[[source, target]] / n).sum(0)
        missed = self.bias[target] - own
        if not seen.any():
            return Corrections(own * means.enough[source].unsqueeze(-1), none, noise, none.sum())
        # what would have been missed of each, had it moved as the others do on average
        without = (
            missed
            + decode(means.z[target], target)
            - decode(means.z[source] + means.shifts_without_own(source, target), target)
        )
        weights = _likeness(means.z[source], seen)
        expected = weights @ without
        shrinkage = _shrinkage(without[seen], expected[seen])
        left = (without - shrinkage * expected)[seen].square()
        spread = noise[seen].mean(0)
        spread = spread * (left.mean() / spread.mean().clamp_min(_TINY))
        unseen = left.sum(0) + _PRIOR_COMPONENTS * spread
        unseen = unseen / (_PRIOR_COMPONENTS + len(left))
        known = seen.unsqueeze(-1)
        return Corrections(
            own * means.enough[source].unsqueeze(-1),
            torch.where(known, missed, shrinkage * expected),
            torch.where(known, noise, unseen.expand_as(noise)),
            shrinkage,
        )


class Corrections(NamedTuple):
    """Of each component's means, from one condition to another."""

    here: Tensor
    """To be added to the decoder's mean under the condition that cells have, ``(K, G)``."""
    change: Tensor
    """To be added to the decoder's change, ``(K, G)``."""
    variance: Tensor
    """Of the mean change that results, ``(K, G)``."""
    shrinkage: Tensor
    """Share of the neighbours' correction that unseen components get, in [0, 1]."""


class FitSums:
    """Sums over training cells, from which :class:`DecoderFit` is made."""

    def __init__(self, n_conditions: int, n_components: int, n_genes: int, device: torch.device):
        shape = n_conditions, n_components, n_genes
        self.x, self.squares, self.decoded = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.cells = torch.zeros(shape[:2], dtype=torch.float64, device=device)
        self.densities: list[list[Tensor]] = [[] for _ in range(n_conditions)]

    def add(
        self, x: Tensor, decoded: Tensor, weights: Tensor, condition: Tensor, densities: Tensor
    ) -> None:
        """Add cells.

        Parameters
        ----------
        x, decoded
            Values and their reconstruction, ``(B, G)``.
        weights
            Of the components, ``(B, K)``.
        condition
            Codes, ``(B,)``.
        densities
            Log density of z moved to each condition, ``(B, C)``; NaN where it does not count.
        """
        for code, own in enumerate(densities.T):
            self.densities[code].append(own[own.isfinite()])
        for code in condition.unique().tolist():
            rows = condition == code
            own = weights[rows].T.double()
            values = x[rows].double()
            self.x[code] += own @ values
            self.squares[code] += own @ values.square()
            self.decoded[code] += own @ decoded[rows].double()
            self.cells[code] += own.sum(-1)

    def fit(self) -> DecoderFit:
        """In single precision."""
        n = self.cells.clamp_min(_TINY).unsqueeze(-1)
        mean = self.x / n
        variance = (self.squares / n - mean.square()).clamp_min(0.0)
        found = [torch.cat(of).double().cpu().numpy() for of in self.densities]
        floors = [np.quantile(of, _SHARE_OUTSIDE) if len(of) else -np.inf for of in found]
        floors = torch.as_tensor(floors, dtype=torch.float32)
        return DecoderFit((mean - self.decoded / n).float(), variance.float(), floors)


def _likeness(z: Tensor, seen: Tensor) -> Tensor:
    """Weights of the seen components for every other one, by inverse squared distance, ``(K, K)``.

    A component gives none to itself; rows sum to one where there is another one that was seen.
    """
    squared = torch.cdist(z, z).square()
    inverse = seen / squared.clamp_min(_TINY)
    inverse = inverse * (1 - torch.eye(len(z), dtype=z.dtype, device=z.device))
    return inverse / inverse.sum(-1, keepdim=True).clamp_min(_TINY)


def _shrinkage(found: Tensor, expected: Tensor) -> Tensor:
    """Least-squares factor of ``expected`` for ``found``, each ``(n, G)``, within [0, 1]."""
    if len(found) < 2:
        # nothing was left out and found again
        return found.new_ones(())
    size = expected.square().sum().clamp_min(_TINY)
    return ((found * expected).sum() / size).clamp(0.0, 1.0)
