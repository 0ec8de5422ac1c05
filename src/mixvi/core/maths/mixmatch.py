"""MixMatch's operations on tensors, for images with a label and for maps with gaps.

Berthelot et al. 2019; for maps Hruška 2023, section 3.1. Targets are constants: no function here
needs a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixvi.core.arguments import check_count, check_positive, check_weight


def sharpen(probabilities: Tensor, temperature: float, dim: int = -1) -> Tensor:
    """Probabilities to the power 1 / temperature, normalised over the classes.

    Parameters
    ----------
    probabilities
        Probabilities that sum to one along ``dim``.
    temperature
        1 leaves them; towards 0 the most probable class takes all.
    dim
        The axis of the classes.
    """
    # by logarithms, so that small powers of a small temperature do not vanish together
    return (probabilities.clamp_min(1e-30).log() / temperature).softmax(dim)


def ramp(step: int, length: int, start: int = 0) -> float:
    """A factor that rises linearly from 0 at ``start`` to 1 at ``length`` steps later."""
    return min(1.0, max(0.0, (step - start) / length))


def draw_mixing(n: int, alpha: float, device: torch.device | None = None) -> Tensor:
    """Shares ``(n,)`` of the first of two examples: the larger of draws of Beta(alpha, alpha).

    They lie in [1/2, 1]; ``alpha=0`` mixes nothing.
    """
    if alpha == 0:
        return torch.ones(n, device=device)
    concentration = torch.full((n,), float(alpha), device=device)
    share = torch.distributions.Beta(concentration, concentration).sample()
    return torch.maximum(share, 1 - share)


def mix_up(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """``share`` of the first and the rest of the second, example by example.

    Parameters
    ----------
    first, second
        ``(B, ...)``.
    share
        ``(B,)``.
    """
    share = along(share, first.ndim)
    return share * first + (1 - share) * second


def masked_mix_up(
    x: tuple[Tensor, Tensor],
    observed: tuple[Tensor, Tensor],
    targets: tuple[Tensor, Tensor],
    has_target: Tensor,
    share: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mix series where both have a value and the second a target, else keep the first.

    Hruška 2023, eq. 3.1, with targets mixed by the share of a pixel's values that were mixed. What
    the first has not observed stays unobserved.

    Parameters
    ----------
    x, observed
        Values ``(B, T, C, H, W)`` of the first and of the second series, and whether they are
        measurements; others must be finite.
    targets
        Distributions over the classes, ``(B, L, H, W)`` or, of a map a date, ``(B, T, L, H, W)``.
    has_target
        Whether a pixel of the second has a target, ``(B, H, W)`` or ``(B, T, H, W)``.
    share
        Share of the first in an example, ``(B,)``.

    Returns
    -------
    Values and targets of the mixture.
    """
    by_date = has_target.ndim == 4
    second_counts = has_target[:, :, None] if by_date else has_target[:, None, None]
    mixed = observed[0] & observed[1] & second_counts
    weight = torch.where(mixed, along(share, 5), 1.0)
    values = weight * x[0] + (1 - weight) * x[1]
    over = 2 if by_date else (1, 2)
    n_observed = observed[0].sum(over).clamp_min(1)
    # (B, [T], 1, H, W)
    of_second = (mixed.sum(over) / n_observed).unsqueeze(-3)
    of_second = of_second * (1 - along(share, of_second.ndim))
    return values, (1 - of_second) * targets[0] + of_second * targets[1]


def squared_error(targets: Tensor, probabilities: Tensor, dim: int = -1) -> Tensor:
    """Squared distance of distributions, divided by the number of classes (Brier's score)."""
    return (targets - probabilities).square().mean(dim)


def forward_interleaved(forward: Callable[[slice, int], Tensor], n: int, size: int) -> Tensor:
    """Outputs ``(n, ...)`` of examples that go through a network in minibatches of about ``size``.

    Each minibatch takes every k-th example: where labelled ones come before unlabelled ones, it has
    both in proportion, so that batch norm sees no difference of the two.

    Parameters
    ----------
    forward
        Output for a slice of the examples; it is also told which minibatch that is.
    n, size
        Number of examples, and about how many go at a time.
    """
    n_parts = max(1, -(-n // size))
    parts = [slice(part, None, n_parts) for part in range(n_parts)]
    outputs = [forward(rows, i) for i, rows in enumerate(parts)]
    whole = outputs[0].new_empty((n, *outputs[0].shape[1:]))
    for rows, output in zip(parts, outputs, strict=True):
        whole[rows] = output
    return whole


def along(values: Tensor, ndim: int) -> Tensor:
    """``(B,)`` as ``(B, 1, ..., 1)`` of ``ndim`` axes."""
    return values.reshape(-1, *[1] * (ndim - 1))


def valid_mean(probabilities: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the views that see a pixel, and whether any does.

    Parameters
    ----------
    probabilities
        Distributions of K aligned views, ``(K, ..., L, H, W)``.
    valid
        Whether a view sees a pixel, ``(K, ..., H, W)``.

    Returns
    -------
    Distributions ``(..., L, H, W)``, zeros where no view sees the pixel; mask ``(..., H, W)``.
    """
    total = (probabilities * valid.unsqueeze(-3)).sum(0)
    return total / total.sum(-3, keepdim=True).clamp_min(1e-12), valid.any(0)


@dataclass(frozen=True)
class MixMatchSettings:
    """MixMatch's numbers.

    Attributes
    ----------
    lambda_u
        Weight of the loss of unlabelled data after the ramp.
    alpha
        Of the Beta distribution of shares; 0: nothing is mixed.
    temperature
        Of sharpening, in (0, 1].
    n_views
        Views K of unlabelled data whose mean is the guess.
    rampup_steps
        Updates over which the weight rises from zero.
    warmup_steps
        Updates before that, which learn from labels alone.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    lambda_u: float
    alpha: float
    temperature: float = 0.5
    n_views: int = 2
    rampup_steps: int = 16_000
    warmup_steps: int = 0

    def __post_init__(self):
        check_weight("lambda_u", self.lambda_u)
        check_weight("alpha", self.alpha)
        check_count("warmup_steps", self.warmup_steps)
        check_positive("temperature", self.temperature, integer=False)
        if self.temperature > 1:
            raise ValueError(
                f"temperature must lie above 0 and up to 1, but is {self.temperature!r}."
            )
        check_positive("n_views", self.n_views)
        check_positive("rampup_steps", self.rampup_steps)

    def weight(self, step: int) -> float:
        """Weight of the loss of unlabelled data after so many updates."""
        return self.lambda_u * ramp(step, self.rampup_steps, self.warmup_steps)
