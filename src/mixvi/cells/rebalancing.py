"""Rare types made as frequent as common ones, and training that alternates (Kolb 2022, ch. 8)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mixvi.cells.gmvae import GMVAE
from mixvi.core import arguments
from mixvi.core.data import checks


def balanced_indices(
    categories: Sequence, n_per_category: int = 300, *, replace: bool = True, seed: int = 0
) -> np.ndarray:
    """Row numbers with the same number of cells of every category.

    Parameters
    ----------
    categories
        Category of each cell, ``(n_obs,)``; labels, or a clustering where there are none.
    n_per_category
        Draws a category.
    replace
        Draw with replacement (the thesis), or not: then every category is cut to the smallest, and
        at most to ``n_per_category``.
    seed
        Of the draws.

    Returns
    -------
    Sorted row numbers, ``(n_categories * n,)``. Source: Kolb 2022, section 8.2.

    Raises
    ------
    ValueError
        If a category has no cell, or cells have no category.
    """
    arguments.check_positive("n_per_category", n_per_category)
    values = pd.Series(pd.Categorical(categories))
    if values.isna().any():
        raise ValueError(
            f"{int(values.isna().sum())} cells have no category (NaN); give them one or leave them "
            "out before rebalancing."
        )
    sizes = values.value_counts()
    empty = sizes.index[sizes == 0]
    if len(empty):
        raise ValueError(
            f"Category {arguments.shown(empty[0])} has no cell to draw from. Remove it: "
            "adata.obs[key] = adata.obs[key].cat.remove_unused_categories()."
        )
    n = n_per_category if replace else min(n_per_category, int(sizes.min()))
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(np.flatnonzero(values == name), n, replace=replace)
        for name in values.cat.categories
    ]
    return np.sort(np.concatenate(drawn))


def rebalance(
    adata: AnnData,
    key: str,
    n_per_category: int = 300,
    *,
    replace: bool = True,
    noise: float = 1e-4,
    augment: bool = False,
    seed: int = 0,
    layer: str | None = None,
) -> AnnData:
    """A new AnnData with the same number of cells of every category of ``obs[key]``.

    Parameters
    ----------
    adata
        The cells; not changed.
    key
        Column of ``obs``: labels, or a clustering where there are none.
    n_per_category, replace, seed
        See :func:`balanced_indices`.
    noise
        Standard deviation of Gaussian noise on the matrix, so that repeated cells differ; 0 for
        counts.
    augment
        Append the draws to the original cells instead of returning them alone.
    layer
        The matrix that a model reads, which gets the noise; ``None``: ``X``. The others are those
        of the cells drawn.

    Returns
    -------
    AnnData with all that ``adata`` has of its cells (with ``augment``, but ``obsp``); draws with
    noise are dense. ``obs["drawn_from"]`` names each cell's original.

    Raises
    ------
    KeyError
        If the column or the layer is missing.
    ValueError
        If a category has no cell, or noise is asked of integer counts.
    """
    checks.check_categories(adata, key, "key")
    checks.check_key(adata, "layers", layer, "layer")
    drawn = balanced_indices(adata.obs[key], n_per_category, replace=replace, seed=seed)
    with warnings.catch_warnings():
        # names of repeated cells are told apart at the end
        warnings.filterwarnings("ignore", "Observation names are not unique")
        cells = adata[drawn].copy()
        if noise and layer is None:
            cells.X = _with_noise(cells.X, "X", noise, seed)
        elif noise:
            noisy = _with_noise(cells.layers[layer], f"layers[{layer!r}]", noise, seed)
            cells.layers[layer] = noisy
        cells.obs["drawn_from"] = cells.obs_names.to_numpy()
        if augment:
            cells = _appended(adata, cells)
        cells.obs_names = [f"{name}_{i}" for i, name in enumerate(cells.obs["drawn_from"])]
    return cells


def _with_noise(x, name: str, noise: float, seed: int) -> np.ndarray:
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    if not (x % 1).any():
        raise ValueError(
            f"{name} holds whole numbers (counts): noise would make them unusable. Pass noise=0."
        )
    rng = np.random.default_rng([seed, 1])
    return (x + noise * rng.standard_normal(x.shape)).astype(x.dtype)


def _appended(adata: AnnData, cells: AnnData) -> AnnData:
    """The cells of ``adata``, then those drawn, with all of their layers, ``obs`` and ``obsm``."""
    first = adata.copy()
    first.obs["drawn_from"] = first.obs_names.to_numpy()
    for part in (first, cells):
        del part.obsp
    return anndata.concat([first, cells], merge="same", uns_merge="same")


def train_alternating(
    model: GMVAE,
    key: str,
    *,
    rounds: int = 1,
    n_per_category: int = 300,
    balanced_stages: Sequence[tuple[float, int]] = ((1e-3, 50), (1e-4, 20)),
    original_stages: Sequence[tuple[float, int]] = ((1e-4, 20), (1e-5, 20)),
    seed: int = 0,
    **train_kwargs,
) -> None:
    """Train without labels on balanced draws, then on the cells as they are, in turn.

    Rare types get components of their own while they are as frequent as others. The balance looks
    at ``obs[key]``: with labels there this is not unsupervised; a clustering keeps it so.

    Parameters
    ----------
    model
        A :class:`mixvi.GMVAE` or :class:`mixvi.CGMVAE`.
    key
        Column of the ``obs`` of the model's AnnData to balance by.
    rounds
        How often the pair of trainings is repeated.
    n_per_category
        Draws a category, with replacement, drawn anew each round.
    balanced_stages, original_stages
        (learning rate, epochs) on either set.
    seed
        Of the draws.
    **train_kwargs
        Passed to :meth:`mixvi.GMVAE.train`; ``init`` belongs to the first training alone.

    Raises
    ------
    KeyError, ValueError
        As :func:`rebalance` and :meth:`mixvi.GMVAE.train`.

    Notes
    -----
    Source: Kolb 2022, section 8.2. Draws are repeated rows without added noise, which dropout
    makes superfluous.
    """
    checks.check_categories(model.adata, key, "key")
    arguments.check_positive("rounds", rounds)
    for i in range(rounds):
        drawn = balanced_indices(model.adata.obs[key], n_per_category, seed=seed + i)
        model.train(mode="unsupervised", indices=drawn, stages=balanced_stages, **train_kwargs)
        model.train(mode="unsupervised", stages=original_stages, **train_kwargs)
