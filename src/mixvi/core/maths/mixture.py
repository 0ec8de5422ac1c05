"""Gaussian, categorical and Dirichlet terms of mixture-prior models, as pure functions on tensors.

Every function reduces over its sample axis (latent dimensions, components) and keeps the batch
axis; averaging over the batch is left to the caller (Kolb 2022, section 4; reduction rule).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


def gaussian_kl(mu: Tensor, log_var: Tensor, mu_p: Tensor, log_var_p: Tensor) -> Tensor:
    """KL divergence between diagonal Gaussians, summed over the last axis.

    Parameters
    ----------
    mu, log_var
        Mean and log-variance of the first Gaussian, ``(..., D)``.
    mu_p, log_var_p
        Mean and log-variance of the second Gaussian, broadcastable to ``(..., D)``.

    Returns
    -------
    Tensor ``(...)`` in nats. Source: Kolb 2022, eq. 4.13.
    """
    return gaussian_kl_per_dim(mu, log_var, mu_p, log_var_p).sum(-1)


def gaussian_kl_per_dim(mu: Tensor, log_var: Tensor, mu_p: Tensor, log_var_p: Tensor) -> Tensor:
    """KL divergence between diagonal Gaussians for every dimension, ``(..., D)`` in nats.

    Source: Kolb 2022, eq. 4.13.
    """
    ratio = (log_var - log_var_p).exp()
    shift = (mu - mu_p).square() * (-log_var_p).exp()
    return 0.5 * (ratio + shift - 1.0 - (log_var - log_var_p))


def standard_gaussian_kl_per_dim(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL divergence to N(0, 1) for every dimension, ``(..., D)`` in nats (Kolb 2022, eq. 4.13)."""
    return 0.5 * (log_var.exp() + mu.square() - 1.0 - log_var)


def gaussian_log_prob(x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian, summed over the last axis, ``(...)``."""
    return -0.5 * ((x - mu).square() * (-log_var).exp() + log_var + LOG_2PI).sum(-1)


def expected_gaussian_log_prob(mu: Tensor, var: Tensor, mu_p: Tensor, var_p: Tensor) -> Tensor:
    """E log N(x; mu_p, var_p) for x ~ N(mu, var), elementwise (minus a cross-entropy), in nats.

    Parameters
    ----------
    mu, var
        Mean and variance of the first Gaussian; all four are broadcast with each other.
    mu_p, var_p
        Mean and variance of the second.
    """
    return -0.5 * (LOG_2PI + var_p.log() + (var + (mu - mu_p).square()) / var_p)


def component_kl(mu: Tensor, log_var: Tensor, means: Tensor, log_vars: Tensor) -> Tensor:
    """KL of one Gaussian per row to each of its K components.

    Parameters
    ----------
    mu, log_var
        ``(B, D)``.
    means, log_vars
        ``(B, K, D)``.

    Returns
    -------
    Tensor ``(B, K)`` in nats. Source: Kolb 2022, eq. 5.6 with the KL in closed form.
    """
    return _ComponentKL.apply(mu, log_var, means, log_vars)


class _ComponentKL(torch.autograd.Function):
    """Three ``(B, K, D)`` matrices kept for the derivatives, where autograd would keep eight."""

    @staticmethod
    def forward(ctx, mu: Tensor, log_var: Tensor, means: Tensor, log_vars: Tensor) -> Tensor:
        # squares of small differences: expanding them would cancel in single precision
        shift = mu.unsqueeze(-2) - means
        precision = (-log_vars).exp_()
        pull = shift * precision
        # (variance + shift ** 2) / component variance
        ratio = torch.addcmul(precision * log_var.exp().unsqueeze(-2), shift, pull)
        # a product sums short rows faster than a sum does
        one = ratio.new_ones(ratio.shape[-1])
        value = ratio @ one + log_vars @ one - (1.0 + log_var).sum(-1, keepdim=True)
        ctx.save_for_backward(log_var, precision, pull, ratio)
        return 0.5 * value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        log_var, precision, pull, ratio = ctx.saved_tensors
        # (B, 1, K) @ (B, K, D): sums over components
        row = grad.unsqueeze(-2)
        of_mu = (row @ pull).squeeze(-2)
        weighted = (row @ precision).squeeze(-2) * log_var.exp()
        of_log_var = 0.5 * (weighted - grad.sum(-1, keepdim=True))
        column = grad.unsqueeze(-1)
        of_log_vars = torch.addcmul(0.5 * column, column, ratio, value=-0.5)
        return of_mu, of_log_var, -column * pull, of_log_vars


def component_log_prob(z: Tensor, means: Tensor, log_vars: Tensor) -> Tensor:
    """Log density of ``z`` ``(B, D)`` under each of K components ``(B, K, D)``: ``(B, K)``."""
    return gaussian_log_prob(z.unsqueeze(-2), means, log_vars)


def log_responsibilities(log_densities: Tensor) -> Tensor:
    """Log posterior of the component under a uniform prior, ``(B, K)``.

    Source: Dilokthanakul et al. 2016, section 3.2 (the y-posterior in closed form).
    """
    return torch.log_softmax(log_densities, dim=-1)


def reparameterise(mu: Tensor, log_var: Tensor) -> Tensor:
    """Draw from a diagonal Gaussian by reparameterisation (Kingma & Welling 2013)."""
    return mu + (0.5 * log_var).exp() * torch.randn_like(mu)


def negative_entropy(log_pi: Tensor) -> Tensor:
    """``sum_j pi_j log pi_j`` from log probabilities ``(B, K)``: ``(B,)``, never positive."""
    return (log_pi.exp() * log_pi).sum(-1)


def dirichlet_kl(a: Tensor, alpha: float, expected_log: Tensor | None = None) -> Tensor:
    """KL(Dir(a) || Dir(alpha, ..., alpha)), ``(B, K) -> (B,)`` in nats (Kolb 2022, eq. 5.9).

    ``expected_log`` is :func:`expected_log_dirichlet` of ``a``, where it is there already.
    """
    if expected_log is None:
        expected_log = expected_log_dirichlet(a)
    return _DirichletKL.apply(a, expected_log.detach(), alpha)


class _DirichletKL(torch.autograd.Function):
    """The derivative in closed form: the digamma functions cancel, trigamma functions remain."""

    @staticmethod
    def forward(ctx, a: Tensor, expected_log: Tensor, alpha: float) -> Tensor:
        k = a.shape[-1]
        ctx.save_for_backward(a)
        ctx.alpha = alpha
        log_norm = torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1)
        log_norm_prior = math.lgamma(k * alpha) - k * math.lgamma(alpha)
        return log_norm - log_norm_prior + ((a - alpha) * expected_log).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (a,) = ctx.saved_tensors
        more = a - ctx.alpha
        a0 = a.sum(-1, keepdim=True)
        whole = more.sum(-1, keepdim=True) * torch.polygamma(1, a0)
        return grad.unsqueeze(-1) * (more * torch.polygamma(1, a) - whole), None, None


def expected_log_dirichlet(a: Tensor) -> Tensor:
    """E[log d_j] for d ~ Dir(a): ``psi(a_j) - psi(a_0)``, ``(B, K)``."""
    return torch.digamma(a) - torch.digamma(a.sum(-1, keepdim=True))


def sampled_log_dirichlet(a: Tensor, floor: float = 0.1) -> Tensor:
    """Log of one sample of Dir(a), ``(B, K)``, by implicit reparameterisation.

    The concentration is floored and the sample clamped because torch's sampler returns the
    barycentre for small concentrations (pytorch issue 76030).
    """
    sample = torch.distributions.Dirichlet(a.clamp_min(floor)).rsample()
    return sample.clamp(1e-6, 1.0 - 1e-6).log()


def collapsed_dirichlet(responsibilities: Tensor, alpha: float) -> Tensor:
    """Y + D with the Dirichlet posterior at its optimum ``Dir(alpha + r)``, less the entropy part.

    For r = pi this is ``F_alpha(pi) - sum_j pi_j log pi_j``
    ``= log(K alpha) - sum_j [lnGamma(alpha + pi_j) - lnGamma(alpha)]``.

    Parameters
    ----------
    responsibilities
        Rows of component probabilities (or labels), ``(B, K)``, each summing to one.
    alpha
        Concentration of the symmetric prior.

    Returns
    -------
    Tensor ``(B,)`` in nats.
    """
    k = responsibilities.shape[-1]
    ratio = torch.lgamma(alpha + responsibilities) - math.lgamma(alpha)
    return math.log(k * alpha) - ratio.sum(-1)
