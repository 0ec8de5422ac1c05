"""What holds for every model of images: a table of constructors, and laws over all of them.

A new objective or model is tested by a line in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from conftest import CPU, bars

from mixvi.core.training.stepwise import StepwiseTrainingPlan
from mixvi.images import AIMMPCC, MPCC, ConditionalMPCC, GenerativeInference, VaDE
from mixvi.images.objective import OBJECTIVES

N = 48
SMALL = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 16}}
TRAIN = {"batch_size": 16, "lr": 1e-3, **CPU}


def objective(name: str, adata: AnnData, **options) -> GenerativeInference:
    GenerativeInference.setup_anndata(adata)
    return GenerativeInference(adata, name, objective_kwargs=options, **SMALL)


def clusters(cls: type, adata: AnnData, **options):
    setup = {"labels_key": "kind"} if cls is ConditionalMPCC else {}
    cls.setup_anndata(adata, **setup)
    return cls(adata, **(SMALL | options))


MODELS: dict[str, Callable] = {
    "vae": partial(objective, "vae"),
    "beta_vae": partial(objective, "beta_vae", beta=4.0),
    "beta_vae, warm-up": partial(objective, "beta_vae", beta=4.0, kl_warmup=6),
    "annealed_vae": partial(objective, "annealed_vae", capacity_steps=6),
    "factor_vae": partial(objective, "factor_vae", n_hidden=16, n_layers=2),
    "beta_tcvae": partial(objective, "beta_tcvae"),
    "beta_tcvae, stratified": partial(objective, "beta_tcvae", estimator="stratified"),
    "dip_vae": partial(objective, "dip_vae", cov_momentum=0.9),
    "dip_vae, i": partial(objective, "dip_vae", variant="i", likelihood="bernoulli"),
    "wvae": partial(objective, "wvae"),
    "js_vae": partial(objective, "js_vae"),
    "js_vae, mixture": partial(objective, "js_vae", js="mixture"),
    "ikl_vae": partial(objective, "ikl_vae"),
    "fkl_vae": partial(objective, "fkl_vae"),
    "mmd": partial(objective, "mmd"),
    "mmd, imq": partial(objective, "mmd", kernel="imq", codes="means"),
    "aae": partial(objective, "aae"),
    "aae, vanilla": partial(objective, "aae", adversarial="vanilla"),
    "avb": partial(objective, "avb"),
    "avb, contrast with the prior": partial(objective, "avb", adaptive_contrast=False),
    "ali": partial(objective, "ali"),
    "ali, unary": partial(objective, "ali", unary_scores=True, adversarial="vanilla"),
    "alice": partial(objective, "alice"),
    "alice, adversarial": partial(objective, "alice", rec="adversarial"),
    "veegan": partial(objective, "veegan", latent_ll_to_generator=True),
    "aim": partial(objective, "aim"),
    "infogan": partial(objective, "infogan", n_code=2),
    "vae_gan": partial(objective, "vae_gan"),
    "vade": partial(clusters, VaDE, n_clusters=3),
    "vade, bernoulli": partial(clusters, VaDE, n_clusters=3, likelihood="bernoulli"),
    "mpcc": partial(clusters, MPCC, n_clusters=3, d_steps=2),
    "mpcc, apart": partial(clusters, MPCC, n_clusters=3, share=False, conditioning="copy"),
    "mpcc, author's": partial(
        clusters, MPCC, n_clusters=3, latent_ll_to_prior=True, legacy_sigma=True, ema_decay=None
    ),
    "aim_mpcc": partial(clusters, AIMMPCC, conditioning="copy"),
    "conditional_mpcc": partial(clusters, ConditionalMPCC, conditioning="class_norm"),
}


def data(images: np.ndarray | None = None) -> AnnData:
    adata = AnnData(obsm={"image": bars(N) if images is None else images})
    adata.obs["kind"] = np.resize(["a", "b", "c"], N)
    return adata


def trained(name: str, adata: AnnData):
    scvi.settings.seed = 0
    model = MODELS[name](adata)
    start = {"pretrain_epochs": 1, "n_init": 1} if isinstance(model, VaDE) else {}
    model.train(3, **TRAIN, **start)
    return model


@cache
def fitted(name: str):
    """A model that tests do not change."""
    return trained(name, data())


every_model = pytest.mark.parametrize("name", MODELS)


def test_every_objective_is_in_the_table():
    assert set(OBJECTIVES) <= {name.split(",")[0] for name in MODELS}


@every_model
def test_losses_and_gradients_are_finite(name):
    module = MODELS[name](data()).module
    rows = batch(module)
    for step in module.steps():
        loss, terms = module.loss(step, *rows)
        assert loss.ndim == 0 and loss.isfinite(), step.name
        assert all(term.ndim == 0 and term.isfinite() for term in terms.values()), step.name
        weights = [p for network in step.updates for p in getattr(module, network).parameters()]
        for gradient in torch.autograd.grad(loss, weights, allow_unused=True):
            assert gradient is None or gradient.isfinite().all(), step.name


def batch(module) -> tuple[torch.Tensor, ...]:
    """A minibatch as the module's losses take it."""
    tensors = {"X": torch.from_numpy(bars(N)), "labels": torch.arange(N)[:, None] % 3}
    return module.training_rows(tensors)


@every_model
def test_a_step_moves_the_networks_that_it_names_and_no_others(name, monkeypatch):
    module = MODELS[name](data()).module.train()
    rates = dict.fromkeys(module.network_names, 1e-2)
    tensors = {"X": torch.from_numpy(bars(N)), "labels": torch.arange(N)[:, None] % 3}
    for step in module.steps():
        plan = StepwiseTrainingPlan(module, lr=rates, batch_size=N)
        optimizers = plan.configure_optimizers()
        monkeypatch.setattr(plan, "optimizers", lambda made=optimizers: made)
        monkeypatch.setattr(
            plan, "manual_backward", lambda loss, inputs: loss.backward(inputs=inputs)
        )
        monkeypatch.setattr(plan, "_steps", (replace(step, every=1),))
        before = {key: values.clone() for key, values in module.named_parameters()}
        plan.training_step(tensors, 0)
        ours = {p for network in step.updates for p in getattr(module, network).parameters()}
        moved = {
            key for key, p in module.named_parameters() if not torch.equal(p.detach(), before[key])
        }
        # the average follows the generator
        moved = {key for key in moved if not key.startswith("averaged_generator")}
        foreign = {key for key, p in module.named_parameters() if p not in ours}
        assert moved and not moved & foreign, step.name


@every_model
def test_rows_in_another_order_have_their_codes_in_that_order(name):
    model = fitted(name)
    codes, order = model.get_latent_representation(), np.random.default_rng(0).permutation(N)
    options = {"rtol": 1e-4, "atol": 1e-5}
    found = model.get_latent_representation(indices=order, batch_size=7)
    np.testing.assert_allclose(found, codes[order], **options)
    found = model.get_latent_representation(model.adata[order].copy())
    np.testing.assert_allclose(found, codes[order], **options)
    found = model.get_reconstruction_error(model.adata[order], return_mean=False)
    expected = model.get_reconstruction_error(return_mean=False)
    np.testing.assert_allclose(found, expected[order], **options)


@every_model
def test_a_loaded_model_gives_the_same_numbers(name, tmp_path):
    model = fitted(name)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", data())

    def numbers(of) -> list[np.ndarray]:
        torch.manual_seed(1)
        z = of.get_latent_representation()
        return [z, of.get_reconstruction(), of.sample(5), of.decode_latent(z[:5])]

    for ours, theirs in zip(numbers(model), numbers(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.history.keys() == model.history.keys()


@every_model
def test_other_dtypes_and_scales_of_equal_images_are_equal(name):
    images = (bars(N) > 0).astype(np.uint8) * 255
    expected = trained(name, data(images)).get_latent_representation()
    for dtype in (np.float32, np.float64):
        as_floats = trained(name, data(images.astype(dtype) / 255)).get_latent_representation()
        np.testing.assert_allclose(as_floats, expected, rtol=1e-4, atol=1e-5)


@every_model
def test_a_seed_gives_the_same_model(name):
    weights = fitted(name).module.state_dict()
    for key, values in trained(name, data()).module.state_dict().items():
        assert torch.equal(values, weights[key]), key


@every_model
def test_records_are_finite_and_say_what_each_step_lost(name):
    model = fitted(name)
    for key, table in model.history.items():
        assert np.isfinite(table.to_numpy(float)).all(), key
    assert {f"{step.name}_loss_train" for step in model.module.steps()} <= set(model.history)
