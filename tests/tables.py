"""What tests state laws of, by name: a new entry is tested by one line here."""

from __future__ import annotations

from functools import partial

from mixvi import AE, CGMVAE, CVAE, GMVAE, VAE
from mixvi.core.maths.likelihoods import make_likelihood

LIKELIHOODS = {
    "gaussian": partial(make_likelihood, "gaussian"),
    "gaussian, relu": partial(make_likelihood, "gaussian", output_activation="relu"),
    "gaussian, softplus": partial(make_likelihood, "gaussian", output_activation="softplus"),
    "mse": partial(make_likelihood, "mse"),
    "gaussian_sigma, shared": partial(make_likelihood, "gaussian_sigma", sigma="shared"),
    "gaussian_sigma, feature": partial(make_likelihood, "gaussian_sigma", sigma="feature"),
    "gaussian_sigma, analytic": partial(make_likelihood, "gaussian_sigma", sigma="analytic"),
    "bernoulli": partial(make_likelihood, "bernoulli"),
    "poisson": partial(make_likelihood, "poisson"),
    "nb": partial(make_likelihood, "nb"),
    "nb, gene-batch": partial(make_likelihood, "nb", dispersion="gene-batch", n_batch=2),
    "zinb": partial(make_likelihood, "zinb"),
}

_MIXTURE = {"n_components": 3}
# class, arguments of setup_anndata, arguments of the model
MODELS = {
    "AE": (AE, {}, {"likelihood": "mse"}),
    "denoising AE": (AE, {}, {"likelihood": "mse", "noise": 0.2}),
    "VAE": (VAE, {}, {}),
    "sigma-VAE": (VAE, {}, {"likelihood": "gaussian_sigma"}),
    "CVAE": (CVAE, {"condition_key": "condition"}, {}),
    "GMVAE": (GMVAE, {}, _MIXTURE),
    "GMVAE, labels": (GMVAE, {"labels_key": "kind"}, _MIXTURE),
    "GMVAE, categorical prior": (GMVAE, {}, {"y_prior": "categorical", **_MIXTURE}),
    "GMVAE, nb": (GMVAE, {"layer": "counts"}, {"likelihood": "nb", **_MIXTURE}),
    "GMVAE, zinb": (GMVAE, {"layer": "counts"}, {"likelihood": "zinb", **_MIXTURE}),
    "CGMVAE": (CGMVAE, {"condition_key": "condition"}, _MIXTURE),
    "CGMVAE, learned prior of w": (
        CGMVAE,
        {"condition_key": "condition"},
        {"w_prior": "learned", **_MIXTURE},
    ),
    "CGMVAE, poisson": (
        CGMVAE,
        {"condition_key": "condition", "layer": "counts"},
        {"likelihood": "poisson", **_MIXTURE},
    ),
}

CONDITIONINGS = {
    "batch": (GMVAE, {"batch_key": "batch"}, _MIXTURE),
    "categorical covariates": (
        GMVAE,
        {"categorical_covariate_keys": ["batch", "site"]},
        _MIXTURE,
    ),
    "continuous covariate": (GMVAE, {"continuous_covariate_keys": ["age"]}, _MIXTURE),
    "in every layer": (GMVAE, {"batch_key": "batch"}, {"inject_covariates": True, **_MIXTURE}),
    "condition in every network": (CGMVAE, {"condition_key": "condition"}, _MIXTURE),
    "condition in the networks of x": (
        CGMVAE,
        {"condition_key": "condition"},
        {"condition_in": "x_only", **_MIXTURE},
    ),
    "condition and batch": (CVAE, {"condition_key": "condition", "batch_key": "batch"}, {}),
}
