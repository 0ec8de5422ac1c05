"""Rendered sprites beside the facts of the published file, and how that file is read."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mixvi import datasets
from mixvi.datasets import dsprites
from mixvi.datasets.dsprites import SIZES


def images_of(adata) -> np.ndarray:
    return adata.obsm["image"][:, 0]


def test_the_grid_has_the_published_size_and_order():
    assert np.prod(list(SIZES.values())) == dsprites.N_SPRITES == 737_280
    adata = datasets.sprites({"scale": [1, 5]}, n_obs=500, source="rendered", seed=3)
    codes = adata.obs.assign(shape=adata.obs["shape"].cat.codes)[list(SIZES)]
    # the dot product that the file's authors give
    rows = codes.to_numpy() @ [245_760, 40_960, 1_024, 32, 1]
    assert (np.diff(rows) > 0).all() and list(adata.obs_names) == [f"sprite_{i}" for i in rows]
    assert set(adata.obs["scale"]) == {1, 5}
    values = adata.uns["factor_values"]
    assert values["scale"] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert values["orientation"][[0, -1]] == pytest.approx([0.0, 2 * np.pi])
    assert list(adata.obs["shape"].cat.categories) == ["square", "ellipse", "heart"]


def test_images_are_white_on_black_and_touch_no_border():
    adata = datasets.sprites({"x": [0, 31], "y": [0, 31], "scale": [0, 5]}, source="rendered")
    x = images_of(adata)
    assert x.shape == (3 * 2 * 40 * 4, 64, 64) and set(np.unique(x)) == {0, 255}
    assert not (x[:, [0, -1]].any() or x[:, :, [0, -1]].any())
    assert x.any(axis=(1, 2)).all()


def test_each_factor_does_what_it_says():
    def one(**factors) -> np.ndarray:
        fixed = {"shape": [2], "scale": [5], "orientation": [0], "x": [16], "y": [16]}
        return images_of(datasets.sprites(fixed | factors, source="rendered"))

    for axis, name in ((1, "y"), (2, "x")):
        centres = [np.nonzero(x)[axis - 1].mean() for x in one(**{name: [4, 5, 31]})]
        assert np.diff(centres) == pytest.approx([1.0, 26.0])
    areas = one(scale=range(6)).sum(axis=(1, 2)) / 255
    assert np.sqrt(areas / areas[-1]) == pytest.approx(np.linspace(0.5, 1, 6), abs=0.03)
    # both ends of the circle are the same, other angles are not
    turned = one(orientation=range(40))
    assert (turned[0] == turned[39]).all()
    assert len(np.unique(turned[:39].reshape(39, -1), axis=0)) == 39
    shapes = one(shape=range(3), orientation=[5])
    assert len(np.unique(shapes.reshape(3, -1), axis=0)) == 3
    # the heart's tip is below where nothing is turned
    rows, columns = np.nonzero(one()[0])
    assert len(columns[rows == rows.max()]) < len(columns[rows == rows.min()])


def test_twenty_thousand_images_a_second():
    datasets.sprites(n_obs=10, source="rendered")
    start = time.process_time()
    datasets.sprites(n_obs=20_000, source="rendered")
    assert time.process_time() - start < 1.0


def test_the_published_file_is_read_where_it_is(tmp_path, monkeypatch):
    # the first rows of a file that is as long as these
    n = 2048
    images = np.random.default_rng(0).integers(0, 2, (n, 64, 64), dtype=np.uint8)
    (tmp_path / "dsprites").mkdir()
    file = tmp_path / "dsprites" / dsprites.DSPRITES.name
    np.savez_compressed(file, imgs=images)
    monkeypatch.setattr(dsprites, "N_SPRITES", n)
    part = {"shape": [0], "scale": [0], "orientation": [0, 1], "x": [3, 30]}
    for options in ({"path": file}, {}):
        monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path))
        adata = datasets.sprites(part, verify=False, **options)
        rows = [int(name.removeprefix("sprite_")) for name in adata.obs_names]
        np.testing.assert_array_equal(images_of(adata), images[rows] * 255)
        assert adata.uns["source"] == "published"
    with pytest.raises(ValueError, match="not the published file: its git blob is"):
        datasets.sprites(part)
    assert datasets.sprites(part, source="rendered").uns["source"] == "rendered"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"factors": {"colour": [0]}}, ValueError, "the grid has no option 'colour'"),
        ({"factors": {"scale": [6]}}, ValueError, "whole numbers from 0 to 5"),
        ({"factors": {"x": []}}, ValueError, "whole numbers from 0 to 31"),
        ({"factors": {"x": [0]}, "n_obs": 10**6}, ValueError, "exceeds the 23040 images"),
        ({"source": "file"}, ValueError, "source='file' is not known"),
        ({"path": "none.npz"}, FileNotFoundError, "none.npz is not on this machine"),
    ],
)
def test_unusable_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        datasets.sprites(**options)
