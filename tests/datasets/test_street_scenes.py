from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mixvi import datasets
from mixvi.core.data.keys import VOID


def test_camvid():
    if datasets.find(datasets.CAMVID) is None:
        pytest.skip("camvid.npz is not on this machine")
    adata = datasets.camvid()
    series, labels = adata.obsm["series"], adata.obsm["labels"]
    assert series.shape == (701, 1, 3, 120, 160) and labels.shape == (701, 120, 160)
    assert series.min() == 0 and series.max() == 1
    assert adata.obs["split"].value_counts().to_dict() == {"train": 367, "test": 233, "val": 101}
    assert set(adata.obs["sequence"]) == {"0001TP", "0006R0", "0016E5", "Seq05VD"}
    codes, counts = np.unique(labels[adata.obs["split"] == "test"], return_counts=True)
    assert codes.tolist() == [VOID, *range(11)] and counts[[0, 1]].tolist() == [171_951, 758_890]
    assert adata.uns["classes"][3] == "road"


@pytest.fixture
def copy(tmp_path):
    """Two images of Cityscapes's form: left half one label id, right half another."""
    for split, city, ids in (("train", "aachen", (7, 33)), ("val", "lindau", (9, 4))):
        name = f"{city}_000000_000019"
        for folder in ("leftImg8bit", "gtFine"):
            (tmp_path / folder / split / city).mkdir(parents=True)
        pixels = np.full((8, 16, 3), 51, np.uint8)
        pixels[:, 8:] = 255
        labels = np.repeat(np.array([ids], np.uint8), 8, axis=1).repeat(8, axis=0)
        path = tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
        Image.fromarray(pixels).save(path)
        path = tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"
        Image.fromarray(labels).save(path)
    return tmp_path


@pytest.mark.parametrize(
    ("classes", "codes", "n"),
    # parking is flat, but no class of the benchmark; static (4) is void
    [("categories", [[0, 6], [0, VOID]], 7), ("train_ids", [[0, 18], [VOID, VOID]], 19)],
)
def test_cityscapes(copy, classes, codes, n):
    adata = datasets.cityscapes(copy, classes, size=(4, 8))
    assert adata.obsm["series"].shape == (2, 1, 3, 4, 8)
    np.testing.assert_allclose(adata.obsm["series"][..., 0], 0.2)
    np.testing.assert_allclose(adata.obsm["series"][..., -1], 1)
    np.testing.assert_array_equal(adata.obsm["labels"][:, 3, [0, -1]], codes)
    assert len(adata.uns["classes"]) == n
    assert list(adata.obs["split"]) == ["train", "val"]
    assert list(adata.obs["sequence"]) == ["aachen", "lindau"]


def test_cityscapes_that_is_not_whole(copy):
    with pytest.raises(FileNotFoundError, match="leftImg8bit/test is not there. Pass"):
        datasets.cityscapes(copy, splits=["test"])
    (labels,) = (copy / "gtFine" / "val" / "lindau").iterdir()
    Image.new("L", (4, 4)).save(labels)
    with pytest.raises(ValueError, match="is 8 x 16 pixels, but its label map 4 x 4"):
        datasets.cityscapes(copy)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="the label map of lindau_000000_000019"):
        datasets.cityscapes(copy)
    with pytest.raises(ValueError, match="classes='fine' is not known"):
        datasets.cityscapes(copy, "fine")
