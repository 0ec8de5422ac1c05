"""Predicted cells as an AnnData or a layer, on the scale and in the place of the model's data."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import Tensor

from mixvi.core.data.combinations import Columns, called, columns_of, names_of_cells
from mixvi.core.data.keys import PREDICTION_KEY


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

    Of data that are never negative, means below zero, as a Gaussian's decoder may have, are zero.

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
    ``(n, G)``. A gene that is zero in a whole group cannot be scaled and stays zero.
    """
    out = x.copy()
    for group in np.unique(groups):
        rows = groups == group
        found, wanted = x[rows].mean(axis=0), means[rows].mean(axis=0)
        if nonnegative:
            wanted = np.maximum(wanted, 0.0)
            out[rows] *= np.divide(wanted, found, out=np.zeros_like(found), where=found > 0)
        else:
            out[rows] += wanted - found
    return out


def predicted_adata(
    x: np.ndarray,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    *,
    source: str,
    layer: str | None,
    scale: str | None,
    obsm: dict[str, np.ndarray] | None = None,
) -> AnnData:
    """Predicted cells that say in ``uns["mixvi_prediction"]`` where their values lie and what of.

    Parameters
    ----------
    x
        Predicted expression ``(n, G)``, on the scale of the matrix that the source reads.
    obs, var, obsm
        Of the cells and the genes.
    source
        Class of the model, or the name of the method.
    layer
        Layer that the source reads; the result has the values there, too. ``None``: ``X``.
    scale
        Values that the source was trained on, see :func:`mixvi.core.data.support.support_of`;
        ``None`` if that is not known.
    """
    adata = AnnData(x, obs=obs, var=var, obsm=obsm)
    note = {"source": source, "layer": layer, "scale": scale}
    # h5ad files hold no None
    adata.uns[PREDICTION_KEY] = {k: v for k, v in note.items() if v is not None}
    if layer is not None:
        # of its own: what is done to X later leaves the prediction as it was
        adata.layers[layer] = x.copy()
    return adata


def converted_cells(
    x: np.ndarray,
    adata: AnnData,
    chosen: np.ndarray,
    condition_key: Columns,
    to: object,
    **note: str | None,
) -> AnnData:
    """Cells of ``adata`` as they were converted, with their ``obs`` and ``var``.

    Parameters
    ----------
    x
        Converted expression, ``(len(chosen), n_vars)``.
    adata, chosen
        The cells' source, and their row numbers there.
    condition_key
        Column of the condition, or several; in the result they hold the target.
    to
        The target condition, as the source calls it; of several columns a tuple, or that of each
        cell.
    **note
        ``source``, ``layer`` and ``scale``, see :func:`predicted_adata`.

    Returns
    -------
    AnnData with ``original_condition`` and ``target_condition``, both text, added to ``obs``.
    """
    obs = adata.obs.iloc[chosen].copy()
    obs = obs.drop(columns=[c for c in obs if str(c).startswith("_scvi_")])
    obs["original_condition"] = pd.Categorical(names_of_cells(obs, condition_key))
    targets = to if isinstance(to, list) else [to] * len(obs)
    names = [called(own) for own in targets]
    obs["target_condition"] = pd.Categorical(names)
    columns = zip(*targets, strict=True) if isinstance(condition_key, list) else [targets]
    for key, values in zip(columns_of(condition_key), columns, strict=True):
        obs[key] = pd.Categorical(values)
    return predicted_adata(x, obs, adata.var.copy(), **note)


def write_counterfactual(
    adata: AnnData, x: np.ndarray, chosen: np.ndarray, key: str, registered: str | None
) -> None:
    """Write converted cells into a layer.

    Raises
    ------
    ValueError
        If not every cell was converted, for a layer has a row for each, or the layer is the
        ``registered`` one, which the model reads.
    """
    if key == registered:
        raise ValueError(
            f"key_added={key!r} is the layer that the model reads; it would be overwritten. Choose "
            "another name."
        )
    if not np.array_equal(chosen, np.arange(adata.n_obs)):
        raise ValueError(
            "key_added writes a layer, which needs every cell in its place, but indices choose "
            f"{len(chosen)} of {adata.n_obs}. Leave key_added out to get an AnnData of those cells."
        )
    adata.layers[key] = x
