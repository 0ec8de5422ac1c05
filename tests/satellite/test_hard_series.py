"""Series as users bring them: masks, labels, dates and bands that are not what they seem."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import toy
from scenes import made_up_scene

import mixvi
from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite import UNetSegmenter

SMALL = {"width": 8, "n_levels": 1}


def untrained(adata):
    """A model whose verbs may be called, as if it were trained."""
    UNetSegmenter.setup_anndata(adata)
    model = UNetSegmenter(adata, **SMALL)
    model.is_trained_ = True
    return model


def small(**options):
    return toy(2, 2, size=4, **options)


def test_labels_are_read_whatever_their_type():
    adata = small()
    adata.obsm["labels"] = np.clip(adata.obsm["labels"], 0, 1)
    expected = adata.obsm["labels"]
    for dtype in (bool, np.uint8, np.float32, np.int64):
        adata.obsm["labels"] = expected.astype(dtype)
        model = untrained(adata)
        np.testing.assert_array_equal(model._labels(), expected)
        assert adata.obsm["labels"].dtype == dtype


def test_labels_that_are_none_are_named():
    adata = small()
    labels = adata.obsm["labels"]
    adata.obsm["labels"] = np.where(np.arange(4) < 1, np.nan, labels)
    with pytest.raises(TypeError, match=r"8 values that are NaN, .* set them to -1"):
        UNetSegmenter.setup_anndata(adata)
    del adata.uns["classes"]
    adata.obsm["labels"] = np.where(labels < 0, 255, labels).astype(np.uint8)
    adata.obsm["labels"][0, 0, 0] = 255
    with pytest.raises(ValueError, match="has the value 255, by which rasters mark"):
        UNetSegmenter.setup_anndata(adata)


def test_labels_that_are_none_after_set_up_are_named():
    adata = small()
    model = untrained(adata)
    adata.obsm["labels"] = np.where(np.arange(4) < 1, np.nan, adata.obsm["labels"])
    with pytest.raises(TypeError, match="8 values that are NaN"):
        model.predict()
    adata.obsm["labels"] = np.full(adata.obsm["labels"].shape, 0.5)
    with pytest.raises(TypeError, match="numbers of classes"):
        model.predict()


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_frames_are_true_or_false(value):
    adata = small()
    adata.obsm["frame"] = np.ones((2, 2))
    UNetSegmenter.setup_anndata(adata)
    adata.obsm["frame"][0, 0] = value
    with pytest.raises(TypeError, match=r"\(frame_key\) holds float64, but must be True or False"):
        UNetSegmenter.setup_anndata(adata)


@pytest.mark.parametrize(
    ("time", "error", "message"),
    [
        ([20200101.0, 20200201.0], ValueError, r"has 20200201, but dates are days"),
        (["2020-01-01", "2020-02-01"], TypeError, "but dates are datetime64 or days"),
    ],
)
def test_dates_are_days(time, error, message):
    adata = small()
    adata.obsm["time"] = np.array([time] * 2)
    with pytest.raises(error, match=message):
        UNetSegmenter.setup_anndata(adata)
    adata.obsm["time"] = np.array([["2020-01-01", "2020-02-01"]] * 2, "M8[D]")
    UNetSegmenter.setup_anndata(adata)


def test_bands_in_another_order_are_refused():
    adata = small()
    model = untrained(adata)
    bands, expected = list(adata.uns["bands"]), model.predict(soft=True)
    other = adata.copy()
    other.uns["bands"] = bands[::-1]
    with pytest.raises(ValueError, match=f"reads {', '.join(bands)}, in this order"):
        model.predict(other)
    other.uns["bands"] = [f"other {band}" for band in bands]
    np.testing.assert_array_equal(model.predict(other, soft=True), expected)


# the hint of digital numbers, which comes besides
@pytest.mark.filterwarnings("ignore:.*If these are digital numbers:UserWarning")
def test_values_of_another_unit_are_told():
    adata = small()
    model = untrained(adata)
    other = adata.copy()
    numbers = 10_000 * np.nan_to_num(adata.obsm["series"])
    other.obsm["series"] = numbers.astype(np.int16)
    with pytest.warns(UserWarning, match=r"values \S+e\+03 times|values \S*e\+04 times"):
        model.predict(other)
    # neither dark tiles nor single ones are of another unit
    other.obsm["series"] = adata.obsm["series"] / 20
    model.predict(other)
    model.predict(adata[:1].copy())
    other.obsm["series"] = numbers.astype(np.int16)
    other.uns.clear()
    digital = untrained(other)
    with pytest.warns(UserWarning, match=r"values \S*(0\.000|e-05)\S* times"):
        digital.predict(adata)


def test_a_band_constant_but_for_rounding_is_not_blown_up():
    adata = small()
    adata.obsm["series"] = adata.obsm["series"].astype(np.float64)
    adata.obsm["series"][:, :, 0] = 0.3
    assert untrained(adata).module.band_sd[0] == 1.0


def test_labels_of_a_scene_keep_what_the_file_calls_missing():
    scene = made_up_scene(8, 8)
    labels = scene["labels"].to_numpy().copy()
    missing = labels == UNLABELLED
    scene["labels"] = scene["labels"].where(~missing, 255).astype("uint8")
    scene["labels"].attrs["_FillValue"] = 255
    adata = mixvi.satellite.tile(scene, size=8, overlap=0)
    np.testing.assert_array_equal(adata.obsm["labels"][0], labels)


@pytest.mark.parametrize("value", [0.5, 40_000, 1e20])
def test_labels_of_a_scene_that_are_no_classes(value):
    scene = made_up_scene(8, 8)
    scene["labels"] = scene["labels"].astype(float)
    scene["labels"][2, 3] = value
    with pytest.raises(ValueError, match=f"-1 where a pixel is unlabelled and {VOID}"):
        mixvi.satellite.tile(scene, size=8, overlap=0)
    scene["labels"] = scene["labels"].astype(str)
    with pytest.raises(TypeError, match="labels of the scene must be numbers"):
        mixvi.satellite.tile(scene, size=8, overlap=0)


def test_filling_reads_dates_of_any_unit_and_masks_alone():
    rng = np.random.default_rng(0)
    series, valid = rng.normal(size=(1, 6, 1, 2, 2)), rng.random((1, 6, 1, 2, 2)) < 0.7
    valid[:, 0] = True
    days = np.array([18_262.0, 18_300.0, 18_400.0, 18_500.0, 18_630.0, 18_660.0])
    fill = mixvi.satellite.seasonal_climatology
    expected = fill(series, valid, days)
    for unit in ("D", "s", "ns"):
        dates = days.astype("datetime64[D]").astype(f"M8[{unit}]")
        np.testing.assert_array_equal(fill(series, valid, dates), expected)
    with pytest.raises(TypeError, match="time holds <U"):
        fill(series, valid, days.astype(str))
    with pytest.raises(TypeError, match="valid holds float64, but must be True or False"):
        fill(series, np.where(valid, 1.0, np.nan), days)
