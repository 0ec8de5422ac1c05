"""Learnt maps: exact probabilities, draws with regions, who teaches them, and what starts there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scvi
import torch
from conftest import CPU

from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.datasets import toy_region_images, toy_satellite_series
from mixvi.satellite import SymmetricHVAE, SymmetricVAE
from mixvi.satellite.dreams import turned
from mixvi.satellite.map_prior import MapPrior
from mixvi.satellite.symmetric_hvae import SymmetricModule

LAYERS = [
    {"n_channels": 4, "scale": 1, "parents": [0], "hidden": [8]},
    {"scale": 1, "parents": [1], "hidden": [8]},
]
LEARNT = {"layers": LAYERS, "n_code": 5, "n_date_code": 3, "dream_maps": "learned"}


def tiles(n: int = 6, n_dates: int = 3, by_date: bool = False, whole: bool = True):
    """Half of the tiles have labels, all over or in part, or nowhere but in part."""
    adata = toy_satellite_series(n, n_dates, 8, 3, labelled=1.0, seed=1)
    labels = adata.obsm["labels"]
    labels[n // 2 :] = UNLABELLED
    if not whole:
        labels[:, :, 0] = VOID
        labels[:, :, 1] = UNLABELLED
    if by_date:
        adata.obsm["labels"] = np.repeat(labels[:, None], n_dates, axis=1)
    return adata


def model_of(adata, cls=SymmetricHVAE, **options):
    scvi.settings.seed = 0
    cls.setup_anndata(adata)
    model = cls(adata, **LEARNT | options)
    model._prepare(np.arange(adata.n_obs))
    return model


def rows_of(model):
    model.is_trained_ = True
    return next(iter(model._inputs(model.adata, None, 6)))


def at_random(n_classes: int, by_date: bool, size: tuple[int, int]) -> MapPrior:
    """Weights that are not at rest, so that pixels depend on each other."""
    torch.manual_seed(0)
    prior = MapPrior(n_classes, by_date, size, width=4)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return prior


def one_hot(maps: torch.Tensor, n_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(maps, n_classes).movedim(-1, 1).float()


@pytest.mark.parametrize(
    ("n_dates", "size", "n_classes"),
    [(1, (2, 2), 3), (1, (3, 3), 2), (1, (1, 5), 2), (2, (2, 2), 2), (3, (1, 3), 2)],
)
def test_probabilities_of_all_maps_sum_to_one_and_are_the_frequencies_of_draws(
    n_dates, size, n_classes
):
    prior = at_random(n_classes, n_dates > 1, size)
    n_pixels = n_dates * size[0] * size[1]
    maps = torch.tensor(list(itertools.product(range(n_classes), repeat=n_pixels)))
    with torch.no_grad():
        log_p = prior.log_prob(one_hot(maps.view(-1, n_dates, *size), n_classes))
    p = log_p.flatten(1).sum(1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    n = 20_000
    drawn = prior.sample(n, n_dates, size)
    assert torch.equal(drawn.sum(1), torch.ones(n, n_dates, *size))
    number = (drawn.argmax(1).flatten(1) * n_classes ** torch.arange(n_pixels).flip(0)).sum(1)
    counts = torch.bincount(number, minlength=len(maps))
    # five standard deviations of a count
    assert ((counts - n * p).abs() < 5 * (n * p).sqrt() + 3).all()


def learnt(maps: torch.Tensor, n_classes: int, n_updates: int) -> MapPrior:
    torch.manual_seed(0)
    prior = MapPrior(n_classes, maps.shape[1] > 1, maps.shape[-2:])
    adam = torch.optim.Adam(prior.parameters(), 5e-3)
    for _ in range(n_updates):
        chosen = turned(maps[torch.randint(len(maps), (32,))])
        loss = -prior.log_prob(one_hot(chosen, n_classes)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return prior


def alike(maps: torch.Tensor) -> float:
    """Share of neighbouring pixels of one class; of independent ones the sum of squared shares."""
    return float((maps[..., 1:] == maps[..., :-1]).float().mean())


def test_drawn_maps_have_regions_and_classes_as_often_as_true_ones():
    true = torch.as_tensor(toy_region_images(400, 0).obsm["true_labels"]).long()[:, None]
    drawn = learnt(true, 3, 150).sample(400, 1, (8, 8)).argmax(1)
    frequency, of_drawn = (
        torch.bincount(m.flatten(), minlength=3) / m.numel() for m in (true, drawn)
    )
    # what drawing each pixel by itself would give: 0.33 against 0.86
    assert alike(true) > frequency.square().sum() + 0.5
    assert alike(drawn) == pytest.approx(alike(true), abs=0.05)
    assert (of_drawn - frequency).abs().max() < 0.1


def test_drawn_sequences_change_as_seldom_as_true_ones():
    true = torch.as_tensor(toy_region_images(400, 0).obsm["true_labels"]).long()[:, None]
    # in half of the sequences a class becomes the next from the third date on
    later = torch.where((true == 0) & (torch.arange(400) % 2 == 0).view(-1, 1, 1, 1), 1, true)
    true = torch.cat([true, true, later, later], dim=1)
    drawn = learnt(true, 3, 150).sample(400, 4, (8, 8)).argmax(1)
    assert alike(drawn) == pytest.approx(alike(true), abs=0.05)
    changed, of_drawn = ((m[:, 1:] != m[:, :-1]).float().mean() for m in (true, drawn))
    # a sixth of the pixels at one of three dates; dates drawn by themselves differ in two thirds
    assert changed == pytest.approx(1 / 18, abs=0.01)
    assert of_drawn == pytest.approx(changed.item(), abs=0.03)
    # and most that change have the class that follows
    before, after = drawn[:, :-1], drawn[:, 1:]
    assert (after == 1)[(before == 0) & (after != 0)].float().mean() > 0.8


@pytest.mark.parametrize("cls", [SymmetricHVAE, SymmetricVAE])
@pytest.mark.parametrize("whole", [True, False])
def test_each_player_is_taught_by_its_own_losses_alone(cls, whole):
    model = model_of(tiles(whole=whole), cls, dream_warmup=0)
    module, rows = model.module, rows_of(model)
    assert module.network_names == ("encoder", "decoder", "map_prior")
    for step in module.steps():
        module.zero_grad()
        module.loss(step, rows)[0].backward()
        taught = {
            name: any(p.grad is not None for p in getattr(module, name).parameters())
            for name in module.network_names
        }
        assert taught == {name: name in step.updates for name in module.network_names}, step.name


def test_joint_losses_are_those_of_the_steps():
    model = model_of(tiles(), update="joint")
    module, rows = model.module, rows_of(model)
    (step,) = module.steps()
    assert set(step.updates) == set(module.network_names)
    torch.manual_seed(3)
    loss, terms = module.loss(step, rows)
    torch.manual_seed(3)
    names = ("p_labelled", "q_labelled", "p_unlabelled", "p_segmentation", "q_dream")
    parts = [getattr(module, name)(rows)[0] for name in names]
    torch.testing.assert_close(loss, sum(parts))
    assert [terms[f"{name}_loss"].item() for name in names] == [part.item() for part in parts]


def test_networks_are_as_they_were_unless_maps_are_learnt():
    module = model_of(tiles(), dream_maps="auto").module
    assert module.network_names == ("encoder", "decoder")
    assert not any("map_prior" in name for name in module.state_dict())
    assert "p_segmentation" not in {step.name for step in module.steps()}


@pytest.mark.parametrize("by_date", [False, True])
def test_the_loss_is_minus_log_p_of_whole_maps_over_the_places(by_date):
    model = model_of(tiles(by_date=by_date))
    module, rows = model.module, rows_of(model)
    assert module.dream_maps == "learned" and len(module.bank) == 3
    loss, terms = module.p_segmentation(rows)
    n_maps = 3 if by_date else 1
    # of weights at rest all classes are as probable
    assert loss.item() == pytest.approx(n_maps * np.log(3) / 3, abs=1e-5)
    assert terms["log_p_segmentation"] == -loss
    torch.manual_seed(0)
    drawn = module._true_maps(rows).argmax(1)
    forms = {turned(module.bank.long())[k].numpy().tobytes() for k in range(3) for _ in range(99)}
    of_maps = drawn if by_date else drawn[:, 0]
    assert {m.numpy().tobytes() for m in of_maps} <= forms
    # those at hand are validated
    module.eval()
    of_rows = module._true_maps(rows.take(torch.tensor([1, 4]))).argmax(1)
    assert torch.equal(of_rows if by_date else of_rows[:, 0], rows.labels[1:2])
    assert module.p_segmentation(rows.take(torch.tensor([4])))[1] == {}


def test_maps_are_completed_where_none_is_whole_and_void_never_enters():
    model = model_of(tiles(whole=False))
    module, rows = model.module, rows_of(model)
    assert module.dream_maps == "learned" and len(module.bank) == 0
    labels = model.adata.obsm["labels"][:3].copy()
    assert (labels[:, :, 0] == VOID).all()
    known = {np.ascontiguousarray(label[:, 2:]).tobytes() for label in labels}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixvi.satellite.symmetric_hvae.turned", lambda maps: maps)
        for _ in range(5):
            maps = module._true_maps(rows)
            assert maps.shape == (6, 3, 1, 8, 8) and (maps.sum(1) == 1).all()
            chosen = maps.argmax(1)[:, 0]
            assert {m.numpy()[:, 2:].astype(labels.dtype).tobytes() for m in chosen} <= known


def test_dreams_start_from_draws():
    model = model_of(tiles())
    module, rows = model.module, rows_of(model)
    torch.nn.init.constant_(module.map_prior.first.bias, -50)
    for turn in module.map_prior.turns:
        turn.rest[-1].bias.data = torch.tensor([0.0, 50.0, 0.0])
    module.map_prior.first.bias.data[1] = 0
    path, _ = module.dream(rows)
    assert (path.z["segmentation"].argmax(1) == 1).all()


@pytest.mark.parametrize(("n_dates", "by_date"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_series_are_generated_without_maps_and_as_before_after_loading(
    n_dates, by_date, update, tmp_path
):
    adata = tiles(n_dates=n_dates, by_date=by_date, whole=False)
    model = model_of(adata, update=update)
    before = model.module.map_prior.state_dict()["first.bias"].clone()
    model.train(2, batch_size=2, **CPU)
    assert not torch.equal(before, model.module.map_prior.state_dict()["first.bias"])
    names = {"p_segmentation_loss_train", "log_p_segmentation_train", "dream_segmentation_train"}
    assert names <= set(model.history)
    values = np.array([table.to_numpy() for table in model.history.values()], dtype=float)
    assert np.isfinite(values).all()
    model.save(tmp_path / "model")
    # of no tiles
    loaded = SymmetricHVAE.load(tmp_path / "model", False)
    made = []
    for one in (model, loaded):
        torch.manual_seed(5)
        made.append(one.generate(n=4))
    assert made[0].shape == (4, n_dates, 5, 8, 8)
    np.testing.assert_array_equal(*made)
    assert model._drawn_maps(4).shape == ((4, n_dates, 8, 8) if by_date else (4, 8, 8))


def test_the_elbo_has_log_p_of_the_maps():
    model = model_of(tiles())
    model.train(1, batch_size=2, **CPU)
    terms = model.get_elbo(return_terms=True)
    assert np.isfinite(terms["total"])
    rows = next(model._batches(model.adata, None, 6))
    module = model.module
    path = module.posterior(rows, module.evidence(rows))
    s = path.z["segmentation"]
    p = module.map_prior.log_prob(s).flatten(1).sum(1)
    q = path.q["segmentation"].log_prob(s).flatten(1).sum(1)
    torch.testing.assert_close(path.kl()["segmentation"], q - p)
    torch.testing.assert_close(path.log_p()["segmentation"], p)
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=2))


def test_rates_of_learning_are_by_network():
    adata = tiles()
    model = model_of(adata)
    assert model._default_lr() == {"encoder": 3e-4, "decoder": 3e-3, "map_prior": 3e-3}
    with pytest.raises(ValueError, match="lr has no learning rate for map_prior"):
        model.train(1, lr={"encoder": 1e-3, "decoder": 1e-3}, **CPU)
    del adata.obsm["labels"], adata.uns["classes"]
    SymmetricHVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match="dream_maps='learned' .* knows no classes"):
        SymmetricHVAE(adata, **LEARNT)


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path):
    def run(directory, **options):
        model = model_of(tiles())
        model.train(3, batch_size=3, checkpoint_dir=directory, **options, **CPU)
        return model

    whole = run(tmp_path / "whole")
    loss, taken = SymmetricModule.loss, []

    def stopping(self, step, *rows):
        taken.append(step)
        if len(taken) == 17:
            raise InterruptedError
        return loss(self, step, *rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SymmetricModule, "loss", stopping)
        with pytest.raises(InterruptedError):
            run(tmp_path / "stopped")
    resumed = run(tmp_path / "stopped", resume=True)
    for name, values in resumed.module.state_dict().items():
        assert torch.equal(values, whole.module.state_dict()[name]), name
