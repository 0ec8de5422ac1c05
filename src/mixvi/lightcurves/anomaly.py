"""Scores of strangeness from codes and known classes, to compare with those of models."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest

_RIDGE = 1e-6


def class_isolation_forests(
    codes: np.ndarray, labels: np.ndarray, others: np.ndarray, *, n_trees: int = 100, seed: int = 0
) -> np.ndarray:
    """MCIF: the least score of isolation forests, one a class (Gupta et al. 2025).

    Parameters
    ----------
    codes, labels
        Codes ``(n, D)`` of known objects, and their classes ``(n,)``.
    others
        Codes ``(m, D)`` to be scored.
    n_trees
        Trees of each forest.
    seed
        Of the forests.

    Returns
    -------
    ``(m,)``; higher is stranger.

    Raises
    ------
    ValueError
        If shapes do not fit, or a class is missing.
    """
    codes, labels, others = _checked_codes(codes, labels, others)
    scores = [
        -IsolationForest(n_estimators=n_trees, random_state=seed)
        .fit(codes[labels == k])
        .score_samples(others)
        for k in np.unique(labels)
    ]
    return np.min(scores, axis=0)


def class_mahalanobis(codes: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance to the nearest class, by its own covariance (Lee et al. 2018).

    Parameters
    ----------
    codes, labels
        Codes ``(n, D)`` of known objects, and their classes ``(n,)``.
    others
        Codes ``(m, D)`` to be scored.

    Returns
    -------
    ``(m,)``; higher is stranger. Covariances of classes with few objects are drawn towards that of
    all within their classes.

    Raises
    ------
    ValueError
        If shapes do not fit, or a class is missing.
    """
    codes, labels, others = _checked_codes(codes, labels, others)
    distances = []
    for mean, covariance in zip(*class_gaussians(codes, labels)[1:], strict=True):
        off = others.astype(np.float64) - mean
        distances.append((off * np.linalg.solve(covariance, off.T).T).sum(1))
    return np.min(distances, axis=0)


def class_gaussians(
    codes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)`` of their codes.

    Covariances of classes with few codes are drawn towards that of all within their classes.
    """
    codes = codes.astype(np.float64)
    classes, numbers = np.unique(labels, return_inverse=True)
    means = np.stack([codes[numbers == k].mean(0) for k in range(len(classes))])
    within = codes - means[numbers]
    n_axes = codes.shape[1]
    pooled = within.T @ within / len(codes)
    pooled = pooled + _RIDGE * (np.trace(pooled) / n_axes + 1e-12) * np.eye(n_axes)
    covariances = []
    for k in range(len(classes)):
        own = within[numbers == k]
        # as if there were as many further objects as axes
        covariances.append((own.T @ own + n_axes * pooled) / (len(own) + n_axes))
    return classes, means, np.stack(covariances)


def _checked_codes(*given: np.ndarray) -> list[np.ndarray]:
    """Codes, labels and other codes as arrays, after all checks."""
    codes, labels, others = (np.asarray(array) for array in given)
    if codes.ndim != 2 or others.ndim != 2 or codes.shape[1] != others.shape[1]:
        raise ValueError(
            f"codes and others must be (n, D) and (m, D), but are {codes.shape} and {others.shape}."
        )
    if labels.shape != codes.shape[:1]:
        raise ValueError(
            f"labels must have one class a code, {codes.shape[:1]}, but have shape {labels.shape}."
        )
    missing = pd.isna(labels)
    if missing.any():
        raise ValueError(
            f"labels has {int(missing.sum())} missing values (NaN), which are no class. Leave "
            "their codes out: codes[known], labels[known]."
        )
    return [codes, labels, others]
