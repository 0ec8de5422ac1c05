"""How far reconstructions lie from what was to be reconstructed: images or latent codes."""

from __future__ import annotations

import numpy as np
import torch

from mixvi.core.arguments import check_positive


def mean_squared_error(target, estimate) -> float:
    """Mean over rows and elements of the squared difference.

    Parameters
    ----------
    target, estimate
        Arrays or tensors of one shape, rows first: images ``(n, C, H, W)``, codes ``(n, J)``.

    Raises
    ------
    ValueError
        If the shapes differ, there are no rows, or values are not finite.
    """
    return float(np.mean(np.square(_difference(target, estimate))))


def log_mse(target, estimate) -> float:
    """Natural logarithm of :func:`mean_squared_error`; minus infinity where nothing differs.

    In X: of images in [-1, 1] and their reconstructions. In Z: of codes drawn from the prior and
    the encoder's means of the images generated from them. The thesis calls the columns LL
    (Astorga 2021, tables 6.4 and 6.5).

    Parameters
    ----------
    target, estimate
        As for :func:`mean_squared_error`.

    Raises
    ------
    ValueError
        As :func:`mean_squared_error`.
    """
    with np.errstate(divide="ignore"):
        return float(np.log(mean_squared_error(target, estimate)))


def mean_bias_sq(target, estimate, batch_size: int = 50) -> float:
    """Squared mean difference of batches: how bright, not how wrong; to compare with one source.

    The column MSE of Astorga (2021), tables 8.4 and 8.5, is this quantity: the difference is
    averaged over a batch and its pixels, then squared; batches count by their size. An error of
    reconstruction is :func:`mean_squared_error`.

    Parameters
    ----------
    target, estimate
        As for :func:`mean_squared_error`.
    batch_size
        Rows a batch, in their order.

    Raises
    ------
    ValueError
        As :func:`mean_squared_error`; also if ``batch_size`` is not a positive whole number.
    """
    check_positive("batch_size", batch_size)
    means = _difference(target, estimate).reshape(len(target), -1).mean(axis=1)
    batches = [means[i : i + batch_size] for i in range(0, len(means), batch_size)]
    return float(sum(len(b) * b.mean() ** 2 for b in batches) / len(means))


def _difference(target, estimate) -> np.ndarray:
    x, y = (
        np.asarray(v.detach().cpu() if isinstance(v, torch.Tensor) else v)
        for v in (target, estimate)
    )
    if x.shape != y.shape:
        raise ValueError(f"target has the shape {x.shape}, estimate {y.shape}; both need the same.")
    if x.ndim < 2 or not x.size:
        raise ValueError(f"target must be rows of values, (n, ...), but has the shape {x.shape}.")
    difference = x.astype(np.float64) - y
    if not np.isfinite(difference).all():
        raise ValueError("target or estimate has NaN or infinite values.")
    return difference
