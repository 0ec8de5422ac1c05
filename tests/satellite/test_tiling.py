from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from anndata import read_h5ad
from scenes import BANDS, DATES, made_up_scene

from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite import iter_tiles, stitch, tile
from mixvi.satellite.grid import TileGrid


def pointwise(series: np.ndarray) -> np.ndarray:
    """Probabilities of two classes, each pixel for itself: (n, 2, H, W) of (n, T, C, H, W)."""
    p = 1 / (1 + np.exp(-series.mean((1, 2)) / series.dtype.type(2**14)))
    return np.stack([p, 1 - p], 1)


def box_mean(images: np.ndarray) -> np.ndarray:
    """Mean of 3 x 3 pixels (n, H, W), zeros around."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    h, w = images.shape[1:]
    shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.add.reduce(shifted) / images.dtype.type(9)


def test_layout():
    scene = made_up_scene()
    tiles = tile(scene, 32, 8, classes=list("abcd"), block_size=48)
    assert tiles.shape == (9, 0)
    assert tiles.obsm["series"].shape == tiles.obsm["valid"].shape == (9, 3, 4, 32, 32)
    assert tiles.obsm["labels"].shape == (9, 32, 32)
    assert tiles.obs["row"].tolist() == [0] * 3 + [24] * 3 + [48] * 3
    assert tiles.obs["column"].tolist() == [0, 24, 48] * 3
    assert tiles.obs["block"].tolist() == ["0_0", "0_0", "0_1"] * 2 + ["1_0", "1_0", "1_1"]
    days = (DATES - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    np.testing.assert_array_equal(tiles.obsm["time"], np.tile(days, (9, 1)))
    assert tiles.uns["bands"] == BANDS and tiles.uns["classes"] == list("abcd")
    np.testing.assert_array_equal(tiles.obsm["series"][4], scene["series"][..., 24:56, 24:56])


def test_edges_are_padded():
    tiles = tile(made_up_scene(), 32, 8)
    last = tiles[-1]
    # 70 x 60 pixels, and the last tile begins at 48, 48
    valid = last.obsm["valid"][0]
    assert valid[..., :22, :12].all() and valid.sum() == 12 * 22 * 12
    labels = last.obsm["labels"][0]
    assert (labels[22:] == VOID).all() and (labels[:, 12:] == VOID).all()
    assert (labels[:22, :12] != VOID).all()
    one = tile(made_up_scene(20, 10), 32, 8)
    assert one.n_obs == 1 and one.obsm["valid"].sum() == 12 * 20 * 10


@pytest.mark.parametrize("overlap", [0, 1, 7, 16])
@pytest.mark.parametrize("key", ["series", "labels"])
def test_round_trip_to_the_last_bit(key, overlap, tmp_path):
    scene = made_up_scene()
    tile(scene, 32, overlap).write_h5ad(tmp_path / "tiles.h5ad")
    tiles = read_h5ad(tmp_path / "tiles.h5ad")
    # any order
    back = stitch(tiles[::-1].copy(), key)
    assert back.dims == scene[key].dims
    np.testing.assert_array_equal(back, scene[key])
    for name in scene[key].coords:
        np.testing.assert_array_equal(back[name], scene[name])


def test_georeference_of_a_part_and_of_a_rotated_raster():
    scene = made_up_scene()
    wkt = 'LOCAL_CS["made up"]'
    stale = {"crs_wkt": wkt, "GeoTransform": "0 10 0 0 0 -10"}
    part = scene.assign_coords(spatial_ref=((), 0, stale)).isel(y=slice(5, None))
    tiles = tile(part, 32, 8)
    assert tiles.uns["scene"]["crs"] == wkt
    # coordinates tell that the transform is not that of this part
    assert tiles.uns["scene"]["transform"] == [10, 0, 500_000, 0, -10, 5_099_960]
    back = stitch(tiles, "series")["spatial_ref"].attrs
    assert back["crs_wkt"] == wkt and back["GeoTransform"].split()[3] == "5099960.0"
    rotated = {"GeoTransform": "7 8 6 1 6 -8"}
    flat = scene.drop_vars(["x", "y"]).assign_coords(spatial_ref=((), 0, rotated))
    tiles = tile(flat, 32, 8)
    assert tiles.uns["scene"]["transform"] == [8, 6, 7, 6, -8, 1]
    back = stitch(tiles, "series")
    assert back["spatial_ref"].attrs["GeoTransform"] == "7.0 8.0 6.0 1.0 6.0 -8.0"
    assert "x" not in back.coords


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pointwise_model_is_stitched_to_the_last_bit(dtype):
    scene = made_up_scene()
    tiles = tile(scene, 32, 11)
    probabilities = pointwise(tiles.obsm["series"].astype(dtype))
    whole = pointwise(scene["series"].to_numpy()[None].astype(dtype))[0]
    soft = stitch(tiles, torch.from_numpy(probabilities))
    assert soft.dims == ("class", "y", "x") and soft.dtype == dtype
    np.testing.assert_array_equal(soft, whole)
    np.testing.assert_array_equal(stitch(tiles, probabilities, soft=False), whole.argmax(0))


def test_convolution_is_stitched_to_the_last_bit_with_a_margin():
    scene = made_up_scene()["series"][0, 0]
    tiles = tile(scene, 32, 8)
    mean = box_mean(tiles.obsm["series"][:, 0, 0])
    whole = box_mean(scene.to_numpy()[None])[0]
    np.testing.assert_array_equal(stitch(tiles, mean, margin=1), whole)
    np.testing.assert_array_equal(stitch(tiles, mean, margin=4), whole)
    assert not np.array_equal(stitch(tiles, mean), whole)


def test_no_seams():
    """Tiles that disagree pass into each other; no step is larger than the window's."""
    scene = made_up_scene(64, 112)["series"][0, 0]
    tiles = tile(scene, 64, 16)
    assert tiles.n_obs == 2
    values = np.zeros((2, 64, 64), "float32")
    values[1] = 1
    row = stitch(tiles, values)[0].to_numpy()
    assert (row[:48] == 0).all() and (row[64:] == 1).all()
    steps = np.diff(row)
    assert (steps >= 0).all() and steps.max() < 1.6 / 16
    np.testing.assert_allclose(row[48:64] + row[48:64][::-1], 1, atol=1e-6)


@pytest.mark.parametrize("overlap", [0, 5, 16])
@pytest.mark.parametrize("margin", [0, 2, None])
def test_weights_sum_to_one(overlap, margin):
    grid = TileGrid(100, 100, 32, overlap)
    ramp = grid.crop_ramp() if margin is None else grid.smooth_ramp(min(margin, overlap // 2))
    n = len(grid.rows)
    total = np.zeros(grid.rows[-1] + 32)
    for i, start in enumerate(grid.rows):
        total[start : start + 32] += grid.weights(i, n, ramp)
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-15)


def test_labels_are_of_the_tile_whose_edge_is_farther():
    tiles = tile(made_up_scene(64, 112)["series"][0, 0], 64, 16)
    values = np.stack([np.zeros((64, 64), int), np.ones((64, 64), int)])
    np.testing.assert_array_equal(stitch(tiles, values)[0], np.arange(112) >= 56)


def test_pixels_without_a_tile():
    tiles = tile(made_up_scene(), 32, 8)[4:].copy()
    soft = stitch(tiles, "series")
    # the fifth begins at 24, 24; above it there is none
    assert np.isnan(soft[..., :24, :]).all() and np.isnan(soft[..., :48, :24]).all()
    assert np.isfinite(soft[..., 24:, 24:]).all()
    hard = stitch(tiles, np.zeros((5, 2, 32, 32), "float32"), soft=False)
    assert (hard[:24] == UNLABELLED).all() and (hard[24:, 24:] == 0).all()
    assert not stitch(tiles, "valid")[0, 0, :24].any()


def test_validity():
    scene = made_up_scene(40, 40)
    scene["series"][0, 1, 2, 3] = np.nan
    scene["series"][1, 1, 2, 3] = -9999
    scene["valid"] = ("y", "x"), np.ones((40, 40), bool)
    scene["valid"][7, 7] = False
    found = stitch(tile(scene, 32, 8, nodata=-9999), "valid")
    expected = np.ones((3, 4, 40, 40), bool)
    expected[0, 1, 2, 3] = expected[1, 1, 2, 3] = expected[:, :, 7, 7] = False
    np.testing.assert_array_equal(found, expected)
    scene["series"].attrs["_FillValue"] = -9999
    np.testing.assert_array_equal(stitch(tile(scene, 32, 8), "valid"), expected)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int64", "float64"])
def test_digital_numbers_keep_their_dtype(dtype):
    kept = dtype if dtype.endswith("16") else "float32"
    tiles = tile(made_up_scene(dtype=dtype), 32, 8)
    assert tiles.obsm["series"].dtype == kept and tiles.obsm["valid"].dtype == bool


def test_one_image_and_missing_labels():
    scene = made_up_scene().isel(time=0).transpose("x", "y", "band")
    scene["labels"] = scene["labels"].where(scene["labels"] != 2)
    tiles = tile(scene, 32, 8)
    assert tiles.obsm["series"].shape == (9, 1, 4, 32, 32) and tiles.obsm["time"].shape == (9, 1)
    assert tiles.obsm["labels"].dtype == np.int16 and not (tiles.obsm["labels"] == 2).any()
    plane = tile(made_up_scene()["series"][0, 0].drop_vars("time"), 32, 8)
    assert plane.obsm["series"].shape == (9, 1, 1, 32, 32) and "time" not in plane.obsm


def test_one_tile_that_is_the_whole_scene_need_not_be_square():
    scene = made_up_scene().isel(y=slice(0, 30), x=slice(0, 20))
    tiles = tile(scene, 32, 0)
    tiles.obsm["series"] = tiles.obsm["series"][..., :30, :20]
    np.testing.assert_array_equal(stitch(tiles, "series"), scene["series"])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("window", [1, 30_000, 10**9], ids=["a tile", "a part", "all"])
def test_batches_are_the_tiles(batch_size, window, monkeypatch):
    monkeypatch.setattr("mixvi.satellite.tiling._WINDOW_BYTES", window)
    scene = made_up_scene(90, 60)
    whole = tile(scene, 32, 8, block_size=40)
    batches = list(iter_tiles(scene, 32, 8, batch_size=batch_size, block_size=40))
    assert [b.n_obs for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for key in ("series", "valid", "labels", "time"):
        np.testing.assert_array_equal(
            np.concatenate([b.obsm[key] for b in batches]), whole.obsm[key]
        )
    assert [name for b in batches for name in b.obs_names] == whole.obs_names.tolist()
    assert [block for b in batches for block in b.obs["block"]] == whole.obs["block"].tolist()


def test_dask_is_read_by_windows():
    pytest.importorskip("dask", reason="the extra satellite is not installed")
    scene = made_up_scene()
    lazy = scene.chunk({"y": 16, "x": 16})
    for key in ("series", "valid", "labels"):
        np.testing.assert_array_equal(tile(lazy, 32, 8).obsm[key], tile(scene, 32, 8).obsm[key])


def unsorted(scene):
    return scene.isel(time=[1, 0, 2])


BAD = {
    "no series": (lambda s: s.rename(series="bands"), r"no variable 'series'"),
    "dimensions": (lambda s: s.rename(y="latitude"), r"dimensions .*latitude.*needs y and x"),
    "labels by band": (
        lambda s: s.assign(labels=s["series"][0]),
        r"labels of the scene has the dimensions",
    ),
    "unsorted dates": (unsorted, r"not sorted: scene.sortby\('time'\)"),
    "repeated dates": (lambda s: s.isel(time=[0, 1, 1]), "several acquisitions of 2017-03-11"),
    "missing dates": (
        lambda s: s.assign_coords(time=np.r_[DATES[:2], np.array(["NaT"], "M8[ns]")]),
        "1 dates of the scene are missing",
    ),
    "unsorted days": (lambda s: s.assign_coords(time=[2.0, 1.0, 3.0]), "must rise"),
    "dates as text": (lambda s: s.assign_coords(time=list("abc")), "datetime64"),
    "two resolutions": (
        lambda s: s.assign_coords(x=np.r_[np.arange(57), 60, 80, 100]),
        "x of scene is not evenly spaced",
    ),
    "empty": (lambda s: s.isel(y=slice(0)), "is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_scenes_that_are_refused(name):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        tile(change(made_up_scene()), 32, 8)


def test_other_bad_arguments():
    scene = made_up_scene()
    with pytest.raises(TypeError, match="read_scene reads one from files"):
        tile(scene["series"].to_numpy())
    with pytest.raises(TypeError, match="valid of the scene must be boolean"):
        tile(scene.assign(valid=scene["labels"]))
    with pytest.raises(ValueError, match=r"overlap must lie in \[0, size / 2\], here \[0, 16\]"):
        tile(scene, 32, 17)
    with pytest.raises(ValueError, match="batch_size must be a positive whole number"):
        iter_tiles(scene, batch_size=0)
    with pytest.raises(ValueError, match="block_size must be a positive whole number"):
        iter_tiles(scene, block_size=0)
    with pytest.raises(ValueError, match="not sorted"):
        iter_tiles(unsorted(scene))


def test_what_cannot_be_stitched():
    tiles = tile(made_up_scene(), 32, 8)
    twice = tiles.copy()
    twice.obs[["row", "column"]] = 0
    with pytest.raises(KeyError, match="Did you mean 'series'"):
        stitch(tiles, "serie")
    with pytest.raises(ValueError, match=r"shape \(9, ..., 32, 32\), one entry a tile"):
        stitch(tiles, np.zeros((9, 32, 31)))
    with pytest.raises(ValueError, match=r"margin must lie in \[0, overlap / 2\], here \[0, 4\]"):
        stitch(tiles, "series", margin=5)
    with pytest.raises(ValueError, match="soft=False takes the most probable class"):
        stitch(tiles, "labels", soft=False)
    with pytest.raises(ValueError, match="dims must be a list of 2 names"):
        stitch(tiles, "series", dims=["time"])
    with pytest.raises(ValueError, match="tiles more than once"):
        stitch(twice, "series")
    tiles.obs["row"] += 1
    with pytest.raises(ValueError, match="No tile begins at row 1, column 0"):
        stitch(tiles, "series")
    del tiles.uns["scene"]
    with pytest.raises(KeyError, match="scene"):
        stitch(tiles, "series")


def test_time_and_class_axes():
    scene = made_up_scene()
    tiles = tile(scene, 32, 8, classes=list("ab"))
    both = np.zeros((9, 3, 2, 32, 32), "float32")
    both[:, 1, 1] = 1
    soft = stitch(tiles, both, dims=["time", "class"])
    assert soft.dims == ("time", "class", "y", "x")
    assert soft["class"].to_numpy().tolist() == ["a", "b"]
    hard = stitch(tiles, both, dims=["time", "class"], soft=False)
    assert hard.dims == ("time", "y", "x") and isinstance(hard, xr.DataArray)
    np.testing.assert_array_equal(hard.mean(("y", "x")), [0, 1, 0])
