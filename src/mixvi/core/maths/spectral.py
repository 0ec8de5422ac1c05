"""Layers with spectral norm (Miyato et al. 2018), and batch norm under a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

INIT_STD = 0.02


def normed(layer: nn.Module, spectral: bool = True) -> nn.Module:
    """A linear or convolutional layer that starts from N(0, 0.02), with spectral norm."""
    nn.init.normal_(layer.weight, std=INIT_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer, eps=1e-8) if spectral else layer


def linear(n_in: int, n_out: int, bias: bool = True) -> nn.Module:
    """Linear map."""
    return normed(nn.Linear(n_in, n_out, bias=bias))


class ConditionalBatchNorm(nn.Module):
    """Batch norm of which gain and bias are linear in a condition (a latent, say).

    Parameters
    ----------
    n_channels
        Channels of the features.
    n_condition
        Size of the condition.
    spectral
        Whether the two maps have spectral norm.
    n_axes
        Axes behind the channels: 2 of images, 1 of series.
    """

    def __init__(self, n_channels: int, n_condition: int, spectral: bool = True, n_axes: int = 2):
        super().__init__()
        kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[n_axes]
        self.norm = kind(n_channels, eps=1e-5, affine=False)
        self.gain = normed(nn.Linear(n_condition, n_channels, bias=False), spectral)
        self.bias = normed(nn.Linear(n_condition, n_channels, bias=False), spectral)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Features ``(B, n_channels, ...)`` under conditions ``(B, n_condition)``."""
        shape = (*h.shape[:2], *[1] * (h.ndim - 2))
        gain, bias = 1.0 + self.gain(condition), self.bias(condition)
        return torch.addcmul(bias.view(shape), self.norm(h), gain.view(shape))
