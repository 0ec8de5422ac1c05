"""What the KL of a model's posteriors is made of, estimated so that it may be reported.

Codes are posterior means ``(n_obs, D)`` with variances ``(n_obs, D)``; results are in nats.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp

from mixvi.core.arguments import check_choice, check_positive
from mixvi.core.maths.disentanglement import ESTIMATORS, CodeDiscriminator, kl_terms, permute_codes
from mixvi.metrics.information import code_moments, posterior_pair

_DRAWS_AT_A_TIME = 20
_WIDE = 1.0
_LOG_2PI = np.log(2.0 * np.pi)


@dataclass(frozen=True)
class Bracket:
    """Two estimates of one figure, of which one is biased up and the other down.

    Attributes
    ----------
    upper, lower
        For total correlation with the draw's own code among the mixture's components, and without
        it; the other way round for mutual information.
    standard_error
        Of both, from the draws.
    """

    upper: float
    lower: float
    standard_error: float


@dataclass(frozen=True)
class KLDecomposition:
    """Mean KL(q(z | x) || N(0, I)) in three parts (Chen et al. 2018, eq. 2).

    Attributes
    ----------
    mutual_information, total_correlation, dimension_kl
        I(x, z), KL(q(z) || prod_d q(z_d)) and sum_d KL(q(z_d) || p(z_d)).
    gaussian_total_correlation
        Of a Gaussian with the moments of q(z), see :func:`gaussian_total_correlation`.
    n_codes, n_draws
        Components of q(z), and draws from it.
    """

    mutual_information: Bracket
    total_correlation: Bracket
    dimension_kl: Bracket
    gaussian_total_correlation: float
    n_codes: int
    n_draws: int


def gaussian_total_correlation(means, variances=None) -> float:
    """Total correlation of a Gaussian with the codes' covariance C.

    ``0.5 (sum_d log C_dd - log det C)``: exact for Gaussian codes, and without their higher moments
    for others.

    Parameters
    ----------
    means
        ``(n_obs, D)``.
    variances
        With them C is the covariance of q(z); ``None``: that of the means.
    """
    means = np.asarray(means, dtype=np.float64)
    if variances is None:
        _, covariance = code_moments(means, np.ones_like(means), "means")
    else:
        _, covariance = code_moments(means, variances, "total")
    scale = np.sqrt(covariance.diagonal())
    if (scale == 0).any():
        # a constant depends on nothing
        kept = scale > 0
        covariance, scale = covariance[np.ix_(kept, kept)], scale[kept]
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(scale, scale))
    return float(-0.5 * np.log(eigenvalues.clip(min=1e-12)).sum())


def kl_decomposition(
    means,
    variances,
    *,
    n_draws: int = 1_000,
    n_codes: int | None = 10_000,
    seed: int = 0,
) -> KLDecomposition:
    """Mutual information, total correlation and dimension-wise KL of codes, bracketed.

    q(z) is the mixture of ``n_codes`` posteriors. Each figure is estimated twice: with the
    posterior that a draw came from among them, and without. The truth of a larger data set lies
    between, and the two close as codes become more.

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, D)``.
    n_draws
        Draws from q(z).
    n_codes
        Posteriors that q(z) is made of, at random; ``None``: all.
    seed
        Of both choices.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or there are fewer than two rows or dimensions.

    Warns
    -----
    UserWarning
        If the total correlation's two estimates are more than 1 nat apart.
    """
    check_positive("n_draws", n_draws)
    means, variances = posterior_pair(means, variances)
    if means.shape[1] < 2 or len(means) < 2:
        raise ValueError(
            f"Codes of shape {means.shape} have no total correlation: two rows and two dimensions "
            "are needed."
        )
    rng = np.random.default_rng(seed)
    if n_codes is not None:
        check_positive("n_codes", n_codes)
        chosen = rng.permutation(len(means))[:n_codes]
        means, variances = means[chosen], variances[chosen]
    own = rng.integers(0, len(means), n_draws)
    z = means[own] + np.sqrt(variances[own]) * rng.normal(size=(n_draws, means.shape[1]))
    n_parts = -(-n_draws // _DRAWS_AT_A_TIME)
    parts = [
        _log_densities(*part, means, variances)
        for part in zip(np.array_split(z, n_parts), np.array_split(own, n_parts), strict=True)
    ]
    of_own, joint, marginals = (np.concatenate(values) for values in zip(*parts, strict=True))
    of_prior = -0.5 * (z**2 + _LOG_2PI).sum(axis=1)
    # axis 1: with the own code, without it
    total_correlation = joint - marginals
    found = KLDecomposition(
        _bracket(of_own[:, None] - joint),
        _bracket(total_correlation),
        _bracket(marginals - of_prior[:, None]),
        gaussian_total_correlation(means, variances) if len(means) > means.shape[1] else np.nan,
        len(means),
        n_draws,
    )
    width = found.total_correlation.upper - found.total_correlation.lower
    if width > _WIDE:
        warnings.warn(
            f"The total correlation is known to within {width:.1f} nats alone: posteriors are "
            f"narrow for {len(means)} codes. Pass more of them (n_codes).",
            UserWarning,
            stacklevel=2,
        )
    return found


def _log_densities(
    z: np.ndarray, own: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log q(z | x) ``(B,)``; log q(z) and sum_d log q(z_d) with and without own, ``(B, 2)``."""
    # log_q (B, S, D)
    log_q = (z[:, None] - means) ** 2
    log_q /= variances
    log_q += np.log(variances) + _LOG_2PI
    log_q *= -0.5
    rows, n = np.arange(len(z)), len(means)
    of_row = log_q.sum(axis=2)
    of_own = of_row[rows, own]
    with_own = logsumexp(of_row, axis=1), logsumexp(log_q, axis=1)
    of_row[rows, own] = log_q[rows, own] = -np.inf
    without = logsumexp(of_row, axis=1), logsumexp(log_q, axis=1)
    joint = np.stack([with_own[0] - np.log(n), without[0] - np.log(n - 1)], axis=1)
    marginals = np.stack(
        [(with_own[1] - np.log(n)).sum(axis=1), (without[1] - np.log(n - 1)).sum(axis=1)], axis=1
    )
    return of_own, joint, marginals


def _bracket(values: np.ndarray) -> Bracket:
    first, second = values.mean(axis=0)
    error = values.std(axis=0, ddof=1).max() / np.sqrt(len(values))
    return Bracket(float(max(first, second)), float(min(first, second)), float(error))


def minibatch_total_correlation(
    means,
    variances,
    *,
    estimator: str = "weighted",
    batch_size: int = 64,
    n_data: int | None = None,
    n_batches: int = 100,
    seed: int = 0,
) -> float:
    """The estimate that beta-TCVAE is trained by, mean over minibatches; biased by many nats.

    To be compared with the record of a training, not reported: see :func:`kl_decomposition`.

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, D)``.
    estimator
        ``"weighted"`` or ``"stratified"``.
    batch_size, n_data
        Rows a minibatch, and size of the data set it is of; ``None``: as many as there are.
    n_batches, seed
        How many minibatches, and the seed of their draws.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    for name, value in (("batch_size", batch_size), ("n_batches", n_batches)):
        check_positive(name, value)
    mu, log_var, generator = _tensors(means, variances, seed)
    found = []
    for _ in range(n_batches):
        rows = torch.randperm(len(mu), generator=generator)[:batch_size]
        z = _drawn(mu[rows], log_var[rows], generator)
        terms = kl_terms(z, mu[rows], log_var[rows], n_data or len(mu), estimator)
        found.append(float(terms.total_correlation))
    return float(np.mean(found))


def discriminator_total_correlation(
    means,
    variances,
    *,
    n_hidden: int = 128,
    n_layers: int = 2,
    n_steps: int = 3_000,
    batch_size: int = 512,
    lr: float = 1e-3,
    n_test: int = 20_000,
    seed: int = 0,
) -> float:
    """Total correlation by a discriminator as FactorVAE has it, trained on codes that stay.

    It is a lower bound as far as the discriminator has learned: large values, of codes that are
    nearly functions of each other, are underestimated.

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, D)``.
    n_hidden, n_layers
        Units and number of hidden layers.
    n_steps, batch_size, lr
        Updates, codes an update, and Adam's learning rate, which falls to 0 along a cosine.
    n_test
        Draws that the estimate is made of.
    seed
        Of weights and draws.
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size), ("n_test", n_test)):
        check_positive(name, value)
    mu, log_var, generator = _tensors(means, variances, seed)
    # weights and permutations come from torch's own generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = CodeDiscriminator(mu.shape[1], n_hidden, n_layers)
        adam = torch.optim.Adam(made.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_steps)
        for _ in range(n_steps):
            rows = torch.randint(len(mu), (2, batch_size), generator=generator)
            z, other = (_drawn(mu[r], log_var[r], generator) for r in rows)
            adam.zero_grad()
            made.loss(z, permute_codes(other))[0].backward()
            adam.step()
            schedule.step()
    rows = torch.randint(len(mu), (n_test,), generator=generator)
    with torch.inference_mode():
        return float(made.total_correlation(_drawn(mu[rows], log_var[rows], generator)))


def _tensors(means, variances, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    means, variances = posterior_pair(means, variances)
    mu, log_var = (torch.as_tensor(v, dtype=torch.float32) for v in (means, np.log(variances)))
    return mu, log_var, torch.Generator().manual_seed(seed)


def _drawn(mu: torch.Tensor, log_var: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(mu.shape, generator=generator)
    return mu + (0.5 * log_var).exp() * noise
