"""Verbs of the generative models of series, of both families: gaps, files, ELBO, generation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scvi
import torch

from mixvi.core.data.keys import UNLABELLED
from mixvi.datasets import toy_satellite_series
from mixvi.satellite import HierarchicalVAE, SymmetricHVAE, SymmetricVAE

LAYERS = [
    {"n_channels": 4, "scale": 1, "parents": [0], "hidden": [8]},
    {"n_channels": 6, "scale": 2, "parents": [1], "hidden": []},
    {"n_channels": 4, "scale": 2, "parents": [2], "hidden": []},
    {"scale": 1, "parents": [3, 2], "hidden": [8]},
]
SMALL = {"layers": LAYERS, "n_code": 5, "n_date_code": 3}
MODELS = {
    "SymmetricHVAE": (SymmetricHVAE, {}),
    "SymmetricVAE": (SymmetricVAE, {"latent": "gaussian", "prior": "learned"}),
    "ladder": (HierarchicalVAE, {"kl_warmup": 3, "free_bits": 0.2}),
    "general": (HierarchicalVAE, {"inference": "general"}),
    "markov": (HierarchicalVAE, {"inference": "markov", "variance": "pixel"}),
    "flat": (HierarchicalVAE, {"inference": "flat"}),
}


def tiles(n: int = 6, seed: int = 1, n_dates: int = 3, size: int = 8):
    adata = toy_satellite_series(n, n_dates, size, 3, labelled=1.0, seed=seed)
    adata.obsm["labels"][n // 2 :] = UNLABELLED
    return adata


def trained(name: str, adata, **options):
    cls, given = MODELS[name]
    scvi.settings.seed = 0
    cls.setup_anndata(adata)
    model = cls(adata, **SMALL | given | options)
    model.train(1, batch_size=2, enable_progress_bar=False)
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    trained_one = trained(request.param, tiles())
    trained_one.name = request.param
    return trained_one


@pytest.fixture(scope="module")
def flat_symmetric():
    return trained("SymmetricVAE", tiles())


def test_imputation_keeps_what_is_observed(model):
    adata = tiles(4, seed=2)
    filled, sd, draws = model.impute(
        adata, n_samples=3, return_sd=True, return_draws=True, batch_size=3
    )
    observed = np.broadcast_to(adata.obsm["valid"], filled.shape)
    assert filled.shape == sd.shape == adata.obsm["series"].shape
    assert draws.shape == (3, *filled.shape)
    assert filled.dtype == np.float32
    for values in (filled, *draws):
        assert np.array_equal(values[observed], adata.obsm["series"][observed])
    assert np.isfinite(filled).all()
    assert (sd[observed] == 0).all()
    assert (sd[~observed] > 0).all()
    assert len(np.unique(draws[:, ~observed][:, 0])) == 3


def test_chains_keep_what_is_observed_and_the_labels(model):
    adata = tiles(4, seed=2)
    options = {"iterated": True, "assume_filled": True, "use_labels": True}
    filled = model.impute(adata, n_samples=2, **options)
    observed = np.broadcast_to(adata.obsm["valid"], filled.shape)
    assert np.array_equal(filled[observed], adata.obsm["series"][observed])
    assert np.isfinite(filled).all()
    rows = next(iter(model._inputs(adata, None, 4)))
    path = next(model.module.fillings(rows, 1, **options))
    chosen = path.z["segmentation"].argmax(1)[:, 0]
    assert torch.equal(chosen[rows.labelled], rows.labels[rows.labelled])


def test_refined_maps_are_those_of_filled_series(model):
    adata = tiles(seed=2)
    refined = model.get_refined_segmentation(adata, n_sweeps=2, use_labels=True, soft=True)
    assert refined.shape == (6, 3, 8, 8)
    np.testing.assert_allclose(refined.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(refined[:3].argmax(1), adata.obsm["labels"][:3])
    assert model.get_refined_segmentation(adata, [0, 4], n_sweeps=1).shape == (2, 8, 8)
    if model.name in ("general", "markov"):
        # their encoders draw
        return
    # where nothing is hidden there is nothing to refine
    adata.obsm["series"] = adata.obsm["clear"].astype(np.float32)
    adata.obsm["valid"], adata.obsm["frame"] = (adata.obsm[k] | True for k in ("valid", "frame"))
    expected = model.predict(adata, soft=True)
    found = model.get_refined_segmentation(adata, n_sweeps=2, soft=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_values_that_are_not_observed_change_nothing(model):
    other = tiles()
    hidden = np.broadcast_to(~other.obsm["valid"], other.obsm["series"].shape)
    other.obsm["series"][hidden] = 1e9
    twin = trained(model.name, other)
    weights = model.module.state_dict()
    for key, value in twin.module.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert np.array_equal(twin.predict(soft=True), model.predict(soft=True))
    assert twin.history["train_loss"].equals(model.history["train_loss"])


def test_images_of_one_date_are_series_of_one(model):
    # the mean of dates without a gap
    series = tiles().obsm["clear"].mean(1, keepdims=True)
    ways = []
    for image, valid in ((series[:, 0], None), (series, np.ones((6, 1, 1, 8, 8), bool))):
        adata = tiles()
        for key in ("valid", "frame", "time"):
            del adata.obsm[key]
        adata.obsm["series"] = image
        if valid is not None:
            adata.obsm["valid"] = valid
        ways.append(trained(model.name, adata))
    a, b = ways
    assert a.history["train_loss"].equals(b.history["train_loss"])
    assert np.array_equal(a.predict(soft=True), b.predict(soft=True))
    assert a.impute(n_samples=1).shape == (6, 5, 8, 8)
    assert a.get_reconstruction().shape == (6, 5, 8, 8)


def test_a_loaded_model_gives_the_same_numbers(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", tiles())
    assert np.array_equal(loaded.predict(soft=True), model.predict(soft=True))
    assert np.array_equal(loaded.get_global_code(), model.get_global_code())
    for one in (loaded, model):
        torch.manual_seed(0)
        one.drawn = one.impute(n_samples=2)
    assert np.array_equal(loaded.drawn, model.drawn)
    empty = type(model).load(tmp_path / "model", False)
    assert empty.generate(np.zeros((2, 8, 8), int)).shape == (2, 3, 5, 8, 8)


def test_series_are_generated_from_maps_in_the_style_of_tiles(model):
    maps = np.arange(2 * 16 * 4).reshape(2, 16, 4) % 3
    torch.manual_seed(0)
    means = model.generate(maps)
    assert means.shape == (2, 3, 5, 16, 4)
    # in units of reflectance, near which all bands are before the model has learned much
    assert np.abs(means.mean((0, 1, 3, 4)) - model.module.band_mean.numpy()).max() < 0.3
    assert model.generate(maps, give_mean=False).std() > means.std()
    styled = model.generate(maps, style=tiles(1, seed=3, n_dates=4))
    assert styled.shape == (2, 4, 5, 16, 4)
    assert model.generate(maps, time=np.array([18300, 18330])).shape == (2, 2, 5, 16, 4)


def test_days_are_those_of_dates(flat_symmetric):
    maps = np.zeros((1, 8, 8), int)
    days = np.array([18300, 18330])
    made = []
    for time in (days, days.astype("datetime64[D]")):
        torch.manual_seed(0)
        made.append(flat_symmetric.generate(maps, time=time))
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize(
    ("name", "n_dates", "rates"),
    [
        ("SymmetricHVAE", 3, {"encoder": 3e-4, "decoder": 3e-3}),
        ("SymmetricHVAE", 1, {"encoder": 3e-3, "decoder": 3e-3}),
        ("ladder", 3, {"encoder": 3e-3, "decoder": 3e-3}),
    ],
)
def test_learning_rates_fall_in_three_parts_unless_told(name, n_dates, rates):
    cls, given = MODELS[name]
    adata = tiles(n_dates=n_dates)
    cls.setup_anndata(adata)
    model = cls(adata, **SMALL | given)
    plan = fit_of(model, 30).plan
    assert (plan["lr"], plan["lr_decay"], plan["decay_epochs"]) == (rates, 1 / 3, 10)
    assert fit_of(model).max_epochs * (adata.n_obs // 2) == pytest.approx(1000, abs=3)
    of_user = fit_of(model, 30, lr=1e-2, plan_kwargs={"lr_decay": 1.0}).plan
    assert (set(of_user["lr"].values()), of_user["lr_decay"]) == ({1e-2}, 1.0)
    assert set(fit_of(model, plan_kwargs={"lr": 1e-4}).plan["lr"].values()) == {1e-4}


def fit_of(model, max_epochs=None, **options):
    """What ``train`` settles on, and does not do."""
    settled = []
    model._fit = lambda fit, run: settled.append(fit)
    model.train(max_epochs, batch_size=2, **options)
    return settled[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Pass a segmentation"),
        ({"segmentation": np.zeros((2, 8, 8)) - 0.5}, "whole numbers"),
        ({"segmentation": np.full((2, 8, 8), 3)}, "class from 0 to 2"),
        ({"segmentation": np.full((2, 8, 7), 0)}, "multiples of 2"),
        ({"segmentation": np.zeros((0, 8, 8), int)}, "no map"),
        ({"segmentation": np.zeros((2, 8, 8), int), "time": np.zeros((2, 3))}, "known dates"),
        ({"segmentation": np.zeros((2, 8, 8), int), "time": ["2020-01-01"]}, "known dates"),
        ({"segmentation": np.zeros((2, 8, 8), int), "time": [np.nan] * 3}, "known dates"),
        ({"segmentation": np.zeros((2, 8, 8), int), "time": []}, "known dates"),
        ({"segmentation": np.zeros((2, 8, 8), int), "batch_size": 0}, "batch_size must be"),
        (
            {"segmentation": np.zeros((2, 8, 8), int), "style": tiles(1), "time": [18300.0]},
            "time has 1 dates, but segmentation or style have 3",
        ),
        ({"segmentation": np.zeros((4, 8, 8), int), "style": tiles(3)}, "style has 3 tiles"),
    ],
)
def test_what_cannot_be_generated_is_said(flat_symmetric, arguments, message):
    with pytest.raises(ValueError, match=message):
        flat_symmetric.generate(**arguments)


def test_the_elbo_is_minus_its_terms_and_below_the_marginal_likelihood(model):
    torch.manual_seed(0)
    terms = model.get_elbo(return_terms=True, return_mean=False)
    torch.manual_seed(0)
    elbo = model.get_elbo(return_mean=False)
    np.testing.assert_allclose(terms["total"], -elbo, rtol=1e-5)
    layers = [] if model.name in ("SymmetricVAE", "flat") else ["z1", "z2", "z3"]
    codes = {"code", "date_code", "place_code"}
    assert set(terms.columns) == {"R", "segmentation", *codes, *layers, "total"}
    assert model.get_marginal_ll(n_mc_samples=50) > model.get_elbo()


def test_codes_and_reconstructions_have_a_shape(model):
    assert model.get_global_code().shape == (6, 5)
    assert model.get_global_code(by_date=True).shape == (6, 3, 3)
    assert model.get_latent_representation(indices=[0, 1]).shape == (2, 8)
    for level in ("all", "z0"):
        assert model.get_reconstruction(level=level, n_samples=2).shape == (6, 3, 5, 8, 8)
    with pytest.raises(ValueError, match="level='z1'"):
        model.get_reconstruction(level="z1")
    with pytest.raises(ValueError, match="iterated=True as well"):
        model.impute(assume_filled=True)


def test_maps_of_a_layer(model):
    adata = tiles(4, seed=2)
    if model.name in ("SymmetricVAE", "flat"):
        with pytest.raises(ValueError, match="layer=1, but layers of latents are none"):
            model.get_hidden(1, adata)
        return
    for layer, n_channels, side in ((1, 4, 8), (2, 6, 4), (3, 4, 4)):
        scvi.settings.seed = 0
        maps = model.get_hidden(layer, adata, n_samples=2)
        assert maps.shape == (4, 3, n_channels, side, side)
        assert np.isfinite(maps).all()
    scvi.settings.seed = 0
    rows = next(model._batches(adata, None, 4))
    evidence = model.module.evidence(rows)
    drawn = [model.module.posterior(rows, evidence).q["z3"].mean for _ in range(2)]
    expected = (sum(drawn) / 2).transpose(1, 2).detach()
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    with pytest.raises(ValueError, match="layer=4, but layers of latents are from 1 to 3"):
        model.get_hidden(4, adata)


def test_views_may_disagree_about_maps(model):
    adata = tiles(3, seed=2)
    between = model.get_uncertainty(adata, kind="mutual_information", n_views=8)
    total = model.get_uncertainty(adata, n_views=8)
    assert between.shape == (3, 8, 8)
    assert between.max() > 0 and (between <= total + 1e-6).all()
    p = model.predict(adata, soft=True, tta=8)
    np.testing.assert_allclose(total, -(p * np.log(p)).sum(1), atol=1e-5)
    # views of a mirrored tile are those of the tile
    for key in ("series", "valid"):
        adata.obsm[key] = adata.obsm[key][..., ::-1].copy()
    mirrored = model.get_uncertainty(adata, kind="mutual_information", n_views=8)
    np.testing.assert_allclose(mirrored[..., ::-1], between, atol=1e-5)


def test_a_number_of_series_is_generated_of_maps_at_hand(model):
    adata = model.adata
    assert model.generate(n=3).shape == (3, 3, 5, 8, 8)
    whole = adata.obsm["labels"].copy()
    try:
        adata.obsm["labels"] = np.full_like(whole, 1)
        maps = model._drawn_maps(5)
        assert maps.shape == (5, 8, 8) and (maps == 1).all()
        adata.obsm["labels"][:, 0, 0] = UNLABELLED
        with pytest.raises(ValueError, match="No registered tile has a class at every pixel"):
            model.generate(n=3)
    finally:
        adata.obsm["labels"] = whole
    for options in ({}, {"segmentation": whole[:1], "n": 1}):
        with pytest.raises(ValueError, match="Pass a segmentation to generate from, or n to have"):
            model.generate(**options)


def test_annotate_writes_under_documented_keys(model):
    adata = tiles(4, seed=2)
    model.annotate(adata, key_added="sel", imputed=True)
    keys = ("sel_labels", "sel_probabilities", "sel_entropy", "sel_imputed", "sel_imputed_sd")
    shapes = ((8, 8), (3, 8, 8), (8, 8), (3, 5, 8, 8), (3, 5, 8, 8))
    assert [adata.obsm[key].shape[1:] for key in keys] == list(shapes)
    assert adata.obsm["X_sel"].shape == (4, 8)
    assert adata.uns["sel"]["classes"] == ["winter crop", "summer crop", "forest"]


@pytest.mark.parametrize("name", ["SymmetricHVAE", "SymmetricVAE", "ladder"])
def test_series_without_labels_are_filled_and_generated_and_have_no_maps(name):
    adata = tiles()
    del adata.obsm["labels"]
    del adata.uns["classes"]
    model = trained(name, adata)
    assert np.isfinite(model.impute(n_samples=1)).all()
    # labels of other tiles are none of its business
    assert np.isfinite(model.impute(tiles(seed=2), n_samples=1)).all()
    assert model.generate(n=2).shape == (2, 3, 5, 8, 8)
    with pytest.raises(ValueError, match="Pass n, and no segmentation"):
        model.generate()
    with pytest.raises(ValueError, match="knows no classes"):
        model.predict()
    model.annotate()
    assert f"X_{type(model).__name__.lower()}" in adata.obsm


@pytest.mark.parametrize("name", ["ladder", "flat"])
def test_values_of_0_to_1_may_be_bernoulli(name):
    adata = tiles()
    adata.obsm["series"] = (adata.obsm["series"] > 0.2).astype(np.float32)
    model = trained(name, adata, likelihood="bernoulli")
    assert 0 <= model.get_reconstruction().min() <= model.get_reconstruction().max() <= 1
    assert set(np.unique(model.generate(n=2, give_mean=False))) == {0.0, 1.0}
    # -log p of whole bits, at the means that are decoded
    rows = next(model._batches(adata, None, 6))
    path = model.module.posterior(rows, model.module.evidence(rows))
    x, seen = model.module.target(rows)
    p = path.image.mean
    expected = torch.where(seen, (x * p + (1 - x) * (1 - p)).log(), 0.0).flatten(1).sum(1)
    torch.testing.assert_close(path.image.log_likelihood(x, seen), expected, rtol=1e-4, atol=1e-3)
    adata.obsm["series"] = adata.obsm["series"] + 0.5
    with pytest.raises(ValueError, match=r"'bernoulli' is for values in \[0, 1\], .* to 1.5"):
        trained(name, adata, likelihood="bernoulli")


@pytest.mark.parametrize("name", ["SymmetricHVAE", "ladder", "general"])
def test_maps_may_have_a_date(name):
    adata = tiles()
    adata.obsm["labels"] = np.repeat(adata.obsm["labels"][:, None], 3, axis=1)
    adata.obsm["labels"][0, 1, :4] = UNLABELLED
    model = trained(name, adata)
    with pytest.raises(ValueError, match="is a map a series, but the model was trained with a map"):
        model.predict(tiles())
    assert model.predict().shape == (6, 3, 8, 8)
    assert model.predict(soft=True).shape == (6, 3, 3, 8, 8)
    assert model.generate(np.zeros((2, 3, 8, 8), int)).shape == (2, 3, 5, 8, 8)
    with pytest.raises(ValueError, match="dates"):
        model.generate(np.zeros((2, 4, 8, 8), int))


def test_tiles_of_another_size_are_read_if_layers_can_halve_them():
    model = trained("SymmetricHVAE", tiles())
    assert model.predict(tiles(2, size=12, n_dates=4)).shape == (2, 12, 12)
    with pytest.raises(ValueError, match="9 x 9, but the layers have maps that are 2 times"):
        model.predict(tiles(2, size=9))
    with pytest.raises(ValueError, match="multiples of 4"):
        SymmetricHVAE(tiles_set_up(size=6), layers=[*_halved(4)])


def tiles_set_up(size: int):
    adata = tiles(size=size)
    SymmetricHVAE.setup_anndata(adata)
    return adata


def _halved(scale: int):
    return [LAYERS[0], LAYERS[1] | {"scale": scale}, {"scale": 1, "parents": [2], "hidden": []}]


@pytest.mark.parametrize("latent", ["bernoulli", "categorical", "poisson", "negative_binomial"])
def test_codes_may_be_of_any_family(latent):
    model = trained("SymmetricVAE", tiles(), latent=latent)
    assert np.isfinite(model.get_elbo())
    assert np.isfinite(model.get_global_code()).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative_binomial"])
def test_values_may_be_of_other_families(likelihood):
    adata = tiles()
    values = np.nan_to_num(adata.obsm["series"])
    share = likelihood == "bernoulli"
    adata.obsm["series"] = values.clip(0, 1) if share else (20 * values).round().astype(np.int16)
    model = trained("SymmetricVAE", adata, likelihood=likelihood)
    filled = model.impute(n_samples=2)
    observed = np.broadcast_to(adata.obsm["valid"], filled.shape)
    assert np.array_equal(filled[observed], adata.obsm["series"][observed])
    assert filled.min() >= 0
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=2))
    adata.obsm["series"] = adata.obsm["series"] - np.ones_like(adata.obsm["series"])
    with pytest.raises(ValueError, match="values from -"):
        model.impute(adata)


def test_the_code_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "satellite.md").read_text()
    section = page[page.index("## Generative models") : page.index("## Plots")]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["maps"].shape == (16, 16, 16)
    assert names["filled"].shape == names["sd"].shape == (16, 6, 5, 16, 16)
    assert names["new"].shape == (2, 6, 5, 16, 16)
