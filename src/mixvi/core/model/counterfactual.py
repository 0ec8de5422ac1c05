"""What every counterfactual gives back: converted cells as an AnnData or a layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import Tensor


def between_priors(z: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> Tensor:
    """Move ``z`` to the same standardised place under another Gaussian.

    Parameters
    ----------
    z
        ``(B, D)``.
    here, there
        Mean and log-variance of the two Gaussians, broadcastable to ``(B, D)``.
    """
    (mu, log_var), (mu_to, log_var_to) = here, there
    return mu_to + (0.5 * (log_var_to - log_var)).exp() * (z - mu)


def match_group_means(
    x: np.ndarray, means: np.ndarray, groups: np.ndarray, nonnegative: bool
) -> np.ndarray:
    """Shift (or, where data are never negative, scale) genes so that group means are ``means``'.

    Parameters
    ----------
    x
        Converted cells ``(n, G)``.
    means
        What their averages ought to be made of, ``(n, G)``.
    groups
        Group of each cell, ``(n,)``.
    nonnegative
        Scale instead of shifting.

    Returns
    -------
    ``(n, G)``. A gene that is zero in a whole group cannot be scaled: it takes ``means``.
    """
    out = x.copy()
    for group in np.unique(groups):
        rows = groups == group
        found, wanted = x[rows].mean(axis=0), means[rows].mean(axis=0)
        if nonnegative:
            scale = np.divide(wanted, found, out=np.zeros_like(found), where=found > 0)
            out[rows] = np.where(found > 0, x[rows] * scale, means[rows])
        else:
            out[rows] = x[rows] + wanted - found
    return out


def counterfactual_adata(
    adata: AnnData, x: np.ndarray, chosen: np.ndarray, condition_key: str, to: str
) -> AnnData:
    """Converted cells as a new AnnData.

    Parameters
    ----------
    adata
        The cells' source.
    x
        Converted expression, ``(len(chosen), n_vars)``.
    chosen
        Row numbers in ``adata``.
    condition_key
        Column of the condition; in the result it holds the target.
    to
        The target condition.

    Returns
    -------
    AnnData with the cells' ``obs``, ``original_condition`` and ``target_condition`` added.
    """
    obs = adata.obs.iloc[chosen].copy()
    obs = obs.drop(columns=[c for c in obs if c.startswith("_scvi_")])
    obs["original_condition"] = pd.Categorical(obs[condition_key].astype(str))
    obs["target_condition"] = pd.Categorical([str(to)] * len(obs))
    obs[condition_key] = pd.Categorical([to] * len(obs))
    return AnnData(x, obs=obs, var=adata.var.copy())


def write_counterfactual(adata: AnnData, x: np.ndarray, chosen: np.ndarray, key: str) -> None:
    """Write converted cells into a layer.

    Raises
    ------
    ValueError
        If not every cell was converted: a layer has a row for each.
    """
    if len(chosen) != adata.n_obs:
        raise ValueError(
            "key_added writes a layer, which needs every cell, but indices choose "
            f"{len(chosen)} of {adata.n_obs}. Leave key_added out to get an AnnData of those cells."
        )
    adata.layers[key] = x
