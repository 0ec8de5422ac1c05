"""Predictions of a treatment's effect by simpler models, to hold a counterfactual against."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.cells.baseline_checks import check_cells, check_columns, check_residual, target_of
from mixvi.cells.cvae import CVAE
from mixvi.cells.mean_shift import carried_over
from mixvi.cells.vae import VAE
from mixvi.core.arguments import near_matches, shown
from mixvi.core.data import checks
from mixvi.core.model.counterfactual import converted_cells, match_group_means
from mixvi.metrics.pairs import dense


def predict_latent_shift(
    model: VAE,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: str,
    to: str,
    balance: bool = True,
    keep_residual: bool | str = False,
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
    keep_residual
        Apply the change of the decoder's mean to the cell's own expression, as
        :func:`mixvi.cells.predict_mean_shift` does (``"centred"``: by label). False, as in scGen:
        the decoder's means.
    seed
        Of those draws, and of those of residuals.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        If a column, the target, or the training cells are missing, there are no cells, they are of
        several conditions or of an unknown one, or no label has both conditions to balance.

    Notes
    -----
    Source: Lotfollahi, Wolf and Theis 2019, "Methods".
    """
    train = model.adata
    if train is None:
        raise ValueError(
            "The model was loaded without its training cells, whose means of z are needed. Load it "
            "with them: VAE.load(path, adata)."
        )
    check_columns(train, cells, labels_key, condition_key)
    of = cells.obs[condition_key].astype(str).unique()
    if len(of) != 1:
        raise ValueError(f"cells are of several conditions ({', '.join(of)}); convert one a call.")
    conditions = train.obs[condition_key].astype(str).to_numpy()
    labels = train.obs[labels_key].astype(str).to_numpy()
    to = target_of(train, condition_key, to)
    if of[0] not in conditions:
        raise ValueError(
            f"cells are of the condition {shown(of[0])}, which no training cell has. "
            f"{near_matches(of[0], np.unique(conditions))}"
        )
    sides = [np.flatnonzero(conditions == name) for name in (str(to), of[0])]
    if balance:
        rng = np.random.default_rng(seed)
        both = set(labels[sides[0]]) & set(labels[sides[1]])
        if not both:
            raise ValueError(
                f"No label has training cells both under {shown(of[0])} and under {shown(to)}, so "
                "that labels cannot be balanced. Use balance=False."
            )
        sides = [_even(rows[np.isin(labels[rows], list(both))], labels, rng) for rows in sides]
    z = model.get_latent_representation()
    delta = z[sides[0]].mean(axis=0) - z[sides[1]].mean(axis=0)
    own = model.get_latent_representation(cells)
    x = model.decode_latent(own + delta, cells)
    if keep_residual:
        labels = cells.obs[labels_key].astype(str).to_numpy()
        x = _with_residual(
            model, cells, (model.decode_latent(own, cells), x), labels, keep_residual, seed
        )
    return _converted(model, x, cells, condition_key, to)


def _with_residual(
    model: VAE,
    cells: AnnData,
    means: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    keep_residual: bool | str,
    seed: int,
) -> np.ndarray:
    """Cells with the decoder's means replaced, by how its training cells spread around theirs."""
    check_residual(keep_residual, model.support_)
    layer = model.registry["setup_args"]["layer"]
    train = dense(model.adata, layer), model.get_reconstruction()
    x = carried_over(dense(cells, layer), *means, train, model.support_, seed)
    if keep_residual == "centred":
        nonnegative = model.support_ != "real"
        wanted = np.maximum(means[1], 0.0) if nonnegative else means[1]
        x = match_group_means(x, wanted, labels, nonnegative)
    return x


def _converted(
    model: VAE, x: np.ndarray, cells: AnnData, condition_key: str, to: object
) -> AnnData:
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
    model: CVAE,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: str,
    to: str,
    keep_residual: bool | str = False,
    seed: int = 0,
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
    keep_residual, seed
        As in :func:`predict_latent_shift`.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    ValueError
        If a label was never seen under the target: this model cannot extrapolate.
    """
    pairs = _with_pair(cells, labels_key, condition_key)
    x = np.zeros(cells.shape, dtype=np.float32)
    for label, rows in pairs.obs.groupby(labels_key, observed=True).indices.items():
        x[rows] = model.counterfactual(pairs, to=f"{label}{_BETWEEN}{to}", indices=rows).X
    if keep_residual:
        labels = cells.obs[labels_key].astype(str).to_numpy()
        x = _with_residual(
            model, cells, (model.get_reconstruction(pairs), x), labels, keep_residual, seed
        )
    return _converted(model, x, cells, condition_key, to)


_PAIR, _BETWEEN = "label_and_condition", " | "


def _with_pair(adata: AnnData, labels_key: str, condition_key: str) -> AnnData:
    check_cells(adata, "cells")
    for name, key in (("labels_key", labels_key), ("condition_key", condition_key)):
        checks.check_categories(adata, key, name)
    cells = adata.copy()
    labels, conditions = cells.obs[labels_key].astype(str), cells.obs[condition_key].astype(str)
    cells.obs[_PAIR] = pd.Categorical(labels + _BETWEEN + conditions)
    return cells
