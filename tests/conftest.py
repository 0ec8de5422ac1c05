from __future__ import annotations

import logging
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse

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
def lines(caplog):
    """What scvi-tools' logger is given, by which mixvi speaks."""
    caplog.set_level(logging.INFO, logger="scvi")
    return lambda: [record.message for record in caplog.records if record.name == "scvi"]


@pytest.fixture
def counts():
    """The cells of :func:`small_counts`."""
    return small_counts()


def small_counts() -> AnnData:
    """200 cells x 30 genes of small counts with two types, conditions and batches."""
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


@pytest.fixture
def small_windows(monkeypatch):
    """Chunks and memory so small that 200 rows on disk are many windows."""
    for name, value in {"backed_memory": 20_000, "backed_chunk_rows": 8}.items():
        monkeypatch.setattr(mixvi.settings, name, value)


def on_disk(adata: AnnData, directory: Path, kind: str) -> AnnData:
    """The same AnnData with X on disk; ``kind`` is ``"h5ad"`` or ``"zarr"``, then how it is stored.

    Stored ``"dense"``, ``"csr"``, or ``"gzip"``, a compressed CSR.
    """
    form, how = kind.split()
    dense = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    stored = adata.copy()
    stored.X = dense if how == "dense" else sparse.csr_matrix(dense)
    path = directory / f"cells.{form}"
    if form == "zarr":
        stored.write_zarr(path)
    else:
        stored.write_h5ad(path, compression="gzip" if how == "gzip" else None)
    return mixvi.read_backed(path)


def bars(n: int, size: int = 8, seed: int = 0):
    """Images (n, 1, size, size) in [-1, 1] with one thick bar, across or upright."""
    rng = np.random.default_rng(seed)
    x = np.full((n, 1, size, size), -0.9, np.float32)
    places, upright = rng.integers(0, size - 2, n), rng.integers(0, 2, n)
    for image, at, turned in zip(x, places, upright, strict=True):
        view = image[0].T if turned else image[0]
        view[at : at + 2] = 0.9
    return x


@pytest.fixture
def images():
    """192 images of bars in obsm["image"]."""
    return AnnData(obsm={"image": bars(192)})


@pytest.fixture
def fit_images(images):
    """Set up, build and train a small model of images."""
    from mixvi.images import GenerativeInference

    def _fit(objective="vae", epochs=3, adata=None, train=None, **options):
        adata = images if adata is None else adata
        GenerativeInference.setup_anndata(adata)
        options = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 64}} | options
        model = GenerativeInference(adata, objective, **options)
        model.train(epochs, **({"lr": 2e-3, "batch_size": 64} | CPU | (train or {})))
        return model

    return _fit


BLOB_CENTRES = np.array([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.6]])


def blobs(n: int, seed: int = 0) -> AnnData:
    """Points of three Gaussians in the plane, as images of one pixel and two channels."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    x = BLOB_CENTRES[kind] + 0.08 * rng.normal(size=(n, 2))
    adata = AnnData(obsm={"image": x.astype(np.float32).clip(-1, 1).reshape(n, 2, 1, 1)})
    adata.obs["kind"] = np.array(["a", "b", "c"])[kind]
    return adata


def assert_resumes(run, directory, monkeypatch, n_losses: int) -> None:
    """``run(directory)``, stopped at its n-th loss, goes on to the same weights and records."""
    from mixvi.images.module import ImageModule

    whole = run(directory / "whole")
    loss, taken = ImageModule.loss, []

    def stopping(self, step, *rows):
        taken.append(step)
        if len(taken) == n_losses:
            raise InterruptedError
        return loss(self, step, *rows)

    monkeypatch.setattr(ImageModule, "loss", stopping)
    with pytest.raises(InterruptedError):
        run(directory / "stopped")
    monkeypatch.undo()
    resumed = run(directory / "stopped", resume=True)
    weights = whole.module.state_dict()
    for name, values in resumed.module.state_dict().items():
        torch.testing.assert_close(values, weights[name], rtol=0, atol=0, msg=name)
    assert whole.history.keys() == resumed.history.keys()
    for name, table in whole.history.items():
        np.testing.assert_array_equal(
            table.to_numpy(float), resumed.history[name].to_numpy(float), err_msg=name
        )
