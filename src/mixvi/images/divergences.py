"""Divergences between the codes of a minibatch, q(z), and the prior N(0, I).

Codes are taken as Gaussian with the moments of the minibatch (Astorga 2021, section 6.1), or
compared with draws of the prior by a kernel. All results are scalars, in nats but for W2 and MMD.
"""

from __future__ import annotations

import torch
from torch import Tensor

JITTER = 1e-5
MIN_EIGENVALUE = 1e-8
IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def batch_moments(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(J,)`` and full covariance ``(J, J)`` of codes ``(B, J)``, divided by B - 1.

    In double precision where the device has it. Source: Astorga 2021, eqs. 6.2 and 6.3.
    """
    # rounding would make small eigenvalues negative, and a decomposition fail
    codes = codes.float() if codes.device.type == "mps" else codes.double()
    mean = codes.mean(0)
    centred = codes - mean
    return mean, centred.T @ centred / (len(codes) - 1)


def kl_to_prior(mean: Tensor, covariance: Tensor) -> Tensor:
    """KL(N(m, V) || N(0, I)), the inverse KL (Astorga 2021, eq. 6.4)."""
    factor = _cholesky(covariance)
    return 0.5 * (covariance.trace() + mean @ mean - len(mean) - _log_det(factor))


def kl_from_prior(mean: Tensor, covariance: Tensor) -> Tensor:
    """KL(N(0, I) || N(m, V)), the forward KL (Astorga 2021, section 6.1)."""
    factor = _cholesky(covariance)
    return 0.5 * (_inverse_terms(factor, mean) - len(mean) + _log_det(factor))


def symmetric_kl(mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean of the forward and the inverse KL, in which log-determinants cancel.

    JS-VAE's divergence, because Jensen-Shannon of Gaussians has no closed form.
    """
    inverse = _inverse_terms(_cholesky(covariance), mean)
    return 0.25 * (covariance.trace() + mean @ mean + inverse - 2 * len(mean))


def mixture_js(mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean KL of N(m, V) and N(0, I) to the Gaussian with the moments of their mixture.

    An alternative to Jensen-Shannon that stays in closed form.
    """
    eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    middle = _cholesky(0.5 * (covariance + eye) + 0.25 * torch.outer(mean, mean))
    own = _log_det(_cholesky(covariance))
    # traces and means add up to J: the middle has their moments
    return 0.5 * (_log_det(middle) - 0.5 * own)


def squared_w2(mean: Tensor, covariance: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of N(m, V) to N(0, I) (Astorga 2021, eq. 6.5).

    ``|m|^2 + sum_j (sqrt(lambda_j) - 1)^2`` with the eigenvalues of V.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(MIN_EIGENVALUE)
    return mean @ mean + (eigenvalues.sqrt() - 1.0).square().sum()


def squared_mmd(codes: Tensor, prior_codes: Tensor, kernel: str = "rbf") -> Tensor:
    """Squared maximum mean discrepancy of two sets of codes ``(B, J)``, biased estimate.

    Parameters
    ----------
    codes, prior_codes
        Codes and draws of the prior.
    kernel
        ``"rbf"``: ``exp(-|a - b|^2 / J^2)`` (Zhao et al. 2017, InfoVAE); ``"imq"``: the sum of
        ``c / (c + |a - b|^2)`` over ``c = 2 J s`` for seven s from 0.1 to 10 (Tolstikhin et al.
        2018, WAE).
    """
    codes, prior_codes = codes.float(), prior_codes.float()
    pairs = ((codes, codes), (prior_codes, prior_codes), (codes, prior_codes))
    own, other, between = (_kernel(a, b, kernel).mean() for a, b in pairs)
    return own + other - 2.0 * between


def _kernel(a: Tensor, b: Tensor, kernel: str) -> Tensor:
    # a (A, J)  b (B, J)  squared distances (A, B)
    n_dims = a.shape[1]
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2.0 * a @ b.T
    squares = squares.clamp_min(0.0)
    if kernel == "rbf":
        return (-squares / n_dims**2).exp()
    scales = [2.0 * n_dims * scale for scale in IMQ_SCALES]
    return sum(scale / (scale + squares) for scale in scales)


def _cholesky(covariance: Tensor) -> Tensor:
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.cholesky(covariance + JITTER * eye)


def _log_det(factor: Tensor) -> Tensor:
    return 2.0 * factor.diagonal().log().sum()


def _inverse_terms(factor: Tensor, mean: Tensor) -> Tensor:
    """``tr V^-1 + m^T V^-1 m``."""
    eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    columns = torch.cat([eye, mean[:, None]], dim=1)
    return torch.linalg.solve_triangular(factor, columns, upper=False).square().sum()
