"""Scores by the information between single dimensions and factors: MIG and modularity."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mixvi.core.arguments import check_positive
from mixvi.metrics.factors import Factors, FactorScore, entropy, read_factors
from mixvi.metrics.information import posterior_pair

_DRAWS_AT_A_TIME = 20


def mig(
    codes, factors, *, variances=None, n_bins: int = 20, n_draws: int = 1_000, seed: int = 0
) -> FactorScore:
    """The mutual information gap: how much more one dimension knows of a factor than all others.

    ``I(z_a; v) - I(z_b; v)`` of the two dimensions that know most, by the entropy of the factor,
    mean over factors (Chen et al. 2018; Mushom 2020, section 4.5.3). Dimensions are cut into bins
    of equal width. With few bins it stays below 1 even for perfect codes: 20 bins of a factor with
    40 values know 0.81 of it.

    Parameters
    ----------
    codes
        Posterior means, ``(n, D)``; the thesis has 10,000.
    factors
        See :func:`mixvi.metrics.factors.read_factors`.
    variances
        Of the posteriors, ``(n, D)``: information is then that of draws, by the densities of all
        posteriors, as in Chen et al. 2018. ``None``: that of the means, by bins.
    n_bins
        Bins a dimension.
    n_draws, seed
        Draws of codes, and the seed of them, with ``variances``.

    Returns
    -------
    :class:`mixvi.metrics.FactorScore`: gaps by factor; ``table``, information in nats.

    Raises
    ------
    ValueError
        If there are fewer rows than bins or one dimension; else see
        :func:`mixvi.metrics.factors.read_factors`.
    """
    check_positive("n_bins", n_bins)
    of = read_factors(codes, factors, least=n_bins)
    if of.codes.shape[1] < 2:
        raise ValueError("Codes of one dimension have no second one: MIG needs two or more.")
    if not of.is_active.any():
        return of.nothing("mig")
    information, entropies = binned_information(of, n_bins)
    if variances is not None:
        check_positive("n_draws", n_draws)
        _, variances = posterior_pair(of.codes, variances)
        information = _information_by_density(of, variances, n_draws, seed)
    ranked = np.sort(information, axis=0)
    gaps = pd.Series((ranked[-1] - ranked[-2]) / entropies, index=of.names)
    return FactorScore("mig", float(gaps.mean()), gaps, of.table(information), notes=of.notes)


def modularity(codes, factors, *, n_bins: int = 20) -> FactorScore:
    """Modularity: whether each dimension knows of one factor alone (Ridgeway & Mozer 2018).

    ``1 - sum_k m_k^2 / (m_a^2 (K - 1))`` over the other factors k, where the dimension knows most,
    m_a, of factor a; mean over dimensions that are not constant. Rotations lower it, duplicates do
    not. Dimensions of noise know little of all factors alike: they lower it, too.

    Parameters
    ----------
    codes, factors, n_bins
        See :func:`mig`.

    Returns
    -------
    :class:`mixvi.metrics.FactorScore`: ``per_factor`` is the mean over the dimensions that know
    most of each, NaN if none does; ``table``, information in nats.

    Raises
    ------
    ValueError
        If one factor varies alone, of which every dimension knows; else see :func:`mig`.
    """
    check_positive("n_bins", n_bins)
    of = read_factors(codes, factors, least=n_bins)
    if len(of.names) < 2:
        raise ValueError(f"Modularity needs two factors that vary, but has {of.names[0]} alone.")
    information, _ = binned_information(of, n_bins)
    squares = information**2
    most = squares.max(axis=1)
    # of a constant, rounding may leave more than 0
    informed = of.is_active & (most > 0)
    if not informed.any():
        return of.nothing("modularity")
    rest = squares.sum(axis=1)[informed] - most[informed]
    scores = 1.0 - rest / (most[informed] * (len(of.names) - 1))
    best = information.argmax(axis=1)[informed]
    by_factor = pd.Series(scores).groupby(best).mean().reindex(range(len(of.names)))
    return FactorScore(
        "modularity",
        float(scores.mean()),
        by_factor.set_axis(of.names),
        of.table(information),
        {"n_informed": int(informed.sum())},
        of.notes,
    )


def _information_by_density(
    of: Factors, variances: np.ndarray, n_draws: int, seed: int
) -> np.ndarray:
    """Mean of log q(z_d | v) - log q(z_d), ``(D, K)``, where both are mixtures of posteriors."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, len(of.codes), n_draws)
    z = of.codes[own] + np.sqrt(variances[own]) * rng.normal(size=(n_draws, of.codes.shape[1]))
    shares = [np.bincount(values) / len(values) for values in of.values.T]
    gains = np.zeros((of.codes.shape[1], len(of.names)))
    for start in range(0, n_draws, _DRAWS_AT_A_TIME):
        rows = own[start : start + _DRAWS_AT_A_TIME]
        # density (B, n, D), up to a factor that cancels
        log_q = (z[start : start + _DRAWS_AT_A_TIME, None] - of.codes) ** 2 / variances
        log_q = -0.5 * (log_q + np.log(variances))
        density = np.exp(log_q - log_q.max(axis=1, keepdims=True))
        total = density.sum(axis=1)
        for k, values in enumerate(of.values.T):
            same = (values == values[rows, None]).astype(float)
            within = np.matmul(same[:, None], density)[:, 0]
            share = shares[k][values[rows], None]
            gains[:, k] += np.log(within / (share * total)).sum(axis=0)
    return np.maximum(gains / n_draws, 0.0)


def binned_information(of: Factors, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Information between dimensions and factors ``(D, K)``, and factors' entropies ``(K,)``.

    Plug-in estimates in nats, of dimensions in bins of equal width between their extremes.
    """
    n, n_dims = of.codes.shape
    low = of.codes.min(axis=0)
    span = np.where(of.is_active, of.codes.max(axis=0) - low, 1.0)
    bins = np.minimum((of.codes - low) / span * n_bins, n_bins - 1).astype(np.int64)
    # one number for dimension and bin, so that one count serves all dimensions
    bins += np.arange(n_dims) * n_bins
    information, entropies = [], []
    for values, size in zip(of.values.T, of.sizes, strict=True):
        joint = np.bincount(
            (bins * size + values[:, None]).ravel(), minlength=n_dims * n_bins * size
        )
        joint = joint.reshape(n_dims, n_bins, size) / n
        of_factor = float(entropy(joint[0].sum(axis=0)))
        known = entropy(joint.sum(axis=2)) + of_factor - entropy(joint.reshape(n_dims, -1))
        information.append(np.maximum(known, 0.0))
        entropies.append(of_factor)
    return np.stack(information, axis=1), np.array(entropies)
