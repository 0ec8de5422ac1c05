"""Land cover by a U-Net: what it learns, from which pixels, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import CPU
from made_up import fitted, minibatch, toy
from torch.nn import functional as F

from mixvi.core.data.keys import UNLABELLED
from mixvi.core.data.loading import inference_loader
from mixvi.satellite import UNetSegmenter
from mixvi.satellite.labelled import LabelledModule
from mixvi.satellite.supervision import MajorityWatch, balanced_weights
from mixvi.satellite.unet import UNet
from mixvi.satellite.views import Augmentation

STILL = {"flips": False, "turns": False, "shift": 0}


def module_of(n_dates=3, **options) -> LabelledModule:
    torch.manual_seed(0)
    unet = UNet(7, 3, n_dates, width=4, n_levels=1)
    return LabelledModule(unet, 2, 3, Augmentation(**STILL), **options)


def test_it_learns_land_cover():
    """Most pixels of tiles with other fields, from a fifth of the pixels of eight tiles."""
    clear = {"cloud_fraction": 0.1, "missing_dates": 0.0}
    train, test = toy(8, 6, labelled=0.2, **clear), toy(6, 6, seed=1, **clear)
    model = fitted(UNetSegmenter, train, 40)
    true = test.obsm["true_labels"]
    accuracy = (model.predict(test) == true).mean()
    assert accuracy > 0.8 > 0.4 + np.bincount(true.ravel()).max() / true.size
    assert (model.predict(test, tta=8) == true).mean() > 0.8


@pytest.mark.parametrize("by_date", [False, True])
def test_the_loss_of_an_image_is_torch_s(by_date):
    """Everything observed, one date: cross-entropy of the labelled pixels."""
    series = minibatch(n_dates=1, gaps=0.0, by_date=by_date)
    module = module_of(n_dates=1).train()
    module.unet.by_date = by_date
    loss, terms = module.segmentation(series)
    labels = series.labels.flatten(0, -3).masked_fill(series.labels.flatten(0, -3) < 0, -1)
    logits = module.class_logits(series)
    logits = logits.flatten(0, 1) if by_date else logits
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=-1))
    right = (logits.argmax(1) == labels)[labels >= 0].float().mean()
    torch.testing.assert_close(terms["accuracy"], right)


def test_unlabelled_void_and_unseen_pixels_have_no_weight():
    module = module_of(require_support=True).train()
    series = minibatch(gaps=0.6)
    targets = series.targets(3)
    assert (targets.sum(1)[series.labels < 0] == 0).all()
    mask = module.target_mask(series)
    assert torch.equal(mask, (series.labels >= 0) & series.observed.any((1, 2)))
    assert mask.sum() < series.labelled.sum()
    assert torch.equal(module_of().target_mask(series), series.labelled)


def test_balanced_weights_by_hand():
    expected = torch.tensor([8 / 12, 2.0, 1.0])
    torch.testing.assert_close(balanced_weights(np.array([6, 2, 0])), expected)
    adata = toy(4)
    model = fitted(UNetSegmenter, adata, 1, class_weights="balanced")
    labels = adata.obsm["labels"]
    counts = np.array([(labels == label).sum() for label in range(3)])
    torch.testing.assert_close(model.module.class_weights, balanced_weights(counts))


def test_what_is_not_observed_changes_no_bit():
    clean, dirty = toy(4), toy(4)
    for adata, value in ((clean, 0.0), (dirty, 1e9)):
        series, valid = adata.obsm["series"], adata.obsm["valid"]
        series[~np.broadcast_to(valid, series.shape)] = value
    dirty.obsm["series"][0][~np.broadcast_to(dirty.obsm["valid"][0], series.shape[1:])] = np.nan
    models = []
    for adata in (clean, dirty):
        torch.manual_seed(0)
        models.append(fitted(UNetSegmenter, adata, 2))
    one, other = models
    for name, values in one.module.state_dict().items():
        assert torch.equal(values, other.module.state_dict()[name]), name
    np.testing.assert_array_equal(one.predict(soft=True), other.predict(soft=True))
    for name, table in one.history.items():
        np.testing.assert_array_equal(table.to_numpy(), other.history[name].to_numpy())


@pytest.mark.parametrize("n_dates", [1, 4])
def test_verbs_have_the_shapes_they_say(n_dates, tmp_path):
    adata = toy(4, n_dates, cloud_fraction=0.0, missing_dates=0.0)
    model = fitted(UNetSegmenter, adata)
    p = model.predict(soft=True)
    assert p.shape == (4, 3, 16, 16)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(), p.argmax(1))
    entropy = model.get_uncertainty()
    assert entropy.shape == (4, 16, 16) and 0 <= entropy.min() <= entropy.max() <= np.log(3) + 1e-5
    between = model.get_uncertainty(kind="mutual_information", n_views=8)
    assert (between <= model.get_uncertainty(n_views=8) + 1e-5).all() and between.max() > 0
    assert model.get_latent_representation().shape == (4, 16)
    model.annotate()
    np.testing.assert_array_equal(adata.obsm["unetsegmenter_labels"], p.argmax(1))
    model.save(tmp_path / "model")
    loaded = UNetSegmenter.load(tmp_path / "model", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), p)
    new = adata[:2].copy()
    del new.obsm["labels"]
    np.testing.assert_allclose(loaded.predict(new, soft=True), p[:2], atol=1e-6)


@pytest.mark.parametrize(("n_dates", "norm", "dropped"), [(1, "batch", 0.0), (4, "group", 0.3)])
def test_what_images_and_series_have_unless_told(n_dates, norm, dropped):
    adata = toy(4, n_dates)
    UNetSegmenter.setup_anndata(adata)
    model = UNetSegmenter(adata, width=4, n_levels=1)
    is_series = n_dates > 1
    assert (model.module.unet.pooling is not None) == is_series
    assert model.module.augmentation.drop_dates == dropped
    kinds = {type(m).__name__ for m in model.module.unet.modules()}
    assert {"batch": "BatchNorm2d", "group": "GroupNorm"}[norm] in kinds
    augmentation = {"drop_dates": 0.1}
    told = UNetSegmenter(adata, width=4, n_levels=1, augmentation=augmentation).module
    assert told.augmentation.drop_dates == 0.1
    # two thousand updates, however few the minibatches of an epoch
    assert model._default_epochs(3) == 667


@pytest.mark.parametrize("n_dates", [1, 4])
def test_the_first_unet_has_its_own_sizes_unless_told(n_dates, tmp_path):
    adata = toy(4, n_dates)
    UNetSegmenter.setup_anndata(adata)
    unet = UNetSegmenter(adata, architecture="ronneberger2015").module.unet
    assert (unet.factor, unet.n_features) == (16, 1024)
    assert not any("Norm" in type(module).__name__ for module in unet.modules())
    options = {"architecture": "ronneberger2015", "dates": "convolved", "norm": "group"}
    model = fitted(UNetSegmenter, adata, width=4, **options)
    assert model.module.unet.is_spatial == (n_dates == 1)
    assert np.isfinite(model.history["segmentation_loss_train"].to_numpy(dtype=float)).all()
    model.save(tmp_path / "model")
    loaded = UNetSegmenter.load(tmp_path / "model", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), model.predict(soft=True))
    assert model.get_latent_representation().shape == (4, 16)


def test_a_map_a_date():
    adata = toy(4)
    adata.obsm["labels"] = np.repeat(adata.obsm["labels"][:, None], 4, axis=1)
    model = fitted(UNetSegmenter, adata)
    assert model.predict(soft=True, tta=2).shape == (4, 4, 3, 16, 16)
    assert model.module.unet.pooling is None


def test_only_tiles_with_labels_train():
    adata = toy(6)
    adata.obsm["labels"][[1, 4]] = UNLABELLED
    model = fitted(UNetSegmenter, adata, 1)
    assert sorted(model.train_indices) == [0, 2, 3, 5]
    named = {"datasplitter_kwargs": {"external_indexing": [[1, 4]]}}
    with pytest.raises(ValueError, match="none of the tiles that are to train has a label"):
        model.train(1, **named, **CPU)


def test_nothing_to_learn_from(tmp_path):
    adata = toy(4)
    without = AnnData(obs=adata.obs, obsm=dict(adata.obsm))
    del without.obsm["labels"]
    UNetSegmenter.setup_anndata(without)
    with pytest.raises(ValueError, match="UNetSegmenter learns from labels, but none"):
        UNetSegmenter(without)
    fitted(UNetSegmenter, adata, 1).save(tmp_path / "model")
    loaded = UNetSegmenter.load(tmp_path / "model", without, accelerator="cpu")
    with pytest.raises(ValueError, match="None of the 4 tiles has a labelled pixel"):
        loaded.train(1, **CPU)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_levels": 5}, "16 x 16 pixels.*multiples of 32"),
        ({"n_levels": 99}, "halves them 99 times"),
        ({"norm": "layer"}, "norm='layer' is not known"),
        ({"architecture": "unet"}, "architecture='unet' is not known"),
        ({"class_weights": "median"}, "class_weights='median' is not known"),
        ({"augmentation": {"rotate": 3}}, "Augmentation has no option 'rotate'.*rotation"),
        ({"augmentation": ["flips"]}, "augmentation must be a dict"),
        ({"augmentation": {"shift": 1.5}}, "shift must be a whole number"),
        ({"augmentation": False}, "To change nothing pass"),
        ({"augmentation": {"scale": 2}}, "scale must be the smallest and the largest"),
        ({"augmentation": {"scale": "12"}}, "scale must be the smallest and the largest"),
        ({"augmentation": {"scale": ("a", "b")}}, "scale must be a positive number"),
        ({"augmentation": {"scale": (1.0, float("inf"))}}, "scale must be the smallest and the"),
        ({"augmentation": {"turns": "no"}}, "turns must be True or False"),
    ],
)
def test_messages(options, words):
    adata = toy(2)
    UNetSegmenter.setup_anndata(adata)
    with pytest.raises(ValueError, match=words):
        UNetSegmenter(adata, **options)


def test_minibatches_may_be_of_one_series_and_devices_may_not_be_two():
    adata = toy(3, n_dates=2)
    UNetSegmenter.setup_anndata(adata)
    model = UNetSegmenter(adata, width=4, n_levels=1)
    with pytest.raises(ValueError, match="devices=2, but.*one device"):
        model.train(1, accelerator="cpu", devices=2)
    model.train(1, batch_size=1, **CPU)
    assert model.is_trained_
    for batch_size in (0, "a"):
        with pytest.raises(ValueError, match="batch_size must be a positive whole number"):
            model.predict(batch_size=batch_size)


def test_verbs_refuse_views_there_are_not():
    model = fitted(UNetSegmenter, toy(2), 1, train={"batch_size": 2})
    with pytest.raises(ValueError, match="there are 8 exact views"):
        model.predict(tta=9)
    with pytest.raises(ValueError, match="one view cannot disagree"):
        model.get_uncertainty(kind="mutual_information", n_views=1)
    with pytest.raises(ValueError, match="kind='variance' is not known"):
        model.get_uncertainty(kind="variance")


def test_a_constant_map_is_noticed():
    """Of three epochs, not of two, not where the records differ, and not when training begins."""

    def looked(*accuracies, is_late=True):
        watch = MajorityWatch()
        for epoch, accuracy in enumerate(accuracies):
            records = {"accuracy_train": accuracy, "majority_share_train": 0.4}
            watch._look(records, epoch, is_late)

    with pytest.warns(UserWarning, match=r"right for 40.0% .* has collapsed") as found:
        looked(0.5, 0.4, 0.4, 0.4, 0.5, 0.4, 0.4, 0.4)
    assert len(found) == 1
    looked(0.4, 0.4, 0.41, 0.4, 0.4)
    looked(0.4, 0.4, 0.4, is_late=False)


def test_a_constant_predictor_is_noticed_in_training():
    adata = toy(4)
    UNetSegmenter.setup_anndata(adata)
    model = UNetSegmenter(adata, width=4, n_levels=1)
    majority = int(np.bincount(adata.obsm["labels"].ravel()).argmax())
    with torch.no_grad():
        model.module.unet.classes.bias[majority] = 1e3
    with pytest.warns(UserWarning, match="training has collapsed"):
        model.train(3, lr=1e-6, batch_size=4, **CPU)


@pytest.mark.parametrize("size, at_most", [(16, 128), (256, 4)])
def test_verbs_hand_large_series_to_the_network_a_few_at_a_time(size, at_most):
    adata = toy(n_tiles=2)
    UNetSegmenter.setup_anndata(adata)
    model = UNetSegmenter(adata, width=4, n_levels=1)
    assert scvi.settings.batch_size == 128
    assert model._default_batch_size(toy(n_tiles=2, size=size)) == at_most


def test_absent_dates_at_the_end_change_no_map():
    adata = toy(n_tiles=3)
    model = fitted(UNetSegmenter, adata, epochs=3)
    longer = toy(n_tiles=3)
    for key, values in adata.obsm.items():
        if key in ("series", "valid", "frame", "time"):
            more = np.zeros((3, 2, *values.shape[2:]), values.dtype)
            longer.obsm[key] = np.concatenate([values, more], axis=1)
    longer.obsm["time"][:, -2:] = np.nan
    expected = model.predict(soft=True)
    np.testing.assert_allclose(model.predict(longer, soft=True), expected, atol=1e-5)


def test_forward_of_the_module_is_what_verbs_say():
    model = fitted(UNetSegmenter, toy(n_tiles=2), epochs=1)
    tensors = next(iter(inference_loader(model.adata_manager, np.arange(2), 2)))
    with torch.no_grad():
        inferred, generated = model.module.eval()(tensors, compute_loss=False)
    np.testing.assert_array_equal(inferred["z"], model.get_latent_representation())
    np.testing.assert_array_equal(generated["logits"].softmax(1), model.predict(soft=True))
    with pytest.raises(TypeError, match="Pass compute_loss=False"):
        model.module(tensors)
