"""Series that cannot be registered, or not without a word, and new ones that lack a key."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import CPU
from satellite.made_up import fitted, toy

from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite import HierarchicalVAE, SymmetricHVAE, UNetSegmenter


def changed(adata, key, at, value):
    array = np.array(adata.obsm[key])
    array[at] = value
    adata.obsm[key] = array


def trained(kind, adata):
    if kind is UNetSegmenter:
        return fitted(kind, adata, 1, width=4, n_levels=1)
    kind.setup_anndata(adata)
    model = kind(adata, width=0.25)
    model.train(1, **CPU)
    return model


BAD = {
    "a mask of another shape": (
        lambda a: a.obsm.__setitem__("valid", a.obsm["valid"][..., :8]),
        r"\['valid'\] \(valid_key\) has shape .* \(n, dates, bands or 1, height, width\)",
    ),
    "a tile without a valid pixel": (
        lambda a: changed(a, "valid", 1, False),
        "1 of 3 tiles have no valid pixel on any date, the first 'tile_1'. Leave them out",
    ),
    "no label at all": (
        lambda a: changed(a, "labels", ..., UNLABELLED),
        r"\['labels'\] \(labels_key\) has no labelled pixel at all",
    ),
    "a label beyond the classes": (
        lambda a: changed(a, "labels", (0, 0, 0), 3),
        r"\['labels'\] \(labels_key\) has class 3, but there are 3 classes, from 0",
    ),
    "a label below void": (
        lambda a: changed(a, "labels", (0, 0, 0), VOID - 1),
        "has values below -2: unlabelled pixels are -1, void ones -2",
    ),
    "dates that repeat": (
        lambda a: changed(a, "time", (0, 1), a.obsm["time"][0, 0]),
        "dates of tile 'tile_0' that repeat or are not in order. Sort the dates of each series",
    ),
    "dates in no order": (
        lambda a: changed(a, "time", 2, a.obsm["time"][2, ::-1]),
        "dates of tile 'tile_2' that repeat or are not in order",
    ),
    "dates of another shape": (
        lambda a: a.obsm.__setitem__("time", a.obsm["time"][:, :2]),
        r"\['time'\] \(time_key\) has shape \(3, 2\)",
    ),
    "acquisitions of another shape": (
        lambda a: a.obsm.__setitem__("frame", a.obsm["frame"][:, :2]),
        r"\['frame'\] \(frame_key\) has shape \(3, 2\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_series_that_cannot_be_trained_on_are_refused_and_left_as_they_are(case):
    adata = toy(3)
    change, message = BAD[case]
    change(adata)
    before, uns = {key: adata.obsm[key].copy() for key in adata.obsm}, set(adata.uns)
    with pytest.raises(ValueError, match=message):
        UNetSegmenter.setup_anndata(adata)
    assert set(adata.uns) == uns and set(adata.obsm) == set(before)
    for key, array in before.items():
        np.testing.assert_array_equal(adata.obsm[key], array)


def test_values_that_are_no_numbers_are_counted_and_taken_as_invalid():
    adata = toy(3)
    valid = np.broadcast_to(adata.obsm["valid"], adata.obsm["series"].shape)
    place = tuple(np.argwhere(valid)[0])
    changed(adata, "series", place, np.nan)
    with pytest.warns(UserWarning, match="1 values that are NaN or infinite but not marked inv"):
        UNetSegmenter.setup_anndata(adata)
    assert not adata.obsm["_scvi_observed"][place[:2] + (0,) + place[3:]]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_digital_numbers_are_told(dtype):
    adata = toy(3)
    numbers = np.clip(np.nan_to_num(adata.obsm["series"]), 0.01, 1) * 10_000
    adata.obsm["series"] = numbers.astype(dtype)
    with pytest.warns(UserWarning, match=r"reflectance is mostly below 1.*by 10,000"):
        UNetSegmenter.setup_anndata(adata)


def test_photographs_in_bytes_are_not():
    adata = toy(3)
    adata.obsm["series"] = np.full(adata.obsm["series"].shape, 255, dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UNetSegmenter.setup_anndata(adata)


@pytest.mark.parametrize("kind", [UNetSegmenter, SymmetricHVAE, HierarchicalVAE])
def test_tiles_without_acquisitions_are_those_on_which_something_is_valid(kind):
    model = trained(kind, toy(4))
    new = toy(3, seed=1)
    expected = new.copy()
    expected.obsm["frame"] = expected.obsm["valid"].any((2, 3, 4))
    del new.obsm["frame"]
    np.testing.assert_array_equal(model.predict(new, soft=True), model.predict(expected, soft=True))


def test_a_model_that_knows_no_dates_is_given_none(tmp_path):
    adata = toy(4)
    dated = adata.copy()
    del adata.obsm["time"]
    model = trained(SymmetricHVAE, adata)
    model.save(tmp_path / "model")
    loaded = SymmetricHVAE.load(tmp_path / "model", dated)
    expected = model.predict(soft=True)
    np.testing.assert_allclose(loaded.predict(soft=True), expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict(dated, soft=True), expected, rtol=1e-5)


@pytest.mark.parametrize("key", ["valid", "frame"])
def test_masks_of_new_tiles_count_where_training_had_none(key, tmp_path):
    """By verbs of the model, and loaded with the tiles."""
    clear = toy(4, cloud_fraction=0.0, missing_dates=0.0)
    clear.obsm["series"] = np.nan_to_num(clear.obsm["series"])
    del clear.obsm["valid"], clear.obsm["frame"]
    model = trained(UNetSegmenter, clear)
    new = toy(3, seed=1)
    new.obsm["series"] = np.nan_to_num(new.obsm["series"])
    masked = new.copy()
    del new.obsm["valid"], new.obsm["frame"], masked.obsm[{"valid": "frame", "frame": "valid"}[key]]
    changed(masked, key, (0, 1), False)
    found = model.predict(masked, soft=True)
    assert not np.allclose(found[0], model.predict(new, soft=True)[0])
    model.save(tmp_path / "model")
    loaded = UNetSegmenter.load(tmp_path / "model", masked)
    np.testing.assert_allclose(loaded.predict(soft=True), found, atol=1e-6)
    # values under the mask are not read
    changed(masked, "series", (0, 1), 0.9)
    np.testing.assert_allclose(model.predict(masked, soft=True), found, atol=1e-6)
