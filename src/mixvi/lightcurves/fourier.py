"""Fourier series of folded curves, fitted to all curves at once."""

from __future__ import annotations

import numpy as np

# of the weighted normal equations' diagonal: sparse phases may not determine all terms
_RIDGE = 1e-3


def _basis(phase: np.ndarray, n_harmonics: int) -> np.ndarray:
    """One, cosines and sines of phases ``(...)``: ``(..., 1 + 2 n_harmonics)``."""
    angle = 2.0 * np.pi * phase[..., None] * np.arange(1, n_harmonics + 1)
    return np.concatenate([np.ones((*phase.shape, 1)), np.cos(angle), np.sin(angle)], axis=-1)


def fourier_fit(
    phase: np.ndarray,
    magnitude: np.ndarray,
    error: np.ndarray,
    valid: np.ndarray,
    n_harmonics: int = 4,
) -> np.ndarray:
    """Coefficients of series fitted by weighted least squares, slightly shrunk.

    Parameters
    ----------
    phase, magnitude, error
        Of folded curves, ``(n, L)``.
    valid
        Bool ``(n, L)``.

    Returns
    -------
    ``(n, 1 + 2 n_harmonics)``: mean, then cosines, then sines.
    """
    basis = _basis(np.where(valid, phase, 0.0), n_harmonics)
    weights = np.where(valid, 1.0 / np.square(np.where(valid, error, 1.0)), 0.0)
    weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    y = np.where(valid, magnitude, 0.0).astype(np.float64)
    centre = (weights * y).sum(1)
    weighted = basis * weights[..., None]
    normal = weighted.transpose(0, 2, 1) @ basis
    # the mean is not shrunk
    ridge = np.diag([0.0] + [_RIDGE] * (2 * n_harmonics))
    right = (weighted * (y - centre[:, None])[..., None]).sum(1)
    found = np.linalg.solve(normal + ridge, right[..., None])[..., 0]
    found[:, 0] += centre
    return found


def fourier_curve(coefficients: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Series ``(n, 1 + 2 H)`` at phases ``(T,)`` or ``(n, T)``: ``(n, T)``."""
    basis = _basis(np.asarray(phase, np.float64), coefficients.shape[1] // 2)
    return (basis @ coefficients[..., None])[..., 0]
