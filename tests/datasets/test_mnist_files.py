from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from mixvi import datasets
from mixvi.datasets import mnist_files

LOADERS = {"MNIST": datasets.mnist, "FASHION_MNIST": datasets.fashion_mnist}


@pytest.mark.parametrize(
    ("name", "column", "first", "sizes"),
    [
        ("MNIST", "digit", list("5041921314"), {"train": 50_000, "held_out": 10_000}),
        ("FASHION_MNIST", "article", ["Ankle boot", "T-shirt/top"], {"train": 60_000}),
    ],
)
def test_the_complete_sets(name, column, first, sizes):
    if datasets.find(getattr(datasets, name)) is None:
        pytest.skip(f"{name.lower()}.npz is not on this machine")
    adata = LOADERS[name]()
    assert adata.shape == (70_000, 784)
    assert adata.X.dtype == np.float32
    assert adata.X.min() == 0 and adata.X.max() == 1
    assert adata.obs["split"].value_counts().to_dict() == sizes | {"test": 10_000}
    assert list(adata.obs[column][: len(first)]) == first
    assert np.array_equal(adata.obsm["image"][7, 0].ravel(), adata.X[7])
    assert np.shares_memory(adata.obsm["image"], adata.X)
    assert list(adata.uns["image_shape"]) == [1, 28, 28]


@pytest.fixture(params=LOADERS)
def few(request, tmp_path, monkeypatch):
    """Loader and folder of files of the same format: 5 training and 3 test pictures."""
    rng = np.random.default_rng(0)
    name = f"_{request.param}"
    parts = []
    for part in getattr(mnist_files, name):
        n = 5 if part.name.startswith("train") else 3
        if "images" in part.name:
            content = bytes(16) + rng.integers(0, 256, n * 784, dtype=np.uint8).tobytes()
        else:
            content = bytes(8) + bytes(range(n))
        packed = gzip.compress(content)
        (tmp_path / part.name).write_bytes(packed)
        parts.append(replace(part, checksum=hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(mnist_files, name, tuple(parts))
    monkeypatch.setattr(mnist_files, "_N_TRAIN", 5)
    monkeypatch.setattr(mnist_files, "_N_TEST", 3)
    monkeypatch.setattr(mnist_files, "_N_HELD_OUT", 1)
    monkeypatch.setattr(mnist_files, "_DIGITS_TRAIN", (1,) * 5 + (0,) * 5)
    monkeypatch.setattr(mnist_files, "_DIGITS_TEST", (1,) * 3 + (0,) * 7)
    return LOADERS[request.param], tmp_path, parts[0].folder


def test_the_authors_files_are_read(few):
    load, folder, _ = few
    adata = load(folder)
    assert adata.shape == (8, 784)
    assert list(adata.obs["split"][4:]) in (["train"] + ["test"] * 3, ["held_out"] + ["test"] * 3)
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    np.testing.assert_allclose(adata.X[5], np.frombuffer(raw, np.uint8)[16:800] / 255, rtol=1e-6)


def test_files_are_found_in_the_data_directory(few, tmp_path, monkeypatch):
    load, folder, name = few
    there = tmp_path / "data" / name
    there.mkdir(parents=True)
    for path in folder.glob("*.gz"):
        path.rename(there / path.name)
    monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    assert load().shape == (8, 784)
    labels = there / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(bytes(8) + bytes([1, 1, 1])))
    with pytest.raises(ValueError, match="its MD5 is"):
        load()
    assert load(verify=False).shape == (8, 784)


def test_other_files_are_refused(few):
    load, folder, _ = few
    name = "train-labels-idx1-ubyte.gz"
    (folder / name).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match=f"{name} is not the expected file"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="four files"):
        load(folder)
