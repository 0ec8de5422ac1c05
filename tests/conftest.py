from __future__ import annotations

import logging

import matplotlib
import pytest
import scvi
import torch

import mixvi

matplotlib.use("Agg")

CPU = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _steady():
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)


@pytest.fixture
def toy():
    """500 cells, 5 types x 2 conditions, well separated."""
    return mixvi.datasets.toy_conditional_blobs(n_per_group=50)


@pytest.fixture
def fit():
    """Set up, build and train a small model."""

    def _fit(cls, adata, epochs=5, setup=None, train=None, **options):
        cls.setup_anndata(adata, **(setup or {}))
        model = cls(adata, **({"n_hidden": 32, "n_layers": 1} | options))
        model.train(epochs, **({"lr": 5e-3, "batch_size": 50} | CPU | (train or {})))
        return model

    return _fit


@pytest.fixture
def counts():
    """200 cells x 30 genes of small counts with two types, conditions and batches."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(0)
    n = 200
    kind = rng.integers(0, 2, n)
    rates = np.exp(rng.normal(0, 0.5, (2, 30)))
    rates[1, :10] *= 6
    x = rng.poisson(rates[kind]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(np.array(["a", "b"])[kind]),
            "condition": pd.Categorical(np.array(["ctrl", "stim"])[rng.integers(0, 2, n)]),
            "batch": pd.Categorical(np.array(["one", "two"])[rng.integers(0, 2, n)]),
            "site": pd.Categorical(np.array(["x", "y", "z"])[rng.integers(0, 3, n)]),
            "age": rng.normal(size=n),
        },
        index=[f"cell_{i}" for i in range(n)],
    )
    obs["size"] = x.sum(axis=1)
    adata = AnnData(sparse.csr_matrix(x), obs=obs)
    adata.layers["counts"] = adata.X.copy()
    return adata
