"""MixMatch for maps: what is guessed, what is learnt, and from which pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CPU
from made_up import fitted, minibatch, toy
from torch import nn
from torch.nn import functional as F

from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.core.maths.averaging import warmed_decay
from mixvi.core.maths.mixmatch import MixMatchSettings, sharpen
from mixvi.satellite import MixMatchSegmenter
from mixvi.satellite.mixmatch_segmenter import MixMatchSegmenterModule, joined, unlabelled_of
from mixvi.satellite.unet import UNet
from mixvi.satellite.views import Augmentation

STILL = {"flips": False, "turns": False, "shift": 0}
SMALL = {"width": 4, "n_levels": 1, "warmup_steps": 0}


class OfPixels(nn.Module):
    """Logits of a pixel by its own values of the first date: equivariant to every exact view."""

    def forward(self, planes, frame):
        x = planes[:, :2, 0]
        return torch.cat([x, -x[:, :1]], 1)


def module_of(unet=None, n_dates=3, augmentation=None, by_date=False, guess_with="raw", **mixing):
    torch.manual_seed(0)
    unet = UNet(7, 3, n_dates, by_date, width=4, n_levels=1) if unet is None else unet
    settings = {"lambda_u": 1.0, "alpha": 0.3, "rampup_steps": 1} | mixing
    shown = Augmentation(**(STILL if augmentation is None else augmentation))
    mixing = MixMatchSettings(**settings)
    return MixMatchSegmenterModule(unet, 2, 3, shown, mixing, guess_with=guess_with).train()


def without_labels(series, rows):
    labels = series.labels.clone()
    labels[rows] = UNLABELLED
    return replace(series, labels=labels)


def test_it_learns_land_cover_from_a_tenth_of_the_pixels():
    clear = {"cloud_fraction": 0.1, "missing_dates": 0.0}
    train, test = toy(8, 6, labelled=0.1, seed=1, **clear), toy(6, 6, seed=101, **clear)
    model = fitted(MixMatchSegmenter, train, 25, width=8, n_levels=1)
    true = test.obsm["true_labels"]
    accuracy = (model.predict(test) == true).mean()
    assert accuracy > 0.8 > 0.3 + np.bincount(true.ravel()).max() / true.size


def test_the_average_of_the_weights_may_guess():
    series = minibatch()
    guesses = {}
    for guess_with in ("raw", "ema"):
        module = module_of(guess_with=guess_with)
        with torch.no_grad():
            for weights in module.averaged_unet.parameters():
                weights.add_(0.1)
        other = {"raw": module.averaged_unet, "ema": module.unet}[guess_with]
        own = module.taught_by_guesses(series)[0].targets
        for weights in other.parameters():
            weights.data.zero_()
        torch.testing.assert_close(module.taught_by_guesses(series)[0].targets, own)
        guesses[guess_with] = own
    assert not torch.allclose(guesses["raw"], guesses["ema"])
    with pytest.raises(ValueError, match="guess_with"):
        module_of(guess_with="mean")


@pytest.mark.parametrize("by_date", [False, True])
def test_of_whole_images_the_losses_are_the_plain_ones(by_date):
    """Everything observed, one date, nothing mixed or changed: cross-entropy and Brier score."""
    module = module_of(n_dates=1, by_date=by_date, alpha=0.0, n_views=1, lambda_u=2.0)
    module.n_updates += 1
    series = minibatch(n_dates=1, gaps=0.0, by_date=by_date)
    labels = series.labels.masked_fill(series.labels == VOID, 0)
    labels[2:] = UNLABELLED
    labels[:2].clamp_min_(0)
    series = replace(series, labels=labels)
    torch.manual_seed(1)
    loss, terms = module.mixmatch(series)
    # minibatches of two, one labelled and one not: batch norm sees them so
    halves = [
        module.unet(s.planes(), s.frame)
        for s in (series.take(slice(0, None, 2)), series.take(slice(1, None, 2)))
    ]
    logits = torch.empty_like(torch.cat(halves))
    logits[0::2], logits[1::2] = halves
    guess = module.unet(series.take(slice(2, None)).planes(), None).softmax(-3)
    supervised = F.cross_entropy(logits[:2].flatten(0, -4), labels[:2].flatten(0, -3))
    q = sharpen(guess, 0.5, -3)
    unsupervised = (q - logits[2:].softmax(-3)).square().mean()
    torch.testing.assert_close(terms["supervised"], supervised)
    torch.testing.assert_close(terms["unsupervised"], unsupervised)
    torch.testing.assert_close(loss, supervised + 2 * unsupervised)


@pytest.mark.parametrize("augmentation", [{"shift": 0}, {"shift": 2}])
def test_guesses_of_an_equivariant_network_are_its_own_sharpened(augmentation):
    """Wherever any view sees the pixel, in each view's own frame."""
    module = module_of(OfPixels(), augmentation=augmentation, n_views=3)
    series = minibatch(n=6)
    series = replace(series, labels=torch.full_like(series.labels, UNLABELLED))
    expected = sharpen(module.unet(series.planes(), None).softmax(1), 0.5, 1)
    seen_at_all = series.support
    state = torch.get_rng_state()
    taught = module.taught_by_guesses(series)
    torch.set_rng_state(state)
    views = [module.augmentation.views(series) for _ in taught]
    for view, example in zip(views, taught, strict=True):
        assert not example.targets.requires_grad
        weight = view.nearest(seen_at_all, False)
        assert torch.equal(example.weight, weight)
        chosen = weight[:, None].expand_as(expected)
        torch.testing.assert_close(example.targets[chosen], view.maps(expected)[chosen])


def test_annotations_go_before_guesses_and_void_has_no_weight():
    module, series = module_of(), minibatch()
    maps = torch.rand(2, 4, 3, 8, 8).softmax(2)
    valid = torch.rand(2, 4, 8, 8) < 0.5
    guess, known = module.guess(series, maps, valid)
    annotated = series.labels >= 0
    assert torch.equal(guess.argmax(1)[annotated], series.labels[annotated])
    assert (guess.amax(1)[annotated] == 1).all()
    open_ = series.labels == UNLABELLED
    assert known[annotated].all() and not known[series.labels == VOID].any()
    assert torch.equal(known[open_], valid.any(0)[open_])


def test_void_and_unlabelled_pixels_of_labelled_tiles_teach_nothing_by_labels():
    module, series = module_of(), minibatch()
    taught = module.taught_by_labels(series)
    assert torch.equal(taught.weight, series.labels >= 0)
    assert (taught.targets.sum(1)[~taught.weight] == 0).all()
    # nor are they mixed into what another pixel is to be
    module.mixing = replace(module.mixing, alpha=5.0)
    mixed, _ = module.mixed_forward(taught, 4)
    torch.testing.assert_close(
        mixed.targets.sum(1)[mixed.weight], torch.ones(()).expand(int(mixed.weight.sum()))
    )
    assert torch.equal(mixed.series.observed, series.observed)


def test_no_gradient_reaches_targets():
    module = module_of()
    series = without_labels(minibatch(), slice(2, None))
    taught = joined(
        [module.taught_by_labels(series.take(slice(2))), *module.taught_by_guesses(series)]
    )
    mixed, logits = module.mixed_forward(taught, 2)
    assert logits.requires_grad and not mixed.targets.requires_grad


def test_tiles_labelled_in_part_are_guessed_and_full_ones_where_there_are_no_others():
    series = minibatch()
    assert len(unlabelled_of(series)) == 4
    labels = series.labels.clamp_min(0)
    full = replace(series, labels=labels)
    assert len(unlabelled_of(full)) == 4
    labels = labels.clone()
    labels[3, 0, 0] = UNLABELLED
    assert len(unlabelled_of(replace(series, labels=labels))) == 1


@pytest.mark.parametrize("by_date", [False, True])
def test_batch_norm_moves_once_a_step_and_the_average_follows(by_date):
    module = module_of(by_date=by_date)
    series = without_labels(minibatch(by_date=by_date), slice(2, None))
    before = {k: v.clone() for k, v in module.averaged_unet.state_dict().items()}
    module.mixmatch(series)
    norms = [m for m in module.unet.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}
    with torch.no_grad():
        next(module.unet.parameters()).add_(1.0)
    module.after_step(module.steps()[0])
    decay = float(warmed_decay(torch.tensor(1), 0.999))
    for name, value in module.averaged_unet.state_dict().items():
        if value.is_floating_point():
            now = decay * before[name] + (1 - decay) * module.unet.state_dict()[name]
            torch.testing.assert_close(value, now, msg=name)


def test_labels_alone_teach_before_the_ramp():
    module = module_of(warmup_steps=1)
    series = without_labels(minibatch(), slice(2, None))
    assert "lambda_u" not in module.mixmatch(series)[1]
    module.n_updates += 1
    assert float(module.mixmatch(series)[1]["lambda_u"]) == 0
    module.n_updates += 1
    assert float(module.mixmatch(series)[1]["lambda_u"]) == 1


def test_what_is_not_observed_changes_no_bit():
    models = []
    for value in (0.0, 1e9, np.nan):
        adata = toy(4, labelled=0.3)
        series, valid = adata.obsm["series"], adata.obsm["valid"]
        series[~np.broadcast_to(valid, series.shape)] = value
        torch.manual_seed(0)
        models.append(fitted(MixMatchSegmenter, adata, 2, rampup_steps=1, **SMALL))
    first = models[0]
    for other in models[1:]:
        for name, values in first.module.state_dict().items():
            assert torch.equal(values, other.module.state_dict()[name]), name
        np.testing.assert_array_equal(first.predict(soft=True), other.predict(soft=True))


@pytest.mark.parametrize(
    ("n_tiles", "train", "labelled"),
    [(9, {"labelled_fraction": 0.25}, 1), (20, {"batch_size": None}, 8)],
)
def test_each_minibatch_has_labelled_tiles(monkeypatch, n_tiles, train, labelled):
    """A share of them; eight, unless told."""
    adata = toy(n_tiles)
    adata.obsm["labels"][2:] = UNLABELLED
    seen = []
    loss = MixMatchSegmenterModule.mixmatch

    def counting(self, series):
        seen.append(int(series.labelled.flatten(1).any(1).sum()))
        return loss(self, series)

    monkeypatch.setattr(MixMatchSegmenterModule, "mixmatch", counting)
    model = fitted(MixMatchSegmenter, adata, 1, train=train, **SMALL)
    assert seen == [labelled] * 2 and len(model.train_indices) == n_tiles


def test_verbs_files_and_records(tmp_path):
    adata = toy(6, labelled=0.3)
    adata.obsm["labels"][4:] = UNLABELLED
    model = fitted(MixMatchSegmenter, adata, 2, rampup_steps=2, ema_decay=0.9, **SMALL)
    records = {"supervised", "unsupervised", "lambda_u", "confidence", "guessed_2", "accuracy"}
    assert {f"{name}_train" for name in records} <= set(model.history)
    p = model.predict(soft=True)
    assert p.shape == (6, 3, 16, 16)
    model.save(tmp_path / "model")
    loaded = MixMatchSegmenter.load(tmp_path / "model", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), p)
    np.testing.assert_array_equal(
        loaded.get_pseudo_labels().probabilities, model.get_pseudo_labels().probabilities
    )
    assert model.get_uncertainty(kind="mutual_information").shape == (6, 16, 16)
    # users see the average, guesses are of the present weights
    model.module.averaged_unet = model.module.unet
    assert np.abs(model.predict(soft=True) - p).max() > 1e-4


def test_pseudo_labels():
    adata = toy(4, labelled=0.3)
    adata.obsm["valid"][..., 3, 2:9] = False
    adata.obsm["labels"][0, 0, :4] = VOID
    model = fitted(MixMatchSegmenter, adata, 1, **SMALL)
    found = model.get_pseudo_labels(n_views=4)
    labels = adata.obsm["labels"]
    np.testing.assert_array_equal(found.labels[labels >= 0], labels[labels >= 0])
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    seen = adata.obsm["valid"].any((1, 2))
    np.testing.assert_array_equal(found.weight, seen & (labels != VOID))
    assert found.counts().sum() == found.weight.sum() and len(found.counts()) == 3


@pytest.mark.parametrize(("n_dates", "alpha"), [(1, 0.3), (3, 0.0)])
def test_images_are_mixed_and_series_are_not_unless_told(n_dates, alpha):
    adata = toy(2, n_dates)
    MixMatchSegmenter.setup_anndata(adata)
    assert MixMatchSegmenter(adata, **SMALL).module.mixing.alpha == alpha
    assert MixMatchSegmenter(adata, alpha=0.75, **SMALL).module.mixing.alpha == 0.75


@pytest.mark.parametrize("n_dates", [1, 3])
def test_the_first_unet_may_guess(n_dates):
    options = {"architecture": "ronneberger2015", "dates": "convolved", "warmup_steps": 0}
    model = fitted(MixMatchSegmenter, toy(4, n_dates, labelled=0.3), width=4, **options)
    averaged = model.module.averaged_unet
    assert [up.in_channels for up in averaged.enlarge] == [16, 8]
    assert averaged.is_spatial == (n_dates == 1)
    assert np.isfinite(model.history["unsupervised_train"].to_numpy(dtype=float)).all()
    assert model.predict().shape == (4, 16, 16)


def test_validation_is_by_labels_and_can_stop():
    adata = toy(8)
    adata.obsm["labels"][5:] = UNLABELLED
    split = {"external_indexing": [[0, 1, 2, 5, 6], [3, 4, 7]]}
    train = {"early_stopping": True, "datasplitter_kwargs": split}
    model = fitted(MixMatchSegmenter, adata, 2, train=train, **SMALL)
    assert sorted(model.validation_indices) == [3, 4]
    assert "mixmatch_loss_validation" in model.history
    with pytest.raises(ValueError, match="none of the tiles of the validation set has one"):
        options = {"external_indexing": [[0, 1, 2, 5, 6], [7]]}
        model.train(1, early_stopping=True, datasplitter_kwargs=options, **CPU)


def test_messages():
    adata = toy(4)
    MixMatchSegmenter.setup_anndata(adata)
    for options, words in (
        ({"temperature": 2.0}, "temperature must lie above 0"),
        ({"ema_decay": 1.0}, "ema_decay must lie in"),
        ({"n_levels": 5}, "multiples of 32"),
        ({"class_weights": "median"}, "class_weights='median' is not known"),
    ):
        with pytest.raises(ValueError, match=words):
            MixMatchSegmenter(adata, **options)
    model = MixMatchSegmenter(adata, **SMALL)
    with pytest.raises(ValueError, match="labelled_fraction must lie between 0 and 1"):
        model.train(1, labelled_fraction=1.0, **CPU)
    adata.obsm["labels"][2:] = UNLABELLED
    with pytest.raises(ValueError, match="batch_size=1, but some tiles have no label"):
        model.train(1, batch_size=1, **CPU)
    named = {"external_indexing": [[2, 3]]}
    with pytest.raises(ValueError, match="none of the tiles that are to train has a label"):
        model.train(1, datasplitter_kwargs=named, **CPU)


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path):
    def run(directory, epochs, **options):
        torch.manual_seed(0)
        adata = toy(4, labelled=0.3)
        MixMatchSegmenter.setup_anndata(adata)
        model = MixMatchSegmenter(adata, rampup_steps=3, **SMALL)
        model.train(epochs, batch_size=4, checkpoint_dir=directory, **options, **CPU)
        return model

    whole = run(tmp_path / "whole", 3)
    loss, taken = MixMatchSegmenterModule.loss, []

    def stopping(self, step, *rows):
        taken.append(step)
        if len(taken) == 2:
            raise InterruptedError
        return loss(self, step, *rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MixMatchSegmenterModule, "loss", stopping)
        with pytest.raises(InterruptedError):
            run(tmp_path / "stopped", 3)
    resumed = run(tmp_path / "stopped", 3, resume=True)
    for name, values in resumed.module.state_dict().items():
        assert torch.equal(values, whole.module.state_dict()[name]), name
