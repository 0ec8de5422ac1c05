import numpy as np
import pytest
import torch
from conftest import CPU

from mixvi import CGMVAE, CVAE, GMVAE, VAE

CONDITION = {"condition_key": "condition"}
MODELS = {
    "VAE": (VAE, {"n_latent": 1}, {}),
    "CVAE": (CVAE, {"n_latent": 1, "prior": "learned"}, CONDITION),
    "GMVAE": (GMVAE, {"n_components": 3, "n_latent_z": 1, "n_latent_w": 1}, {}),
    "CGMVAE": (
        CGMVAE,
        {"n_components": 3, "n_latent_z": 1, "n_latent_w": 1, "w_prior": "learned"},
        CONDITION,
    ),
}


@pytest.fixture(params=MODELS)
def any_model(request, toy, fit):
    """One model of each kind with a posterior, hardly trained."""
    cls, options, setup = MODELS[request.param]
    return fit(cls, toy, epochs=1, setup=setup, **options)


def test_marginal_likelihood_is_above_the_elbo_and_grows_with_draws(toy, fit):
    model = fit(GMVAE, toy, epochs=20, n_components=5, n_latent_z=3, n_latent_w=2)
    elbo = model.get_elbo()
    few, many = (model.get_marginal_ll(n_mc_samples=n) for n in (2, 200))
    assert elbo < few < many
    assert many == pytest.approx(model.get_marginal_ll(n_mc_samples=200), abs=0.5)


def test_a_model_that_can_be_integrated_by_hand(toy, any_model):
    """With a decoder that ignores z, p(x) is a unit Gaussian whatever the prior of z."""
    last = any_model.module.decoder.linears[-1]
    # narrow posteriors, or components that move far with w, would need far more draws
    for name in ("decoder", "encoder", "components"):
        if hasattr(any_model.module, name):
            torch.nn.init.zeros_(getattr(any_model.module, name).linears[-1].weight)
    some = np.arange(0, toy.n_obs, 10)
    per_gene = (toy.X[some] - last.bias.detach().numpy()) ** 2 + np.log(2 * np.pi)
    exact = -0.5 * per_gene.sum(1)
    options = {"n_mc_samples": 5000, "indices": some, "return_mean": False}
    each = any_model.get_marginal_ll(**options).numpy()
    assert each.mean() == pytest.approx(exact.mean(), abs=0.05)
    assert np.abs(each - exact).mean() < 0.15


def test_each_cells_bound_averages_to_the_models(toy, any_model):
    def seeded(verb, **options):
        torch.manual_seed(0)
        return verb(toy, **options)

    for verb in (any_model.get_elbo, any_model.get_marginal_ll):
        options = {} if verb == any_model.get_elbo else {"n_mc_samples": 3}
        each = seeded(verb, return_mean=False, **options)
        assert each.shape == (toy.n_obs,)
        assert seeded(verb, **options) == pytest.approx(float(each.double().mean()))
    each = seeded(any_model.get_elbo, return_mean=False)
    table = seeded(any_model.get_elbo, return_terms=True, return_mean=False)
    np.testing.assert_allclose(table["total"], -each, rtol=1e-5)
    assert table.index.equals(toy.obs_names)
    means = seeded(any_model.get_elbo, return_terms=True)
    np.testing.assert_allclose(means, table.mean())


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


@pytest.mark.parametrize("w_prior", ["standard", "learned"])
def test_use_of_w_is_measured_from_the_models_own_prior(toy, fit, w_prior):
    setup = {"condition_key": "condition"}
    model = fit(CGMVAE, toy, epochs=30, setup=setup, w_prior=w_prior, n_components=3)
    model.annotate()
    kl = toy.uns["gmvae"]["kl_per_w"]
    assert kl.shape == (12,) and (kl >= 0).all()
    # the term of the bound, which is exact
    w_term = model.get_elbo(return_terms=True)["W"]
    assert kl.sum() == pytest.approx(w_term, rel=1e-4)
    assert toy.uns["gmvae"]["active_w"] == (kl > 0.01).sum()


def test_labels_count_once_in_the_bound(toy, fit):
    setup = {"labels_key": "cell_type"}
    model = fit(GMVAE, toy, epochs=2, setup=setup, classification_weight=50.0, n_components=5)
    model.module.eval()
    terms = model.get_elbo(use_labels=True, return_terms=True)
    model.module.classification_weight = 1.0
    again = model.get_elbo(use_labels=True, return_terms=True)
    assert terms["Y"] == pytest.approx(again["Y"], rel=0.1)
