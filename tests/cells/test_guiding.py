import numpy as np
import pandas as pd
import pytest
from conftest import CPU
from sklearn.metrics import adjusted_rand_score

import mixvi
from mixvi.cells import cluster_cells, train_guided

SMALL = {"n_hidden": 64, "n_layers": 1, "n_latent_z": 2, "n_latent_w": 2, "likelihood": "mse"}


@pytest.fixture
def model(toy):
    mixvi.GMVAE.setup_anndata(toy)
    return mixvi.GMVAE(toy, n_components=6, **SMALL)


def test_clusters_of_cells(toy):
    before = toy.copy()
    clusters = cluster_cells(toy, n_clusters=10)
    groups = toy.obs["cell_type"].astype(str) + toy.obs["condition"].astype(str)
    assert adjusted_rand_score(clusters, groups) > 0.95
    assert list(clusters.cat.categories) == [str(i) for i in range(10)]
    assert clusters.value_counts().sort_index().is_monotonic_decreasing
    assert clusters.index.equals(toy.obs_names)
    assert toy.obs.equals(before.obs) and not toy.obsp and not toy.uns
    with pytest.raises(KeyError, match="logged"):
        cluster_cells(toy, layer="logged")


def test_a_guided_model_follows_and_goes_on(toy, model):
    types = toy.obs["cell_type"].to_numpy()
    result = train_guided(
        model,
        "cell_type",
        supervised_stages=[(5e-3, 20)],
        unsupervised_stages=[(1e-3, 5)],
        batch_size=50,
        **CPU,
    )
    assert result.supervised > 0.99
    assert result.unsupervised > 0.97
    assert not model.trained_with_labels_
    assert adjusted_rand_score(model.predict(), types) > 0.95


def test_the_first_part_alone(toy, model):
    clusters = pd.factorize(toy.obs["cell_type"])[0]
    stages = [(5e-3, 40), (1e-3, 10)]
    result = train_guided(
        model, clusters, supervised_stages=stages, unsupervised_stages=None, **CPU
    )
    assert result.supervised > 0.99
    assert result.unsupervised is None


def test_clusters_that_cannot_guide(toy, model):
    n = toy.n_obs
    for clusters, message in (
        (np.zeros(n), "one cluster alone"),
        (np.arange(n) % 7, "7 clusters, but the model 6 components"),
        (np.zeros(3), "3 entries, but the model has 500 cells"),
        (np.where(np.arange(n) < 4, np.nan, 1.0), "4 missing"),
    ):
        with pytest.raises(ValueError, match=message):
            train_guided(model, clusters, **CPU)
    with pytest.raises(KeyError, match="leiden"):
        train_guided(model, "leiden", **CPU)
    with pytest.raises(ValueError, match="mode='guided'"):
        model.train(1, mode="guided", **CPU)
    with pytest.raises(ValueError, match="mode='guided'"):
        model.train(1, clusters="cell_type", **CPU)
    assert not model.is_trained_


def test_labels_spread_over_clusters():
    clusters = ["x", "x", "x", "x", "y", "y", "z"]
    labels = ["a", "b", "a", "Unknown", "Unknown", "b", "Unknown"]
    spread = mixvi.cells.spread_labels(clusters, labels)
    # labelled cells keep theirs; z has none and takes the most frequent
    assert list(spread) == ["a", "b", "a", "a", "b", "b", "a"]
    with pytest.raises(ValueError, match="nothing to spread"):
        mixvi.cells.spread_labels(clusters, ["Unknown"] * 7)
    with pytest.raises(ValueError, match="7 clusters, but 2 labels"):
        mixvi.cells.spread_labels(clusters, ["a", "b"])


def test_clusters_are_taken_by_name(toy, model):
    """A Series in another order guides as the column does; components are categories in order."""
    order = [f"type {i}" for i in (3, 1, 4, 0, 2)]
    toy.obs["cell_type"] = (
        toy.obs["cell_type"].cat.reorder_categories(order).cat.add_categories("z")
    )
    shuffled = toy.obs["cell_type"].sample(frac=1, random_state=0)
    np.testing.assert_array_equal(
        model.guiding_components(shuffled), toy.obs["cell_type"].cat.codes
    )
    np.testing.assert_array_equal(
        model.guiding_components("cell_type"), toy.obs["cell_type"].cat.codes
    )
    renamed = shuffled.set_axis([f"other {name}" for name in shuffled.index])
    with pytest.raises(ValueError, match="clusters has names, but none is 'cell_0'"):
        model.train(1, mode="guided", clusters=renamed, **CPU)
    labels = toy.obs["cell_type"].astype(str).where(np.arange(500) % 3 > 0, "Unknown")
    spread = mixvi.cells.spread_labels(shuffled, labels)
    assert spread.index.equals(toy.obs_names)
    assert (spread == toy.obs["cell_type"].astype(str)).all()
    assert mixvi.cells.spread_labels(shuffled, ["Unknown"] * 499 + ["a"]).index.equals(
        shuffled.index
    )


def test_labels_spread_by_the_names_of_cells(toy):
    labels = toy.obs["cell_type"].cat.codes.astype(int).where(np.arange(toy.n_obs) % 10 == 0)
    clusters = toy.obs["cell_type"].astype(str)
    spread = mixvi.cells.spread_labels(clusters, labels)
    np.testing.assert_array_equal(spread, toy.obs["cell_type"].cat.codes)
    assert spread.index.equals(toy.obs_names)
    shuffled = mixvi.cells.spread_labels(clusters.sample(frac=1, random_state=0), labels)
    assert shuffled.equals(spread)
    toy.obs["start"] = mixvi.cells.spread_labels(clusters.to_numpy(), labels)
    assert toy.obs["start"].notna().all()
    assert mixvi.cells.spread_labels(clusters, labels.to_numpy()).index.equals(toy.obs_names)


def test_clusters_named_as_labels_take_their_components(toy):
    order = [f"type {i}" for i in (3, 1, 4, 0, 2)]
    toy.obs["cell_type"] = toy.obs["cell_type"].cat.reorder_categories(order)
    mixvi.GMVAE.setup_anndata(toy, labels_key="cell_type")
    model = mixvi.GMVAE(toy, n_components=6, **SMALL)
    names = toy.obs["cell_type"].astype(str).to_numpy()
    model.train(15, mode="guided", clusters=names, lr=5e-3, batch_size=50, **CPU)
    classes = np.array([str(label) for label in model.classes])
    found = model.predict().to_numpy()
    assert (classes[np.minimum(found, 4)] == names).mean() > 0.97
