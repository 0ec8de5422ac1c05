"""What disentangling VAEs penalise: dependence and moments of the codes of a minibatch.

Codes are draws of diagonal Gaussian posteriors. All results are in nats unless said otherwise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mixvi.core.maths.mixture import LOG_2PI, gaussian_log_prob

ESTIMATORS = ("weighted", "stratified")
VARIANTS = ("i", "ii")


def check_dimensions(objective: str, n_latent: int) -> None:
    """Raise ValueError if codes have one dimension alone, which depends on no other."""
    if n_latent < 2:
        raise ValueError(
            f"objective={objective!r} makes dimensions independent of each other: n_latent must be "
            f"2 or more, but is {n_latent}."
        )


class KLTerms(NamedTuple):
    """The mean KL of posteriors to N(0, I) in three parts, scalars (Chen et al. 2018, eq. 2)."""

    mutual_information: Tensor
    """I(x, z)."""
    total_correlation: Tensor
    """KL(q(z) || prod_d q(z_d))."""
    dimension_kl: Tensor
    """sum_d KL(q(z_d) || p(z_d))."""


def pairwise_log_density(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """Log density of each code under each posterior, by dimension.

    Parameters
    ----------
    z
        Codes ``(A, D)``.
    mu, log_var
        Of the posteriors, ``(B, D)``.

    Returns
    -------
    Tensor ``(A, B, D)``: [i, j, d] is log N(z_id; mu_jd, var_jd).
    """
    shift = z.unsqueeze(1) - mu
    return -0.5 * (shift.square() * (-log_var).exp() + log_var + LOG_2PI)


def log_stratified_weights(n_batch: int, n_data: int, device: torch.device | None = None) -> Tensor:
    """Logarithms of the weights of minibatch stratified sampling, ``(B, B)``; rows sum to one.

    A code's own posterior, on the diagonal, has 1 / N; the next one stands for the N - M that are
    not in the minibatch (Chen et al. 2018, appendix C.2).

    Parameters
    ----------
    n_batch
        B = M + 1.
    n_data
        N, size of the data set.

    Raises
    ------
    ValueError
        If the minibatch has fewer than two rows or more than the data set.
    """
    if not 2 <= n_batch <= n_data:
        raise ValueError(
            f"A minibatch of {n_batch} rows of {n_data} has no stratified estimate. Minibatches "
            "need two rows at least, and no more than there are."
        )
    others = n_batch - 1
    weights = torch.full((n_batch, n_batch), 1.0 / others, device=device)
    rows = torch.arange(n_batch, device=device)
    weights[rows, (rows + 1) % n_batch] = (n_data - others) / (n_data * others)
    weights[rows, rows] = 1.0 / n_data
    return weights.log()


def aggregate_log_density(
    z: Tensor, mu: Tensor, log_var: Tensor, n_data: int, estimator: str = "weighted"
) -> tuple[Tensor, Tensor]:
    """Estimates of log q(z) ``(B,)`` and log q(z_d) ``(B, D)`` of the codes of a minibatch.

    Parameters
    ----------
    z, mu, log_var
        A code of each row, and the rows' posteriors, ``(B, D)``.
    n_data
        N, size of the data set.
    estimator
        ``"weighted"``: minibatch weighted sampling, lower bounds by a constant of about log N
        (Chen et al. 2018, eq. 5); ``"stratified"``: see :func:`log_stratified_weights`.
    """
    log_q = pairwise_log_density(z, mu, log_var)
    if estimator == "weighted":
        constant = math.log(n_data * len(z))
        return log_q.sum(-1).logsumexp(1) - constant, log_q.logsumexp(1) - constant
    log_weights = log_stratified_weights(len(z), n_data, z.device).to(log_q.dtype)
    joint = (log_weights + log_q.sum(-1)).logsumexp(1)
    return joint, (log_weights.unsqueeze(-1) + log_q).logsumexp(1)


def kl_terms(
    z: Tensor, mu: Tensor, log_var: Tensor, n_data: int, estimator: str = "weighted"
) -> KLTerms:
    """Mutual information, total correlation and dimension-wise KL from one minibatch.

    Their sum is the Monte Carlo estimate of the KL, whatever the estimator. Values of single terms
    are biased by many nats: they are made to be minimised. What a trained model has is told by
    :func:`mixvi.metrics.total_correlation`.

    Parameters
    ----------
    z, mu, log_var, n_data, estimator
        See :func:`aggregate_log_density`.
    """
    joint, marginals = aggregate_log_density(z, mu, log_var, n_data, estimator)
    of_marginals = marginals.sum(-1)
    zero = torch.zeros_like(z)
    return KLTerms(
        (gaussian_log_prob(z, mu, log_var) - joint).mean(),
        (joint - of_marginals).mean(),
        (of_marginals - gaussian_log_prob(z, zero, zero)).mean(),
    )


def permute_codes(z: Tensor) -> Tensor:
    """Codes ``(B, D)`` with each dimension in an order of its own: draws of prod_d q(z_d).

    Source: Kim & Mnih 2018, algorithm 1.
    """
    return z.gather(0, torch.rand_like(z).argsort(0))


class CodeDiscriminator(nn.Module):
    """Tells codes from permuted ones; its logits estimate the total correlation.

    Parameters
    ----------
    n_latent
        Size D of codes.
    n_hidden, n_layers
        Units and number of hidden layers, each with leaky ReLU of slope 0.2 (Mushom 2020, table
        5.5: 1000 and 5; Kim & Mnih 2018 have 6).
    """

    def __init__(self, n_latent: int, n_hidden: int = 1000, n_layers: int = 5):
        super().__init__()
        layers, n_in = [], n_latent
        for _ in range(n_layers):
            layers += [nn.Linear(n_in, n_hidden), nn.LeakyReLU(0.2)]
            n_in = n_hidden
        self.body = nn.Sequential(*layers, nn.Linear(n_in, 2))

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``(B, 2)`` of being as they are, and permuted."""
        return self.body(z)

    def total_correlation(self, z: Tensor, frozen: bool = False) -> Tensor:
        """Mean of log D(z) - log(1 - D(z)), a scalar (Kim & Mnih 2018, eq. 3).

        Parameters
        ----------
        z
            Codes ``(B, D)``.
        frozen
            Let the gradient reach the codes, but not the discriminator.
        """
        weights = {name: p.detach() for name, p in self.named_parameters()}
        logits = functional_call(self, weights, (z,)) if frozen else self(z)
        return (logits[:, 0] - logits[:, 1]).mean()

    def loss(self, z: Tensor, permuted: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of telling both kinds ``(B, D)`` apart, and its accuracy; scalars."""
        logits = self(torch.cat([z, permuted]))
        classes = torch.zeros(len(logits), dtype=torch.long, device=z.device)
        classes[len(z) :] = 1
        right = (logits.argmax(1) == classes).to(logits.dtype).mean()
        return F.cross_entropy(logits, classes), right


def code_covariance(mu: Tensor, log_var: Tensor, variant: str = "ii") -> Tensor:
    """Covariance ``(D, D)`` of the codes of a minibatch, divided by its size (Kumar et al. 2018).

    Parameters
    ----------
    mu, log_var
        Of the posteriors, ``(B, D)``.
    variant
        ``"i"``: of the means; ``"ii"``: of q(z), with the mean variance on the diagonal.
    """
    centred = mu - mu.mean(0)
    covariance = centred.T @ centred / len(mu)
    if variant == "i":
        return covariance
    return covariance + log_var.exp().mean(0).diag()


def covariance_penalty(
    covariance: Tensor, lambda_offdiag: float = 1.0, lambda_diag: float = 1.0
) -> Tensor:
    """Weighted squares of a covariance's distance from the identity, a scalar without unit.

    ``lambda_offdiag sum_{k != l} C_kl^2 + lambda_diag sum_k (C_kk - 1)^2``: each pair counts twice
    (Kumar et al. 2018, eqs. 6 and 7).
    """
    diagonal = covariance.diagonal()
    off = covariance.square().sum() - diagonal.square().sum()
    return lambda_offdiag * off + lambda_diag * (diagonal - 1.0).square().sum()


def annealed(n_updates: Tensor | int, n_steps: int, end: float) -> Tensor | float:
    """A setting that rises from 0 to ``end`` over ``n_steps`` updates, and then stays."""
    share = n_updates / n_steps
    share = share.clamp(max=1.0) if isinstance(share, Tensor) else min(share, 1.0)
    return end * share
