"""LC-VaDE and its baselines: closed forms, invariances, users' paths and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import CPU
from lightning.pytorch.callbacks import Callback
from scipy.spatial.distance import mahalanobis
from torch import distributions as td

from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import (
    CurveVAE,
    EnergyGMM,
    LCVaDE,
    class_isolation_forests,
    class_mahalanobis,
)
from mixvi.lightcurves.energy_gmm import energy, mixture_of

SMALL = {"width": 8, "n_induction": 8}
CLASSES = ["RRAB", "EA", "EW"]


def curves(n=6, **options) -> AnnData:
    return synthetic_light_curves(n, CLASSES, **({"n_points": (20, 30)} | options))


def model_of(adata, cls=LCVaDE, setup=None, **options):
    """A small model after one epoch."""
    scvi.settings.seed = 0
    cls.setup_anndata(adata, **({"labels_key": "label"} | (setup or {})))
    model = cls(adata, **(SMALL | options))
    model.train(1, batch_size=6, **CPU)
    return model


def batch_of(model):
    return model.module.seen(next(iter(model._inputs(model.adata, None, None))))


@pytest.mark.parametrize("n_bands", [1, 2])
def test_closed_terms_are_means_over_draws(n_bands):
    model = model_of(curves(2, n_bands=n_bands))
    module, batch = model.module.double(), batch_of(model)
    batch = type(batch)(
        **{k: v.double() if v.is_floating_point() else v for k, v in vars(batch).items()}
    )
    with torch.no_grad():
        mu, log_var = module.encode(batch)
        # apart from the prior, where it would be easy
        mu, log_var = mu + 0.5, log_var - 1.0
        z = mu + 0.1
        terms = module.terms(batch, mu, log_var, z)
        gamma = module.log_responsibilities(z, batch).exp()
        q = td.Normal(mu, (0.5 * log_var).exp())
        draws = q.sample((20_000,))
        prior = td.Independent(td.Normal(module.prior.mu, module.prior.sigma), 1)
        log_p = prior.log_prob(draws[:, :, None]).mean(0)
    close = {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(terms["z_cross_entropy"], -(gamma * log_p).sum(1), **close)
    torch.testing.assert_close(
        terms["negative_z_entropy"], q.log_prob(draws).sum(-1).mean(0), **close
    )
    y = td.Categorical(gamma)
    torch.testing.assert_close(terms["negative_y_entropy"], -y.entropy())
    torch.testing.assert_close(terms["y_cross_entropy"], torch.full_like(z[:, 0], np.log(3)))
    density = td.Normal(module.feature_prior.mu, module.feature_prior.sd)
    of_features = density.log_prob(batch.features[:, None]).sum(-1)
    expected = -(gamma * of_features).sum(1)
    torch.testing.assert_close(terms["feature_cross_entropy"], expected.detach())


def test_responsibilities_are_by_the_rule_of_bayes():
    model = model_of(curves())
    module, batch = model.module, batch_of(model)
    with torch.no_grad():
        z, _ = module.encode(batch)
        joint = td.Normal(module.prior.mu, module.prior.sigma).log_prob(z[:, None]).sum(-1)
        density = td.Normal(module.feature_prior.mu, module.feature_prior.sd)
        joint = joint + density.log_prob(batch.features[:, None]).sum(-1)
        found = module.log_responsibilities(z, batch)
    torch.testing.assert_close(found.exp(), joint.softmax(1))
    np.testing.assert_allclose(model.predict(soft=True), joint.softmax(1), atol=1e-5)


def test_the_information_score_is_that_of_the_formula():
    model = model_of(curves())
    module, batch = model.module, batch_of(model)
    with torch.no_grad():
        mu, log_var = module.encode(batch)
        gamma, prior = module.log_responsibilities(mu, batch).exp(), module.prior
        variance = log_var.exp()[:, None]
        each = (2 * np.pi * prior.sigma.square()).log()
        each = each + (variance + (mu[:, None] - prior.mu).square()) / prior.sigma.square()
        ias = -0.5 * (gamma * each.sum(-1)).sum(-1) + 0.5 * (1 + np.log(2 * np.pi) + log_var).sum(
            -1
        )
    np.testing.assert_allclose(model.get_anomaly_score(kind="ias"), -ias, rtol=1e-3, atol=1e-3)
    assert (ias < 0).all()


def test_the_information_score_may_average_the_classes_over_draws():
    model = model_of(curves())
    scvi.settings.seed = 0
    drawn = model.get_anomaly_score(kind="ias", n_samples=200)
    scvi.settings.seed = 1
    again = model.get_anomaly_score(kind="ias", n_samples=200)
    np.testing.assert_allclose(drawn, again, rtol=0.1)
    # draws that agree with their mean change nothing
    with torch.no_grad():
        model.module.encoder.log_var.bias.fill_(-1e6)
    sure = [model.get_anomaly_score(kind="ias", n_samples=n) for n in (0, 3)]
    np.testing.assert_allclose(*sure, rtol=1e-2)
    with pytest.raises(ValueError, match="n_samples is for kind='ias'"):
        model.get_anomaly_score(kind="neg_elbo", n_samples=3)


def test_samples_have_the_names_of_the_bands():
    adata = curves(n_bands=2)
    adata.uns["bands"] = ["g", "r"]
    assert list(model_of(adata).sample(2).uns["bands"]) == ["g", "r"]


def test_the_elbo_is_minus_the_sum_of_its_terms():
    model = model_of(curves())
    torch.manual_seed(0)
    terms = model.get_elbo(return_terms=True, return_mean=False)
    torch.manual_seed(0)
    np.testing.assert_allclose(model.get_elbo(return_mean=False), -terms["total"], rtol=1e-4)
    assert terms.columns.tolist() == ["R", "Z", "F", "Y", "H_y", "H_z", "total"]


@pytest.mark.parametrize("options", [{}, {"periodic": True}])
@pytest.mark.parametrize("max_points", [200, 12])
def test_padding_and_the_order_of_observations_change_nothing(options, max_points):
    adata = curves(n_bands=2)
    model = model_of(adata, setup={"max_points": max_points}, **options)
    other = adata.copy()
    rng = np.random.default_rng(0)
    n, length, n_bands = adata.obsm["time"].shape
    order = rng.permuted(np.tile(np.arange(length)[:, None], (n, 1, n_bands)), axis=1)
    for key in ("time", "magnitude", "error", "valid"):
        values = np.take_along_axis(adata.obsm[key], order, 1)
        padding = np.full((n, 3, n_bands), False if key == "valid" else np.nan)
        other.obsm[key] = np.concatenate([values, padding], 1).astype(values.dtype)
    # covariances that 18 curves hardly determine make rounding larger
    tolerances = {"class_distance": 1e-2, "ias": 1e-3, "latent_density": 1e-3, "combined": 1e-3}
    for kind, tolerance in tolerances.items():
        a, b = (model.get_anomaly_score(data, kind=kind) for data in (adata, other))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=tolerance)
    for verb in (
        model.get_latent_representation,
        lambda data: model.predict(data, soft=True),
        model.get_kernel_parameters,
        lambda data: np.stack(model.get_induction_points(data)[1:]),
        lambda data: np.stack(model.interpolate([0.1, 0.4], data)),
    ):
        np.testing.assert_allclose(verb(other), verb(adata), rtol=1e-3, atol=1e-3)
    found = model.get_reconstruction(other)
    expected = np.take_along_axis(model.get_reconstruction(adata), order, 1)
    np.testing.assert_allclose(found[:, :-3], expected, atol=1e-4)


def test_one_band_with_an_axis_of_its_own_keeps_it():
    adata = curves(n_bands=1)
    model = model_of(adata)
    other = adata.copy()
    for key in ("time", "magnitude", "error", "valid"):
        other.obsm[key] = adata.obsm[key][..., None]
    expected = model.get_reconstruction(return_sd=True)
    for found, flat in zip(model.get_reconstruction(other, return_sd=True), expected, strict=True):
        assert found.shape == other.obsm["magnitude"].shape
        np.testing.assert_array_equal(found[..., 0], flat)


@pytest.mark.parametrize("cls", [LCVaDE, CurveVAE])
@pytest.mark.parametrize("n_bands", [1, 2])
def test_interpolation_at_registered_times_is_the_reconstruction(cls, n_bands):
    adata = curves(n_bands=n_bands)
    model = model_of(adata, cls)
    times = adata.obsm["time"][..., 0] if n_bands == 2 else adata.obsm["time"]
    times, valid = np.nan_to_num(times[3:4]), adata.obsm["valid"][3]
    (mean, sd), whole = model.interpolate(times, indices=[3]), model.get_reconstruction()
    pick = (slice(None), 0) if n_bands == 2 else slice(None)
    valid = valid[pick]
    np.testing.assert_allclose(mean[0][pick][valid], whole[3][pick][valid], atol=1e-4)
    assert (sd > 0).all() and mean.shape == (1, *adata.obsm["time"].shape[1:])


def test_results_are_in_the_magnitudes_of_the_curves():
    adata = curves()
    model = model_of(adata, setup={"features": []})
    other = adata.copy()
    other.obsm["magnitude"] = 3.0 * adata.obsm["magnitude"] + 5.0
    other.obsm["error"] = 3.0 * adata.obsm["error"]
    mean, sd = model.interpolate([0.1, 0.2, 5.0])
    mean_there, sd_there = model.interpolate([0.1, 0.2, 5.0], other)
    np.testing.assert_allclose(mean_there, 3.0 * mean + 5.0, rtol=1e-4)
    np.testing.assert_allclose(sd_there, 3.0 * sd, rtol=1e-3)


def test_folded_curves_repeat_by_their_period_from_their_epoch():
    adata = curves()
    model = model_of(adata, setup={"epoch_key": "epoch"})
    period, epoch = adata.obs["period"].to_numpy(), adata.obs["epoch"].to_numpy()
    times = (epoch + 0.3 * period)[:, None]
    mean, _ = model.interpolate(times)
    again, _ = model.interpolate(times + 7 * period[:, None])
    np.testing.assert_allclose(again, mean, rtol=1e-4)


def test_phases_may_be_asked_for():
    adata = curves()
    model = model_of(adata, setup={"epoch_key": "epoch"})
    phase = model.get_phases(indices=[2])
    assert np.array_equal(np.isfinite(phase), adata.obsm["valid"][2:3])
    mean = model.interpolate(np.nan_to_num(phase), indices=[2], phases=True, return_sd=False)
    there, expected = np.isfinite(phase), model.get_reconstruction(indices=[2])
    np.testing.assert_allclose(mean[there], expected[there], atol=1e-4)


def test_users_path(tmp_path):
    adata = curves()
    adata.obs["label"] = adata.obs["label"].astype(object).where(np.arange(18) % 3 > 0, "Unknown")
    model = model_of(adata)
    assert model.classes == sorted(CLASSES)
    model.annotate()
    assert {"lcvade_label", "lcvade_confidence", "lcvade_anomaly"} <= set(adata.obs)
    assert adata.obsm["X_lcvade"].shape == (18, 12)
    assert adata.obsm["lcvade_probabilities"].shape == (18, 3)
    new = model.sample(5, cluster="EA")
    assert (new.obs["cluster"] == "EA").all() and (new.obs["period"] > 0).all()
    assert np.isfinite(model.get_anomaly_score(new)).all()
    phase, values, noise = model.get_induction_points()
    assert phase.shape == (8,) and values.shape == noise.shape == (18, 8)
    kernel = model.get_kernel_parameters()
    assert kernel["scale"].between(0, 10).all() and kernel["length"].between(0, 1 / 8).all()
    assert model.get_latent_representation(part="kernel").shape == (18, 2)
    model.save(tmp_path / "model")
    loaded = LCVaDE.load(tmp_path / "model", curves())
    for kind in ("class_distance", "ias", "combined"):
        pd.testing.assert_series_equal(
            loaded.get_anomaly_score(kind=kind), model.get_anomaly_score(kind=kind)
        )
    np.testing.assert_array_equal(loaded.interpolate([0.5])[1], model.interpolate([0.5])[1])
    alone = LCVaDE.load(tmp_path / "model", adata=False)
    assert alone.sample(2, cluster="EW", times=[0.0, 0.1]).obsm["magnitude"].shape == (2, 2)


@pytest.mark.parametrize("backbone", ["gp", "rnn"])
def test_energy_model(backbone, tmp_path):
    adata = curves()
    scvi.settings.seed = 0
    EnergyGMM.setup_anndata(adata, labels_key="label")
    model = EnergyGMM(adata, backbone, width=8)
    model.train(1, batch_size=6, **CPU)
    model.annotate()
    assert np.isfinite(adata.obs["energygmm_anomaly"]).all()
    assert set(model.predict().cat.categories) == set(CLASSES)
    model.save(tmp_path / "model")
    loaded = EnergyGMM.load(tmp_path / "model", curves())
    pd.testing.assert_series_equal(loaded.get_anomaly_score(), model.get_anomaly_score())


def test_the_energy_is_minus_the_log_density_of_the_mixture():
    z, gamma = torch.randn(50, 3, dtype=torch.double), torch.rand(50, 2, dtype=torch.double)
    gamma = gamma / gamma.sum(1, keepdim=True)
    weights, means, covariances = mixture_of(gamma, z)
    mixture = td.MixtureSameFamily(
        td.Categorical(weights), td.MultivariateNormal(means, covariances)
    )
    torch.testing.assert_close(energy(z, weights, means, covariances), -mixture.log_prob(z))
    hard = torch.eye(2, dtype=torch.double)[torch.arange(50) % 2]
    _, means, covariances = mixture_of(hard, z)
    torch.testing.assert_close(means[1], z[1::2].mean(0))
    own = torch.from_numpy(np.cov(z[1::2].T.numpy(), bias=True))
    torch.testing.assert_close(covariances[1], own + 1e-4 * torch.eye(3, dtype=torch.double))


def test_scores_of_codes():
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.normal(0, 1, (500, 2)), rng.normal([8, 0], 2, (500, 2))])
    labels, others = np.repeat(["a", "b"], 500), np.array([[0.0, 0.0], [8.0, 1.0], [0.0, 9.0]])
    found = class_mahalanobis(codes, labels, others)
    inverse = np.linalg.inv(np.cov(codes[500:].T))
    expected = mahalanobis(others[1], codes[500:].mean(0), inverse) ** 2
    np.testing.assert_allclose(found[1], expected, rtol=0.05, atol=0.02)
    for scores in (found, class_isolation_forests(codes, labels, others)):
        assert scores.argmax() == 2
    with pytest.raises(ValueError, match="one class a code"):
        class_mahalanobis(codes, labels[:3], others)


def test_without_labels_components_start_at_a_mixture_of_codes():
    adata = curves(10)
    scvi.settings.seed = 0
    LCVaDE.setup_anndata(adata)
    model = LCVaDE(adata, n_clusters=3, **SMALL)
    model.train(1, pretrain_epochs=2, batch_size=10, **CPU)
    assert "pretraining_reconstruction_train" in model.start_history
    assert model.predict(soft=True).columns.tolist() == ["0", "1", "2"]
    assert model.predict().nunique() > 1


def bad(key, rows, value):
    adata = curves()
    adata.obsm[key][rows, 2] = value
    return adata


def without_period():
    adata = curves()
    del adata.obs["period"]
    return adata


def with_period(rows, value):
    adata = curves()
    adata.obs.loc[adata.obs_names[rows], "period"] = value
    return adata


def short():
    adata = curves()
    adata.obsm["valid"][[4, 9], 4:] = False
    return adata


@pytest.mark.parametrize(
    ("adata", "error", "message"),
    [
        (bad("magnitude", [1, 7], np.nan), ValueError, r"2 of 18 .*'star_1'\) have magnitudes"),
        (bad("error", [5], 0.0), ValueError, r"1 of 18 .*'star_5'\) have errors that are not pos"),
        (bad("time", [0], np.inf), ValueError, r"1 of 18 .*'star_0'\) have times"),
        (short(), ValueError, r"2 of 18 .*'star_4'\) have fewer than 5 points"),
        (without_period(), KeyError, "find_periods"),
        (with_period([2, 3], np.nan), ValueError, r"2 of 18 .*'star_2'\) have no period"),
        (with_period([2], -1.0), ValueError, r"1 of 18 .*'star_2'\) have a period that is not"),
    ],
)
def test_bad_curves_are_counted_the_first_is_named_and_nothing_is_changed(adata, error, message):
    before = adata.copy()
    with pytest.raises(error, match=message):
        LCVaDE.setup_anndata(adata, labels_key="label")
    assert set(adata.obsm) == set(before.obsm) and not adata.uns.get("_scvi_uuid")
    for key in before.obsm:
        np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])


def test_missing_bands_are_told_and_filled():
    adata = curves(n_bands=2)
    adata.obsm["valid"][3, :, 1] = False
    with pytest.warns(UserWarning, match=r"1 of 18 curves .*'star_3'\) lack at least one of 2"):
        model = model_of(adata)
        mean, sd = model.interpolate([0.1], indices=[3])
    assert np.isfinite(mean).all() and np.isfinite(sd).all()


@pytest.mark.parametrize("n_bands", [1, 2])
def test_more_curves_than_are_read_at_once(n_bands):
    adata = curves(350, n_bands=n_bands, n_points=(6, 8))
    adata.obs["colour"] = np.linspace(0, 1, adata.n_obs)
    setup = {"features": ["mean", "log_period", "colour"]}
    model = model_of(adata, setup=setup)
    rest = np.arange(1030, 1050)
    for verb in (model.get_anomaly_score, model.get_latent_representation):
        found = np.asarray(verb())[rest]
        np.testing.assert_allclose(found, verb(indices=rest), rtol=1e-3, atol=1e-3)
    mean, sd = model.interpolate([0.1, 0.2])
    assert len(mean) == len(sd) == len(model.predict()) == 1050


def test_settings_that_cannot_be_are_refused():
    adata = curves()
    LCVaDE.setup_anndata(adata)
    with pytest.raises(ValueError, match="CurveVAE"):
        LCVaDE(adata)
    LCVaDE.setup_anndata(adata, labels_key="label")
    for options, message in (
        ({"n_clusters": 2}, "3 labels"),
        ({"n_induction": 10}, "multiple of 8"),
        ({"classifier": "tree"}, "Known: 'bayes', 'mlp'"),
        ({"n_clusters": 4, "classifier": "mlp"}, "Leave classifier out"),
        ({"width": 0}, "width must be"),
    ):
        with pytest.raises(ValueError, match=message):
            LCVaDE(adata, **options)
    model = model_of(adata)
    with pytest.raises(ValueError, match="kind="):
        model.get_anomaly_score(kind="iass")
    with pytest.raises(ValueError, match="'RRAB', 'EA', 'EW'"):
        model.sample(1, cluster="MIRA")
    with pytest.raises(ValueError, match="times has shape"):
        model.interpolate(np.zeros((2, 3)))


def test_scores_of_a_training_that_was_broken_off_are_of_its_last_epoch():
    adata = curves()

    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    scvi.settings.seed = 0
    LCVaDE.setup_anndata(adata, labels_key="label")
    model = LCVaDE(adata, width=8)
    with pytest.raises(KeyboardInterrupt):
        model.train(5, batch_size=6, callbacks=[Interrupt()], **CPU)
    assert model.module.class_distance.there.all()
    scores = {kind: model.get_anomaly_score(kind=kind) for kind in ("class_distance", "combined")}
    model._weigh_scores(np.arange(adata.n_obs))
    for kind, score in scores.items():
        np.testing.assert_allclose(model.get_anomaly_score(kind=kind), score, rtol=1e-4)
        assert abs(score.median()) < 3.0
