"""Verbs that scvi-tools' models have, on every kind of model and likelihood."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import CPU
from scipy import sparse
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Normal, Poisson

import mixvi
from mixvi import AE, CGMVAE, CVAE, GMVAE, VAE

MODELS = {"AE": AE, "VAE": VAE, "CVAE": CVAE, "GMVAE": GMVAE, "CGMVAE": CGMVAE}
LIKELIHOODS = ("gaussian", "mse", "gaussian_sigma", "bernoulli", "poisson", "nb", "zinb")
COUNTS = ("poisson", "nb", "zinb")
EVERY = [(name, "nb") for name in MODELS] + [("VAE", name) for name in LIKELIHOODS if name != "nb"]
OF_CELLS = {
    "layer": "counts",
    "batch_key": "batch",
    "condition_key": "condition",
}


def cells(kind: str = "nb") -> AnnData:
    """90 cells x 12 genes of two types, whose depths differ by a factor of ten."""
    rng = np.random.default_rng(0)
    types, depth = rng.integers(0, 2, 90), rng.uniform(1, 10, (90, 1))
    rates = np.exp(rng.normal(0, 0.5, (2, 12)))
    rates[1, :4] *= 8
    x = rng.poisson(rates[types] * depth).astype(np.float32)
    if kind == "bernoulli":
        x = (x > 3).astype(np.float32)
    elif kind not in COUNTS:
        x = np.log1p(x)
    adata = AnnData(np.zeros_like(x))
    adata.layers["counts"] = sparse.csr_matrix(x)
    adata.obs_names = [f"cell_{i}" for i in range(90)]
    adata.var_names = [f"gene_{i}" for i in range(12)]
    for name, values in (("batch", ("one", "two", "three")), ("condition", ("ctrl", "stim"))):
        adata.obs[name] = pd.Categorical(rng.choice(values, 90))
    adata.obs["type"] = pd.Categorical(np.array(["a", "b"])[types])
    return adata


@functools.cache
def trained(name: str, likelihood: str = "nb", epochs: int = 2):
    """A small model of ``cells``; tests share it and change nothing."""
    scvi.settings.seed = 0
    cls, adata = MODELS[name], cells(likelihood)
    cls.setup_anndata(adata, **OF_CELLS)
    components = {"n_components": 3} if issubclass(cls, GMVAE) else {}
    model = cls(adata, n_hidden=16, n_layers=1, likelihood=likelihood, **components)
    model.train(epochs, batch_size=30, **CPU)
    return model


def seeded(verb, *args, **options):
    """A verb's result from the same draws each time."""
    torch.manual_seed(0)
    np.random.seed(0)
    return verb(*args, **options)


every_model = pytest.mark.parametrize(("name", "likelihood"), EVERY)
SAME = {"batch_size": 30}
VERBS = {
    "posterior_predictive_sample": lambda m, a: m.posterior_predictive_sample(a, **SAME).todense(),
    "get_likelihood_parameters": lambda m, a: m.get_likelihood_parameters(a, **SAME)["mean"],
    "get_latent_library_size": lambda m, a: m.get_latent_library_size(a, **SAME),
    "get_feature_correlation_matrix": lambda m, a: m.get_feature_correlation_matrix(
        a, n_samples=1, **SAME
    ),
    "get_reconstruction_error": lambda m, a: m.get_reconstruction_error(
        a, return_mean=False, **SAME
    )["reconstruction_loss"],
    "get_normalized_expression": lambda m, a: m.get_normalized_expression(
        a, transform_batch=["one", "two"], n_samples=2, **SAME
    ),
    "n_samples_overall": lambda m, a: m.get_normalized_expression(a, n_samples_overall=40, **SAME),
    "get_elbo": lambda m, a: m.get_elbo(a, return_mean=False, **SAME),
    "get_marginal_ll": lambda m, a: m.get_marginal_ll(a, n_mc_samples=2, return_mean=False, **SAME),
    "get_aggregated_posterior": lambda m, a: m.get_aggregated_posterior(a, **SAME).mean,
}


@pytest.mark.parametrize("verb", VERBS)
def test_results_do_not_depend_on_how_the_matrix_is_stored(verb):
    model, run = trained("CGMVAE"), VERBS[verb]
    adata = model.adata
    expected = np.asarray(seeded(run, model, adata))
    for store in (sparse.csc_matrix, lambda x: x.toarray().astype(np.float64), sparse.csr_array):
        other = adata.copy()
        other.layers["counts"] = store(adata.layers["counts"])
        np.testing.assert_allclose(seeded(run, model, other), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("verb", VERBS)
def test_results_follow_views_and_refuse_genes_in_another_order(verb):
    model, run = trained("CGMVAE"), VERBS[verb]
    view = model.adata[40:70]
    np.testing.assert_array_equal(
        np.asarray(seeded(run, model, view)), np.asarray(seeded(run, model, view.copy()))
    )
    with pytest.raises(ValueError, match="gene"):
        run(model, model.adata[:, ::-1].copy())


def test_results_of_data_on_disk_are_those_of_data_in_memory(tmp_path):
    model = trained("CGMVAE")
    path = tmp_path / "cells.h5ad"
    cells().write_h5ad(path)
    backed = mixvi.read_backed(path)
    for verb, run in VERBS.items():
        expected = np.asarray(seeded(run, model, model.adata))
        found = np.asarray(seeded(run, model, backed))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6, err_msg=verb)


@every_model
def test_parameters_are_those_of_the_reconstruction_loss(name, likelihood):
    model = trained(name, likelihood)
    found = model.get_likelihood_parameters(indices=[50, 3, 7], give_mean=True)
    p = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in found.items()}
    x = torch.as_tensor(model.adata.layers["counts"][[50, 3, 7]].toarray(), dtype=torch.float64)
    mean = p["mean"]
    if likelihood == "mse":
        expected = (x - mean).square()
    else:
        distribution = {
            "gaussian": lambda: Normal(mean, p["scale"]),
            "gaussian_sigma": lambda: Normal(mean, p["scale"]),
            "bernoulli": lambda: Bernoulli(mean),
            "poisson": lambda: Poisson(mean),
            "nb": lambda: NegativeBinomial(mu=mean, theta=p["dispersions"]),
            "zinb": lambda: ZeroInflatedNegativeBinomial(
                mu=mean, theta=p["dispersions"], zi_logits=p["dropout"].logit()
            ),
        }[likelihood]()
        expected = -distribution.log_prob(x)
    with torch.inference_mode():
        (rows,) = model._batches(model.adata, [50, 3, 7], None)
        raw = model.module.decode(model._z(rows, use_mean=True), rows)
        loss = model.module.reconstruction_loss(rows, raw)
    np.testing.assert_allclose(loss, expected.sum(1), rtol=1e-4)
    draws = model.get_likelihood_parameters(n_samples=3)
    averaged = model.get_likelihood_parameters(n_samples=3, give_mean=True)
    assert {v.shape for v in draws.values()} == {(3, 90, 12)}
    assert {v.shape for v in averaged.values()} == {(90, 12)}


@every_model
def test_predictive_draws_have_the_likelihoods_mean(name, likelihood):
    model = trained(name, likelihood)
    if likelihood == "mse":
        with pytest.raises(ValueError, match="mse"):
            model.posterior_predictive_sample()
        return
    genes = ["gene_5", "gene_2"]
    x = model.posterior_predictive_sample(indices=[60, 4], n_samples=3000, gene_list=genes)
    assert x.shape == (2, 2, 3000)
    p = model.get_likelihood_parameters(indices=[60, 4], n_samples=3000, give_mean=True)
    expected = (p["mean"] * (1 - p.get("dropout", 0.0)))[:, [5, 2]]
    np.testing.assert_allclose(x.todense().mean(-1), expected, rtol=0.12, atol=0.08)
    one = model.posterior_predictive_sample()
    assert one.shape == (90, 12)
    if likelihood in COUNTS:
        assert (one.todense() == np.round(one.todense())).all()


@pytest.mark.parametrize("name", MODELS)
def test_another_batch_is_decoded_and_the_own_one_is_the_default(name):
    model = trained(name)
    own = np.flatnonzero(model.adata.obs["batch"] == "two")[:5]
    for verb in (
        lambda **of: model.posterior_predictive_sample(**of).todense(),
        model.get_normalized_expression,
        model.get_feature_correlation_matrix,
    ):
        plain = np.asarray(seeded(verb, indices=own))
        as_own = np.asarray(seeded(verb, indices=own, transform_batch="two"))
        as_other = np.asarray(seeded(verb, indices=own, transform_batch=["three"]))
        np.testing.assert_array_equal(plain, as_own)
        assert not np.array_equal(plain, as_other)
        with pytest.raises(ValueError, match="'four' is not known"):
            verb(transform_batch="four")
        with pytest.raises(ValueError, match="names no batch"):
            verb(transform_batch=[])
    with pytest.raises(ValueError, match="a draw is of one"):
        model.posterior_predictive_sample(transform_batch=["one", "two"])


@pytest.mark.parametrize("name", MODELS)
def test_several_batches_are_averaged(name):
    model = trained(name)
    each = [model.get_normalized_expression(transform_batch=b) for b in ("one", "three")]
    both = model.get_normalized_expression(transform_batch=("one", "three"))
    pd.testing.assert_frame_equal(both, sum(each) / 2, rtol=1e-5)
    of = {"n_samples": 1, "batch_size": 90}
    each = [
        seeded(model.get_feature_correlation_matrix, transform_batch=b, **of)
        for b in ("one", "three")
    ]
    assert np.isfinite(each).all()


@every_model
def test_draws_of_normalized_expression(name, likelihood):
    model = trained(name, likelihood)
    mean = model.get_normalized_expression()
    assert mean.index.equals(model.adata.obs_names)
    assert mean.columns.equals(model.adata.var_names)
    draws = model.get_normalized_expression(n_samples=300, return_mean=False, indices=[3, 80])
    assert draws.shape == (300, 2, 12)
    averaged = model.get_normalized_expression(n_samples=300, indices=[3, 80])
    assert list(averaged.index) == ["cell_3", "cell_80"]
    np.testing.assert_allclose(averaged, draws.mean(0), rtol=0.15, atol=0.1)
    with pytest.warns(UserWarning, match="array is returned"):
        model.get_normalized_expression(n_samples=2, return_mean=False, return_numpy=False)
    overall = model.get_normalized_expression(
        n_samples_overall=500, indices=[70, 5], gene_list=["gene_9"]
    )
    assert overall.shape == (500, 1)
    assert set(overall.index) == {"cell_5", "cell_70"}
    if name == "AE":
        np.testing.assert_allclose(overall["gene_9"], mean.loc[overall.index, "gene_9"], rtol=1e-5)
    with pytest.raises(ValueError, match="not both"):
        model.get_normalized_expression(n_samples=2, n_samples_overall=3)
    latent = model.get_normalized_expression(library_size="latent")
    if likelihood in COUNTS:
        np.testing.assert_allclose(mean.sum(axis=1), 1, rtol=1e-4)
        np.testing.assert_allclose(
            latent.sum(axis=1), model.get_latent_library_size()[:, 0], rtol=1e-4
        )
        ten = model.get_normalized_expression(library_size=1e4)
        pd.testing.assert_frame_equal(ten, mean * 1e4, rtol=1e-4)
    else:
        pd.testing.assert_frame_equal(latent, mean)
        with pytest.raises(ValueError, match="library_size scales"):
            model.get_normalized_expression(library_size=1e4)
    with pytest.raises(ValueError, match="library_size='observed'"):
        model.get_normalized_expression(library_size="observed")


@every_model
def test_the_library_size_is_the_observed_one(name, likelihood):
    model = trained(name, likelihood)
    if likelihood not in COUNTS:
        with pytest.raises(ValueError, match="no library size"):
            model.get_latent_library_size()
        return
    expected = model.adata.layers["counts"].sum(axis=1)
    np.testing.assert_allclose(model.get_latent_library_size(), expected)
    found = model.get_latent_library_size(indices=[9, 2], give_mean=False)
    np.testing.assert_allclose(found, expected[[9, 2]])


@every_model
def test_correlations_of_genes_are_those_of_decoded_expression(name, likelihood):
    model = trained(name, likelihood)
    once = {"n_samples": 1, "batch_size": 90}
    for kind in ("pearson", "spearman"):
        found = seeded(model.get_feature_correlation_matrix, correlation_type=kind, **once)
        assert found.index.equals(model.adata.var_names)
        assert found.columns.equals(model.adata.var_names)
        np.testing.assert_allclose(found, found.T)
        np.testing.assert_allclose(np.diag(found), 1)
        if likelihood not in ("nb", "zinb"):
            # nothing is drawn beside z
            decoded = seeded(model.get_normalized_expression, give_mean=False, batch_size=90)
            np.testing.assert_allclose(found, decoded.corr(kind), atol=1e-3)
    with pytest.raises(ValueError, match="kendall"):
        model.get_feature_correlation_matrix(correlation_type="kendall")


def test_overdispersion_weakens_correlations(monkeypatch):
    model = trained("VAE", "nb")
    decoded = model.get_normalized_expression(n_samples=10, return_mean=False).reshape(-1, 12)
    expected = np.corrcoef(decoded, rowvar=False)
    off = ~np.eye(12, dtype=bool)
    strength = []
    for log_theta in (14.0, 1.0, -2.0):
        theta = torch.nn.Parameter(torch.full((1, 12), log_theta))
        monkeypatch.setitem(model.module.likelihood._parameters, "log_theta", theta)
        found = model.get_feature_correlation_matrix(correlation_type="pearson").to_numpy()
        strength.append(np.abs(found[off]).mean())
        if log_theta > 10:
            np.testing.assert_allclose(found, expected, atol=0.15)
    assert strength[0] > 1.5 * strength[1] > 1.5 * strength[2]


@every_model
def test_reconstruction_error_of_each_cell(name, likelihood):
    model = trained(name, likelihood)
    of = {"batch_size": 90}
    each = seeded(model.get_reconstruction_error, return_mean=False, **of)["reconstruction_loss"]
    assert each.shape == (90,)
    mean = seeded(model.get_reconstruction_error, **of)["reconstruction_loss"]
    assert mean == pytest.approx(float(each.double().mean()))
    if name == "VAE" and likelihood != "mse":
        terms = seeded(model.get_elbo, return_terms=True, return_mean=False, **of)
        np.testing.assert_allclose(each, terms["R"], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "AE"])
def test_densities_of_samples(name):
    model = trained(name)
    mean, variance = model.get_latent_representation(return_dist=True)
    z = torch.as_tensor(mean[[4, 8]])
    own = [7, 1, 30]
    for dof, family in ((None, torch.distributions.Normal), (3.0, None)):
        found = model.get_aggregated_posterior(indices=own, dof=dof).log_prob(z)
        loc, scale = torch.as_tensor(mean[own]), torch.as_tensor(variance[own]).sqrt()
        of = family(loc, scale) if family else torch.distributions.StudentT(dof, loc, scale)
        expected = of.log_prob(z[:, None]).sum(-1).logsumexp(-1) - np.log(3)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    adata = model.adata.copy()
    part = adata[50:9:-1].copy()
    assert model.differential_abundance(adata, sample_key="batch") is None
    model.differential_abundance(adata, part, sample_key="batch", batch_size=2)
    table, some = adata.obsm["da_log_probs"], part.obsm["da_log_probs"]
    assert table.index.equals(adata.obs_names)
    assert set(table.columns) == {"one", "two", "three"}
    pd.testing.assert_frame_equal(some, table.loc[some.index, some.columns], rtol=1e-4)
    of_two = np.flatnonzero(adata.obs["batch"] == "two")
    two = model.get_aggregated_posterior(adata, of_two, dof=None)
    np.testing.assert_allclose(table["two"], two.log_prob(torch.as_tensor(mean)), rtol=1e-4)


def test_densities_of_samples_say_what_is_missing():
    model = trained("VAE")
    adata = model.adata.copy()
    ones = adata[adata.obs["batch"] == "one"].copy()
    with pytest.raises(ValueError, match="sample_key=..."):
        model.differential_abundance()
    with pytest.raises(KeyError, match="'donor' is not in adata.obs"):
        model.differential_abundance(sample_key="donor")
    with pytest.raises(ValueError, match="no cell of"):
        model.differential_abundance(ones, adata, sample_key="batch")
    with pytest.raises(NotImplementedError, match="AE"):
        trained("AE").differential_abundance(sample_key="batch")


@pytest.mark.parametrize(("name", "likelihood"), [("CGMVAE", "nb"), ("VAE", "gaussian")])
# of scanpy and scvi-tools, on few genes
@pytest.mark.filterwarnings("ignore:n_top_genes_fallback", "ignore:The inplace keyword")
def test_posterior_predictive_checks_of_scvi_tools(name, likelihood, tmp_path, monkeypatch):
    from scvi.criticism import PosteriorPredictiveCheck, create_criticism_report

    model = trained(name, likelihood)
    adata = model.adata
    check = PosteriorPredictiveCheck(
        adata, {"model1": model}, count_layer_key="counts", n_samples=3
    )
    check.coefficient_of_variation("cells")
    check.coefficient_of_variation("features")
    check.zero_fraction()
    check.calibration_error()
    for key in ("cv_gene", "cv_cell", "zero_fraction"):
        assert "model1" in check.metrics[key]
    zeros = check.metrics["zero_fraction"]
    assert zeros.index.equals(adata.var_names.rename("features"))
    if likelihood == "nb":
        np.testing.assert_allclose(zeros["model1"], zeros["Raw"], atol=0.35)
        # asked for, and not used where labels are given
        monkeypatch.setitem(sys.modules, "leidenalg", ModuleType("leidenalg"))
        create_criticism_report(model, n_samples=2, label_key="type", save_folder=str(tmp_path))
        assert (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_data_of_its_own_says_what_to_register(name):
    cls, adata = MODELS[name], cells()
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
    of_scvi = scvi.model.SCVI(adata).registry
    of_module = of_scvi | {"setup_method_name": "setup_datamodule"}
    for registry in (None, of_scvi, of_module):
        with pytest.raises(ValueError, match=rf"{name}.setup_anndata\(adata, ...\).*datamodule"):
            cls(registry=registry)
