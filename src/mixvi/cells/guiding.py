"""Training guided by another clustering (Kolb 2022, l. 966-974)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.cells.gmvae import GMVAE
from mixvi.cells.initial import principal_components
from mixvi.core.arguments import shown
from mixvi.core.data import checks
from mixvi.core.data.alignment import in_order_of
from mixvi.core.data.fields import labelled_cells, plain_labels
from mixvi.core.maths.clustering import leiden_clusters


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
    basis: str | None = None,
    is_count: bool = False,
    seed: int = 0,
) -> pd.Series:
    """Leiden clusters of the cells' neighbour graph; ``adata`` is not changed.

    Parameters
    ----------
    adata
        The cells.
    n_clusters
        Search the resolution for as many clusters, and join pairs where it gives too many.
    resolution
        Of Leiden, where ``n_clusters`` is None.
    layer
        Matrix whose principal components make the graph; ``None``: ``X``.
    basis
        Key of ``obsm`` to make the graph of instead, such as a latent space.
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
        If the layer or the basis is missing.
    """
    if layer is not None:
        checks.check_key(adata, "layers", layer, "layer")
    if basis is not None:
        checks.check_key(adata, "obsm", basis, "basis")
        points = np.asarray(adata.obsm[basis])
    else:
        x = adata.X if layer is None else adata.layers[layer]
        points = principal_components(x, is_count=is_count, seed=seed)
    codes = leiden_clusters(points, n_clusters, seed, resolution)
    order = np.argsort(-np.bincount(codes), kind="stable")
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    categories = [str(i) for i in range(len(order))]
    values = pd.Categorical(rank[codes].astype(str), categories=categories)
    return pd.Series(values, index=adata.obs_names, name="cluster")


def spread_labels(
    clusters: Sequence, labels: Sequence, unlabeled_category: Hashable = "Unknown"
) -> pd.Series:
    """Give every cell the label that most labelled cells of its cluster have.

    A start for semi-supervised training: ``model.train(mode="guided", clusters=...)`` with these,
    then ``model.train(mode="semi")``.

    Parameters
    ----------
    clusters
        Cluster of each cell ``(n_obs,)``, finer than the labels, e.g. of :func:`cluster_cells`; a
        Series by the names that ``labels`` have.
    labels
        Label of each cell ``(n_obs,)``; ``unlabeled_category`` or NaN where there is none. A column
        of ``obs`` gives the result its names.
    unlabeled_category
        What cells without a label are called.

    Returns
    -------
    Series ``(n_obs,)`` by the names of the cells, if they have some. Labelled cells keep their own;
    clusters without any take the most frequent label of all.

    Raises
    ------
    ValueError
        If lengths differ or no cell has a label.
    """
    if len(clusters) != len(labels):
        raise ValueError(f"There are {len(clusters)} clusters, but {len(labels)} labels.")
    names = next((v.index for v in (labels, clusters) if isinstance(v, pd.Series)), None)
    labels = pd.Series(labels, index=names)
    clusters = np.asarray(in_order_of(labels.index, clusters, "clusters"))
    known = labelled_cells(labels, unlabeled_category)
    if not known.any():
        raise ValueError(
            f"All labels are {shown(unlabeled_category)} or NaN: there is nothing to spread."
        )
    own = plain_labels(labels[known])
    of_cluster = pd.crosstab(clusters[known], own.to_numpy()).idxmax(axis=1)
    spread = pd.Series(clusters, index=labels.index).map(of_cluster).fillna(own.mode()[0])
    spread[known] = own.to_numpy()
    return spread


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
        :func:`cluster_cells`; a Series by cell name.
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
    codes = model.guiding_components(clusters)
    supervised = float((model.predict().to_numpy() == codes).mean())
    if unsupervised_stages is None:
        return Guidance(supervised, None)
    model.train(mode="unsupervised", stages=unsupervised_stages, **train_kwargs)
    return Guidance(supervised, float((model.predict().to_numpy() == codes).mean()))
