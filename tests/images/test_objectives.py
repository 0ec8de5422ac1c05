"""Who is updated by what, and that every step lowers its own loss."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from conftest import bars
from torch.nn import functional as F

from mixvi.core.maths.mixture import standard_gaussian_kl_per_dim
from mixvi.images import GenerativeInference, Objective, Step
from mixvi.images import objectives as o
from mixvi.images.backbones import make_backbone
from mixvi.images.divergences import batch_moments, squared_w2
from mixvi.images.generative_inference import GenerativeInferenceModule
from mixvi.images.objective import OBJECTIVES, make_objective

ALL = (
    "vae beta_vae annealed_vae factor_vae beta_tcvae dip_vae wvae js_vae ikl_vae fkl_vae mmd aae "
    "avb ali alice veegan aim infogan vae_gan"
).split()
X = torch.from_numpy(bars(64))


def module_of(objective: Objective | str) -> GenerativeInferenceModule:
    torch.manual_seed(0)
    made = make_backbone("mlp", (1, 8, 8), 3, {"n_hidden": 32})
    # spectral norms iterate in training mode, and formulas are of one state
    return GenerativeInferenceModule(made, make_objective(objective), (-1.0, 1.0)).eval()


def loss_of(module: GenerativeInferenceModule, name: str) -> tuple:
    (step,) = (step for step in module.steps() if step.name == name)
    torch.manual_seed(1)
    return module.loss(step, X)


def reached(module: GenerativeInferenceModule, loss: torch.Tensor) -> set[str]:
    """Networks that a loss has gradients for."""
    module.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name
        for name in module.network_names
        if any(p.grad is not None and p.grad.any() for p in getattr(module, name).parameters())
    }


def test_all_of_the_spec_are_there():
    assert set(ALL) <= set(OBJECTIVES)


# permutations are drawn anew at each step: that its discriminator learns is tested by itself
@pytest.mark.parametrize("name", [name for name in ALL if name != "factor_vae"])
def test_every_step_lowers_its_own_loss(name):
    # spectral norms have to follow the weights
    module = module_of(name).train()
    for step in module.steps():
        weights = [p for n in step.updates for p in getattr(module, n).parameters()]
        adam = torch.optim.Adam(weights, lr=3e-3)
        torch.manual_seed(2)
        before = float(module.loss(step, X)[0].detach())
        for _ in range(25):
            adam.zero_grad()
            module.loss(step, X)[0].backward(inputs=weights)
            adam.step()
        torch.manual_seed(2)
        assert float(module.loss(step, X)[0].detach()) < before, step.name


@pytest.mark.parametrize("name", ALL)
def test_every_step_reaches_what_it_updates(name):
    module = module_of(name)
    for step in module.steps():
        torch.manual_seed(1)
        assert set(step.updates) <= reached(module, module.loss(step, X)[0]), step.name
    assert {n for s in module.steps() for n in s.updates} == set(module.network_names)


def test_vae_is_minus_the_elbo():
    module = module_of("vae")
    loss, terms = loss_of(module, "autoencoder")
    torch.manual_seed(1)
    mu, log_var = module.encode(X)
    z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
    reconstruction = 0.5 * (X - module.decode(z)).square().sum() / len(X)
    kl = standard_gaussian_kl_per_dim(mu, log_var).sum() / len(X)
    torch.testing.assert_close(loss, reconstruction + kl)
    torch.testing.assert_close(terms, {"reconstruction": reconstruction, "kl": kl})


def test_beta_weighs_the_restriction():
    for cls in (o.BetaVAE, o.WVAE, o.JSVAE, o.MMD, o.AAE, o.AVB):
        loss, terms = loss_of(module_of(cls(beta=30.0)), "autoencoder")
        reconstruction, restriction = terms.values()
        torch.testing.assert_close(loss, reconstruction + 30.0 * restriction)


def test_moments_are_of_posterior_means():
    module = module_of("wvae")
    _, terms = loss_of(module, "autoencoder")
    expected = squared_w2(*batch_moments(module.encode(X)[0])).float()
    torch.testing.assert_close(terms["divergence"], expected)
    # so that the encoder's variance has no gradient of them
    module.zero_grad()
    terms["divergence"].backward()
    assert all(p.grad is None for p in module.encoder.log_var.parameters())
    _, sampled = loss_of(module_of(o.WVAE(codes="samples")), "autoencoder")
    assert float(sampled["divergence"].detach()) != float(terms["divergence"].detach())


def test_log_variances_are_clamped():
    module = module_of("vae")
    with torch.no_grad():
        module.encoder.log_var.bias[:] = torch.tensor([-100.0, 0.0, 100.0])
    log_var = module.encode(X)[1]
    assert (log_var[:, 0] == -14).all() and (log_var[:, 2] == 6).all()


@pytest.mark.parametrize("objective", [o.AIM(), o.VEEGAN(), o.ALICE(lambda_x=0.0)])
def test_latent_likelihood_does_not_reach_the_generator(objective):
    module = module_of(objective)
    step = "encoder" if objective.name == "aim" else "joint"
    _, terms = loss_of(module, step)
    assert reached(module, terms["latent_nll"]) == {"encoder"}


@pytest.mark.parametrize("cls", [o.VEEGAN, o.ALICE])
def test_latent_likelihood_reaches_the_generator_on_demand(cls):
    _, terms = loss_of(module := module_of(cls(latent_ll_to_generator=True)), "joint")
    assert reached(module, terms["latent_nll"]) == {"encoder", "generator"}


def test_aim_in_formulas():
    module = module_of("aim")
    critic, _ = loss_of(module, "critic")
    torch.manual_seed(1)
    z = torch.randn(len(X), 3)
    real, fake = module.image_critic(X), module.image_critic(module.decode(z))
    torch.testing.assert_close(critic, F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    assert "generator" not in reached(module, critic)
    torch.testing.assert_close(loss_of(module, "generator")[0], -fake.mean())
    mu, log_var = module.encode(module.decode(z))
    nll = 0.5 * (log_var + torch.log(torch.tensor(2 * torch.pi)) + (z - mu) ** 2 / log_var.exp())
    torch.testing.assert_close(loss_of(module, "encoder")[0], nll.sum(1).mean())


def test_ali_in_formulas():
    for unary in (False, True):
        module = module_of(o.ALI(unary_scores=unary))
        critic, _ = loss_of(module, "critic")
        joint, _ = loss_of(module, "joint")
        assert not {"encoder", "generator"} & reached(module, critic)
        torch.manual_seed(1)
        mu, log_var = module.encode(X)
        code = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        z = torch.randn(len(X), 3)
        real = module.pair_scores(X, code, unary)
        fake = module.pair_scores(module.decode(z), z, unary)
        assert len(real) == (3 if unary else 1)
        pairs = list(zip(real, fake, strict=True))
        hinge = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs)
        torch.testing.assert_close(critic, hinge)
        torch.testing.assert_close(joint, sum(r.mean() - f.mean() for r, f in pairs))


def test_alice_and_veegan_add_weighted_likelihoods():
    ali, _ = loss_of(module_of("ali"), "joint")
    for per_value, divisor in ((True, 64), (False, 1)):
        veegan, terms = loss_of(module_of(o.VEEGAN(lambda_z=3.0, per_value=per_value)), "joint")
        torch.testing.assert_close(veegan, ali + 3.0 * terms["latent_nll"] / divisor)
        alice, terms = loss_of(
            module_of(o.ALICE(lambda_z=3.0, lambda_x=2.0, per_value=per_value)), "joint"
        )
        likelihoods = 3.0 * terms["latent_nll"] + 2.0 * terms["reconstruction"]
        torch.testing.assert_close(alice, ali + likelihoods / divisor)


def test_alice_by_a_critic_of_image_pairs():
    module = module_of(o.ALICE(rec="adversarial"))
    assert [step.name for step in module.steps()] == ["reconstruction", "critic", "joint"]
    loss, _ = loss_of(module, "reconstruction")
    assert reached(module, loss) == {"reconstruction_critic"}
    assert {"encoder", "generator"} <= reached(module, loss_of(module, "joint")[0])


@pytest.mark.parametrize("adaptive", [True, False])
def test_avb_in_formulas(adaptive):
    module = module_of(o.AVB(adaptive_contrast=adaptive))
    critic, _ = loss_of(module, "critic")
    torch.manual_seed(1)
    mu, log_var = module.encode(X)
    noise = torch.randn_like(mu)
    z = mu + (0.5 * log_var).exp() * noise
    # of a Gaussian the standardised code is its noise
    (posterior,) = module.pair_scores(X, noise if adaptive else z)
    (contrast,) = module.pair_scores(X, torch.randn(len(X), 3))
    expected = -torch.sigmoid(posterior).log().mean() - torch.sigmoid(-contrast).log().mean()
    torch.testing.assert_close(critic, expected)
    _, terms = loss_of(module, "autoencoder")
    estimate = posterior.mean()
    if adaptive:
        q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
        p = torch.distributions.Normal(0.0, 1.0)
        estimate = estimate + (q.log_prob(z) - p.log_prob(z)).sum(1).mean()
    torch.testing.assert_close(terms["kl_estimate"], estimate)


def test_vae_gan_in_formulas():
    module = module_of("vae_gan")
    loss, terms = loss_of(module, "encoder")
    torch.manual_seed(1)
    mu, log_var = module.encode(X)
    x_hat = module.decode(mu + (0.5 * log_var).exp() * torch.randn_like(mu))
    # the first hidden layer of the critic
    real, made = (module.image_critic.body[:3](images) for images in (X, x_hat))
    error = 0.5 * (real - made).square().sum(1).mean() / real.var(0).mean()
    kl = standard_gaussian_kl_per_dim(mu, log_var).sum(1).mean()
    torch.testing.assert_close(terms, {"kl": kl, "feature_error": error})
    torch.testing.assert_close(loss, kl + error)
    scaled, _ = loss_of(module_of(o.VAEGAN(recon_scale=5.0)), "encoder")
    torch.testing.assert_close(scaled, kl + 10.0 * error)


def test_aae_takes_the_prior_for_real():
    module = module_of("aae")
    loss, terms = loss_of(module, "critic")
    torch.manual_seed(1)
    mu, log_var = module.encode(X)
    fake = module.latent_critic(mu + (0.5 * log_var).exp() * torch.randn_like(mu))
    real = module.latent_critic(torch.randn(len(X), 3))
    torch.testing.assert_close(loss, F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    _, terms = loss_of(module, "autoencoder")
    torch.testing.assert_close(terms["adversarial"], -fake.mean())


def test_an_objective_of_ones_own_is_one_class(images, tmp_path):
    """Nothing of the package is edited; it trains, is saved and loaded by its name."""

    @dataclass(frozen=True, kw_only=True)
    class Ridge(Objective):
        name = "test_ridge"
        weight: float = 0.1

        def make_networks(self, backbone):
            return {"second_encoder": backbone.encoder()}

        def steps(self):
            return (
                Step("both", ("encoder", "generator"), self.both),
                Step("second", ("second_encoder",), self.second, times=2, every=2),
            )

        def both(self, nets, x):
            mu, _ = nets.encode(x)
            error, ridge = (x - nets.decode(mu)).square().mean(), mu.square().mean()
            return error + self.weight * ridge, {"error": error, "ridge": ridge}

        def second(self, nets, x):
            error = (nets.second_encoder(x)[0] - nets.encode(x)[0]).square().mean()
            return error, {"second_error": error}

    GenerativeInference.setup_anndata(images)
    model = GenerativeInference(
        images, Ridge(weight=0.2), n_latent=3, backbone="mlp", backbone_kwargs={"n_hidden": 16}
    )
    model.train(4, lr=3e-3, accelerator="cpu", enable_progress_bar=False)
    error = model.history["error_train"]["error_train"]
    assert error.iloc[-1] < error.iloc[0]
    model.save(tmp_path / "model")
    loaded = GenerativeInference.load(tmp_path / "model", images)
    assert loaded.objective == Ridge(weight=0.2)
    del OBJECTIVES["test_ridge"]


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("vaee", None, "objective='vaee' is not known. Did you mean 'vae'"),
        ("vae", {"beta": 3.0}, "objective='vae' has no option 'beta'"),
        ("wvae", {"betta": 3.0}, "no option 'betta'. Did you mean 'beta'"),
        ("wvae", {"beta": -1.0}, "beta must be a number of at least 0"),
        ("wvae", {"codes": "all"}, "codes='all' is not known"),
        ("mmd", {"kernel": "linear"}, "kernel='linear' is not known"),
        ("ali", {"adversarial": "wgan"}, "adversarial='wgan' is not known"),
        ("aim", {"d_steps": 0}, "d_steps must be a positive whole number"),
        (o.VAE(), {"recon_scale": 1.0}, "Pass them to the objective itself"),
    ],
)
def test_unusable_settings(objective, options, message):
    with pytest.raises(ValueError, match=message):
        make_objective(objective, options)


def test_two_objectives_of_one_name():
    with pytest.raises(ValueError, match="objective 'vae' is there already"):

        class Another(Objective):
            name = "vae"
