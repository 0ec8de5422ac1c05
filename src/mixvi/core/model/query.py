"""Query mapping: a reference's weights in a module with more batches (scArches' surgery)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def load_reference_weights(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Copy the reference's weights; entries that only the query has start neutral.

    Batches come last among the covariates, so a weight that grew has the reference's block first.

    Returns
    -------
    Whether anything grew.
    """
    grown = False
    state = module.state_dict()
    for name, target in state.items():
        source = weights.get(name)
        if source is not None and source.shape == target.shape:
            target.copy_(source)
            continue
        grown = True
        target.zero_()
        if source is None:
            continue
        if name.endswith("log_theta"):
            target.copy_(source.mean(0, keepdim=True).expand_as(target))
        target[tuple(slice(n) for n in source.shape)] = source
    return grown


def freeze_reference(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Train only what the reference did not have: columns of new batches."""
    for name, parameter in module.named_parameters():
        source = weights.get(name)
        parameter.requires_grad_(source is None or source.shape != parameter.shape)
        if parameter.requires_grad and source is not None:
            mask = torch.ones_like(parameter)
            mask[tuple(slice(n) for n in source.shape)] = 0.0
            parameter.register_hook(lambda grad, mask=mask: grad * mask.to(grad.device))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.momentum = 0.0
        if isinstance(part, nn.Dropout):
            part.p = 0.0
