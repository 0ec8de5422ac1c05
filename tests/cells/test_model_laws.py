"""Laws of every model and every way of conditioning in the tables."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scvi
import torch
from conftest import CPU, small_counts
from scipy import sparse
from tables import CONDITIONINGS, MODELS

from mixvi import GMVAE

TABLE = MODELS | CONDITIONINGS
every_model = pytest.mark.parametrize("name", TABLE)


def data():
    """Counts in a layer, their logarithms in X."""
    adata = small_counts()
    adata.X = np.log1p(adata.layers["counts"].toarray())
    return adata


@functools.cache
def trained(name):
    """A small model; tests share it and change nothing."""
    scvi.settings.seed = 0
    cls, setup, options = TABLE[name]
    adata = data()
    cls.setup_anndata(adata, **setup)
    model = cls(adata, n_hidden=16, n_layers=1, **options)
    model.train(2, batch_size=50, **CPU)
    return model


def numbers(model, adata):
    """What a model says of each cell, ``(n_obs, ...)``."""
    found = {
        "z": model.get_latent_representation(adata),
        "reconstruction": model.get_reconstruction(adata),
    }
    if isinstance(model, GMVAE):
        found["w"] = model.get_latent_representation(adata, which="w")
        found["components"] = model.predict(adata, soft=True).to_numpy()
    return found


def assert_same(found, expected, rows=slice(None)):
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values[rows], atol=2e-5, rtol=1e-4, err_msg=key)


@every_model
def test_permuted_rows_give_permuted_results(name):
    model = trained(name)
    order = np.random.default_rng(0).permutation(200)
    assert_same(numbers(model, data()[order].copy()), numbers(model, data()), order)


@every_model
def test_a_view_gives_what_its_copy_gives(name):
    model = trained(name)
    rows = np.flatnonzero(data().obs["kind"] == "a")
    assert_same(numbers(model, data()[rows]), numbers(model, data()), rows)


@every_model
@pytest.mark.parametrize("change", ["float64", "csr", "csc", "csr_array"])
def test_formats_and_precisions_give_equal_results(name, change):
    formats = {
        "float64": lambda x: x.astype(np.float64),
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "csr_array": sparse.csr_array,
    }
    model, adata = trained(name), data()
    dense = adata.layers["counts"].toarray()
    adata.X, adata.layers["counts"] = formats[change](adata.X), formats[change](dense)
    assert_same(numbers(model, adata), numbers(model, data()))


@every_model
def test_a_saved_model_gives_equal_results(name, tmp_path):
    model = trained(name)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", data())
    expected = numbers(model, data())
    for key, values in numbers(loaded, data()).items():
        np.testing.assert_array_equal(values, expected[key], err_msg=key)


@every_model
def test_the_same_seed_gives_the_same_weights(name):
    model = trained(name)
    trained.cache_clear()
    again = trained(name).module.state_dict()
    for key, values in model.module.state_dict().items():
        torch.testing.assert_close(again[key], values, rtol=0, atol=0, msg=key)


@every_model
def test_weights_are_finite(name):
    for key, values in trained(name).module.state_dict().items():
        assert torch.isfinite(values).all(), key


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_what_conditions_changes_the_reconstruction(name):
    """Each registered column reaches the decoder."""
    model, (_, setup, _) = trained(name), TABLE[name]
    kept = model.get_reconstruction(data())
    keys = [
        key for value in setup.values() for key in (value if isinstance(value, list) else [value])
    ]
    for key in keys:
        adata = data()
        adata.obs[key] = np.roll(adata.obs[key].to_numpy(), 1)
        other = adata.obs[key].to_numpy() != data().obs[key].to_numpy()
        changed = np.abs(model.get_reconstruction(adata) - kept).max(axis=1) > 1e-6
        assert changed[other].mean() > 0.95
        assert not changed[~other].any()
