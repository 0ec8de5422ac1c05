"""Information between data and codes of a Gaussian encoder (Astorga 2021, sections 5.3 and 6.2).

Codes are posterior means ``(n_obs, J)`` with variances ``(n_obs, J)``; results are in nats.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import norm

from mixvi.core.arguments import check_positive, check_weight

MOMENTS = ("total", "means")
_DRAWS_AT_A_TIME = 200


def encoder_entropy(variances: np.ndarray) -> float:
    """h_q(z | x): mean over rows of ``0.5 sum_j log(2 pi e variance_j)``."""
    variances = _matrix(variances, "variances")
    if (variances <= 0).any():
        raise ValueError("variances must be positive. Pass variances, not log-variances.")
    return float(0.5 * np.log(2.0 * np.pi * np.e * variances).sum(axis=1).mean())


def posterior_kl(means: np.ndarray, variances: np.ndarray) -> float:
    """Mean over rows of KL(q(z | x) || N(0, I)), the KL term of a VAE."""
    return float(kl_per_dimension(means, variances).sum())


def kl_per_dimension(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Mean over rows of KL(q(z_d | x) || N(0, 1)), ``(J,)``."""
    means, variances = posterior_pair(means, variances)
    return 0.5 * (variances + means**2 - 1.0 - np.log(variances)).mean(axis=0)


def latent_report(
    means: np.ndarray, variances: np.ndarray, *, active_kl: float = 0.1, seed: int = 0
) -> pd.DataFrame:
    """What each latent dimension is used for, in numbers (Mushom 2020, section 5.3).

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, J)``.
    active_kl
        KL in nats above which a dimension counts as active.
    seed
        Of the draws that the distance is of, one a row.

    Returns
    -------
    DataFrame by dimension: ``kl``, its mean, nats; ``mean_variance``, variance of the posterior
    means, near 0 where it is not used; ``mean_sd``, mean standard deviation of the posteriors, near
    1 there; ``active``; ``wasserstein``, distance of its q(z) from N(0, 1).
    """
    check_weight("active_kl", active_kl)
    means, variances = posterior_pair(means, variances)
    kls = kl_per_dimension(means, variances)
    z = means + np.sqrt(variances) * np.random.default_rng(seed).normal(size=means.shape)
    prior = norm.ppf((np.arange(len(z)) + 0.5) / len(z))
    return pd.DataFrame(
        {
            "kl": kls,
            "mean_variance": means.var(axis=0),
            "mean_sd": np.sqrt(variances).mean(axis=0),
            "active": kls > active_kl,
            "wasserstein": np.abs(np.sort(z, axis=0) - prior[:, None]).mean(axis=0),
        },
        index=pd.Index([f"z{d}" for d in range(len(kls))], name="dimension"),
    )


def code_moments(
    means: np.ndarray, variances: np.ndarray, moments: str = "total"
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(J,)`` and covariance ``(J, J)`` of q(z) over a data set.

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, J)``.
    moments
        ``"total"``: covariance of the means plus the mean variance, which is q(z)'s own;
        ``"means"``: covariance of the means alone, as in the tables of Astorga 2021.

    Raises
    ------
    ValueError
        If ``moments`` is another word, or there are no more rows than dimensions.
    """
    if moments not in MOMENTS:
        raise ValueError(f"moments={moments!r} is not known. Known: 'total', 'means'.")
    means, variances = posterior_pair(means, variances)
    if len(means) <= means.shape[1]:
        raise ValueError(
            f"{len(means)} codes of {means.shape[1]} dimensions have no full covariance. "
            "Pass more rows than dimensions."
        )
    # divided by n, so that the total never falls below the encoder's own entropy
    covariance = np.cov(means, rowvar=False, ddof=0).reshape(means.shape[1], -1)
    if moments == "total":
        covariance = covariance + np.diag(variances.mean(axis=0))
    return means.mean(axis=0), covariance


def aggregate_kl(means: np.ndarray, variances: np.ndarray, moments: str = "total") -> float:
    """KL(N(m, V) || N(0, I)) with the moments of q(z) over a data set (D_KL^Z of the tables)."""
    mean, covariance = code_moments(means, variances, moments)
    log_det = _log_det(covariance)
    return float(0.5 * (np.trace(covariance) + mean @ mean - len(mean) - log_det))


def mutual_information(means: np.ndarray, variances: np.ndarray, moments: str = "total") -> float:
    """Estimate of I_q(x, z): ``h(N(m, V)) - h_q(z | x)`` (Astorga 2021, eq. 5.10).

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, J)``.
    moments
        ``"total"``: an upper bound of I_q that is never negative, because a Gaussian has the
        largest entropy for its covariance, and equal to :func:`posterior_kl` minus
        :func:`aggregate_kl` (eq. 5.11). It may exceed log n_obs, which is all that so many images
        can tell: :func:`empirical_information` does not. ``"means"``: V without the encoder's
        noise, which is negative where that noise exceeds the spread of the means; the published
        tables have it.
    """
    _, covariance = code_moments(means, variances, moments)
    entropy = 0.5 * (len(covariance) * np.log(2.0 * np.pi * np.e) + _log_det(covariance))
    return float(entropy - encoder_entropy(variances))


def empirical_information(
    means: np.ndarray, variances: np.ndarray, *, n_draws: int = 2000, seed: int = 0
) -> float:
    """I(x, z) where x is one of the rows, each as likely as another; never above log n_obs.

    How well a code tells which row it is of: the mean of ``log q(z | x) - log q(z)`` with
    ``q(z) = sum_i q(z | x_i) / n_obs``, the mixture of all posteriors, over draws of q(z | x).
    :func:`mutual_information` takes a Gaussian for that mixture and so may exceed what n_obs
    different images can tell.

    Parameters
    ----------
    means, variances
        Of the posteriors, ``(n_obs, J)``.
    n_draws
        Rows of which a code is drawn, at random and all of them at most.
    seed
        Of the draws.
    """
    check_positive("n_draws", n_draws)
    means, variances = posterior_pair(means, variances)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(means))[:n_draws]
    z = means[rows] + np.sqrt(variances[rows]) * rng.normal(size=means[rows].shape)
    # log q(z | x_i) but for its constant, as products of matrices
    precisions, weighted = 1.0 / variances, means / variances
    offsets = (means * weighted + np.log(variances)).sum(axis=1)
    gains = []
    for codes, own in zip(_parts(z), _parts(rows), strict=True):
        log_q = -0.5 * (codes**2 @ precisions.T - 2.0 * codes @ weighted.T + offsets)
        gains.append(log_q[np.arange(len(own)), own] - logsumexp(log_q, axis=1))
    return float(np.log(len(means)) + np.concatenate(gains).mean())


def _parts(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(values, -(-len(values) // _DRAWS_AT_A_TIME))


def _log_det(covariance: np.ndarray) -> float:
    # a latent that all rows share has no variance: floored, not minus infinity
    return float(np.log(np.linalg.eigvalsh(covariance).clip(min=1e-12)).sum())


def _matrix(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be a finite matrix (n_obs, n_latent), but has shape {values.shape} or "
            "values that are not finite."
        )
    return values


def posterior_pair(means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances in double precision, found finite, of one shape, variances positive."""
    means, variances = _matrix(means, "means"), _matrix(variances, "variances")
    if means.shape != variances.shape:
        raise ValueError(
            f"means {means.shape} and variances {variances.shape} must have the same shape."
        )
    if (variances <= 0).any():
        raise ValueError("variances must be positive. Pass variances, not log-variances.")
    return means, variances
