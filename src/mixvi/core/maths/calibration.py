"""Probabilities that mean what they say: temperatures (Guo et al. 2017), conformal quantiles."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

_COLDEST, _HOTTEST = 0.05, 20.0
# components may be dozens of nats apart
_HOTTEST_OF_CONFIDENCE = 1000.0


def log_tempered(logits: Tensor, temperature: float) -> Tensor:
    """Log of the probabilities at a temperature, in the shape of ``logits`` ``(..., C)``.

    Above 1 probabilities are less sure, below more; which is the largest stays.
    """
    return torch.log_softmax(logits / temperature, dim=-1)


def log_grouped(log_probs: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Log of the sums of probabilities within groups of columns, ``(n, n_groups)``.

    Parameters
    ----------
    log_probs
        ``(n, C)``.
    groups
        Group of each column, ``(C,)``.
    n_groups
        Number of groups; every one has a column.
    """
    return torch.stack(
        [log_probs[:, groups == group].logsumexp(-1) for group in range(n_groups)], dim=-1
    )


def fit_temperature(
    logits: Tensor, targets: Tensor, groups: Tensor | None = None, *, prior_sd: float = math.inf
) -> float:
    """The temperature at which known classes are likeliest, between 0.05 and 20.

    Parameters
    ----------
    logits
        ``(n, C)``.
    targets
        The class of each row, ``(n,)``, or a distribution over the classes ``(n, C)``.
    groups
        Class of each column ``(C,)``, where a class has several; ``None``: columns are classes.
    prior_sd
        Of the temperature's logarithm, a priori normal around 0: without it a handful of rows that
        are all right make any model as sure as can be.
    """
    logits = logits.double()
    n_classes = None if groups is None else int(groups.max()) + 1

    def loss(log_temperature: float) -> float:
        log_probs = log_tempered(logits, math.exp(log_temperature))
        if groups is not None:
            log_probs = log_grouped(log_probs, groups, n_classes)
        if targets.ndim == 2:
            surprise = -(targets * log_probs).sum()
        else:
            surprise = -log_probs.gather(-1, targets.view(-1, 1)).sum()
        return float(surprise) + 0.5 * (log_temperature / prior_sd) ** 2

    bounds = (math.log(_COLDEST), math.log(_HOTTEST))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def fit_confidence_temperature(
    logits: Tensor, right: Tensor, *, prior_sd: float = math.inf
) -> float:
    """The temperature at which the largest probability is likeliest that of being right.

    It lies between 0.05 and 1000. Unlike :func:`fit_temperature` it asks only whether the most
    probable class is right, so that rows may be of a class that has no column.

    Parameters
    ----------
    logits
        ``(n, C)``, C at least 2.
    right
        Whether the largest logit is that of the right class, ``(n,)``: 0 or 1, or a share.
    prior_sd
        As for :func:`fit_temperature`.
    """
    logits, right = logits.double(), right.double()
    largest = logits.argmax(-1, keepdim=True)

    def loss(log_temperature: float) -> float:
        log_probs = log_tempered(logits, math.exp(log_temperature))
        sure = log_probs.gather(-1, largest).squeeze(-1)
        unsure = log_probs.scatter(-1, largest, -math.inf).logsumexp(-1)
        surprise = -(right * sure + (1.0 - right) * unsure).sum()
        return float(surprise) + 0.5 * (log_temperature / prior_sd) ** 2

    bounds = (math.log(_COLDEST), math.log(_HOTTEST_OF_CONFIDENCE))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def conformal_quantile(scores: np.ndarray, alpha: float) -> float:
    """The value that a new score exceeds with a probability of at most ``alpha``.

    The bound holds for scores that are exchangeable with the given ones (Vovk et al. 2005).

    Parameters
    ----------
    scores
        Scores of held-out rows, ``(n,)``.
    alpha
        Share in (0, 1).

    Returns
    -------
    The quantile; infinite where ``n`` is below ``1 / alpha - 1``, so that too few rows promise
    nothing.
    """
    # 1 - 0.9 is a little less than 0.1
    rank = math.ceil(round((1.0 - alpha) * (len(scores) + 1), 9))
    return math.inf if rank > len(scores) else float(np.sort(scores)[rank - 1])
