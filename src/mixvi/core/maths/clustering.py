"""Clusters of points, no label looked at: where the components of models start."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer

_MAX_FITTED = 20_000
_MAX_GRAPH = 100_000
_N_NEIGHBORS = 15
_SEARCH_STEPS = 12


def kmeans_clusters(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Codes ``(n,)`` by k-means with 10 starts; centres from at most 20,000 rows of ``points``."""
    fitted = points
    if len(points) > _MAX_FITTED:
        rows = np.random.default_rng(seed).choice(len(points), _MAX_FITTED, replace=False)
        fitted = points[np.sort(rows)]
    return KMeans(n_clusters, n_init=10, random_state=seed).fit(fitted).predict(points)


def check_leiden() -> None:
    """Raise ImportError unless Leiden can run."""
    if importlib.util.find_spec("igraph") is None:
        raise ImportError(
            "Leiden needs igraph, which is not installed: pip install 'mixvi[leiden]', or choose "
            "another init."
        )


def leiden_clusters(
    points: np.ndarray, n_clusters: int | None, seed: int, resolution: float = 1.0
) -> np.ndarray:
    """Codes ``(n,)`` by Leiden on scanpy's neighbour graph of ``points`` ``(n, D)``.

    Parameters
    ----------
    n_clusters
        The resolution is searched for the smallest number of clusters that is not below this, and
        the pairs whose union costs least modularity are then joined. ``None``: ``resolution`` as
        it is.
    seed
        Of graph and clustering.
    resolution
        Used where ``n_clusters`` is None.

    Notes
    -----
    Beyond 100,000 rows the graph is of a random part, and the others take the majority of their
    neighbours in it. Source: Traag et al. 2019 (Leiden).

    Raises
    ------
    ImportError
        If igraph is not installed.
    """
    check_leiden()
    rows = np.arange(len(points))
    if len(points) > _MAX_GRAPH:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MAX_GRAPH, replace=False))
    graph = _neighbour_graph(points[rows], seed)
    if n_clusters is None:
        codes = _leiden(graph, resolution, seed)
    else:
        codes = _exactly(graph, n_clusters, seed)
    if len(rows) == len(points):
        return codes
    nearest = KNeighborsClassifier(_N_NEIGHBORS).fit(points[rows], codes)
    return nearest.predict(points)


def _neighbour_graph(points: np.ndarray, seed: int) -> AnnData:
    import scanpy as sc

    cells = AnnData(np.asarray(points, dtype=np.float32))
    n_neighbors = min(_N_NEIGHBORS, len(points) - 1)
    threads = torch.get_num_threads()
    # exact search: approximate ones need pynndescent, whose newest does not fit every scanpy
    search = KNeighborsTransformer(n_neighbors=n_neighbors)
    sc.pp.neighbors(cells, n_neighbors, use_rep="X", transformer=search, random_state=seed)
    # scanpy raises torch's thread count, which slows later training on busy cores
    torch.set_num_threads(threads)
    return cells


def _leiden(graph: AnnData, resolution: float, seed: int) -> np.ndarray:
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.leiden(
            graph, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed
        )
    return graph.obs["leiden"].cat.codes.to_numpy().astype(np.int64)


def _exactly(graph: AnnData, n_clusters: int, seed: int) -> np.ndarray:
    """Bisect the resolution on a log scale, then join what is too many."""
    low, high, best = 0.01, 1.0, None
    while best is None:
        codes = _leiden(graph, high, seed)
        if codes.max() + 1 >= n_clusters:
            best = codes
        else:
            low, high = high, 2.0 * high
    for _ in range(_SEARCH_STEPS):
        if best.max() + 1 == n_clusters:
            return best
        middle = float(np.sqrt(low * high))
        codes = _leiden(graph, middle, seed)
        if codes.max() + 1 < n_clusters:
            low = middle
        else:
            high = middle
            if codes.max() < best.max():
                best = codes
    return join_clusters(graph.obsp["connectivities"], best, n_clusters)


def join_clusters(graph: sparse.spmatrix, codes: np.ndarray, n_clusters: int) -> np.ndarray:
    """Join pairs of clusters, always the one that costs least modularity, down to ``n_clusters``.

    Parameters
    ----------
    graph
        Symmetric weights ``(n, n)``.
    codes
        Cluster of each row, ``(n,)``.
    n_clusters
        How many to leave.

    Returns
    -------
    Codes from 0 to n_clusters - 1, ``(n,)``. Source: Clauset, Newman and Moore 2004, eq. 8.
    """
    codes = np.unique(codes, return_inverse=True)[1]
    while codes.max() + 1 > n_clusters:
        k = codes.max() + 1
        member = sparse.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))
        weight = (member.T @ graph @ member).toarray()
        degree = weight.sum(axis=0)
        gain = weight - np.outer(degree, degree) / weight.sum()
        gain[np.tril_indices(k)] = -np.inf
        first, second = np.unravel_index(gain.argmax(), gain.shape)
        codes = np.unique(np.where(codes == second, first, codes), return_inverse=True)[1]
    return codes
