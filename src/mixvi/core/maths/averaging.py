"""Moving averages of a network's weights, and batch norm that does not move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def warmed_decay(n: Tensor, decay: float) -> Tensor:
    """``min(decay, (1 + n) / (10 + n))``: a short run is not averaged with its beginning.

    Parameters
    ----------
    n
        Which update of the average it is, from 1.
    decay
        What stays of the average at a late update.
    """
    n = n.float()
    return ((1.0 + n) / (10.0 + n)).clamp_max(decay)


@torch.no_grad()
def move_average(averaged: nn.Module, present: nn.Module, decay: Tensor) -> None:
    """Keep ``decay`` of a network's average, and take the rest of the network as it is.

    Parameters and buffers of floating point are averaged, others copied.

    Parameters
    ----------
    averaged, present
        Two networks of one architecture; the first is changed.
    decay
        A number in [0, 1] on the networks' device.
    """
    weight = 1.0 - decay
    pairs = zip(averaged.state_dict().values(), present.state_dict().values(), strict=True)
    for average, value in pairs:
        if average.is_floating_point():
            average.lerp_(value, weight.to(value.dtype))
        else:
            average.copy_(value)


@contextmanager
def still_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norm by the minibatch's moments, as in training, but its averages do not move."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm, tracks in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracks
