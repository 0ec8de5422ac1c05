"""Symmetric equilibrium learning: who is taught by what, dreams, gaps, and a known case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scvi
import torch
from torch import distributions as td

from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.datasets import toy_region_images, toy_satellite_series
from mixvi.satellite import HierarchicalVAE, SymmetricHVAE, SymmetricVAE
from mixvi.satellite.dreams import turned
from mixvi.satellite.views import Augmentation

LAYERS = [
    {"n_channels": 4, "scale": 1, "parents": [0], "hidden": [8]},
    {"n_channels": 6, "scale": 2, "parents": [1], "hidden": []},
    {"scale": 1, "parents": [2], "hidden": [8]},
]
SMALL = {"layers": LAYERS, "n_code": 5, "n_date_code": 3, "n_place_code": 2, "other_gaps": 0.0}


def series(n_labelled: int = 3, n_dates: int = 3):
    adata = toy_satellite_series(6, n_dates, 8, 3, labelled=1.0, seed=1)
    adata.obsm["labels"][n_labelled:] = UNLABELLED
    return adata


def model_of(adata, cls=SymmetricHVAE, **options):
    scvi.settings.seed = 0
    cls.setup_anndata(adata)
    dreams = {} if cls is HierarchicalVAE else {"dream_warmup": 0}
    model = cls(adata, **SMALL | dreams | options)
    model._prepare(np.arange(adata.n_obs))
    return model


def rows_of(model):
    model.is_trained_ = True
    return next(iter(model._inputs(model.adata, None, 6)))


@pytest.mark.parametrize("cls", [SymmetricHVAE, SymmetricVAE])
def test_each_player_is_taught_by_its_own_losses_alone(cls):
    model = model_of(series(), cls)
    module, rows = model.module, rows_of(model)
    for step in module.steps():
        module.zero_grad()
        # of all weights, not of the step's networks alone
        module.loss(step, rows)[0].backward()
        taught = {
            name: any(p.grad is not None for p in getattr(module, name).parameters())
            for name in module.network_names
        }
        assert taught == {name: name in step.updates for name in module.network_names}, step.name


def test_no_draw_carries_a_gradient():
    model = model_of(series())
    rows = rows_of(model)
    path = model.module.posterior(rows, model.module.evidence(rows))
    assert path.q["z1"].eta[0].requires_grad
    assert path.image.mean.requires_grad
    assert not any(z.requires_grad for z in path.z.values())
    assert not model.module.dream(rows)[1].x.requires_grad


def test_guessed_segmentations_count_as_told():
    losses = []
    for options in ({}, {"weight_unlabelled": 0.1}):
        model = model_of(series(), **options)
        rows = rows_of(model)
        torch.manual_seed(0)
        losses.append(model.module.p_unlabelled(rows)[0])
    torch.testing.assert_close(losses[1], 0.1 * losses[0])


@pytest.mark.parametrize("cls", [SymmetricHVAE, SymmetricVAE, HierarchicalVAE])
@pytest.mark.parametrize(
    "n_dates, options, has_norm", [(1, {}, True), (1, {"layers": "thesis"}, False), (3, {}, False)]
)
def test_single_images_are_normalised_unless_by_the_thesis(cls, n_dates, options, has_norm):
    adata = series(n_dates=n_dates)
    cls.setup_anndata(adata)
    model = cls(adata, width=0.1, **options)
    parts = (type(part) for part in model.module.encoder.modules())
    assert (torch.nn.GroupNorm in set(parts)) == has_norm


@pytest.mark.parametrize("cls", [SymmetricHVAE, HierarchicalVAE])
def test_labelled_tiles_alone_are_changed_and_in_training_alone(cls, monkeypatch):
    model = model_of(series(n_labelled=3), cls)
    module, rows = model.module, rows_of(model)
    seen = []
    evidence = module.evidence
    monkeypatch.setattr(module, "evidence", lambda of: (seen.append(of), evidence(of))[1])
    # so that what is changed is told from what is not
    monkeypatch.setattr(type(module.augmentation), "change", lambda _, of, dark: shifted(of))
    loss = module.q_labelled if cls is SymmetricHVAE else module.minus_elbo
    for is_training in (True, False):
        module.train(is_training)
        loss(rows)
    changed, unchanged = seen
    torch.testing.assert_close(changed.x[:3], rows.x[:3] + 1)
    torch.testing.assert_close(changed.x[3:], rows.x[3 : len(changed)])
    torch.testing.assert_close(unchanged.x, rows.x[: len(unchanged)])


def shifted(of):
    return replace(of, x=of.x + 1)


@pytest.mark.parametrize("n_dates, dropped", [(1, 0.0), (3, 0.3)])
def test_augmentation_is_that_of_the_unet(n_dates, dropped):
    module = model_of(series(n_dates=n_dates)).module
    assert module.augmentation == Augmentation(drop_dates=dropped)
    told = model_of(series(n_dates=n_dates), augmentation={"shift": 1, "drop_dates": 0.1})
    assert told.module.augmentation == Augmentation(shift=1, drop_dates=0.1)


def test_views_that_crop_all_labels_teach_nothing():
    adata = series(n_labelled=1)
    labels = adata.obsm["labels"]
    labels[0] = UNLABELLED
    labels[0, 0, 0] = 0
    module = model_of(adata, augmentation={"shift": 7}).module
    rows = rows_of(model_of(adata))
    losses = [module.q_labelled(rows)[0].item() for _ in range(30)]
    assert np.isfinite(losses).all()
    assert 0.0 in losses


def test_dreams_teach_the_head_of_the_code():
    model = model_of(series())
    model.module.q_dream(rows_of(model))[0].backward()
    encoder = model.module.encoder
    heads = (encoder.code, encoder.date_code.body[0], encoder.place_code)
    assert all(head.weight.grad.abs().sum() > 0 for head in heads)
    assert encoder.segmentation.weight.grad.abs().sum() > 0


def test_the_dream_loss_is_minus_log_q_of_all_latents_over_the_places():
    model = model_of(series())
    module, rows = model.module, rows_of(model)
    torch.manual_seed(3)
    loss, _ = module.q_dream(rows)
    torch.manual_seed(3)
    path, dream = module.dream(rows)
    evidence, z = module.evidence(dream), path.z
    classes = td.Categorical(logits=evidence["segmentation"].eta[0].movedim(1, -1))
    total = classes.log_prob(z["segmentation"].argmax(1)).sum()
    for name in ("code", "date_code", "place_code"):
        total = total + td.Bernoulli(logits=evidence[name].eta[0]).log_prob(z[name]).sum()
    for name in ("z1", "z2"):
        logits = path.p[name].eta[0] + evidence[name].eta[0]
        total = total + td.Bernoulli(logits=logits).log_prob(z[name]).sum()
    torch.testing.assert_close(loss, -total / len(rows) / (3 * 8 * 8))


def test_the_decoder_is_taught_the_annotated_segmentation_and_observed_values():
    model = model_of(series(n_labelled=6))
    module, rows = model.module, rows_of(model)
    with torch.no_grad():
        evidence = module.evidence(rows)
    torch.manual_seed(3)
    loss, _ = module.p_labelled(rows)
    torch.manual_seed(3)
    path = module.posterior(rows, evidence, use_labels=True)
    assert torch.equal(path.z["segmentation"].argmax(1)[:, 0], rows.labels)
    image = td.Normal(path.image.mean.transpose(1, 2), path.image.variance.sqrt().transpose(1, 2))
    total = image.log_prob(rows.x)[rows.observed].sum() + 6 * (5 + 3 * 3 + 2 * 8 * 8) * np.log(0.5)
    total = total - rows.labels.numel() * np.log(3)
    for name in ("z1", "z2"):
        total = total + td.Bernoulli(logits=path.p[name].eta[0]).log_prob(path.z[name]).sum()
    torch.testing.assert_close(loss, -total.float() / 6 / (3 * 8 * 8))


def test_joint_losses_are_those_of_the_steps():
    model = model_of(series(), update="joint")
    module, rows = model.module, rows_of(model)
    torch.manual_seed(3)
    loss, terms = module.loss(module.steps()[0], rows)
    torch.manual_seed(3)
    names = ("p_labelled", "q_labelled", "p_unlabelled", "q_dream")
    parts = [getattr(module, name)(rows)[0] for name in names]
    torch.testing.assert_close(loss, sum(parts))
    assert [terms[f"{name}_loss"].item() for name in names] == [part.item() for part in parts]


def test_dreams_have_gaps_and_dates_of_real_tiles():
    model = model_of(series())
    rows = rows_of(model)
    dream = model.module.dream(rows)[1]
    real = {row.numpy().tobytes() for row in rows.observed}
    assert {row.numpy().tobytes() for row in dream.observed} == real
    assert (dream.x[~dream.observed] == 0).all()
    assert (dream.x[dream.observed] != 0).all()


def test_dreams_do_not_teach_before_their_time():
    module = model_of(series(), dream_warmup=4, weight_dream=2.0).module
    weights = []
    for _ in range(6):
        weights.append(float(module._dream_weight()))
        module.after_step(module.steps()[-1])
    assert weights == [0.0, 0.0, 0.0, 0.0, 2.0, 2.0]


def test_labels_weigh_the_same_whatever_part_is_labelled_unless_told():
    adata = series(n_labelled=6)
    adata.obsm["labels"][:, 1:] = VOID
    for weight, share in ((None, 1.0), (1.0, 8 / (3 * 8 * 8)), (3.0, 3 * 8 / (3 * 8 * 8))):
        model = model_of(adata, weight_sup_q=weight)
        rows = rows_of(model)
        loss, terms = model.module.q_labelled(rows)
        logits = model.module.class_logits(rows)[:, :, 0]
        mean = torch.nn.functional.cross_entropy(logits, rows.labels[:, 0])
        torch.testing.assert_close(terms["cross_entropy"], mean)
        torch.testing.assert_close(loss, share * mean)


def test_maps_of_dreams_are_labels_turned_and_mirrored():
    adata = series(n_labelled=2)
    module = model_of(adata).module
    assert module.dream_maps == "bank"
    assert module.bank.shape == (2, 8, 8)
    for height, width, n_forms in ((4, 4, 8), (4, 6, 4)):
        maps = torch.arange(height * width).view(1, height, width).repeat(200, 1, 1)
        forms = turned(maps)
        assert len({form.numpy().tobytes() for form in forms}) == n_forms
        assert torch.equal(forms.flatten(1).sort(1).values, maps.flatten(1))


def test_partly_labelled_maps_are_completed_by_the_encoder():
    adata = series(n_labelled=6)
    adata.obsm["labels"][:, 4:] = UNLABELLED
    adata.obsm["labels"][:, :, 0] = VOID
    model = model_of(adata)
    assert model.module.dream_maps == "completed"
    maps = model.module._dreamt_maps(rows_of(model))
    assert (maps.sum(1) == 1).all()
    known = adata.obsm["labels"][:, :4, 1:]
    assert model.module.annotated(maps, rows_of(model)).argmax(1)[:, 0, :4, 1:].numpy() == (
        pytest.approx(known)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dream_maps": "external"}, "needs maps_key"),
        ({"maps_key": "older"}, "nothing else does"),
        ({"dream_maps": "banks"}, "is not known"),
        ({"update": "both"}, "update='both'"),
        ({"weight_dream": -1.0}, "weight_dream"),
        ({"weight_unlabelled": -1.0}, "weight_unlabelled"),
        ({"variance": "image"}, "variance='image'"),
        ({"activation": "tanh"}, "activation='tanh'"),
        ({"layers": "thesis", "width": 0.1, "n_code": 0}, "n_code"),
    ],
)
def test_settings_are_checked(options, message):
    adata = series()
    SymmetricHVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match=message):
        SymmetricHVAE(adata, **SMALL | options)


def test_dreams_that_have_no_maps_are_refused_before_training():
    adata = series()
    adata.obsm["labels"][:, 0] = UNLABELLED
    SymmetricHVAE.setup_anndata(adata)
    model = SymmetricHVAE(adata, **SMALL, dream_maps="bank")
    with pytest.raises(ValueError, match="no training tile has a label at every pixel"):
        model.train(1)
    adata.obsm["older"] = adata.obsm["true_labels"].copy()
    model = SymmetricHVAE(adata, **SMALL, dream_maps="external", maps_key="older")
    model._prepare(np.arange(4))
    assert model.module.bank.shape == (4, 8, 8)
    adata.obsm["older"][2, 0, 0] = VOID
    with pytest.raises(ValueError, match="1 of 4 maps have pixels without a class"):
        model._prepare(np.arange(4))


def test_history_has_each_term():
    model = model_of(series())
    model.train(1, batch_size=2, enable_progress_bar=False)
    names = {"p_labelled_loss", "q_labelled_loss", "p_unlabelled_loss", "q_dream_loss"}
    names |= {"log_p_x", "log_p_z1", "dream_z2", "dream_code_accuracy", "jsd_z1", "cross_entropy"}
    assert {f"{name}_train" for name in names} <= set(model.history)
    values = np.array([table.to_numpy() for table in model.history.values()], dtype=float)
    assert np.isfinite(values).all()


def test_it_fills_gaps_better_than_the_mean_of_bands_and_maps_what_it_cannot_see():
    """The synthetic case of the specification (5.10), at a small budget."""
    adata, new = toy_region_images(500, 50), toy_region_images(100, 100, seed=9)
    layers = [
        {"n_channels": 12, "scale": 1, "parents": [0], "hidden": [16]},
        {"scale": 1, "parents": [1], "hidden": [16]},
    ]
    scvi.settings.seed = 0
    SymmetricHVAE.setup_anndata(adata)
    options = {"dream_maps": "external", "maps_key": "other_labels"}
    model = SymmetricHVAE(adata, layers, n_code=4, **options)
    model.train(4, batch_size=32, lr=3e-3, enable_progress_bar=False)
    truth, gap = (
        new.obsm["complete"],
        np.broadcast_to(~new.obsm["valid"], new.obsm["complete"].shape),
    )

    def error(filled: np.ndarray) -> float:
        return float(np.sqrt(np.square(filled - truth)[gap].mean()))

    band_mean = model.module.band_mean.numpy()[:, None, None]
    filled, sd = model.impute(new, n_samples=8, return_sd=True)
    assert error(filled) < 0.93 * error(np.broadcast_to(band_mean, truth.shape))
    inside = np.abs(filled - truth)[gap] < 1.645 * sd[gap]
    assert 0.8 < inside.mean() < 0.97
    right = model.predict(new) == new.obsm["true_labels"]
    hidden = ~new.obsm["valid"][:, 0, 0]
    assert right[~hidden].mean() > 0.75
    assert right[hidden].mean() > 0.5
