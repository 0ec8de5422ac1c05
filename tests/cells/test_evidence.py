import numpy as np
import pytest
import torch
from conftest import CPU

from mixvi import CGMVAE, GMVAE


def test_marginal_likelihood_is_above_the_elbo_and_grows_with_draws(toy, fit):
    model = fit(GMVAE, toy, epochs=20, n_components=5, n_latent_z=3, n_latent_w=2)
    elbo = model.get_elbo(return_terms=False)
    few, many = (model.get_marginal_ll(n_samples=n) for n in (2, 200))
    assert elbo < few < many
    assert many == pytest.approx(model.get_marginal_ll(n_samples=200), abs=0.5)


def test_a_model_that_can_be_integrated_by_hand(toy, fit):
    """With a decoder that ignores z, p(x) is a unit Gaussian whatever the prior of z."""
    model = fit(GMVAE, toy, epochs=1, n_components=3, n_latent_z=1, n_latent_w=1)
    last = model.module.decoder.linears[-1]
    # wide posteriors: narrow ones would need far more draws
    for network in (model.module.decoder, model.module.encoder):
        torch.nn.init.zeros_(network.linears[-1].weight)
    exact = -0.5 * ((toy.X - last.bias.detach().numpy()) ** 2 + np.log(2 * np.pi)).sum(1).mean()
    assert model.get_marginal_ll(n_samples=2000) == pytest.approx(exact, abs=0.2)


def test_squared_error_has_no_likelihood(toy, fit):
    model = fit(GMVAE, toy, epochs=1, likelihood="mse", n_components=3)
    with pytest.raises(ValueError, match="mse"):
        model.get_marginal_ll()


def test_free_bits_keep_w_in_use(toy, fit):
    setup = {"condition_key": "condition", "labels_key": "cell_type"}
    options = {"epochs": 30, "setup": setup, "likelihood": "mse", "n_components": 5}
    used = {}
    for bits in (0.0, 1.0):
        model = fit(CGMVAE, toy, w_free_bits=bits, n_latent_w=2, **options)
        mean, variance = model.get_latent_representation(which="w", return_dist=True)
        used[bits] = 0.5 * (mean**2 + variance - 1 - np.log(variance)).mean(0).sum()
    assert used[1.0] > used[0.0] + 0.5
    with pytest.raises(ValueError, match="w_free_bits must not be negative"):
        GMVAE.setup_anndata(toy)
        GMVAE(toy, n_components=5, w_free_bits=-1.0)


def test_free_bits_are_what_unused_dimensions_cost(toy, fit):
    model = fit(GMVAE, toy, epochs=1, n_components=3, train={**CPU}, w_free_bits=0.5)
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    assert torch.equal(model.module._freed(kl), torch.tensor([[0.5, 2.0], [0.5, 4.0]]))
