"""Simple predictions of a treatment's effect, to hold a counterfactual against."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.cells.cvae import CVAE
from mixvi.cells.vae import VAE
from mixvi.core.arguments import shown
from mixvi.core.data import checks
from mixvi.core.data.support import support_of
from mixvi.core.model.counterfactual import converted_cells
from mixvi.metrics import class_mean_baseline
from mixvi.metrics.pairs import matrix


def predict_class_means(
    train: AnnData,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: str,
    to: str,
    layer: str | None = None,
) -> AnnData:
    """Every cell becomes the mean of its label under the target condition.

    A label that the training cells lack under the target gets the mean of all of them there.

    Parameters
    ----------
    train
        Cells to take means of.
    cells
        Cells to convert, with the same genes in the same order.
    labels_key, condition_key
        Columns of ``obs`` of both.
    to
        The target condition.
    layer
        Layer of the training cells; ``None``: ``X``. To hold against a model, the one it reads.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        If a column, the layer or the target condition is missing, or genes differ.
    """
    _check_both(train, cells, labels_key, condition_key)
    values = matrix(train, layer)
    labels, conditions = train.obs[labels_key].astype(str), train.obs[condition_key].astype(str)
    means = class_mean_baseline(values, labels, conditions, to)
    overall = class_mean_baseline(values, np.full(train.n_obs, "all"), conditions, to)["all"]
    x = np.stack([means.get(label, overall) for label in cells.obs[labels_key].astype(str)])
    return converted_cells(
        x.astype(np.float32),
        cells,
        np.arange(cells.n_obs),
        condition_key,
        to,
        source="class means",
        layer=layer,
        scale=support_of(values),
    )


def predict_latent_shift(
    model: VAE,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: str,
    to: str,
    balance: bool = True,
    seed: int = 0,
) -> AnnData:
    """Add the mean difference of the conditions in the latent space to z, as scGen does.

    Parameters
    ----------
    model
        A trained :class:`mixvi.VAE`, whose AnnData holds both conditions.
    cells
        Cells to convert, of one condition.
    labels_key, condition_key
        Columns of ``obs`` of both.
    to
        The target condition.
    balance
        Draw labels evenly within each condition and both conditions alike before the difference is
        taken, as scGen does, over the labels that have both.
    seed
        Of those draws.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` of the decoder's means, like that of
    :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        If a column or the target is missing, or the cells are of several conditions.

    Notes
    -----
    Source: Lotfollahi, Wolf and Theis 2019, "Methods".
    """
    train = model.adata
    _check_both(train, cells, labels_key, condition_key)
    of = cells.obs[condition_key].astype(str).unique()
    if len(of) != 1:
        raise ValueError(f"cells are of several conditions ({', '.join(of)}); convert one a call.")
    conditions = train.obs[condition_key].astype(str).to_numpy()
    labels = train.obs[labels_key].astype(str).to_numpy()
    if to not in conditions:
        raise ValueError(f"No training cell has the condition {shown(to)}.")
    sides = [np.flatnonzero(conditions == name) for name in (to, of[0])]
    if balance:
        rng = np.random.default_rng(seed)
        both = set(labels[sides[0]]) & set(labels[sides[1]])
        sides = [_even(rows[np.isin(labels[rows], list(both))], labels, rng) for rows in sides]
    z = model.get_latent_representation()
    delta = z[sides[0]].mean(axis=0) - z[sides[1]].mean(axis=0)
    shifted = model.get_latent_representation(cells) + delta
    x = model.decode_latent(shifted, cells)
    return _converted(model, x, cells, condition_key, to)


def _converted(model: VAE, x: np.ndarray, cells: AnnData, condition_key: str, to: str) -> AnnData:
    return converted_cells(
        x,
        cells,
        np.arange(cells.n_obs),
        condition_key,
        to,
        source=type(model).__name__,
        layer=model.registry["setup_args"]["layer"],
        scale=model.support_,
    )


def _even(rows: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows of every label as the most frequent one has, drawn with replacement."""
    of = {name: rows[labels[rows] == name] for name in np.unique(labels[rows])}
    n = max(len(own) for own in of.values())
    return np.concatenate([rng.choice(own, n) for own in of.values()])


def train_label_condition_cvae(
    adata: AnnData,
    *,
    labels_key: str,
    condition_key: str,
    layer: str | None = None,
    model_kwargs: dict | None = None,
    **train_kwargs,
) -> CVAE:
    """CVAE with a fixed prior whose condition is the pair of label and condition.

    Parameters
    ----------
    adata
        The cells; not changed, the model trains on a copy.
    labels_key, condition_key
        Columns of ``obs``.
    layer
        Matrix to model; ``None``: ``X``.
    model_kwargs
        Passed to :class:`mixvi.CVAE`.
    **train_kwargs
        Passed to :meth:`mixvi.CVAE.train`.

    Returns
    -------
    The trained model, for :func:`predict_label_condition_cvae`.
    """
    cells = _with_pair(adata, labels_key, condition_key)
    CVAE.setup_anndata(cells, layer=layer, condition_key=_PAIR)
    model = CVAE(cells, **({"prior": "fixed", "decoder_sees_c": True} | (model_kwargs or {})))
    model.train(**train_kwargs)
    return model


def predict_label_condition_cvae(
    model: CVAE, cells: AnnData, *, labels_key: str, condition_key: str, to: str
) -> AnnData:
    """Cells encoded under their own label and condition, decoded under the target condition.

    Parameters
    ----------
    model
        Of :func:`train_label_condition_cvae`.
    cells
        Cells to convert.
    labels_key, condition_key
        Columns of ``obs``.
    to
        The target condition.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` of the decoder's means, like that of
    :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    ValueError
        If a label was never seen under the target: this model cannot extrapolate.
    """
    pairs = _with_pair(cells, labels_key, condition_key)
    x = np.zeros(cells.shape, dtype=np.float32)
    for label, rows in pairs.obs.groupby(labels_key, observed=True).indices.items():
        x[rows] = model.counterfactual(pairs, to=f"{label}{_BETWEEN}{to}", indices=rows).X
    return _converted(model, x, cells, condition_key, to)


_PAIR, _BETWEEN = "label_and_condition", " | "


def _with_pair(adata: AnnData, labels_key: str, condition_key: str) -> AnnData:
    for name, key in (("labels_key", labels_key), ("condition_key", condition_key)):
        checks.check_categories(adata, key, name)
    cells = adata.copy()
    labels, conditions = cells.obs[labels_key].astype(str), cells.obs[condition_key].astype(str)
    cells.obs[_PAIR] = pd.Categorical(labels + _BETWEEN + conditions)
    return cells


def _check_both(train: AnnData, cells: AnnData, *keys: str) -> None:
    for key, name in zip(keys, ("labels_key", "condition_key"), strict=True):
        checks.check_categories(train, key, name)
        checks.check_categories(cells, key, name)
    if not train.var_names.equals(cells.var_names):
        raise ValueError(
            "cells and training cells name their genes differently or in another order. Reorder "
            "first: cells = cells[:, train.var_names]."
        )
