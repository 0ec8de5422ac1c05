"""Means of combinations that were never seen together, of which a counterfactual is made.

They are what the effects of each column add up to, fitted to the combinations that were seen by
least squares, and beyond that what the network says, as far as leaving seen combinations out shows
that it can tell. Everything else then takes them for seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixvi.cells.decoder_fit import CANDOUR, Decode, DecoderFit
from mixvi.cells.shifting import ConditionMeans
from mixvi.core.maths.additive import AdditiveWeights

_TINY = 1e-12
# counts add up on the scale on which they are compared
_SHARES_TO = 1e4


class CompletedFit(NamedTuple):
    """The decoder's fit with combinations that were never seen."""

    fit: DecoderFit
    error: Tensor | None = None
    """Variance of the means that were made, ``(C, K, G)``; zero of seen ones."""
    network_share: float = 0.0
    """How far the network's departure from additive effects is followed, in [0, 1]."""
    n_left_out: int = 0
    """How many means of a component and combination could be left out to find it."""


def component_weights(means: ConditionMeans, sizes: Sequence[int]) -> list[AdditiveWeights]:
    """Of each component, by the combinations that have cells enough."""
    return [AdditiveWeights.of(sizes, seen) for seen in means.enough.T.cpu().numpy()]


def completed_means(means: ConditionMeans, sizes: Sequence[int]) -> ConditionMeans:
    """Means of z with those of unseen combinations, as of the average number of cells.

    Parameters
    ----------
    means
        Of all C combinations; of those of few cells they do not count.
    sizes
        Number of categories of each column; of one there is nothing to make.
    """
    if len(sizes) < 2:
        return means
    cells, total = means.cells.clone(), means.total.clone()
    squares = None if means.squares is None else means.squares.clone()
    for k, found in enumerate(component_weights(means, sizes)):
        made, seen = found.made, means.enough[:, k]
        if not len(made):
            continue
        n = means.cells[seen, k].mean()
        z = _weights(found.weights, made, total) @ means.z[:, k]
        cells[made, k], total[made, k] = n, n * z
        if squares is not None:
            own = means.squares[seen, k] / means.cells[seen, k, None] - means.z[seen, k].square()
            squares[made, k] = n * (own.clamp_min(0.0).mean(0) + z.square())
    return ConditionMeans(cells, total, squares)


def completed_fit(
    fit: DecoderFit, means: ConditionMeans, decode: Decode, sizes: Sequence[int], is_count: bool
) -> CompletedFit:
    """The decoder's fit with unseen combinations, as if training cells had been there.

    Parameters
    ----------
    fit, means
        Of all C combinations, as they were found in training cells.
    decode
        The decoder's means of any z under a condition.
    sizes
        Number of categories of each column.
    is_count
        Whether values are shares of a library, whose effects add up as logarithms.
    """
    if len(sizes) < 2:
        return CompletedFit(fit)
    parts = [
        _Component.of(fit, means, k, found, decode, is_count)
        for k, found in enumerate(component_weights(means, sizes))
    ]
    share = network_share([of.tests for of in parts])
    missed = torch.cat([of.tests.missed for of in parts])
    mean, decoded, variance, examples = (part.clone() for part in fit[:4])
    error = torch.zeros_like(mean)
    for k, of in enumerate(parts):
        made = of.made
        if not made:
            continue
        mean[made, k], decoded[made, k], examples[made, k] = of.mean(share), of.network, of.z
        variance[made, k] = fit.variance[means.enough[:, k], k].mean(0)
        # of two by two none can be left out: chance in the means alone is known
        error[made, k] = missed.square().mean(0) if len(missed) else of.chance
    fit = DecoderFit(mean, decoded, variance, examples, fit.floors)
    return CompletedFit(fit, error, share, len(missed))


class LeftOut(NamedTuple):
    """Seen combinations of a component, each by the others alone; all ``(T, G)``."""

    departure: Tensor
    """Of the mean from what effects of the others add up to, on their scale."""
    beyond: Tensor
    """What the network says of it."""
    chance: Tensor
    """Variance that chance in the means makes in the departure."""
    missed: Tensor
    """The departure as of values."""


def network_share(tests: Sequence[LeftOut]) -> float:
    """How far to follow the network beyond effects that add up.

    Least squares in [0, 1] where combinations are left out, less what chance makes of it, for the
    network has seen that, too; and half of it, because it has seen what is left out. 0 where
    nothing can be left out.
    """
    departure, beyond, chance, _ = (torch.cat(of) for of in zip(*tests, strict=True))
    size = beyond.square().sum().clamp_min(_TINY)
    found = ((departure * beyond).sum() - chance.sum()) / size
    return CANDOUR * float(found.clamp(0.0, 1.0))


class _Component(NamedTuple):
    """What is made of one component's seen means, on the scale on which effects add up."""

    made: list[int]
    """Codes of the M combinations that are made."""
    added_up: Tensor
    """Their means by effects alone, ``(M, G)``."""
    beyond: Tensor
    """What the network says beyond its own effects, ``(M, G)``."""
    totals: Tensor
    """What their values add up to over genes, ``(M,)``."""
    network: Tensor
    """The network's means of them, as values, ``(M, G)``."""
    z: Tensor
    """Examples of them, ``(M, E, Dz)``."""
    chance: Tensor
    """Variance that chance in the seen means makes, as of values, ``(M, G)``."""
    tests: LeftOut
    is_count: bool

    @classmethod
    def of(
        cls,
        fit: DecoderFit,
        means: ConditionMeans,
        k: int,
        found: AdditiveWeights,
        decode: Decode,
        is_count: bool,
    ) -> _Component:
        """Of component ``k``, by the weights that were found for it."""
        mean, decoded = fit.mean[:, k], _scaled(fit.decoded[:, k], is_count)
        own, total = _scaled(mean, is_count), mean.sum(-1).clamp_min(_TINY).log()
        chance = fit.variance[:, k] / means.cells[:, k, None].clamp_min(1.0)

        def by(weights: np.ndarray, codes: np.ndarray) -> tuple[Tensor, ...]:
            """Weights, effects added up, total, the network's means and beyond, and its z."""
            w = _weights(weights, codes, mean)
            z = _moved(fit.examples[:, k], w, means.z[:, k])
            # z moves to where the effects of its columns put it, as if never seen
            network = [decode(of, int(code)).mean(0) for of, code in zip(z, codes, strict=True)]
            network = torch.stack(network) if network else mean[:0]
            beyond = _scaled(network, is_count) - w @ decoded
            return w, w @ own, (w @ total).exp(), network, beyond, z

        tested = np.flatnonzero(found.testable)
        w, added_up, totals, _, beyond, _ = by(found.left_out, tested)
        noise = chance * (_SHARES_TO / (1.0 + _SHARES_TO * mean)).square() if is_count else chance
        tests = LeftOut(
            own[tested] - added_up,
            beyond,
            noise[tested] + w.square() @ noise,
            mean[tested] - _values(added_up, totals, is_count),
        )
        w, added_up, totals, network, beyond, z = by(found.weights, found.made)
        chance = w.square() @ chance
        made = found.made.tolist()
        return cls(made, added_up, beyond, totals, network, z, chance, tests, is_count)

    def mean(self, share: float) -> Tensor:
        """Means that are made, as values, ``(M, G)``."""
        return _values(self.added_up + share * self.beyond, self.totals, self.is_count)


def _values(scaled: Tensor, totals: Tensor, is_count: bool) -> Tensor:
    """Inverse of :func:`_scaled`, with the given totals of shares."""
    if not is_count:
        return scaled
    # shares of a library sum to one, which logarithms that add up do not keep
    values = scaled.expm1().clamp_min(0.0)
    return values * (totals / values.sum(-1).clamp_min(_TINY)).unsqueeze(-1)


def _scaled(values: Tensor, is_count: bool) -> Tensor:
    return (_SHARES_TO * values).log1p() if is_count else values


def _weights(weights: np.ndarray, codes: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(weights[codes]).to(like)


def _moved(examples: Tensor, weights: Tensor, z: Tensor) -> Tensor:
    """Examples ``(M, E, Dz)`` of the seen combination that counts most, moved to the made mean."""
    nearest = weights.argmax(-1)
    return examples[nearest] + (weights @ z - z[nearest]).unsqueeze(1)
