"""``train`` reads the AnnData as it is now, as its model registered it."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from conftest import CPU
from scipy import sparse

import mixvi
from mixvi.core.data.backed import row_sums

TRAIN = {"max_epochs": 30, "lr": 5e-3, "batch_size": 50, **CPU}


def build(adata, key):
    mixvi.GMVAE.setup_anndata(adata, labels_key=key)
    return mixvi.GMVAE(adata, n_hidden=32, n_layers=1)


def accuracy(model, adata, key):
    return (model.predict(level="label").astype(str) == adata.obs[key].astype(str)).mean()


def test_two_models_of_one_anndata(toy):
    """The second model's set-up is not what the first trains on."""
    turned = {"type 0": "b", "type 1": "a", "type 2": "d", "type 3": "c", "type 4": "e"}
    toy.obs["other"] = toy.obs["cell_type"].astype(str).map(turned).fillna("z")
    first, second = build(toy, "cell_type"), build(toy, "other")
    first.train(**TRAIN)
    second.train(**TRAIN)
    assert accuracy(first, toy, "cell_type") > 0.95
    assert accuracy(second, toy, "other") > 0.95


def test_labels_that_were_mended_after_the_set_up(toy):
    right = toy.obs["cell_type"].astype(str)
    toy.obs["label"] = np.random.default_rng(0).permutation(right)
    model = build(toy, "label")
    toy.obs["label"] = right
    model.train(**TRAIN)
    assert accuracy(model, toy, "label") > 0.95


def test_counts_that_were_logged_after_the_set_up(counts):
    mixvi.VAE.setup_anndata(counts)
    model = mixvi.VAE(counts, n_hidden=8, likelihood="nb")
    sc.pp.log1p(counts)
    with pytest.warns(UserWarning, match="not whole numbers.*nb"):
        model.train(1, **CPU)
    counts.X = -counts.X
    with pytest.raises(ValueError, match="negative values"):
        model.train(1, **CPU)


def test_verbs_look_at_values_that_changed(counts):
    """All of them, in place or not; without a change they are not read anew."""
    mixvi.VAE.setup_anndata(counts)
    model = mixvi.VAE(counts, n_hidden=8, likelihood="nb")
    model.train(1, **CPU)
    model._check_data = lambda adata: pytest.fail("read anew")
    model.get_latent_representation(indices=[0])
    del model._check_data
    kept = counts.X.copy()
    counts.X *= -1
    with pytest.raises(ValueError, match="negative values"):
        model.get_latent_representation(indices=[0])
    counts.X = kept
    model.get_latent_representation(indices=[0])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_row_sums_of_every_form(form):
    x = np.array([[0, 0, 0], [60_000, 1, 60_000], [0, 0, 0], [0, 2, 0]], dtype=np.float32)
    np.testing.assert_array_equal(row_sums(form(x)), [0, 120_001, 0, 2])
    assert row_sums(form(x[:0])).shape == (0,)
    np.testing.assert_array_equal(row_sums(form(x[:1])), [0])


def test_labels_that_are_new_are_refused(toy):
    toy.obs["label"] = toy.obs["cell_type"].astype(str)
    mixvi.CGMVAE.setup_anndata(toy, condition_key="label")
    model = mixvi.CGMVAE(toy, n_components=3, n_hidden=8)
    toy.obs.iloc[3, toy.obs.columns.get_loc("label")] = "new"
    with pytest.raises(ValueError, match="'label'.*'new'"):
        model.train(1, **CPU)
    assert not model.is_trained_
