"""``mixvi segment`` and ``mixvi impute``: a scene in, a map or a filled series out."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("rioxarray", reason="scenes need the extra satellite")

import pandas as pd
import rioxarray
import xarray as xr
from conftest import CPU

import mixvi
from mixvi.cli import main

N_DATES, N_BANDS, SIDE = 3, 2, 24


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    """Digital numbers of three dates, of which one has a hole; two classes by the first band."""
    rng = np.random.default_rng(0)
    left = np.arange(SIDE) < SIDE // 2
    values = rng.integers(900, 1100, (N_DATES, N_BANDS, SIDE, SIDE)).astype(np.int16)
    values[:, 0] += (3000 * left).astype(np.int16)
    values[1, :, 4:9, 4:9] = 0
    times = pd.date_range("2024-05-01", periods=N_DATES, freq="30D")
    step = 10.0 * np.arange(SIDE)
    axes = {"time": times, "y": 5e6 - 5 - step, "x": 4e5 + 5 + step}
    series = xr.DataArray(values, axes | {"band": ["B4", "B8"]}, ("time", "band", "y", "x"))
    data = series.rio.write_crs("EPSG:32633").rio.write_nodata(0)
    return data.to_dataset(name="series")


@pytest.fixture(scope="module")
def files(scene, tmp_path_factory):
    """A folder of GeoTIFFs, and the scene's tiles with labels, in reflectance."""
    folder = tmp_path_factory.mktemp("scene")
    for date in scene.time.values:
        day = pd.Timestamp(date).strftime("%Y%m%d")
        scene.series.sel(time=date, drop=True).rio.to_raster(folder / f"S2_{day}.tif")
    tiles = mixvi.satellite.tile(scene, size=8, overlap=0, nodata=0)
    tiles.obsm["series"] = tiles.obsm["series"].astype(np.float32) * 1e-4
    columns = tiles.obs["column"].to_numpy()[:, None, None] + np.arange(8)
    tiles.obsm["labels"] = np.broadcast_to(columns < SIDE // 2, (len(tiles), 8, 8)).astype(int)
    tiles.uns["classes"] = ["right", "left"]
    return folder, tiles


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["mixvi", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None), stop.value.code


def test_a_scene_becomes_a_map(files, tmp_path, monkeypatch):
    folder, tiles = files
    mixvi.satellite.UNetSegmenter.setup_anndata(tiles)
    model = mixvi.satellite.UNetSegmenter(tiles, width=4, n_levels=1)
    model.train(30, lr=1e-2, batch_size=9, **CPU)
    model.save(tmp_path / "model")
    run(
        monkeypatch, "segment", folder, "--model", tmp_path / "model", "--out",
        tmp_path / "map.tif", "--scale", 1e-4,
    )  # fmt: skip
    found = rioxarray.open_rasterio(tmp_path / "map.tif")
    assert found.rio.crs == "EPSG:32633"
    expected = np.broadcast_to(np.arange(SIDE) < SIDE // 2, (SIDE, SIDE))
    assert (found.values[0] == expected).mean() > 0.95


def test_an_offset_is_added_before_the_scale(files, tmp_path, monkeypatch):
    folder, tiles = files
    tiles = tiles.copy()
    tiles.obsm["series"] = tiles.obsm["series"] - np.float32(0.1)
    mixvi.satellite.SymmetricHVAE.setup_anndata(tiles)
    model = mixvi.satellite.SymmetricHVAE(tiles, layers="light", width=0.25)
    model.train(1, batch_size=9, **CPU)
    model.save(tmp_path / "model")
    run(
        monkeypatch, "impute", folder, "--model", tmp_path / "model", "--out", tmp_path / "f.nc",
        "--offset", -1000, "--scale", 1e-4, "--n-samples", 1,
    )  # fmt: skip
    filled = mixvi.satellite.read_scene(tmp_path / "f.nc")["series"].values
    scene = mixvi.satellite.read_scene(folder)
    valid = scene["valid"].values
    expected = (scene["series"].values[valid].astype(float) - 1000) * 1e-4
    np.testing.assert_allclose(filled[valid], expected, rtol=1e-4, atol=1e-6)


def test_a_model_of_tiles_with_acquisitions_reads_scenes(files, tmp_path, monkeypatch):
    folder, tiles = files
    tiles = tiles.copy()
    tiles.obsm["frame"] = tiles.obsm["valid"].any((2, 3, 4))
    mixvi.satellite.UNetSegmenter.setup_anndata(tiles)
    model = mixvi.satellite.UNetSegmenter(tiles, width=4, n_levels=1)
    model.train(1, batch_size=9, **CPU)
    model.save(tmp_path / "model")
    run(
        monkeypatch, "segment", folder, "--model", tmp_path / "model", "--out",
        tmp_path / "map.tif", "--scale", 1e-4,
    )  # fmt: skip
    assert rioxarray.open_rasterio(tmp_path / "map.tif").shape == (1, SIDE, SIDE)


def test_a_model_without_the_verb(files, tmp_path, monkeypatch, capsys):
    folder, tiles = files
    mixvi.satellite.UNetSegmenter.setup_anndata(tiles)
    model = mixvi.satellite.UNetSegmenter(tiles, width=4, n_levels=1)
    model.train(1, **CPU)
    model.save(tmp_path / "model")
    monkeypatch.setattr(
        sys, "argv",
        ["mixvi", "impute", str(folder), "--model", str(tmp_path / "model"), "--out", "x.nc"],
    )  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "'UNetSegmenter' model, which has no verb 'impute'" in capsys.readouterr().err


def test_a_scene_is_filled(files, tmp_path, monkeypatch):
    """What was observed is returned as it is, and the hole has values."""
    folder, tiles = files
    mixvi.satellite.SymmetricHVAE.setup_anndata(tiles)
    model = mixvi.satellite.SymmetricHVAE(tiles, layers="light", width=0.25)
    model.train(2, batch_size=9, **CPU)
    model.save(tmp_path / "model")
    run(
        monkeypatch, "impute", folder, "--model", tmp_path / "model", "--out",
        tmp_path / "filled.nc", "--scale", 1e-4, "--n-samples", 2,
    )  # fmt: skip
    filled = mixvi.satellite.read_scene(tmp_path / "filled.nc")["series"].values
    scene = mixvi.satellite.read_scene(folder)
    valid = scene["valid"].values
    np.testing.assert_allclose(filled[valid], scene["series"].values[valid] * 1e-4, rtol=1e-5)
    assert np.isfinite(filled).all()
