"""Information between data and codes of a Gaussian encoder (Astorga 2021, sections 5.3 and 6.2).

Codes are posterior means ``(n_obs, J)`` with variances ``(n_obs, J)``; results are in nats.
"""

from __future__ import annotations

import numpy as np

MOMENTS = ("total", "means")


def encoder_entropy(variances: np.ndarray) -> float:
    """h_q(z | x): mean over rows of ``0.5 sum_j log(2 pi e variance_j)``."""
    variances = _matrix(variances, "variances")
    if (variances <= 0).any():
        raise ValueError("variances must be positive. Pass variances, not log-variances.")
    return float(0.5 * np.log(2.0 * np.pi * np.e * variances).sum(axis=1).mean())


def posterior_kl(means: np.ndarray, variances: np.ndarray) -> float:
    """Mean over rows of KL(q(z | x) || N(0, I)), the KL term of a VAE."""
    means, variances = _pair(means, variances)
    terms = variances + means**2 - 1.0 - np.log(variances)
    return float(0.5 * terms.sum(axis=1).mean())


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
    means, variances = _pair(means, variances)
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
        :func:`aggregate_kl` (eq. 5.11). ``"means"``: V without the encoder's noise, which is
        negative where that noise exceeds the spread of the means; the published tables have it.
    """
    _, covariance = code_moments(means, variances, moments)
    entropy = 0.5 * (len(covariance) * np.log(2.0 * np.pi * np.e) + _log_det(covariance))
    return float(entropy - encoder_entropy(variances))


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


def _pair(means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    means, variances = _matrix(means, "means"), _matrix(variances, "variances")
    if means.shape != variances.shape:
        raise ValueError(
            f"means {means.shape} and variances {variances.shape} must have the same shape."
        )
    if (variances <= 0).any():
        raise ValueError("variances must be positive. Pass variances, not log-variances.")
    return means, variances
