from __future__ import annotations

import numpy as np
import pytest

from mixvi import datasets
from mixvi.core.data.keys import UNLABELLED, VOID


@pytest.fixture(scope="module")
def toy():
    return datasets.toy_satellite_series(n_tiles=6, size=32, n_classes=6)


def test_what_is_seen_is_the_ground(toy):
    seen = np.broadcast_to(toy.obsm["valid"], toy.obsm["series"].shape)
    error = (toy.obsm["series"] - toy.obsm["clear"])[seen]
    assert np.sqrt(np.mean(error**2)) < 0.03
    # bright clouds elsewhere, NaN where there was no acquisition
    frame = toy.obsm["frame"]
    assert np.isnan(toy.obsm["series"][~frame]).all()
    hidden = ~toy.obsm["valid"][:, :, 0] & frame[..., None, None]
    blue = toy.obsm["series"][:, :, 0]
    assert np.median(blue[hidden]) > 2 * np.median(blue[toy.obsm["valid"][:, :, 0]])
    assert 0.4 < toy.obsm["valid"].mean() < 0.8 and 0.8 < frame.mean() < 1


def test_crops_are_green_at_their_times(toy):
    clear = toy.obsm["clear"]
    ndvi = (clear[:, :, 3] - clear[:, :, 2]) / (clear[:, :, 3] + clear[:, :, 2])
    names = toy.uns["classes"]
    months = (toy.obsm["time"][0] - toy.obsm["time"][0, 0]) // 30.5
    peak = {}
    for code, name in enumerate(names):
        course = [np.median(x[toy.obsm["true_labels"] == code]) for x in ndvi.swapaxes(0, 1)]
        peak[name] = months[np.argmax(course)] if max(course) > 0.5 else None
    assert peak["winter crop"] in (3, 4, 5) and peak["summer crop"] in (6, 7, 8)
    assert peak["water"] is None and peak["built-up"] is None


def test_regions_are_coherent_and_the_seed_decides(toy):
    labels = toy.obsm["true_labels"]
    assert (labels[:, 1:] == labels[:, :-1]).mean() > 0.85
    again = datasets.toy_satellite_series(n_tiles=6, size=32, n_classes=6)
    np.testing.assert_array_equal(again.obsm["series"], toy.obsm["series"])
    other = datasets.toy_satellite_series(n_tiles=6, size=32, n_classes=6, seed=1)
    assert (other.obsm["true_labels"] != labels).mean() > 0.5


def test_edges_are_void():
    adata = datasets.toy_satellite_series(n_tiles=2, n_dates=4, void_edges=True, cloud_fraction=0)
    labels, true = adata.obsm["labels"], adata.obsm["true_labels"]
    assert (labels == VOID).any() and (labels[labels != VOID] == true[labels != VOID]).all()
    pair = (labels[:, 1:] != VOID) & (labels[:, :-1] != VOID)
    assert (labels[:, 1:][pair] == labels[:, :-1][pair]).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_classes": 7}, "n_classes must lie from 2 to 6"),
        ({"cloud_fraction": 1.0}, "cloud_fraction must lie in"),
        ({"n_tiles": 0}, "n_tiles must be a positive whole number"),
        ({"n_tiles": 20, "n_dates": 1, "cloud_fraction": 0.8}, "A tile is never seen"),
    ],
)
def test_bad_sizes(options, match):
    with pytest.raises(ValueError, match=match):
        datasets.toy_satellite_series(**{"size": 16, "n_tiles": 1} | options)


@pytest.mark.parametrize("form", ["scribbles", "blocks"])
def test_partial_labels(toy, form):
    labels = toy.obsm["true_labels"].copy()
    labels[:, :4] = VOID
    labels[0, 4:] = UNLABELLED
    partial = datasets.partial_labels(labels, 0.05, form)
    kept = partial >= 0
    assert (partial[kept] == labels[kept]).all() and (partial[:, :4] == VOID).all()
    assert kept.sum(axis=(1, 2)).tolist() == [0] + [round(0.05 * 28 * 32)] * 5
    # drawn, not scattered: most kept pixels have a kept neighbour
    near = np.zeros_like(kept)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            if (i, j) != (0, 0):
                near |= np.roll(kept, (i, j), axis=(1, 2))
    assert near[kept].mean() > 0.8
    np.testing.assert_array_equal(datasets.partial_labels(labels, 1.0, form), labels)


def test_a_share_out_of_range(toy):
    with pytest.raises(ValueError, match="share must lie in"):
        datasets.partial_labels(toy.obsm["true_labels"], 0.0)


def test_hiding_with_real_clouds(toy):
    hidden = datasets.hide_with_real_clouds(toy, 0.3, seed=1)
    was, left, marked = toy.obsm["valid"], hidden.obsm["valid"], hidden.obsm["hidden"]
    np.testing.assert_array_equal(was, left | marked)
    assert not (left & marked).any() and left.any(axis=(1, 2, 3, 4)).all()
    assert marked.sum() / was.sum() == pytest.approx(0.3, abs=0.03)
    # the shapes are those of clouds: whole patches, some whole dates
    neighbours = marked[..., 1:, :] == marked[..., :-1, :]
    assert neighbours.mean() > 0.95
    again = datasets.hide_with_real_clouds(toy, 0.3, seed=1)
    np.testing.assert_array_equal(again.obsm["hidden"], marked)
    assert "hidden" not in toy.obsm


def test_masks_from_elsewhere(toy):
    clear = datasets.toy_satellite_series(3, 6, 16, cloud_fraction=0.0, missing_dates=0.0)
    with pytest.raises(ValueError, match="No date of adata has clouds"):
        datasets.hide_with_real_clouds(clear, 0.2)
    masks = datasets.cloud_masks(toy)
    assert masks.shape[1:] == (32, 32) and masks.any(axis=(1, 2)).all()
    hidden = datasets.hide_with_real_clouds(clear, 0.2, masks=masks)
    assert hidden.obsm["hidden"].mean() == pytest.approx(0.2, abs=0.06)
    with pytest.raises(ValueError, match=r"masks must be \(m, H, W\) with H, W from"):
        datasets.hide_with_real_clouds(clear, 0.2, masks=masks[:, :8])
    with pytest.raises(ValueError, match="hide no more than 0.0%"):
        datasets.hide_with_real_clouds(clear, 0.2, masks=np.zeros((1, 16, 16), bool))
