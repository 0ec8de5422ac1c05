"""Converted cells keep the support of the data: not below zero, and zeros as likely."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import scvi
from anndata import AnnData

from mixvi import CGMVAE, CVAE
from mixvi.core.model.counterfactual import match_group_means

SETUP = {"labels_key": "kind", "condition_key": "condition"}


@pytest.fixture(scope="module")
def sparse_cells():
    """800 log-normalised cells x 40 genes, two thirds zeros; ten genes rise and ten fall."""
    rng = np.random.default_rng(0)
    n = 800
    kind, stimulated = rng.integers(0, 2, n), rng.integers(0, 2, n)
    rates = rng.gamma(1, 0.6, 40)
    rates[35:] = 8.0
    rates = np.tile(rates, (2, 1))
    rates[1, 20:25] *= 6
    there = rates.copy()
    there[:, :10] = 4.0
    there[:, 10:20] *= 0.1
    x = rng.poisson(np.where(stimulated[:, None], there[kind], rates[kind])).astype(np.float32)
    cells = AnnData(x)
    cells.obs["kind"] = np.array(["a", "b"])[kind]
    cells.obs["condition"] = np.array(["ctrl", "stim"])[stimulated]
    sc.pp.normalize_total(cells, target_sum=1e3)
    sc.pp.log1p(cells)
    return cells


def sides(cells):
    control = (cells.obs["condition"] == "ctrl").to_numpy()
    return control, cells[~control]


@pytest.fixture
def model(sparse_cells, fit):
    options = {"n_components": 2, "n_hidden": 64, "dropout_rate": 0.0}
    return fit(CGMVAE, sparse_cells.copy(), epochs=30, setup=SETUP, **options)


@pytest.mark.parametrize("keep", [True, "centred"])
def test_residuals_on_data_with_zeros(sparse_cells, model, keep):
    control, real = sides(sparse_cells)
    converted = model.counterfactual(to="stim", indices=control, keep_residual=keep).X
    assert converted.min() >= 0
    zeros, theirs = (converted == 0).mean(axis=0), (real.X == 0).mean(axis=0)
    assert abs(zeros.mean() - theirs.mean()) < 0.03
    assert np.abs(zeros - theirs).max() < 0.2
    # genes that came on are off in as few cells as real ones
    before = (sparse_cells.X[control] == 0).mean(axis=0)
    assert (before[:10] - zeros[:10]).min() > 0.05
    np.testing.assert_allclose(converted.mean(axis=0), real.X.mean(axis=0), atol=0.6)


def test_centred_cells_whose_expected_mean_is_below_zero():
    x = np.array([[1.0, 2.0], [0.0, 4.0]])
    means = np.array([[-0.5, 6.0], [0.2, 6.0]])
    found = match_group_means(x, means, np.zeros(2), nonnegative=True)
    np.testing.assert_allclose(found, [[0.0, 4.0], [0.0, 8.0]])


def test_means_and_draws_are_not_negative(sparse_cells, model):
    for route in ("shift", "w", "z"):
        for use_mean in (True, False):
            options = {"route": route, "use_mean": use_mean, "keep_residual": False}
            converted = model.counterfactual(to="stim", **options).X
            assert converted.min() >= 0
            assert use_mean or abs((converted == 0).mean() - (sparse_cells.X == 0).mean()) < 0.1


def test_own_condition_changes_no_cell(sparse_cells, model):
    control, _ = sides(sparse_cells)
    same = model.counterfactual(to="ctrl", indices=control).X
    np.testing.assert_allclose(same, sparse_cells.X[control], atol=1e-4)


def test_repeatable_and_kept_in_files(sparse_cells, model, tmp_path):
    def converted(of):
        scvi.settings.seed = 1
        return of.counterfactual(sparse_cells.copy(), to="stim").X

    expected = converted(model)
    np.testing.assert_array_equal(converted(model), expected)
    model.save(tmp_path / "model")
    loaded = CGMVAE.load(tmp_path / "model", adata=False)
    np.testing.assert_allclose(converted(loaded), expected, atol=1e-4)


def test_cvae_too(sparse_cells, fit):
    model = fit(CVAE, sparse_cells.copy(), epochs=10, setup={"condition_key": "condition"})
    for use_mean in (True, False):
        assert model.counterfactual(to="stim", use_mean=use_mean).X.min() >= 0


def test_data_below_zero_may_stay_there(toy, fit):
    toy.X = toy.X - toy.X.mean(axis=0)
    setup = {"labels_key": "cell_type", "condition_key": "condition"}
    model = fit(CGMVAE, toy, epochs=5, setup=setup, n_components=5)
    assert model.support_ == "real"
    converted = model.counterfactual(to="condition 1").X
    assert converted.min() < 0
    np.testing.assert_array_equal(model.counterfactual(to="condition 1").X, converted)
