"""The two likelihoods of generative-inference models, as negative log densities per image.

Source: Astorga 2021, chapters 4 and 6. The batch axis is kept; averaging is left to the caller.
"""

from __future__ import annotations

import math

from torch import Tensor

from mixvi.core.maths.mixture import gaussian_log_prob

LOG_VAR_MIN, LOG_VAR_MAX = -14.0, 6.0
LIKELIHOODS = ("gaussian", "bernoulli")


def reconstruction_loss(x: Tensor, x_hat: Tensor, scale: float = 0.5) -> Tensor:
    """Minus log p(x | z) of a Gaussian of unit variance, without its constant, ``(B,)`` in nats.

    Parameters
    ----------
    x, x_hat
        Images and their reconstructions, ``(B, C, H, W)``.
    scale
        What the sum of squares over pixels is multiplied by; 0.5 for unit variance.
    """
    return scale * (x - x_hat).square().flatten(1).sum(1)


def image_loss(x: Tensor, x_hat: Tensor, likelihood: str, scale: float = 0.5) -> Tensor:
    """Minus log p(x | z) by a likelihood's name, a Gaussian's without its constant, ``(B,)``.

    Parameters
    ----------
    x, x_hat, scale
        See :func:`reconstruction_loss`; ``scale`` is the Gaussian's.
    likelihood
        ``"gaussian"`` or ``"bernoulli"``.
    """
    if likelihood == "bernoulli":
        return bernoulli_loss(x, x_hat)
    return reconstruction_loss(x, x_hat, scale)


def log_normaliser(x: Tensor, scale: float = 0.5) -> float:
    """The constant of :func:`reconstruction_loss`, whose variance is ``1 / (2 scale)``, in nats."""
    return 0.5 * x[0].numel() * math.log(math.pi / scale)


def encoder_loss(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """L_q: minus log q(z | x) of codes ``z`` ``(B, J)`` under the encoder's Gaussian, ``(B,)``.

    In nats, constant included. Source: Astorga 2021, eq. 6.1.
    """
    return -gaussian_log_prob(z, mu, log_var)


def bernoulli_loss(x: Tensor, x_hat: Tensor) -> Tensor:
    """Minus log p(x | z) of pixels in [-1, 1] read as probabilities ``(x + 1) / 2``, ``(B,)``.

    In nats. Source: Jiang et al. 2017, eq. 9, first term.
    """
    # a pixel that is wholly wrong has a finite logarithm, though not in half precision
    p, q = 0.5 * (x + 1.0), (0.5 * (x_hat.to(x.dtype) + 1.0)).clamp(1e-6, 1.0 - 1e-6)
    return -(p * q.log() + (1.0 - p) * (1.0 - q).log()).flatten(1).sum(1)
