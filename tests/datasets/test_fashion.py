from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest

from mixvi import datasets
from mixvi.datasets import fashion


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of the same format: 5 training and 3 test pictures."""
    rng = np.random.default_rng(0)
    sums = {}
    for name in fashion._FILES:
        n = 5 if name.startswith("train") else 3
        if "images" in name:
            content = bytes(16) + rng.integers(0, 256, n * 784, dtype=np.uint8).tobytes()
        else:
            content = bytes(8) + bytes(range(n))
        packed = gzip.compress(content)
        (tmp_path / name).write_bytes(packed)
        sums[name] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(fashion, "_FILES", sums)
    return tmp_path


def test_files_are_read(folder):
    adata = datasets.fashion_mnist(folder)
    assert adata.shape == (8, 784)
    assert list(adata.obs["split"]) == ["train"] * 5 + ["test"] * 3
    assert list(adata.obs["article"][:3]) == ["T-shirt/top", "Trouser", "Pullover"]
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert np.allclose(adata.X[5], np.frombuffer(raw, np.uint8)[16:800] / 255)
    assert adata.obsm["image"].shape == (8, 1, 28, 28)
    assert np.shares_memory(adata.obsm["image"], adata.X)


def test_files_are_found_in_the_data_directory(folder, tmp_path, monkeypatch):
    there = tmp_path / "data" / "fashion_mnist"
    there.mkdir(parents=True)
    for name in fashion._FILES:
        (folder / name).rename(there / name)
    monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path / "data"))
    assert datasets.fashion_mnist().shape == (8, 784)
    (there / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="its MD5 is"):
        datasets.fashion_mnist()


def test_other_files_are_refused(folder):
    name = "train-labels-idx1-ubyte.gz"
    (folder / name).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match=f"{name} is not the expected file"):
        datasets.fashion_mnist(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="four files"):
        datasets.fashion_mnist(folder)
