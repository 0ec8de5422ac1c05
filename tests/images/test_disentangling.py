"""Disentangling objectives: the VAE at weight zero, what changes with updates, messages."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import CPU, bars
from lightning.pytorch.callbacks import LambdaCallback

from mixvi.core.maths.disentanglement import code_covariance, covariance_penalty, kl_terms
from mixvi.core.training.stepwise import StepwiseTrainingPlan
from mixvi.images import GenerativeInference, disentangling_recipe
from mixvi.images import objectives as o
from mixvi.images.backbones import make_backbone
from mixvi.images.generative_inference import GenerativeInferenceModule
from mixvi.images.likelihoods import bernoulli_loss

X = torch.from_numpy(bars(32))
SMALL = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 16}}


def module_of(objective) -> GenerativeInferenceModule:
    torch.manual_seed(0)
    made = make_backbone("mlp", (1, 8, 8), 3, {"n_hidden": 16})
    return GenerativeInferenceModule(made, objective, (-1.0, 1.0)).train()


def loss_of(module, step: int = 0) -> tuple:
    torch.manual_seed(1)
    return module.loss(module.steps()[step], X)


def model_of(name: str, **options) -> GenerativeInference:
    adata = AnnData(obsm={"image": bars(48)})
    GenerativeInference.setup_anndata(adata)
    scvi.settings.seed = 0
    return GenerativeInference(adata, name, objective_kwargs=options, **SMALL)


@pytest.mark.parametrize(
    "objective",
    [
        o.BetaVAE(beta=1.0),
        o.FactorVAE(tc_weight=0.0, n_hidden=8),
        o.BetaTCVAE(tc_weight=0.0),
        o.DIPVAE(lambda_offdiag=0.0, lambda_diag=0.0),
    ],
    ids=lambda objective: objective.name,
)
def test_without_weight_each_is_the_vae_to_the_last_bit(objective):
    assert torch.equal(loss_of(module_of(objective))[0], loss_of(module_of(o.VAE()))[0])


def test_penalties_are_those_of_the_codes():
    expected, terms = loss_of(module_of(o.VAE()))
    tc_vae, dip_vae = module_of(o.BetaTCVAE(tc_weight=5.0)), module_of(o.DIPVAE(lambda_diag=2.0))
    torch.manual_seed(1)
    codes = tc_vae.objective.codes_of(tc_vae, X)
    tc = kl_terms(codes.z, codes.mu, codes.log_var, len(X)).total_correlation
    torch.testing.assert_close(loss_of(tc_vae)[0], expected + 5.0 * tc)
    penalty = covariance_penalty(code_covariance(codes.mu, codes.log_var), 1.0, 2.0)
    torch.testing.assert_close(loss_of(dip_vae)[0], expected + penalty)
    assert {"reconstruction", "kl"} <= set(loss_of(dip_vae)[1])


def test_bernoulli_likelihood_is_that_of_pixels():
    module = module_of(o.VAE(likelihood="bernoulli"))
    _, terms = loss_of(module)
    torch.manual_seed(1)
    z = module.objective.codes_of(module, X).z
    torch.testing.assert_close(terms["reconstruction"], bernoulli_loss(X, module.decode(z)).mean())


def test_elbo_of_bernoulli_pixels_has_no_constant():
    model = model_of("vae", likelihood="bernoulli")
    model.train(1, batch_size=16, **CPU)
    x = torch.from_numpy(bars(48))
    torch.manual_seed(0)
    terms = model.get_elbo(return_terms=True)
    torch.manual_seed(0)
    expected = bernoulli_loss(x, model.module.decode(model.module.inference(x)["z"])).mean()
    assert terms["R"] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_discriminator_and_autoencoder_leave_each_other_alone():
    module = module_of(o.FactorVAE(n_hidden=8))
    autoencoder, discriminator = (loss_of(module, i)[0] for i in (0, 1))
    (gradient,) = torch.autograd.grad(
        discriminator, list(module.encoder.parameters())[:1], allow_unused=True
    )
    assert gradient is None
    # the plan asks for gradients of encoder and generator alone
    assert module.steps()[0].updates == ("encoder", "generator")
    assert torch.autograd.grad(autoencoder, list(module.encoder.parameters())[:1])[0].any()


def test_discriminator_sees_the_minibatch_before_and_none_of_another_epoch():
    module = module_of(o.FactorVAE(n_hidden=8))
    first, second = ({"X": x} for x in X.split(16))
    assert torch.equal(*module.training_rows(first))
    assert torch.equal(module.training_rows(second)[1], X[:16])
    module.eval()
    # a validation minibatch is not remembered
    module.training_rows(first)
    assert torch.equal(module.last_images, X[16:])
    module.before_epoch()
    assert module.last_images is None


def test_weight_and_capacity_rise_with_updates_of_the_encoder():
    model = model_of("beta_vae", beta=4.0, kl_warmup=12)
    objective, module = model.objective, model.module
    assert float(objective.weight(module)) == 0.0
    model.train(2, batch_size=16, **CPU)
    assert int(module.n_updates) == 6
    assert float(objective.weight(module)) == pytest.approx(2.0)
    module = module_of(o.AnnealedVAE(gamma=7.0, capacity=2.0, capacity_steps=10))
    module.n_updates += 5
    loss, terms = loss_of(module)
    assert float(terms["capacity"]) == pytest.approx(1.0)
    expected = terms["reconstruction"] + 7.0 * (terms["kl"] - 1.0).abs()
    torch.testing.assert_close(loss, expected)


def test_training_tells_the_number_of_images_that_train():
    model = model_of("beta_tcvae", estimator="stratified")
    model.train(1, batch_size=16, train_size=0.75, **CPU)
    assert model.module.n_training_images == 36
    for name in ("mutual_information", "total_correlation", "dimension_kl"):
        assert np.isfinite(model.history[f"{name}_train"].to_numpy(float)).all()


def test_moving_average_of_the_covariance_is_of_training_alone():
    module = module_of(o.DIPVAE(cov_momentum=0.5))
    loss_of(module)
    kept = module.code_covariance.clone()
    torch.manual_seed(1)
    codes = module.objective.codes_of(module, X)
    expected = 0.5 * torch.eye(3) + 0.5 * code_covariance(codes.mu, codes.log_var)
    torch.testing.assert_close(kept, expected.detach())
    module.eval()
    loss_of(module)
    assert torch.equal(module.code_covariance, kept)


def test_a_resumed_factor_vae_is_the_one_that_was_not_stopped(tmp_path):
    options = {"n_hidden": 8, "n_layers": 1}
    whole = model_of("factor_vae", **options)
    whole.train(3, batch_size=16, **CPU)
    stopped = model_of("factor_vae", **options)

    def stop(trainer, plan):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    callback = LambdaCallback(on_train_epoch_start=stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(3, batch_size=16, checkpoint_dir=tmp_path, callbacks=[callback], **CPU)
    again = model_of("factor_vae", **options)
    again.train(3, batch_size=16, checkpoint_dir=tmp_path, resume=True, **CPU)
    for key, values in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[key], values), key


def test_recipes_are_trained_as_they_are():
    recipe = disentangling_recipe("factor_vae")
    assert [s["tc_weight"] for s in recipe.grid] == [5.0, 10.0, 25.0, 50.0, 100.0]
    adata = AnnData(obsm={"image": np.zeros((64, 1, 64, 64), np.uint8)})
    GenerativeInference.setup_anndata(adata)
    model = GenerativeInference(adata, **recipe.model_kwargs)
    plan = StepwiseTrainingPlan(
        model.module, lr=1e-4, batch_size=64, **recipe.train_kwargs["plan_kwargs"]
    )
    betas = [adam.defaults["betas"] for adam in plan.configure_optimizers()]
    assert betas == [(0.9, 0.999), (0.9, 0.999), (0.5, 0.9)]
    with pytest.raises(ValueError, match="factor_vae"):
        disentangling_recipe("factorvae")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("beta_vae", {"beta": -1.0}, "beta must be a number of at least 0"),
        ("factor_vae", {"tc_weight": -1.0}, "tc_weight must be a number of at least 0"),
        ("beta_tcvae", {"estimator": "mws"}, "estimator='mws' is not known"),
        ("dip_vae", {"variant": "iii"}, "variant='iii' is not known"),
        ("dip_vae", {"cov_momentum": 1.0}, "cov_momentum must lie in"),
        ("beta_vae", {"kl_warmup": 0}, "kl_warmup must be a positive whole number"),
        ("annealed_vae", {"capacity": -2.0}, "capacity must be a number of at least 0"),
        ("vae", {"likelihood": "poisson"}, "likelihood='poisson' is not known"),
    ],
)
def test_unusable_settings_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        model_of(name, **options)


@pytest.mark.parametrize("name", ["factor_vae", "beta_tcvae", "dip_vae"])
def test_one_latent_is_independent_of_nothing(name):
    adata = AnnData(obsm={"image": bars(8)})
    GenerativeInference.setup_anndata(adata)
    with pytest.raises(ValueError, match="n_latent must be 2 or more"):
        GenerativeInference(adata, name, **(SMALL | {"n_latent": 1}))
