from __future__ import annotations

import numpy as np
import pytest
from scenes import BANDS, DATES, made_up_scene

from mixvi.satellite import predict_scene, rasters, read_scene, stitch, tile, write_raster


@pytest.fixture
def _extra():
    pytest.importorskip("rioxarray", reason="the extra satellite is not installed")


@pytest.fixture
def scene(_extra):
    """Digital numbers in UTM, 0 where there is no measurement."""
    scene = made_up_scene(dtype="uint16")
    scene["series"][0, :, :5] = 0
    scene["series"].attrs["_FillValue"] = 0
    return scene.rio.write_crs("EPSG:32633")


@pytest.mark.parametrize("name", ["stack", "series.nc", "series.zarr"])
def test_round_trip_of_a_series(scene, name, tmp_path):
    write_raster(scene["series"], tmp_path / name)
    back = read_scene(tmp_path / name)
    valid = back["valid"].to_numpy()
    np.testing.assert_array_equal(valid, scene["series"] != 0)
    np.testing.assert_array_equal(
        back["series"].to_numpy()[valid], scene["series"].to_numpy()[valid]
    )
    assert back["series"].chunks is not None and back.rio.crs == "EPSG:32633"
    np.testing.assert_array_equal(back["time"], DATES)
    assert back["band"].to_numpy().tolist() == BANDS
    tiles = tile(back, 32, 8)
    assert tiles.uns["scene"]["transform"] == [10, 0, 500_000, 0, -10, 5_100_010]
    stitched = stitch(tiles, "valid")
    assert stitched.rio.crs == "EPSG:32633" and stitched.rio.transform() == back.rio.transform()


def test_a_dataset_keeps_validity_and_labels(scene, tmp_path):
    scene["valid"] = ("y", "x"), np.arange(70)[:, None] % 2 + np.zeros((70, 60)) > 0
    write_raster(scene, tmp_path / "scene.nc")
    back = read_scene(tmp_path / "scene.nc", bands=["B04", "B08"])
    np.testing.assert_array_equal(back["labels"], scene["labels"])
    expected = (scene["series"] != 0) & scene["valid"]
    np.testing.assert_array_equal(back["valid"], expected[:, 2:])


def test_one_image(scene, tmp_path):
    image = scene["series"][1]
    write_raster(image, tmp_path / "image.tif")
    back = read_scene(tmp_path / "image.tif", bands=["B08", "B02"])
    assert back["series"].dims == ("band", "y", "x") and back["series"].dtype == np.uint16
    np.testing.assert_array_equal(back["series"], image.sel(band=["B08", "B02"]))
    dated = read_scene(tmp_path / "image.tif", dates=["2017-03-11"], bands=list("abcd"))
    np.testing.assert_array_equal(dated["time"], DATES[1:2])
    assert dated["band"].to_numpy().tolist() == list("abcd")
    none = read_scene(tmp_path / "image.tif", nodata=int(image[0, 0, 0]))
    assert int((~none["valid"]).sum()) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_files_are_sorted_by_date(scene, tmp_path):
    names = ["b_20170311T100031.tif", "c_2017-03-01.tif", "a_20170402.tif"]
    for name, i in zip(names, (1, 0, 2), strict=True):
        write_raster(scene["series"][i], tmp_path / name)
    back = read_scene([tmp_path / name for name in names])
    np.testing.assert_array_equal(back["time"], DATES)
    np.testing.assert_array_equal(back["series"], scene["series"])


@pytest.mark.parametrize("out", ["map.tif", "folder"])
def test_streaming_writes_what_is_stitched(scene, out, tmp_path):
    options = {"size": 32, "overlap": 8, "batch_size": 2}

    def predict(tiles):
        images = tiles.obsm["series"].astype("float32")
        return images[:, :2, 0] / 2**14 if out == "map.tif" else images

    expected = predict_scene(predict, scene, **options)
    assert predict_scene(predict, scene, tmp_path / out, **options) is None
    found = read_scene(tmp_path / out)["series"].squeeze("band" if out == "map.tif" else None)
    np.testing.assert_array_equal(found, expected)
    assert found.rio.crs == "EPSG:32633" and found.rio.transform() == scene.rio.transform()


def test_nothing_is_left_of_a_map_that_failed(scene, tmp_path):
    def predict(tiles):
        if (tiles.obs["row"] > 0).any():
            raise RuntimeError("no more")
        return tiles.obsm["series"][:, 0, 0] / 2.0

    with pytest.raises(RuntimeError, match="no more"):
        predict_scene(predict, scene, tmp_path / "m.tif", size=32, overlap=8, batch_size=3)
    assert not list(tmp_path.iterdir())


def test_names_and_nodata_of_a_map(scene, tmp_path):
    import rasterio

    probabilities = np.zeros((9, 2, 32, 32), "float32")
    probabilities[:, 1] = 1
    tiles = tile(scene, 32, 8, classes=["water", "forest"])
    write_raster(stitch(tiles, probabilities), tmp_path / "soft.tif")
    write_raster(stitch(tiles, probabilities, soft=False), tmp_path / "hard.tif")
    with rasterio.open(tmp_path / "soft.tif") as soft, rasterio.open(tmp_path / "hard.tif") as hard:
        assert soft.descriptions == ("water", "forest") and np.isnan(soft.nodata)
        assert hard.dtypes == ("int16",) and hard.nodata == -1 and (hard.read() == 1).all()


MIXED = {
    "coordinate system": lambda s: s.rio.write_crs("EPSG:32634"),
    "resolution": lambda s: s.assign_coords(x=s["x"] * 2, y=s["y"] * 2),
    "origin": lambda s: s.assign_coords(x=s["x"] + 10),
    "height and width": lambda s: s[:, :-1],
    "bands": lambda s: s[:2],
}


@pytest.mark.parametrize("what", MIXED)
def test_mixed_files_are_refused(scene, what, tmp_path):
    write_raster(scene["series"][0], tmp_path / "20170301.tif")
    write_raster(MIXED[what](scene["series"][1]), tmp_path / "20170311.tif")
    with pytest.raises(ValueError, match=f"20170311.tif has the {what} .* 20170301.tif"):
        read_scene(tmp_path)


def test_other_bad_files(scene, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_scene(tmp_path / "none.tif")
    with pytest.raises(FileNotFoundError, match="has no GeoTIFF"):
        read_scene(tmp_path)
    files = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for file in files:
        write_raster(scene["series"][0], file)
    with pytest.raises(ValueError, match=r"2 names of files have no date .* a.tif: pass dates"):
        read_scene(files)
    with pytest.raises(ValueError, match="several acquisitions of 2017-03-01"):
        read_scene(files, dates=["2017-03-01"] * 2)
    with pytest.raises(ValueError, match="dates has 1 entries, but there are 2"):
        read_scene(files, dates=["2017-03-01"])
    with pytest.raises(ValueError, match="bands names B99, but a.tif has bands B02, B03"):
        read_scene(files[0], bands=["B99"])
    with pytest.raises(ValueError, match=r"x.tif cannot hold the dimensions time, band, y, x"):
        write_raster(scene["series"], tmp_path / "x.tif")
    with pytest.raises(ValueError, match="x.tif cannot hold a Dataset"):
        write_raster(scene, tmp_path / "x.tif")
    with pytest.raises(ValueError, match="x.png cannot hold"):
        write_raster(scene["labels"], tmp_path / "x.png")
    with pytest.raises(ValueError, match="last dimensions must be y and x"):
        write_raster(scene["labels"].T, tmp_path / "x.tif")


@pytest.mark.parametrize("package", ["rioxarray", "dask", "h5netcdf"])
def test_without_the_extra(package, monkeypatch):
    monkeypatch.setattr(rasters, "find_spec", lambda name: None if name == package else name)
    message = rf"^Raster files need {package}, .*: pip install 'mixvi\[satellite\]'.$"
    with pytest.raises(ImportError, match=message):
        read_scene("scene.tif")
    with pytest.raises(ImportError, match=message):
        write_raster(made_up_scene()["labels"], "map.tif")
