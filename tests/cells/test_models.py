"""Small fits that must reach a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import CPU

from mixvi import AE, CGMVAE, CVAE, GMVAE, VAE
from mixvi.metrics import mean_expression_r2

CONDITION = {"condition_key": "condition"}
FAST = {"n_latent_z": 2, "n_latent_w": 2}


def explained(x, reconstruction):
    return 1 - ((x - reconstruction) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()


@pytest.mark.parametrize("cls", [AE, VAE, CVAE])
def test_reconstruction(toy, fit, cls):
    setup = CONDITION if cls is CVAE else {}
    model = fit(cls, toy, setup=setup, epochs=40, n_latent=5, dropout_rate=0.0)
    assert explained(toy.X, model.get_reconstruction()) > 0.9


@pytest.mark.parametrize("w_prior", ["standard", "learned"])
def test_unsupervised_finds_the_classes(toy, fit, w_prior):
    model = fit(
        CGMVAE,
        toy,
        setup=CONDITION,
        epochs=40,
        n_components=5,
        likelihood="mse",
        w_prior=w_prior,
        n_hidden=64,
        **FAST,
    )
    assignment = model.assign_components("cell_type")
    assert assignment.accuracy >= 0.99
    assert (assignment.recall >= 0.97).all()
    assert assignment.table.to_numpy().sum() == toy.n_obs
    hungarian = model.assign_components("cell_type", method="hungarian")
    assert hungarian.accuracy >= 0.99
    assert sorted(hungarian.mapping.values()) == sorted(toy.obs["cell_type"].cat.categories)


def test_supervised_and_semi_supervised(toy, fit):
    truth = toy.obs["cell_type"].astype(str)
    model = fit(GMVAE, toy, setup={"labels_key": "cell_type"}, epochs=20, n_components=5)
    assert (model.predict(level="label") == truth).mean() >= 0.99
    assert model.component_labels == {i: f"type {i}" for i in range(5)}
    assert float(model.history["accuracy_train"].iloc[-1, 0]) >= 0.99

    shown = np.random.default_rng(0).random(toy.n_obs) < 0.05
    toy.obs["partly"] = np.where(shown, truth, "Unknown")
    for train in ({}, {"label_weighting": "groups"}, {"labelled_fraction": 0.3}):
        model = fit(GMVAE, toy, setup={"labels_key": "partly"}, epochs=40, train=train, n_hidden=64)
        assert model.n_components == 10
        assert (model.predict(level="label")[~shown] == truth[~shown]).mean() >= 0.97


def test_counterfactuals_go_to_the_target(toy, fit):
    model = fit(
        CGMVAE,
        toy,
        setup=CONDITION | {"labels_key": "cell_type"},
        epochs=60,
        n_components=5,
        n_hidden=64,
        dropout_rate=0.0,
    )
    start = (toy.obs["condition"] == "condition 0").to_numpy()
    for route in ("w", "z"):
        flipped = model.counterfactual(to="condition 1", indices=start, route=route)
        assert list(flipped.obs_names) == list(toy.obs_names[start])
        assert set(flipped.obs["original_condition"]) == {"condition 0"}
        assert set(flipped.obs["target_condition"]) == {"condition 1"}
        for kind in toy.obs["cell_type"].cat.categories:
            mine = (flipped.obs["cell_type"] == kind).to_numpy()
            real = toy[~start & (toy.obs["cell_type"] == kind).to_numpy()].X
            source = toy[start & (toy.obs["cell_type"] == kind).to_numpy()].X
            gap = np.abs(flipped.X[mine].mean(0) - real.mean(0)).mean()
            assert gap < 0.5 * np.abs(source.mean(0) - real.mean(0)).mean()
            assert mean_expression_r2(flipped.X[mine], real) > mean_expression_r2(source, real)
    predicted = model.counterfactual(to="condition 1", indices=start, labels="predicted")
    observed = model.counterfactual(to="condition 1", indices=start, labels="observed")
    np.testing.assert_allclose(predicted.X, observed.X, atol=0.3)


def test_cvae_counterfactuals(toy, fit):
    start = (toy.obs["condition"] == "condition 0").to_numpy()
    for options in ({}, {"prior": "learned"}, {"prior": "learned", "decoder_sees_c": False}):
        model = fit(CVAE, toy, setup=CONDITION, epochs=60, n_hidden=64, **options)
        flipped = model.counterfactual(to="condition 1", indices=start)
        shift = (flipped.X - model.get_reconstruction(indices=start)).mean()
        real = toy.X[~start].mean() - toy.X[start].mean()
        assert shift == pytest.approx(real, rel=0.3)
        drawn = model.sample(7)
        assert drawn.obs["condition"].value_counts().to_dict() == {
            "condition 0": 7,
            "condition 1": 7,
        }


def test_generation(toy, fit):
    model = fit(
        CGMVAE, toy, setup=CONDITION | {"labels_key": "cell_type"}, epochs=30, n_components=5
    )
    drawn = model.sample(4, use_mean=False)
    assert drawn.n_obs == 4 * 5 * 2
    assert {"w_index", "component", "label", "condition"} <= set(drawn.obs)
    assert drawn.obsm["X_gmvae_z"].shape == (40, 12)
    means = model.sample(20)
    for kind in toy.obs["cell_type"].cat.categories:
        for condition in toy.obs["condition"].cat.categories:
            ours = (means.obs["label"] == kind) & (means.obs["condition"] == condition)
            real = (toy.obs["cell_type"] == kind) & (toy.obs["condition"] == condition)
            assert mean_expression_r2(means[ours].X, toy[real].X) > 0.9
    few = model.sample(3, components=[1, 2], conditions=["condition 1"])
    assert few.n_obs == 6
    assert set(few.obs["component"]) == {"1", "2"}


def test_component_parameters(toy, fit):
    model = fit(CGMVAE, toy, setup=CONDITION, n_components=4, n_latent_z=3, n_latent_w=2)
    means, variances = model.get_component_parameters(condition="condition 1")
    assert means.shape == variances.shape == (1, 4, 3)
    assert (variances > 0).all()
    means, _ = model.get_component_parameters(w=np.zeros((6, 2)), condition="condition 1")
    assert means.shape == (6, 4, 3)
    with pytest.raises(ValueError, match="Name a condition"):
        model.get_component_parameters()


@pytest.mark.parametrize(
    "options",
    [
        {"d_term": "sample"},
        {"d_term": "collapsed"},
        {"y_prior": "categorical"},
        {"y_prior": "categorical", "y_posterior": "bayes"},
        {"y_posterior": "bayes", "z_kl": "mc"},
        {"y_regulariser": "batch_mean"},
        {"y_regulariser": "floor", "y_floor": 0.2},
        {"classifier_sees_x": True, "shared_trunk": False},
        {"components_per_class": 2, "n_components": 10},
        {"likelihood": "gaussian_sigma", "sigma": "shared"},
        {"likelihood": "gaussian_sigma", "sigma": "analytic"},
        {"use_batch_norm": False, "output_activation": "softplus"},
    ],
)
def test_options_learn_the_labels(toy, fit, options):
    model = fit(
        GMVAE,
        toy,
        setup={"labels_key": "cell_type"},
        epochs=1,
        train={"detect_anomaly": True},
        **({"n_components": 5, "n_hidden": 64} | options),
    )
    model.train(20, lr=5e-3, batch_size=50, **CPU)
    assert (model.predict(level="label") == toy.obs["cell_type"].astype(str)).mean() >= 0.97
    assert np.isfinite(model.get_elbo(return_terms=True)).all()


@pytest.mark.parametrize("likelihood", ["poisson", "nb", "zinb"])
def test_counts(counts, fit, likelihood):
    model = fit(GMVAE, counts, epochs=40, likelihood=likelihood, n_components=2)
    assert model.assign_components("kind").accuracy >= 0.95
    elbo = model.get_elbo(return_terms=True)
    assert elbo["total"] == pytest.approx(elbo[["R", "Z", "W", "Y", "D"]].sum())
    assert model.get_elbo() == pytest.approx(-elbo["total"], rel=0.05)
    rate = model.get_normalized_expression(library_size="latent", return_numpy=True)
    library = np.asarray(counts.X.sum(axis=1))
    np.testing.assert_allclose(rate.sum(axis=1, keepdims=True), library, rtol=1e-3)


def test_bernoulli(toy, fit):
    toy.X = (toy.X > np.median(toy.X)).astype(np.float32)
    model = fit(GMVAE, toy, epochs=30, likelihood="bernoulli", n_components=5, dropout_rate=0.0)
    reconstruction = model.get_reconstruction()
    assert reconstruction.min() >= 0 and reconstruction.max() <= 1
    assert ((reconstruction > 0.5) == (toy.X > 0.5)).mean() > 0.9
    drawn = model.sample(2, use_mean=False).X
    assert set(np.unique(drawn)) == {0.0, 1.0}


def test_vae_elbo_forms_agree(toy, fit):
    model = fit(VAE, toy, epochs=20)
    many = [model.get_elbo(return_terms=True, z_kl="mc")["Z"] for _ in range(30)]
    assert np.mean(many) == pytest.approx(model.get_elbo(return_terms=True)["Z"], rel=0.05)
    assert model.sample(9, use_mean=False).shape == (9, 16)


def test_a_sunken_scale_is_told(toy, fit):
    VAE.setup_anndata(toy)
    model = VAE(toy, likelihood="gaussian_sigma", n_hidden=16, n_layers=1)
    model.module.likelihood.raw_log_sigma.data[:4] = -30.0
    with pytest.warns(UserWarning, match="25% of the genes"):
        model.train(1, **CPU)
