from __future__ import annotations

import io
import tarfile

import anndata
import numpy as np
import pytest
from anndata import AnnData

from mixvi import datasets
from mixvi.datasets import images


def test_cifar10():
    if datasets.find(datasets.CIFAR10) is None:
        pytest.skip("cifar10.npz is not on this machine")
    adata = datasets.cifar10()
    assert adata.shape == (21_000, 3072)
    assert adata.obsm["image"].shape == (21_000, 3, 32, 32)
    assert np.shares_memory(adata.obsm["image"], adata.X)
    assert adata.obs["split"].value_counts().to_dict() == {"train": 20_000, "test": 1_000}
    first = ["frog", "truck", "truck", "deer", "automobile"]
    assert list(adata.obs["object"][:5]) == first
    with np.load(datasets.find(datasets.CIFAR10)) as file:
        pixel = file["x_train"][7, 3, 5]
    np.testing.assert_allclose(adata.obsm["image"][7, :, 3, 5], pixel / 255)


def archive(path, rows):
    with tarfile.open(path, "w:gz") as file:
        for i, name in enumerate(images._BATCHES):
            content = rows[i].tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def test_the_archive_is_read_with_the_test_batch_last(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (6, 4, 3073), dtype=np.uint8)
    archive(tmp_path / "cifar.tar.gz", rows)
    pixels, codes = images._read_archive(tmp_path / "cifar.tar.gz")
    np.testing.assert_array_equal(codes, rows[:, :, 0].ravel())
    assert pixels.shape == (24, 3, 32, 32)
    # the green pixel in row 2, column 3 of the second test image
    assert pixels[21, 1, 2, 3] == rows[5, 1, 1 + 1024 + 2 * 32 + 3]


def test_the_complete_cifar10_comes_from_its_author(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="its MD5 is"):
        datasets.cifar10(complete=True)


def greys(n=3, height=28, width=28, channels=1):
    x = np.random.default_rng(0).random((n, channels, height, width), dtype=np.float32)
    adata = AnnData(x.reshape(n, -1), uns={"image_shape": np.array(x.shape[1:])})
    adata.obs["digit"] = list("123")[:n]
    return adata, x


def test_prepared_images_are_square_and_signed():
    adata, x = greys()
    for method in ("resize", "pad"):
        ready = datasets.prepare_images(adata, method=method)
        assert ready.obsm["image"].shape == (3, 1, 32, 32)
        assert ready.obsm["image"].dtype == np.float32
        assert ready.obsm["image"].min() >= -1 and ready.obsm["image"].max() <= 1
        assert np.shares_memory(ready.obsm["image"], ready.X)
        assert list(ready.uns["image_shape"]) == [1, 32, 32]
        assert ready.obs["digit"].equals(adata.obs["digit"])
    np.testing.assert_allclose(ready.obsm["image"][:, :, 2:-2, 2:-2], 2 * x - 1, atol=1e-6)
    assert (ready.obsm["image"][:, :, :2] == -1).all()
    assert (ready.obsm["image"][:, :, :, -2:] == -1).all()


def test_resizing_keeps_flat_images_and_slopes():
    flat = AnnData(np.full((1, 28 * 28), 0.25), uns={"image_shape": (1, 28, 28)})
    np.testing.assert_allclose(datasets.prepare_images(flat).X, -0.5, atol=1e-6)
    slope = np.tile(np.arange(28) / 27, (1, 28))
    adata = AnnData(slope, uns={"image_shape": (1, 28, 28)})
    row = datasets.prepare_images(adata).obsm["image"][0, 0, 16]
    # pixel centres: the middle of the new pixel i lies at (i + 0.5) * 28 / 32 - 0.5 of the old
    expected = ((np.arange(32) + 0.5) * 28 / 32 - 0.5).clip(0, 27) / 27 * 2 - 1
    np.testing.assert_allclose(row, expected, atol=1e-5)


def test_images_of_the_size_are_only_scaled_and_survive_a_file(tmp_path):
    adata, x = greys(height=32, width=32, channels=3)
    ready = datasets.prepare_images(adata)
    np.testing.assert_allclose(ready.obsm["image"], 2 * x - 1, atol=1e-6)
    ready.write_h5ad(tmp_path / "images.h5ad")
    read = anndata.read_h5ad(tmp_path / "images.h5ad")
    np.testing.assert_array_equal(read.obsm["image"], ready.obsm["image"])
    assert tuple(read.uns["image_shape"]) == (3, 32, 32)
    as_bytes = AnnData(obs=adata.obs, obsm={"image": np.round(x * 255).astype(np.uint8)})
    np.testing.assert_allclose(
        datasets.prepare_images(as_bytes).obsm["image"], 2 * x - 1, atol=1 / 255
    )


def test_preparing_bad_images():
    adata, x = greys()
    with pytest.raises(ValueError, match=r"do not fit into a frame of size=16"):
        datasets.prepare_images(adata, 16, method="pad")
    with pytest.raises(ValueError, match="prepared already"):
        datasets.prepare_images(datasets.prepare_images(adata))
    with pytest.raises(ValueError, match="method='crop' is not known"):
        datasets.prepare_images(adata, method="crop")
    with pytest.raises(ValueError, match="size must be a positive"):
        datasets.prepare_images(adata, 0)
    with pytest.raises(KeyError, match="image_shape"):
        datasets.prepare_images(AnnData(adata.X))
    with pytest.raises(ValueError, match="product of 784"):
        datasets.prepare_images(AnnData(adata.X, uns={"image_shape": (1, 28, 27)}))
