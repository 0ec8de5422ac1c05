"""Labels that are probabilities: what they teach, where they count, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from conftest import CPU
from satellite.made_up import fitted, toy
from torch.nn import functional as F

from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite import MixMatchSegmenter, SymmetricHVAE, UNetSegmenter
from mixvi.satellite.views import Views

SOFT = {"soft_labels_key": "shares"}
STILL = {"flips": False, "turns": False, "shift": 0, "drop_dates": 0.0}


def one_hot(labels):
    """Labels as distributions, zeros where there is no class."""
    found = F.one_hot(torch.as_tensor(labels).long().clamp_min(0), 3).movedim(-1, -3).numpy()
    return (found * (np.asarray(labels) >= 0)[..., None, :, :]).astype(np.float32)


def shared(n_tiles=4, by_date=False):
    """Tiles whose left half is 0.7 of class 0 and 0.3 of class 1, with hard labels on the right."""
    adata = toy(n_tiles, labelled=1.0)
    if by_date:
        adata.obsm["labels"] = np.repeat(adata.obsm["labels"][:, None], 4, axis=1)
    shares = np.zeros((*adata.obsm["labels"].shape[:-2], 3, 16, 16))
    shares[..., 0, :, :8], shares[..., 1, :, :8] = 0.7, 0.3
    adata.obsm["shares"] = shares
    return adata


def small_hvae(adata, **setup):
    scvi.settings.seed = 0
    SymmetricHVAE.setup_anndata(adata, **setup)
    model = SymmetricHVAE(adata, width=0.25, dream_warmup=0, augmentation=STILL)
    model._prepare(np.arange(adata.n_obs))
    model.is_trained_ = True
    return model, next(iter(model._inputs(adata, None, adata.n_obs)))


@pytest.mark.parametrize("cls", [UNetSegmenter, MixMatchSegmenter])
def test_certain_probabilities_teach_what_labels_teach(cls):
    hard, soft = toy(4, labelled=0.5), toy(4, labelled=0.5)
    soft.obsm["shares"] = one_hot(soft.obsm["labels"])
    models = []
    for adata, setup in ((hard, {}), (soft, SOFT)):
        scvi.settings.seed = 0
        cls.setup_anndata(adata, **setup)
        model = cls(adata, width=4, n_levels=1)
        model.train(2, batch_size=2, **CPU)
        models.append(model.predict(hard, soft=True))
    np.testing.assert_allclose(*models, atol=1e-6)


def test_what_is_learnt_is_the_distribution_and_not_its_largest_class():
    adata = shared()
    # values that say nothing of the class, but for the half
    adata.obsm["series"][..., :8], adata.obsm["series"][..., 8:] = 0.1, 0.4
    adata.obsm["valid"][:] = True
    scvi.settings.seed = 0
    UNetSegmenter.setup_anndata(adata, labels_key=None, **SOFT)
    model = UNetSegmenter(adata, width=4, n_levels=1, augmentation=STILL)
    model.train(150, lr=1e-2, batch_size=4, **CPU)
    p = model.predict(soft=True)[..., :8].mean((0, 2, 3))
    assert p == pytest.approx([0.7, 0.3, 0.0], abs=0.05)


@pytest.mark.parametrize("by_date", [False, True])
def test_soft_labels_go_before_hard_ones_and_zeros_leave_these(by_date):
    adata = shared(by_date=by_date)
    adata.obsm["labels"][..., :4] = VOID
    adata.obsm["labels"][..., 8:12] = UNLABELLED
    hard = adata.obsm["labels"].copy()
    model, rows = small_hvae(adata, **SOFT)
    assert model.label_mode == ("date" if by_date else "map")
    assert (rows.labels[..., :8] == 0).all()
    assert torch.equal(rows.labels[..., 8:], torch.as_tensor(hard[..., 8:]).long())
    targets = rows.targets(3).movedim(-3, 0)
    assert targets[0, ..., :8].unique().tolist() == pytest.approx([0.7])
    assert (targets[..., 8:12] == 0).all()
    assert torch.equal(targets[..., 12:].argmax(0), rows.labels[..., 12:])
    assert np.array_equal(adata.obsm["labels"], hard)


def test_the_encoder_of_symmetric_learning_is_taught_the_distribution():
    model, rows = small_hvae(shared(), **SOFT)
    module = model.module.eval()
    loss, _ = module.q_labelled(rows)
    log_q = module.class_logits(rows).log_softmax(1)
    truth = -(log_q * rows.targets(3)).sum(1).mean()
    torch.testing.assert_close(loss, truth)


def test_segmentations_that_labels_clamp_are_drawn_from_them():
    torch.manual_seed(0)
    model, rows = small_hvae(shared(16), **SOFT)
    drawn = model.module.annotated(torch.zeros(16, 3, 1, 16, 16), rows)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(1) == 1).all()
    # 2048 pixels: three standard errors
    assert drawn[:, 0, 0, :, :8].mean().item() == pytest.approx(0.7, abs=0.03)
    kept = model.module.annotated(torch.zeros(16, 3, 1, 16, 16), rows, draw=False)
    torch.testing.assert_close(kept[:, :, 0], rows.targets(3))


def test_symmetric_learning_trains_on_them():
    adata = shared()
    SymmetricHVAE.setup_anndata(adata, **SOFT)
    model = SymmetricHVAE(adata, width=0.25)
    model.train(1, batch_size=4, **CPU)
    assert np.isfinite(model.history["q_labelled_loss_train"].to_numpy(float)).all()
    assert model.get_refined_segmentation(n_sweeps=1, use_labels=True, soft=True)[
        :, 0, :, :8
    ] == pytest.approx(0.7)


def test_views_take_them_along_and_know_none_beyond_the_frame():
    _, rows = small_hvae(shared(), **SOFT)
    eye = torch.eye(2).expand(4, 2, 2)
    view = Views(
        torch.cat([eye, torch.tensor([0.0, 3.0]).view(1, 2, 1).expand(4, 2, 1)], 2), (16, 16)
    )
    seen = view.see(rows)
    assert torch.equal(seen.soft_labels[..., :13], rows.soft_labels[..., 3:])
    assert (seen.soft_labels[..., 13:] == 0).all()
    assert (seen.targets(3)[..., 13:] == 0).all()


def test_balanced_weights_count_shares():
    adata = shared()
    adata.obsm["labels"][:] = UNLABELLED
    UNetSegmenter.setup_anndata(adata, **SOFT)
    model = UNetSegmenter(adata, width=4, n_levels=1, class_weights="balanced")
    model.train(1, batch_size=4, **CPU)
    # shares 0.7 and 0.3, of two classes
    expected = torch.tensor([0.5 / 0.7, 0.5 / 0.3, 1.0])
    torch.testing.assert_close(model.module.class_weights, expected)


def test_a_temperature_is_fitted_to_the_distribution():
    adata = shared()
    adata.obsm["labels"][:] = UNLABELLED
    model = fitted(UNetSegmenter, toy(4, labelled=1.0), 1, width=4, n_levels=1)
    with torch.no_grad():
        model.module.unet.of_pixels.weight.zero_()
        model.module.unet.of_pixels.bias.zero_()
        model.module.unet.classes.weight.zero_()
        model.module.unet.classes.bias.copy_(torch.tensor([2.0, 0.0, -20.0]))
    UNetSegmenter.setup_anndata(adata, **SOFT)
    soft = UNetSegmenter(adata, width=4, n_levels=1)
    soft.module.load_state_dict(model.module.state_dict())
    soft.is_trained_ = True
    # logits 2 apart, log odds of 0.7 and 0.3
    assert soft.calibrate(adata) == pytest.approx(2.0 / np.log(0.7 / 0.3), rel=0.01)


def test_new_tiles_need_none_and_a_saved_model_knows_its_own(tmp_path):
    adata = shared()
    scvi.settings.seed = 0
    UNetSegmenter.setup_anndata(adata, **SOFT)
    model = UNetSegmenter(adata, width=4, n_levels=1)
    model.train(1, batch_size=4, **CPU)
    new = toy(2)
    del new.obsm["labels"]
    maps = model.predict(new, soft=True)
    model.save(tmp_path / "model")
    loaded = UNetSegmenter.load(tmp_path / "model", adata)
    assert np.array_equal(loaded.predict(new, soft=True), maps)
    loaded.train(1, batch_size=4, **CPU)


BAD = {
    "no such key": ({}, KeyError, "soft_labels_key"),
    "whole numbers": ({"shares": np.ones((4, 3, 16, 16), int)}, TypeError, "floating point"),
    "another shape": (
        {"shares": np.zeros((4, 16, 16, 3))},
        ValueError,
        r"soft labels are \(4, 16, 16, 16\), a map a tile",
    ),
    "more classes than names": (
        {"shares": np.full((4, 4, 16, 16), 0.25)},
        ValueError,
        "has class 3, but there are 3 classes",
    ),
    "fewer classes than names": (
        {"shares": np.full((4, 2, 16, 16), 0.5)},
        ValueError,
        "has 2 classes, but there are 3",
    ),
    "per cent": ({"shares": np.full((4, 3, 16, 16), 33.3)}, ValueError, "sum to neither 1 nor 0"),
    "negative": ({"shares": np.full((4, 3, 16, 16), -1.0)}, ValueError, "negative or NaN"),
    "NaN": ({"shares": np.full((4, 3, 16, 16), np.nan)}, ValueError, "3072 values that are"),
    "none at all": ({"shares": np.zeros((4, 3, 16, 16))}, ValueError, "no labelled pixel at all"),
    "a map a date beside one a tile": (
        {"shares": np.full((4, 4, 3, 16, 16), 1 / 3)},
        ValueError,
        "is a map a date, but labels_key has a map a series",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_distribution_is_refused(case):
    found, error, message = BAD[case]
    adata = toy(4, labelled=1.0)
    if case == "none at all":
        adata.obsm["labels"][:] = UNLABELLED
    for key, values in found.items():
        adata.obsm[key] = values
    keys = set(adata.obsm)
    with pytest.raises(error, match=message):
        UNetSegmenter.setup_anndata(adata, **SOFT)
    assert set(adata.obsm) == keys
