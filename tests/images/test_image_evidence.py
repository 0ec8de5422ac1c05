"""Marginal likelihoods where they are known, and samples of the density of codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from mixvi.images import GenerativeInference, VaDE

# three orthogonal directions among the 64 pixels, so that posteriors are diagonal
WEIGHTS = torch.linalg.qr(torch.randn(64, 3, generator=torch.manual_seed(0)))[0] * torch.tensor(
    [2.0, 1.0, 0.5]
)


def linear(model):
    """A model of images ``WEIGHTS @ z`` whose encoder has the posterior under N(0, I)."""
    precision = 1 + WEIGHTS.square().sum(0)
    model.module.reconstruct = lambda z: (z @ WEIGHTS.T).reshape(-1, 1, 8, 8)
    model.module.encode = lambda x: (
        x.flatten(1) @ WEIGHTS / precision,
        (-precision.log()).expand(len(x), 3),
    )
    return model


def density(x, mean, variances):
    covariance = (WEIGHTS * torch.tensor(variances).float()) @ WEIGHTS.T + torch.eye(64)
    return multivariate_normal(WEIGHTS.numpy() @ mean, covariance.double().numpy()).logpdf(x)


def signed(model, images):
    return np.concatenate([x.numpy().reshape(len(x), -1) for x in model._batches(images, None, 64)])


def test_the_marginal_likelihood_of_a_linear_model(fit_images, images):
    model = linear(fit_images("vae", epochs=1))
    expected = density(signed(model, images), np.zeros(3), np.ones(3))
    # every draw has the weight p(x) where q is the posterior
    found = model.get_marginal_ll(n_mc_samples=1, return_mean=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert model.get_marginal_ll(n_mc_samples=2) == pytest.approx(expected.mean(), rel=1e-4)
    assert model.get_elbo() == pytest.approx(expected.mean(), rel=0.02)


def test_the_marginal_likelihood_of_vade_sums_clusters_out(images):
    VaDE.setup_anndata(images, image_key="image")
    model = VaDE(images, n_clusters=2, n_latent=3, backbone="mlp", backbone_kwargs={"n_hidden": 8})
    model.train(1, pretrain_epochs=1, **CPU)
    prior = linear(model).module.prior
    means, variances = torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.full((2, 3), 0.8)
    prior.start_at(torch.tensor([0.3, 0.7]), means, variances)
    x = signed(model, images)
    parts = [density(x, mean.numpy(), np.full(3, 0.8)) for mean in means]
    expected = logsumexp(parts, axis=0, b=[[0.3], [0.7]])
    found = model.get_marginal_ll(n_mc_samples=2000, return_mean=False)
    np.testing.assert_allclose(found, expected, atol=0.3)
    assert float(found.mean()) == pytest.approx(expected.mean(), abs=0.05)


def test_what_is_no_autoencoder_has_no_marginal_likelihood(fit_images):
    with pytest.raises(ValueError, match="objective='aim' trains no autoencoder"):
        fit_images("aim", epochs=2).get_marginal_ll()


def test_samples_of_codes_have_the_moments_of_codes(fit_images, images):
    model = fit_images("mmd", epochs=2)
    # codes that no prior has
    model.module.encode = lambda x: (
        x.flatten(1)[:, :3] + torch.tensor([20.0, 0, 0]),
        torch.full((len(x), 3), -9.0),
    )
    decoded = []
    model.module.reconstruct = lambda z: (decoded.append(z), z.new_zeros(len(z), 1, 8, 8))[1]
    assert model.sample(500, from_="codes", n_components=2, batch_size=200).shape == (500, 1, 8, 8)
    z, codes = torch.cat(decoded).numpy(), model.get_latent_representation()
    np.testing.assert_allclose(z.mean(0), codes.mean(0), atol=0.15)
    np.testing.assert_allclose(z.std(0), codes.std(0), atol=0.15)
    # drawn in no order of components
    halves = z[:250].mean(0) - z[250:].mean(0)
    assert np.abs(halves).max() < 0.3


def test_samples_of_codes_follow_the_seed_and_say_what_is_wrong(fit_images):
    model = fit_images("vae", epochs=1)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(model.sample(4, from_="codes", n_components=3))
    np.testing.assert_array_equal(*drawn)
    with pytest.raises(ValueError, match="from_='posterior' is not known"):
        model.sample(4, from_="posterior")
    with pytest.raises(ValueError, match="n_components=500, but the model was built on 192"):
        model.sample(4, from_="codes", n_components=500)
    assert isinstance(model, GenerativeInference)
