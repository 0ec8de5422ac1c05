"""Training on the minibatches of a data module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU
from lightning.pytorch import LightningDataModule
from scipy import sparse
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader

from mixvi import CGMVAE, GMVAE, VAE


class _Plain(LightningDataModule):
    """Minibatches of X alone."""

    def __init__(self, x):
        super().__init__()
        self._x = torch.as_tensor(x, dtype=torch.float32)

    def train_dataloader(self):
        return DataLoader([{"X": part} for part in self._x.split(50)], batch_size=None)


def test_minibatches_of_a_data_module(toy):
    """scvi-tools' own, and one whose minibatches hold less than the AnnData has."""
    GMVAE.setup_anndata(toy, labels_key="cell_type")
    model = GMVAE(toy, n_hidden=32, n_layers=1)
    splitter = DataSplitter(model.adata_manager, train_size=0.9, batch_size=50)
    model.train(20, lr=5e-3, init=None, datamodule=splitter, **CPU)
    labels = toy.obs["cell_type"].astype(str)
    assert (model.predict(level="label").astype(str) == labels).mean() >= 0.99
    assert "elbo_validation" in model.history and model.train_indices is None
    sample = toy[::10].copy()
    VAE.setup_anndata(sample)
    vae = VAE(sample, n_hidden=16)
    vae.train(2, datamodule=_Plain(toy.X), **CPU)
    assert vae.get_latent_representation().shape[0] == 50
    CGMVAE.setup_anndata(toy, condition_key="condition")
    conditional = CGMVAE(toy, n_components=5, n_hidden=16)
    with pytest.raises(KeyError, match="lack 'condition'"):
        conditional.train(1, init=None, datamodule=_Plain(toy.X), **CPU)


def test_size_factors_nobody_registered_are_not_read(counts):
    """scvi-tools' annbatch module gives some, relative to each minibatch."""
    GMVAE.setup_anndata(counts)
    module = GMVAE(counts, likelihood="nb", n_components=3, n_hidden=8).module
    x = torch.as_tensor(counts.X.toarray()[:5])
    rows = module.rows({"X": x, "size_factor": torch.ones(5, 1)})
    torch.testing.assert_close(rows.library, x.sum(1, keepdim=True))


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part:UserWarning")
def test_minibatches_of_annbatch(toy, tmp_path):
    annbatch = pytest.importorskip("annbatch")
    from scvi.dataloaders import AnnbatchDataModule

    rates = np.exp(np.clip(0.3 * np.asarray(toy.X), -2, 3))
    toy.X = sparse.csr_matrix(np.random.default_rng(0).poisson(rates).astype(np.float32))
    toy.write_h5ad(tmp_path / "cells.h5ad")
    collection = annbatch.DatasetCollection(tmp_path / "cells.zarr")
    collection.add_adatas([tmp_path / "cells.h5ad"])
    reading = {"chunk_size": 10, "preload_nchunks": 10, "shuffle": True, "preload_to_gpu": False}
    loader = annbatch.Loader(batch_size=50, to="torch", **reading).use_collection(collection)
    data = AnnbatchDataModule(loader, label_key="cell_type", **reading)
    GMVAE.setup_anndata(toy, labels_key="cell_type")
    model = GMVAE(toy, n_hidden=32, n_layers=1, likelihood="nb")
    model.train(10, lr=5e-3, init=None, datamodule=data, **CPU)
    labels = toy.obs["cell_type"].astype(str)
    assert (model.predict(level="label").astype(str) == labels).mean() >= 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "init='auto'"),
        ({"init": None, "indices": [1, 2]}, "indices chooses cells"),
        ({"init": None, "labelled_fraction": 0.5}, "labelled_fraction chooses cells"),
        ({"init": None, "train_size": 0.5}, "Split there"),
        ({"init": None, "max_epochs": None}, "pass max_epochs or stages"),
    ],
)
def test_what_a_data_module_makes_impossible(toy, options, message):
    GMVAE.setup_anndata(toy)
    model = GMVAE(toy, n_components=5, n_hidden=8)
    options = {"max_epochs": 1, "datamodule": _Plain(toy.X)} | options
    with pytest.raises(ValueError, match=message):
        model.train(**options, **CPU)
    with pytest.raises(TypeError, match="LightningDataModule"):
        model.train(1, init=None, datamodule=DataLoader([1]), **CPU)
