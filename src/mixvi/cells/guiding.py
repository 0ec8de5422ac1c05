"""Training guided by another clustering (M5g; Kolb 2022, l. 966-974)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.cells.gmvae import GMVAE
from mixvi.cells.initial import leiden_clusters, principal_components
from mixvi.core import checks


@dataclass(frozen=True)
class Guidance:
    """How far a guided model follows the clustering that guided it.

    Attributes
    ----------
    supervised
        Share of the cells in the component of their cluster, after training on the clusters.
    unsupervised
        The same after training went on without them; None if it did not.
    """

    supervised: float
    unsupervised: float | None


def cluster_cells(
    adata: AnnData,
    *,
    n_clusters: int | None = None,
    resolution: float = 1.0,
    layer: str | None = None,
    is_count: bool = False,
    seed: int = 0,
) -> pd.Series:
    """Leiden clusters of the neighbour graph on principal components; ``adata`` is not changed.

    Parameters
    ----------
    adata
        The cells.
    n_clusters
        Search the resolution for as many clusters, and join pairs where it gives too many.
    resolution
        Of Leiden, where ``n_clusters`` is None.
    layer
        Matrix to cluster; ``None``: ``X``.
    is_count
        Normalise to the median library and log first.
    seed
        Of the components, the graph and the clustering.

    Returns
    -------
    Categorical Series ``(n_obs,)``, the largest cluster called ``"0"``.

    Raises
    ------
    ImportError
        If igraph is not installed.
    KeyError
        If the layer is missing.
    """
    if layer is not None:
        checks.check_key(adata, "layers", layer, "layer")
    x = adata.X if layer is None else adata.layers[layer]
    points = principal_components(x, is_count=is_count, seed=seed)
    codes = leiden_clusters(points, n_clusters, seed, resolution)
    order = np.argsort(-np.bincount(codes), kind="stable")
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    categories = [str(i) for i in range(len(order))]
    values = pd.Categorical(rank[codes].astype(str), categories=categories)
    return pd.Series(values, index=adata.obs_names, name="cluster")


def train_guided(
    model: GMVAE,
    clusters: str | Sequence,
    *,
    supervised_stages: Sequence[tuple[float, int]] = ((1e-3, 30), (1e-4, 10)),
    unsupervised_stages: Sequence[tuple[float, int]] | None = ((1e-4, 20), (1e-5, 10)),
    **train_kwargs,
) -> Guidance:
    """Teach the model a clustering as if it were labels, then go on without it.

    A graph clustering says nothing of new cells; the model does. No label is looked at.

    Parameters
    ----------
    model
        A :class:`mixvi.GMVAE` or :class:`mixvi.CGMVAE` with at least as many components as there
        are clusters.
    clusters
        A column of ``obs``, or the cluster of each cell ``(n_obs,)``, e.g. of
        :func:`cluster_cells`.
    supervised_stages, unsupervised_stages
        (learning rate, epochs) of either part; ``None``: leave the second out.
    **train_kwargs
        Passed to :meth:`mixvi.GMVAE.train`.

    Returns
    -------
    :class:`Guidance`.

    Raises
    ------
    ValueError
        If there is one cluster alone, or more clusters than components.
    """
    model.train(mode="guided", clusters=clusters, stages=supervised_stages, **train_kwargs)
    values = model.adata.obs[clusters] if isinstance(clusters, str) else clusters
    codes = pd.factorize(np.asarray(values), sort=True)[0]
    supervised = float((model.predict().to_numpy() == codes).mean())
    if unsupervised_stages is None:
        return Guidance(supervised, None)
    model.train(mode="unsupervised", stages=unsupervised_stages, **train_kwargs)
    return Guidance(supervised, float((model.predict().to_numpy() == codes).mean()))
