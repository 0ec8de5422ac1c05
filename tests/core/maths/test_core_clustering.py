import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from mixvi.core.maths.clustering import join_clusters, kmeans_clusters, leiden_clusters


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 60)
    return rng.normal(0, 8, (4, 10))[codes] + rng.normal(size=(240, 10)), codes


@pytest.mark.parametrize("cluster", [kmeans_clusters, leiden_clusters])
def test_blobs_are_found(blobs, cluster):
    points, codes = blobs
    found = cluster(points, 4, seed=0)
    assert adjusted_rand_score(found, codes) > 0.99


@pytest.mark.parametrize("n", [2, 3, 7])
def test_leiden_gives_the_number_asked_for(blobs, n):
    found = leiden_clusters(blobs[0], n, seed=1)
    assert sorted(np.unique(found)) == list(range(n))


def test_leiden_by_resolution(blobs):
    coarse = leiden_clusters(blobs[0], None, 0, resolution=0.2)
    fine = leiden_clusters(blobs[0], None, 0, resolution=8.0)
    assert fine.max() > coarse.max()


def test_leiden_beyond_the_graph_asks_neighbours(blobs, monkeypatch):
    points, codes = blobs
    monkeypatch.setattr("mixvi.core.maths.clustering._MAX_GRAPH", 120)
    found = leiden_clusters(points, 4, seed=0)
    assert adjusted_rand_score(found, codes) > 0.99


def test_leiden_leaves_the_thread_count(blobs):
    import torch

    torch.set_num_threads(1)
    leiden_clusters(blobs[0], 4, seed=0)
    assert torch.get_num_threads() == 1


def test_joined_are_the_most_connected():
    """Two tight pairs of clusters: 0 with 1, and 2 with 3."""
    weight = np.zeros((8, 8))
    for a, b, w in [(0, 1, 5), (2, 3, 5), (4, 5, 5), (6, 7, 5), (1, 2, 4), (5, 6, 3), (3, 4, 0.1)]:
        weight[a, b] = weight[b, a] = w
    codes = np.repeat(np.arange(4), 2)
    three = join_clusters(sparse.csr_matrix(weight), codes, 3)
    assert list(three) == [0, 0, 0, 0, 1, 1, 2, 2]
    two = join_clusters(sparse.csr_matrix(weight), codes, 2)
    assert list(two) == [0] * 4 + [1] * 4


def test_leiden_without_igraph(blobs, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="mixvi\\[leiden\\]"):
        leiden_clusters(blobs[0], 4, seed=0)
