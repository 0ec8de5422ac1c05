"""MixMatch for classes of images: its losses by hand, its verbs, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import CPU, bars
from torch import nn
from torch.nn import functional as F

from mixvi.core.data.loading import inference_loader
from mixvi.core.maths.averaging import warmed_decay
from mixvi.core.maths.mixmatch import MixMatchSettings, sharpen
from mixvi.images import MixMatchClassifier
from mixvi.images.classifier_networks import conv, make_network, shifted, wide_resnet
from mixvi.images.mixmatch_classifier import MixMatchClassifierModule

SMALL = {"backbone": "conv", "backbone_kwargs": {"width": 8, "n_levels": 2}, "shift": 2}


def labelled_bars(n=200, n_labelled=4) -> AnnData:
    """Bars across or upright, of which so many of each have a label."""
    adata = AnnData(obsm={"image": bars(n, 12)})
    across = (adata.obsm["image"][:, 0] > 0).all(2).any(1)
    adata.obs["kind"] = np.where(across, "across", "upright")
    shown = np.full(n, "Unknown", object)
    for kind in ("across", "upright"):
        rows = np.flatnonzero(adata.obs["kind"] == kind)[:n_labelled]
        shown[rows] = kind
    adata.obs["label"] = shown
    return adata


def fitted(adata, epochs=2, train=None, **options) -> MixMatchClassifier:
    MixMatchClassifier.setup_anndata(adata, labels_key="label")
    model = MixMatchClassifier(adata, **(SMALL | {"lambda_u": 10.0, "rampup_steps": 20} | options))
    model.train(epochs, **({"batch_size": 32, "lr": 5e-3} | CPU | (train or {})))
    return model


def module_of(**mixing) -> MixMatchClassifierModule:
    torch.manual_seed(0)
    settings = {"lambda_u": 3.0, "alpha": 0.75, "rampup_steps": 1} | mixing
    network = conv(1, 3, width=4, n_levels=1)
    shape, levels = (1, 8, 8), (-1.0, 1.0)
    module = MixMatchClassifierModule(
        network, shape, levels, 3, MixMatchSettings(**settings), shift=0, flip=False
    )
    return module.train()


def test_it_learns_from_four_labels_a_class():
    model = fitted(labelled_bars(), 8)
    assert (model.predict() == model.adata.obs["kind"]).mean() > 0.98


def test_the_losses_by_hand():
    """One view, nothing mixed or changed: cross-entropy, and Brier score of sharpened guesses."""
    module = module_of(alpha=0.0, n_views=1)
    module.n_updates += 1
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([2, 3, 0, 3])
    loss, terms = module.mixmatch(x, labels)
    # minibatches of two, one labelled and one not: batch norm sees them so
    known, unknown = x[labels < 3], x[labels == 3]
    parts = [module.network(torch.stack([known[i], unknown[i]])) for i in (0, 1)]
    of_known = torch.stack([part[0] for part in parts])
    of_unknown = torch.stack([part[1] for part in parts])
    guess = sharpen(module.network(unknown).softmax(1), 0.5)
    supervised = F.cross_entropy(of_known, torch.tensor([2, 0]))
    unsupervised = (guess - of_unknown.softmax(1)).square().mean()
    torch.testing.assert_close(terms["supervised"], supervised)
    torch.testing.assert_close(terms["unsupervised"], unsupervised)
    torch.testing.assert_close(loss, supervised + 3 * unsupervised)


def test_a_step_moves_batch_norm_once_and_the_average():
    module = module_of()
    before = {k: v.clone() for k, v in module.averaged_network.state_dict().items()}
    guess = module.guess([torch.randn(4, 1, 8, 8)])
    assert not guess.requires_grad
    module.mixmatch(torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 3, 3]))
    (norm,) = [m for m in module.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norm.num_batches_tracked == 1
    with torch.no_grad():
        module.network.classes.weight.add_(1.0)
    module.after_step(module.steps()[0])
    decay = float(warmed_decay(torch.tensor(1), 0.999))
    for name, value in module.averaged_network.state_dict().items():
        if value.is_floating_point():
            expected = decay * before[name] + (1 - decay) * module.network.state_dict()[name]
            torch.testing.assert_close(value, expected, msg=name)


def test_all_images_with_labels_are_guessed_too():
    terms = module_of().mixmatch(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))[1]
    assert terms["unsupervised"] > 0


def test_the_wide_network_has_the_paper_s_size():
    assert sum(p.numel() for p in wide_resnet(3, 10).parameters()) == 1_467_610
    small = wide_resnet(1, 4, depth=10, widen=1)
    assert small(torch.randn(2, 1, 16, 16)).shape == (2, 4)
    assert small.features(torch.randn(2, 1, 16, 16)).shape == (2, 64)


def test_moved_images_by_hand():
    torch.manual_seed(0)
    x = torch.arange(36.0).view(1, 1, 6, 6).expand(300, -1, -1, -1)
    same = shifted(x, 0, flip=True)
    straight, turned = x[0], x[0].flip(-1)
    assert all(torch.equal(y, straight) or torch.equal(y, turned) for y in same)
    padded = F.pad(x[:1], (2, 2, 2, 2), mode="reflect")[0]
    crops = [padded[:, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    seen = [[torch.equal(y, crop) for crop in crops] for y in shifted(x, 2, flip=False)]
    assert all(sum(found) == 1 for found in seen)
    assert np.any(seen, axis=0).all()


def test_verbs_and_files(tmp_path):
    adata = labelled_bars(80)
    model = fitted(adata, train={"labelled_fraction": 0.25})
    p = model.predict(soft=True)
    assert list(p.columns) == ["across", "upright"] and list(p.index) == list(adata.obs_names)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (model.predict() == p.idxmax(axis=1)).all()
    assert model.get_latent_representation().shape == (80, 16)
    model.annotate()
    assert (adata.obs["mixmatch_label"] == model.predict()).all()
    np.testing.assert_array_equal(adata.obs["mixmatch_confidence"], p.max(axis=1))
    records = {"supervised", "unsupervised", "lambda_u", "confidence", "guessed_1", "accuracy"}
    assert {f"{name}_train" for name in records} <= set(model.history)
    model.save(tmp_path / "model")
    loaded = MixMatchClassifier.load(tmp_path / "model", adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(soft=True), p)
    new = AnnData(obsm={"image": adata.obsm["image"][:5]})
    np.testing.assert_allclose(loaded.predict(new, soft=True), p[:5], atol=1e-6)
    # users see the average
    model.module.averaged_network = model.module.network
    assert np.abs(model.predict(soft=True).to_numpy() - p.to_numpy()).max() > 1e-4


def test_validated_labels_can_stop():
    adata = labelled_bars(40)
    labelled = np.flatnonzero(adata.obs["label"] != "Unknown")
    others = np.setdiff1d(np.arange(40), labelled)
    split = [[*labelled[:5], *others[5:]], [*labelled[5:], *others[:5]]]
    options = {"early_stopping": True, "datasplitter_kwargs": {"external_indexing": split}}
    model = fitted(adata, 1, train=options | {"batch_size": 8})
    assert sorted(model.validation_indices) == sorted(labelled[5:])
    assert "accuracy_validation" in model.history
    options["datasplitter_kwargs"] = {"external_indexing": [labelled, others]}
    with pytest.raises(ValueError, match="none of the images of the validation set has one"):
        model.train(1, **options, **CPU)
    options = {"datasplitter_kwargs": {"external_indexing": [others]}}
    with pytest.raises(ValueError, match="None of the 32 images that are to train has a label"):
        model.train(1, **options, **CPU)


def test_messages():
    adata = labelled_bars(20, 2)
    MixMatchClassifier.setup_anndata(adata, labels_key="label")
    for options, words in (
        ({"backbone": "resnet"}, "backbone='resnet' is not known.*wide_resnet"),
        ({"backbone_kwargs": {"depth": 3}}, "backbone='conv' has no option 'depth'"),
        ({"shift": 12}, "shift=12, but images have 12 x 12 pixels"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
    ):
        with pytest.raises(ValueError, match=words):
            MixMatchClassifier(adata, **(SMALL | options))
    with pytest.raises(ValueError, match="depth must be 10, 16, 22, 28"):
        make_network("wide_resnet", 3, 10, {"depth": 12})
    adata.obs["one"] = np.where(adata.obs["label"] == "across", "across", None)
    with pytest.raises(ValueError, match=r"has 1 label\(s\), but two"):
        MixMatchClassifier.setup_anndata(adata, labels_key="one")
    with pytest.raises(KeyError, match="Did you mean 'label'"):
        MixMatchClassifier.setup_anndata(adata, labels_key="labels")


def test_forward_of_the_module_is_what_verbs_say():
    model = fitted(labelled_bars())
    tensors = next(iter(inference_loader(model.adata_manager, np.arange(200), 200)))
    with torch.no_grad():
        inferred, generated = model.module.eval()(tensors, compute_loss=False)
    codes = model.get_latent_representation(batch_size=200)
    np.testing.assert_array_equal(inferred["z"], codes)
    soft = model.predict(soft=True, batch_size=200)
    np.testing.assert_array_equal(generated["logits"].softmax(1), soft)
