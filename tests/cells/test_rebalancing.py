import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import CPU
from scipy import sparse

import mixvi
from mixvi.cells import balanced_indices, rebalance, train_alternating


@pytest.fixture
def rare():
    """100 cells of ``a`` and 6 of ``b``, each gene its cell's number."""
    x = np.arange(106)[:, None] + np.array([0.25, 0.5])
    obs = pd.DataFrame({"kind": pd.Categorical(["a"] * 100 + ["b"] * 6)})
    obs.index = [f"cell_{i}" for i in range(106)]
    return AnnData(x.astype(np.float32), obs=obs)


def test_draws_are_even_and_of_their_category(rare):
    drawn = balanced_indices(rare.obs["kind"], 40)
    assert np.bincount(drawn >= 100).tolist() == [40, 40]
    assert np.array_equal(drawn, balanced_indices(rare.obs["kind"], 40))
    assert not np.array_equal(drawn, balanced_indices(rare.obs["kind"], 40, seed=1))
    cut = balanced_indices(rare.obs["kind"], 40, replace=False)
    assert len(cut) == len(np.unique(cut)) == 12


@pytest.mark.parametrize("matrix", [np.asarray, sparse.csr_matrix])
def test_rebalanced_cells(rare, matrix):
    rare.X = matrix(rare.X)
    before = rare.copy()
    cells = rebalance(rare, "kind", 30, noise=1e-3)
    assert cells.obs["kind"].value_counts().tolist() == [30, 30]
    assert cells.obs_names.is_unique
    original = rare[cells.obs["drawn_from"].to_numpy()].X
    original = original.toarray() if sparse.issparse(original) else original
    noise = cells.X - original
    assert 3e-4 < noise.std() < 3e-3
    assert rare.obs.equals(before.obs) and abs(rare.X - before.X).max() == 0

    both = rebalance(rare, "kind", 30, augment=True)
    assert both.n_obs == 166
    assert both.obs["kind"].value_counts().to_dict() == {"a": 130, "b": 36}


@pytest.mark.parametrize("augment", [True, False])
def test_layers_are_kept_and_may_be_what_gets_noise(rare, augment):
    rare.layers["counts"] = sparse.csr_matrix(np.floor(rare.X))
    rare.layers["scaled"] = rare.X / 10
    rare.obsm["place"] = rare.X[:, :1]
    cells = rebalance(rare, "kind", 30, layer="scaled", augment=augment)
    originals = rare[cells.obs["drawn_from"].to_numpy()]
    np.testing.assert_array_equal(cells.X, originals.X)
    np.testing.assert_array_equal(cells.obsm["place"], originals.obsm["place"])
    assert (cells.layers["counts"] != originals.layers["counts"]).nnz == 0
    moved = np.abs(cells.layers["scaled"] - originals.layers["scaled"])
    assert 0 < moved.max() < 1e-3 and (moved[-60:] > 0).any(1).all()
    mixvi.GMVAE.setup_anndata(cells, layer="counts")
    with pytest.raises(ValueError, match=r"layers\['counts'\] holds whole numbers.*noise=0"):
        rebalance(rare, "kind", layer="counts")
    with pytest.raises(KeyError, match="layer='count'.*'counts'"):
        rebalance(rare, "kind", layer="count")


def test_bad_input(rare):
    with pytest.raises(KeyError, match="louvain"):
        rebalance(rare, "louvain")
    rare.obs["kind"] = rare.obs["kind"].cat.add_categories("c")
    with pytest.raises(ValueError, match="'c' has no cell"):
        rebalance(rare, "kind")
    with pytest.raises(ValueError, match="2 cells have no category"):
        balanced_indices(["a", "b", None, None])
    rare.obs["kind"] = rare.obs["kind"].cat.remove_unused_categories()
    rare.X = np.ones_like(rare.X)
    with pytest.raises(ValueError, match="noise=0"):
        rebalance(rare, "kind")
    assert rebalance(rare, "kind", noise=0).n_obs == 600


def test_alternating_keeps_a_rare_type_apart(toy):
    keep = (toy.obs["cell_type"] != "type 4").to_numpy().copy()
    keep[np.flatnonzero(~keep)[:8]] = True
    cells = toy[keep].copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.remove_unused_categories()
    mixvi.CGMVAE.setup_anndata(cells, condition_key="condition")
    model = mixvi.CGMVAE(
        cells,
        n_components=5,
        n_hidden=64,
        n_layers=1,
        n_latent_z=2,
        n_latent_w=2,
        likelihood="mse",
    )
    train_alternating(
        model,
        "cell_type",
        n_per_category=80,
        balanced_stages=[(5e-3, 15)],
        original_stages=[(1e-3, 5)],
        batch_size=50,
        **CPU,
    )
    recall = model.assign_components("cell_type").recall
    assert recall["type 4"] == 1.0
    assert recall.min() > 0.9
    with pytest.raises(KeyError, match="donor"):
        train_alternating(model, "donor", **CPU)


@pytest.mark.parametrize("init", ["kmeans", "leiden"])
def test_copies_of_a_rare_cell_are_no_cluster(init, monkeypatch):
    if init == "leiden":
        pytest.importorskip("igraph")
    rng = np.random.default_rng(0)
    # three kinds, one of them rare and scattered: drawn often, its cells would each be a cluster
    means = np.repeat([[0.0] * 8, [6.0] * 4 + [0.0] * 4, [0.0] * 4 + [30.0] * 4], [100, 100, 6], 0)
    x = rng.normal(means, np.repeat([1.0, 1.0, 8.0], [100, 100, 6])[:, None])
    cells = AnnData(x.astype(np.float32))
    mixvi.GMVAE.setup_anndata(cells)
    model = mixvi.GMVAE(cells, n_components=3, n_hidden=8, n_layers=1)
    started = []
    fit = model._fit

    def watched(part, run):
        started.append(part.minibatches["extra"])
        return fit(part, run)

    monkeypatch.setattr(model, "_fit", watched)
    drawn = balanced_indices(np.repeat(["a", "b", "c"], [100, 100, 6]), 100)
    model.train(2, indices=drawn, init=init, init_epochs=1, **CPU)
    codes = started[0]["components"].ravel()[:200]
    assert len(np.unique(codes[np.intersect1d(drawn, np.arange(200))])) == 2
