"""A minibatch of light curves: phases, normalised magnitudes and features."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curves:
    """Light curves as networks see them; arrays of a minibatch ``B`` on the model's device.

    Attributes
    ----------
    phase
        ``(B, n_bands, L)`` in [0, 1]; zero where there is no observation, as the next two.
    x
        Magnitudes ``(B, n_bands, L)``, less the band's mean and divided by its spread.
    error
        Their standard errors, ``(B, n_bands, L)``, divided by the spread.
    valid
        Bool ``(B, n_bands, L)``: whether there is an observation.
    centre, spread
        Mean and standard deviation of the magnitudes of each band, ``(B, n_bands)``; those of the
        training curves where a band is missing.
    features
        ``(B, n_features)``, standardised; zero where they are not known.
    known
        Bool ``(B, n_features)``: which features are known.
    labels
        ``(B,)``: class, -1 without one.
    """

    phase: Tensor
    x: Tensor
    error: Tensor
    valid: Tensor
    centre: Tensor
    spread: Tensor
    features: Tensor
    known: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Curves:
        """The curves that a mask or row numbers choose."""
        return Curves(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def observing(self, places: Tensor) -> Curves:
        """Some of each band's observations, by their places ``(B, n_bands, M)``."""
        chosen = {
            name: getattr(self, name).gather(2, places) for name in ("phase", "x", "error", "valid")
        }
        return Curves(
            **({field.name: getattr(self, field.name) for field in fields(self)} | chosen)
        )

    def at_most(self, n: int, draw: bool = False) -> Curves:
        """At most n observations a band: drawn at random, or evenly among those by phase."""
        if self.x.shape[2] <= n:
            return self
        if draw:
            rank = torch.rand_like(self.x)
        else:
            # in the order of phase, so that the order of observations does not matter
            order = torch.where(self.valid, self.phase, torch.inf).argsort(2).argsort(2)
            count = self.valid.sum(2, keepdim=True).clamp_min(n)
            share = n / count
            taken = ((order + 1) * share + 1e-4).floor() > (order * share + 1e-4).floor()
            rank = torch.where(taken, 0.0, 1.0)
        rank = torch.where(self.valid, rank, 2.0)
        return self.observing(rank.topk(n, dim=2, largest=False).indices)

    def in_magnitudes(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised means and variances ``(B, n_bands, T)`` as magnitudes, with deviations."""
        centre, spread = self.centre[..., None], self.spread[..., None]
        return mean * spread + centre, variance.sqrt() * spread
