"""What the decoder misses of a change, learned from the training cells of each component.

A decoder smooths: means of its training groups differ from those of the cells. Where a component
was seen under both conditions, the change of its cells' means is known. Elsewhere it is taken from
the other components, as a linear function of their means before, and the decoder says how this one
differs from that, as far as leaving each of them out shows that it can tell. Of a component that
was seen to change under yet another condition the decoder knows more than the others tell.
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
_N_EXAMPLES = 64
# how many components an unseen one's variance is worth, by which those of few are steadied
_PRIOR_COMPONENTS = 4.0
# shares of a library are alike on the scale on which counts are compared
_SHARES_TO = 1e4
# penalty, in mean squared distances of the components from their centre; chosen as the above
_RIDGE = 0.1
# a network that has seen what is left out flatters itself; chosen on types of donor 101 of Kang's
# cells, left out one by one: see benchmarks/cells/counterfactual.py, --fold settings
CANDOUR = 0.5

# z and the condition of all: the decoder's means, (n, D) -> (n, G)
Decode = Callable[[Tensor, int], Tensor]


class DecoderFit(NamedTuple):
    """Training cells of each component and condition against the decoder's means of them.

    Of counts, values are those at a library size (or size factor) of one.
    """

    mean: Tensor
    """Of the cells, ``(C, K, G)``."""
    decoded: Tensor
    """Mean of their reconstruction, ``(C, K, G)``."""
    variance: Tensor
    """Of the cells around their mean, ``(C, K, G)``."""
    examples: Tensor
    """Z of training cells of each condition and component, ``(C, K, E, Dz)``, because what the
    decoder makes of many cells is not what it makes of their mean."""
    floors: Tensor
    """Log density of z under each condition's components, below which 1 % of the training cells
    fall when they are moved there, of components that are seen there, ``(C,)``."""

    def corrections(
        self,
        means: ConditionMeans,
        decode: Decode,
        source: int,
        target: int,
        is_count: bool,
        error: Tensor | None = None,
    ) -> Corrections:
        """What is to be added to the decoder's means of each component.

        Parameters
        ----------
        means
            Mean z of the same components and conditions.
        decode
            The decoder's means of any z under a condition.
        source, target
            Codes of the conditions.
        is_count
            Whether values are shares of a library.
        error
            Variance of means that are none of cells, ``(C, K, G)``; None: there are no such means.
        """
        bias = self.mean - self.decoded
        none = torch.zeros_like(bias[source])
        own = bias[source] * means.enough[source].unsqueeze(-1)
        if source == target:
            return Corrections(own, none, none, none.sum(), none)
        seen = means.enough[source] & means.enough[target]
        n = means.cells[[source, target], :, None].clamp_min(1.0)
        noise = (self.variance[[source, target]] / n).sum(0)
        if error is not None:
            noise = noise + error[[source, target]].sum(0)
        missed = bias[target] - bias[source]
        if not seen.any():
            return Corrections(own, none, noise, none.sum() + 1.0, none + torch.nan)
        change, decoded = (of[target] - of[source] for of in (self.mean, self.decoded))
        # the decoder's changes, had each component moved as the others do on average
        z, average = self.examples[source], means.shifts_without_own(source, target)
        moved = self._decoded(z + average.unsqueeze(1), target, decode)
        here = self._decoded(z, source, decode)
        unseen = moved - here
        own_shift = (means.z[target] - means.z[source]).unsqueeze(1)
        known = seen.unsqueeze(-1)
        by_own = self._decoded(z + own_shift, target, decode)
        if error is not None:
            # of a mean that is none of cells the decoder's change is that of the cells moved there
            made = (error[[source, target]].sum((0, 2)) > 0).unsqueeze(-1)
            missed = torch.where(made, change - (by_own - here), missed)
        alone = decoded + moved - by_own
        alone = torch.where(known, alone, unseen)
        places = (_SHARES_TO * self.mean[source]).log1p() if is_count else self.mean[source]
        weights = _linear_weights(places, seen)
        linear, particular = weights @ change, alone - weights @ decoded
        share = _reliance(change[seen], linear[seen], particular[seen])
        expected = linear + share * particular
        # what it never saw the decoder changes too little: the pattern is its, the size is not
        sizes = (of.norm(dim=-1, keepdim=True) for of in (linear, expected))
        expected = expected * (next(sizes) / next(sizes).clamp_min(_TINY))
        left = (change - expected)[seen].square()
        elsewhere = means.enough.sum(0) - means.enough[source].long() > 0
        expected = torch.where(elsewhere.unsqueeze(-1), unseen, expected)
        spread = noise[seen].mean(0)
        spread = spread * (left.mean() / spread.mean().clamp_min(_TINY))
        variance = (left.sum(0) + _PRIOR_COMPONENTS * spread) / (_PRIOR_COMPONENTS + len(left))
        return Corrections(
            own,
            torch.where(known, missed, expected - unseen),
            torch.where(known, noise, variance.expand_as(noise)),
            share,
            torch.where(known, change, expected),
        )

    @staticmethod
    def _decoded(z: Tensor, code: int, decode: Decode) -> Tensor:
        """Means over examples ``(K, E, Dz)`` of what the decoder makes of them, ``(K, G)``."""
        return torch.stack([decode(own, code).mean(0) for own in z])


class Corrections(NamedTuple):
    """Of each component's means, from one condition to another."""

    here: Tensor
    """To be added to the decoder's mean under the condition that cells have, ``(K, G)``."""
    change: Tensor
    """To be added to the decoder's change, ``(K, G)``."""
    variance: Tensor
    """Of the mean change that results, ``(K, G)``."""
    reliance: Tensor
    """How far the decoder tells unseen components from their neighbours, in [0, 1], ``()``."""
    expected: Tensor
    """The mean change that results, ``(K, G)``; NaN where no component was seen on both sides."""


class FitSums:
    """Sums over training cells, from which :class:`DecoderFit` is made."""

    def __init__(self, n_conditions: int, n_components: int, n_genes: int, device: torch.device):
        shape = n_conditions, n_components, n_genes
        self.x, self.squares, self.decoded = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.cells = torch.zeros(shape[:2], dtype=torch.float64, device=device)
        self.densities: list[list[Tensor]] = [[] for _ in range(n_conditions)]
        self.z: list[Tensor] = []
        self.groups: list[Tensor] = []

    def add(
        self,
        x: Tensor,
        decoded: Tensor,
        z: Tensor,
        weights: Tensor,
        condition: Tensor,
        densities: Tensor,
    ) -> None:
        """Add cells.

        Parameters
        ----------
        x, decoded
            Values and their reconstruction, ``(B, G)``.
        z
            Means of the latent, ``(B, Dz)``.
        weights
            Of the components, ``(B, K)``.
        condition
            Codes, ``(B,)``.
        densities
            Log density of z moved to each condition, ``(B, C)``; NaN where it does not count.
        """
        self.z.append(z.cpu())
        self.groups.append((condition * weights.shape[1] + weights.argmax(-1)).cpu())
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
        decoded, variance = (self.decoded / n).float(), variance.float()
        return DecoderFit(mean.float(), decoded, variance, self._examples(), floors)

    def _examples(self) -> Tensor:
        """Evenly spaced cells of each group, some of them twice if there are few."""
        z, groups = torch.cat(self.z), torch.cat(self.groups)
        n_conditions, n_components = self.cells.shape
        found = z.new_zeros(n_conditions * n_components, _N_EXAMPLES, z.shape[1])
        for group in groups.unique().tolist():
            rows = torch.nonzero(groups == group).flatten()
            places = torch.linspace(0, len(rows) - 1, _N_EXAMPLES).round().long()
            found[group] = z[rows[places]]
        return found.view(n_conditions, n_components, _N_EXAMPLES, -1)


def _linear_weights(places: Tensor, seen: Tensor) -> Tensor:
    """By which the seen components' changes make that of every other one, ``(K, K)``.

    Ridge regression on the ``places`` ``(K, D)``, as of Ahlmann-Eltze et al. 2025; a component
    farther out than the seen ones is taken for one as far out as they. A component gives nothing to
    itself; rows sum to one where there is another one that was seen.
    """
    weights = places.new_zeros(len(places), len(places))
    for component in range(len(places)):
        others = torch.nonzero(seen).flatten()
        others = others[others != component]
        if not len(others):
            continue
        centre = places[others].mean(0)
        away, own = places[others] - centre, places[component] - centre
        products = away @ away.T
        ridge = (_RIDGE * products.diagonal().mean()).clamp_min(_TINY)
        share = torch.linalg.solve(
            products + ridge * torch.eye(len(others), device=places.device), away @ own
        )
        reach = (away.norm(dim=1).max() / (share @ away).norm().clamp_min(_TINY)).clamp(max=1.0)
        weights[component, others] = 1 / len(others) + reach * (share - share.mean())
    return weights


def _reliance(change: Tensor, expected: Tensor, particular: Tensor) -> Tensor:
    """Factor of ``particular`` by which ``expected`` comes to ``change``, each ``(n, G)``.

    That of least squares within [0, 1], and half of it, because the decoder has seen what is left
    out here; 0 where nothing can be left out.
    """
    size = particular.square().sum().clamp_min(_TINY)
    found = ((change - expected) * particular).sum() / size
    return CANDOUR * found.clamp(0.0, 1.0) if len(change) > 1 else torch.zeros_like(found)
