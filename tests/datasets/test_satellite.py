from __future__ import annotations

import anndata
import numpy as np
import pytest
from anndata import AnnData

from mixvi import datasets
from mixvi.core.data.keys import UNLABELLED, VOID


def skip_without(*files):
    for file in files:
        if datasets.find(file) is None:
            pytest.skip(f"{file.name} is not on this machine")


def codes_of(adata):
    """Number of pixels of each code, padding (void) left out."""
    codes, counts = np.unique(adata.obsm["labels"], return_counts=True)
    return {int(code): int(n) for code, n in zip(codes, counts, strict=True) if code != VOID}


@pytest.mark.parametrize("tile", [None, 20], ids=["whole", "tiles"])
def test_sentinel2_patch(tile):
    skip_without(datasets.SENTINEL2_PATCH)
    adata = datasets.sentinel2_patch(tile=tile)
    shape = (1, 68, 1, 101, 100) if tile is None else (30, 68, 1, 20, 20)
    assert adata.obsm["series"].shape == adata.obsm["valid"].shape == shape
    assert adata.uns["bands"] == ["NDVI"] and len(adata.uns["classes"]) == 5
    # as its README counts; void is padding alone
    expected = {UNLABELLED: 155, 0: 11, 1: 7601, 2: 1777, 3: 358, 4: 198}
    assert codes_of(adata) == expected
    assert adata.obsm["valid"].sum() == round(0.6044947582993594 * 68 * 10_100)
    days = adata.obsm["time"][0]
    assert (np.diff(days) > 0).all() and np.floor(days[[0, -1]]).tolist() == [16_627, 17_522]
    scene = adata.uns["scene"]
    # its README: 101 x 100 pixels of 10 m
    a, _, west, _, e, north = scene["transform"]
    assert scene["crs"] == "EPSG:32633" and (a, e) == pytest.approx((10, -10), rel=1e-3)
    assert (west, north) == pytest.approx((465_181.05, 5_080_254.63))


def test_bands_of_sentinel2_patch():
    skip_without(datasets.SENTINEL2_PATCH)
    adata = datasets.sentinel2_patch("all")
    assert adata.obsm["series"].shape == (1, 5, 13, 101, 100) and "time" not in adata.obsm
    # the cirrus band sees no ground
    means = np.median(adata.obsm["series"], axis=(0, 1, 3, 4))
    assert adata.uns["bands"][means.argmin()] == "B10"


def test_tiles_hold_what_the_scene_holds():
    skip_without(datasets.SENTINEL2_PATCH)
    whole, tiles = datasets.sentinel2_patch(), datasets.sentinel2_patch(tile=20)
    for i, (row, column) in enumerate(tiles.obs[["row", "column"]].to_numpy()):
        for key in ("series", "labels", "valid", "elevation"):
            expected = whole.obsm[key][0][..., row : row + 20, column : column + 20]
            found = tiles.obsm[key][i][..., : expected.shape[-2], : expected.shape[-1]]
            np.testing.assert_array_equal(found, expected)
    last = tiles[tiles.obs["row"] == 100]
    assert not last.obsm["valid"][..., 1:, :].any() and (last.obsm["labels"][:, 1:] == VOID).all()


def test_cbers_patch():
    skip_without(datasets.CBERS_PATCH)
    adata = datasets.cbers_patch()
    assert adata.obsm["series"].shape == (1, 24, 4, 50, 50) and "labels" not in adata.obsm
    clouds = (~adata.obsm["valid"]).sum(axis=(0, 2, 3, 4))
    assert sorted(clouds)[-2:] == [1, 452]
    red, nir = adata.obsm["series"][0, :, 2], adata.obsm["series"][0, :, 3]
    months = adata.obsm["time"][0].astype("datetime64[D]").astype("datetime64[M]").astype(str)
    ndvi = ((nir - red) / (nir + red)).mean(axis=(1, 2))
    assert ndvi[months == "2017-09"].mean() == pytest.approx(0.3, abs=0.05)
    assert ndvi[months == "2018-02"].mean() == pytest.approx(0.83, abs=0.05)


def test_sinop_raster():
    skip_without(datasets.SINOP_RASTER)
    adata = datasets.sinop_raster(tile=48)
    assert adata.obsm["series"].shape == (18, 23, 2, 48, 48)
    assert adata.obsm["series"].max() == pytest.approx(1.0262)


def test_mato_grosso_raster():
    skip_without(datasets.MATO_GROSSO_RASTER)
    seasons = datasets.mato_grosso_raster()
    assert seasons.obsm["series"].shape == (6, 23, 6, 27, 37)
    assert seasons.uns["classes"][4] == "Soybean-millet"
    counts = codes_of(seasons)
    assert [counts[i] for i in range(5)] == [68, 138, 79, 134, 184]
    assert (seasons.obsm["labels"] >= 0).sum(axis=(1, 2)).tolist() == [23, 23, 23, 232, 245, 57]
    assert np.argwhere(~seasons.obsm["frame"]).tolist() == [[5, 20]]
    assert not seasons.obsm["valid"][5, 20].any()
    whole = datasets.mato_grosso_raster(by_season=False)
    assert whole.obsm["labels"].shape == (1, 137, 27, 37)
    assert (whole.obsm["series"][0, 23:46] == seasons.obsm["series"][1]).all()
    # labels of the second season hold on its dates and on no other
    np.testing.assert_array_equal(whole.obsm["labels"][0, 30], seasons.obsm["labels"][1])
    assert (~whole.obsm["valid"]).mean() == pytest.approx(4.8e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "valid"),
    [
        ("belgium2_monthly", (1, 12, 9, 100, 100), 0.833),
        ("gfmap_2022winter_quintads", (1, 20, 4, 66, 64), 0.258),
        ("gfmap_2023autumn", (1, 19, 4, 52, 46), 0.127),
    ],
)
def test_s2_patches(name, shape, valid):
    skip_without(datasets.S2_PATCHES[name])
    adata = datasets.s2_patches(name)
    assert adata.obsm["series"].shape == shape
    assert adata.obsm["valid"].mean() == pytest.approx(valid, abs=1e-3)
    a, b, c, d, e, f = adata.uns["scene"]["transform"]
    assert (a, b, d, e) == (10, 0, 0, -10) and c % 10 == f % 10 == 0
    if name == "belgium2_monthly":
        assert codes_of(adata) == {0: 3937, 1: 6063} and adata.uns["labels_are_predictions"]
        assert np.nanmedian(adata.obsm["s1"]) < -5
    else:
        assert "labels" not in adata.obsm


@pytest.mark.parametrize(
    ("n_bands", "n", "counts"),
    [
        (4, 1892, [379, 29, 131, 344, 364, 352, 87, 180, 26]),
        (6, 425, [80, 7, 28, 74, 80, 80, 18, 47, 11]),
    ],
)
def test_mato_grosso_samples(n_bands, n, counts):
    skip_without(*datasets.MATO_GROSSO_SAMPLES.values())
    adata = datasets.mato_grosso_samples(n_bands)
    assert adata.obsm["series"].shape == (n, 23, n_bands, 1, 1) and adata.obsm["valid"].all()
    assert [codes_of(adata)[i] for i in range(9)] == counts
    assert (adata.obs["label"].cat.codes == adata.obsm["labels"][:, 0, 0]).all()


def test_rondonia_samples():
    skip_without(datasets.RONDONIA_SAMPLES)
    adata = datasets.rondonia_samples()
    assert adata.obsm["series"].shape == (160, 25, 2, 1, 1)
    assert codes_of(adata) == dict.fromkeys(range(4), 40)


def test_worldcereal():
    skip_without(*datasets.S2_PIXEL_SERIES.values())
    adata = datasets.s2_pixel_series("worldcereal_eastafrica_500")
    assert adata.obsm["series"].shape == adata.obsm["valid"].shape == (500, 12, 10, 1, 1)
    assert (~adata.obsm["valid"]).mean() == pytest.approx(0.07, abs=1e-3)
    counts = adata.obs["label"].value_counts()
    assert counts["sorghum"] == 305 and counts["maize"] == 97 and len(counts) == 13


def test_formosat():
    skip_without(*datasets.S2_PIXEL_SERIES.values())
    adata = datasets.s2_pixel_series("formosat2_tempcnn")
    assert adata.obsm["series"].shape == (520, 149, 3, 1, 1)
    assert codes_of(adata) == dict.fromkeys(range(13), 40)
    shared = adata.obs.groupby("block", observed=True)["split"].nunique()
    assert (shared == 1).all()
    nir, red = adata.obsm["series"][:, :, 0, 0, 0], adata.obsm["series"][:, :, 1, 0, 0]
    ndvi = (nir - red) / (nir + red)
    by_class = {name: ndvi[adata.obs["label"] == name] for name in adata.uns["classes"]}
    # what its README checks
    assert by_class["water"].mean() == pytest.approx(0.04, abs=0.03)
    assert by_class["conifer"].mean() == pytest.approx(0.72, abs=0.03)
    peak = {name: by_class[name].mean(axis=0).argmax() for name in ("wheat", "corn")}
    assert peak["wheat"] < 65 < peak["corn"]


@pytest.mark.parametrize(
    ("load", "match"),
    [
        (lambda: datasets.mato_grosso_samples(5), "n_bands must be 4 or 6"),
        (lambda: datasets.s2_patches("belgium"), "belgium2_monthly"),
        (lambda: datasets.s2_pixel_series("formosat"), "formosat2_tempcnn"),
        (lambda: datasets.sentinel2_patch("rgb"), "bands='rgb' is not known"),
    ],
)
def test_unknown_names(load, match):
    with pytest.raises(ValueError, match=match):
        load()


def places(n_rows, n_columns, size=10):
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    adata = AnnData(obsm={"series": np.zeros((len(rows), 1, 1, size, size), np.float32)})
    adata.obs["row"], adata.obs["column"] = rows * size, columns * size
    return adata


def test_blocks_and_splits():
    adata = places(6, 4)
    adata.obs["block"] = datasets.spatial_blocks(adata, 20)
    assert adata.obs["block"].value_counts().to_dict() == {
        f"{i}_{j}": 4 for i in range(3) for j in range(2)
    }
    split = datasets.split_blocks(adata, shares=(0.5, 0.2, 0.3))
    assert (split.groupby(adata.obs["block"], observed=True).nunique() == 1).all()
    assert split.value_counts().to_dict() == {"train": 12, "test": 8, "val": 4}
    assert not split.equals(datasets.split_blocks(adata, shares=(0.5, 0.2, 0.3), seed=1))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: datasets.spatial_blocks(a, 15), "straddle blocks of size=15"),
        (lambda a: datasets.split_blocks(a, "row", (0.5, 0.5, 0.5)), "sum to 1"),
        (lambda a: datasets.split_blocks(a[:1], "row"), "1 blocks, fewer than"),
    ],
)
def test_blocks_of_bad_sizes(call, match):
    with pytest.raises(ValueError, match=match):
        call(places(2, 2))


def test_a_file_of_h5ad_holds_a_set(tmp_path):
    adata = datasets.toy_satellite_series(n_tiles=2, n_dates=4, size=16)
    adata.write_h5ad(tmp_path / "toy.h5ad")
    again = anndata.read_h5ad(tmp_path / "toy.h5ad")
    np.testing.assert_array_equal(again.obsm["series"], adata.obsm["series"])
    assert list(again.uns["classes"]) == adata.uns["classes"]
