"""``plan_kwargs`` of scvi-tools: an effect, or a sentence before training."""

from __future__ import annotations

from functools import wraps

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from conftest import CPU
from lightning.pytorch.callbacks import Callback

import mixvi
from mixvi.core.data.loading import inference_loader
from mixvi.core.training.plan import StagedTrainingPlan

OPTIONS = {"n_hidden": 16, "n_layers": 1, "dropout_rate": 0.0}


def fitted(adata, cls=mixvi.VAE, epochs=2, setup=None, options=None, **train):
    scvi.settings.seed = 0
    cls.setup_anndata(adata, **(setup or {}))
    model = cls(adata, **OPTIONS, **(options or {}))
    model.train(epochs, **({"batch_size": 100} | train), **CPU)
    return model


def weights(model):
    return torch.cat([value.ravel().float() for value in model.module.state_dict().values()])


class Watch(Callback):
    """Learning rates, by minibatch."""

    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_rates_and_decay_as_in_scvi_tools(toy):
    """In ``plan_kwargs`` they do what the arguments of ``train`` do."""
    options = {"lr": 1e-2, "weight_decay": 1e-3}
    assert torch.equal(weights(fitted(toy, plan_kwargs=options)), weights(fitted(toy, **options)))
    assert not torch.equal(
        weights(fitted(toy, plan_kwargs=options)), weights(fitted(toy, plan_kwargs={"lr": 1e-2}))
    )
    watch = Watch()
    fitted(toy, plan_kwargs={"lr": 0.02}, callbacks=[watch])
    assert set(watch.rates) == {0.02}


def test_the_plan_trains_what_was_asked_for(toy, monkeypatch):
    """Components start as they always do, whatever rates and warm-up come after."""
    plans = []
    made = StagedTrainingPlan.__init__

    @wraps(made)
    def watched(self, *args, **kwargs):
        made(self, *args, **kwargs)
        plans.append(self)

    monkeypatch.setattr(StagedTrainingPlan, "__init__", watched)
    wanted = {"lr": 1e-5, "weight_decay": 0.1, "n_epochs_kl_warmup": 2}
    fitted(toy, mixvi.GMVAE, options={"n_components": 5}, plan_kwargs=wanted, init_epochs=1)
    start, training = plans
    assert (start.lr, start.weight_decay, start.n_epochs_kl_warmup) == (1e-3, 0.1, None)
    assert (training.lr, training.weight_decay, training.n_epochs_kl_warmup) == (1e-5, 0.1, 2)


@pytest.mark.parametrize("optimizer", ["AdamW", "Custom"])
def test_other_optimizers(toy, optimizer):
    used = []

    class See(Callback):
        def on_train_start(self, trainer, pl_module):
            used.append(type(trainer.optimizers[0]))

    options = {"optimizer": optimizer}
    if optimizer == "Custom":
        options["optimizer_creator"] = lambda parameters: torch.optim.SGD(parameters, lr=1e-4)
    fitted(toy, plan_kwargs=options, callbacks=[See()])
    assert used == [torch.optim.AdamW if optimizer == "AdamW" else torch.optim.SGD]


def test_rates_fall_where_nothing_improves(toy):
    options = {"reduce_lr_on_plateau": True, "lr_patience": 0, "lr_threshold": 1e6}
    watch = Watch()
    fitted(
        toy, epochs=4, train_size=0.8, plan_kwargs=options | {"lr_factor": 0.5}, callbacks=[watch]
    )
    assert watch.rates[0] == 1e-3 and watch.rates[-1] == pytest.approx(2.5e-4)
    watch = Watch()
    options |= {"lr_scheduler_metric": "elbo_train"}
    # a record of training needs no validation cells
    fitted(toy, epochs=4, plan_kwargs=options, callbacks=[watch])
    assert watch.rates[-1] < 1e-3


MODELS = {
    "VAE": (mixvi.VAE, {}, {}),
    "CVAE": (mixvi.CVAE, {"condition_key": "condition"}, {}),
    "GMVAE": (mixvi.GMVAE, {}, {"n_components": 5}),
}


@pytest.fixture
def partly(toy):
    toy.obs["partly"] = np.where(np.arange(500) % 2, toy.obs["cell_type"].astype(str), "Unknown")
    return toy


def record(model, name):
    return model.history[name][name].to_numpy(float)


@pytest.mark.parametrize("case", MODELS)
def test_the_kl_weight_is_in_the_loss_and_not_in_the_records(toy, case):
    """Learning nothing, the loss is R plus the weight times the KL terms."""
    cls, setup, options = MODELS[case]
    train = {"lr": 1e-30, "epochs": 4, "setup": setup, "options": options}
    if cls is mixvi.GMVAE:
        train["init"] = None
    plain = fitted(toy, cls, **train)
    scaled = fitted(toy, cls, plan_kwargs={"n_epochs_kl_warmup": 2, "max_kl_weight": 0.5}, **train)
    np.testing.assert_allclose(record(scaled, "kl_weight"), [0.0, 0.25, 0.5, 0.5])
    assert "kl_weight" not in plain.history
    for name in ("elbo_train", "reconstruction_loss_train", "kl_local_train"):
        np.testing.assert_allclose(record(scaled, name), record(plain, name), rtol=1e-5)
    difference = record(plain, "train_loss") - record(scaled, "train_loss")
    missing = (1 - record(scaled, "kl_weight")) * record(plain, "kl_local_train")
    np.testing.assert_allclose(difference, missing, rtol=1e-3)


@pytest.mark.parametrize("known", ["labels", "components", "soft"])
def test_what_labels_cost_keeps_its_weight(partly, known):
    """At weight 0 the loss is R and the cross-entropy of what is known; it is linear in between."""
    setup = {"labels_key": "partly"}
    if known == "soft":
        partly.obsm["soft"] = pd.get_dummies(partly.obs["cell_type"]).astype(float) * 0.5 + 0.1
        setup = {"soft_labels_key": "soft"}
    mixvi.GMVAE.setup_anndata(partly, **setup)
    model = mixvi.GMVAE(partly, n_components=6, classification_weight=7.0, **OPTIONS)
    module = model.module
    (tensors,) = inference_loader(model.adata_manager, np.arange(100), 100)
    if known == "components":
        tensors["components"] = torch.arange(100).view(-1, 1) % 6
    inferred = module.inference(module.rows(tensors))
    decoded = module.generative(inferred["rows"], inferred["w"], inferred["z"])
    losses = [
        float(module.loss(tensors, inferred, decoded, kl_weight=w).loss.detach())
        for w in (0.0, 0.25, 1.0)
    ]
    log_pi = decoded["log_pi"].detach().double()
    if known == "components":
        cost = -log_pi[torch.arange(100), tensors["components"].ravel()]
    else:
        cost = -7.0 * (inferred["rows"].labels.double() * log_pi[:, :5]).sum(-1)
    reconstruction = module.reconstruction_loss(inferred["rows"], decoded["raw"]).double()
    assert losses[0] == pytest.approx(float((reconstruction + cost).detach().mean()), rel=1e-5)
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * losses[2], rel=1e-5)
    assert losses[2] == float(module.loss(tensors, inferred, decoded).loss.detach())


def test_a_warm_up_by_minibatches(toy):
    scaled = fitted(toy, epochs=3, plan_kwargs={"n_steps_kl_warmup": 10})
    np.testing.assert_allclose(record(scaled, "kl_weight"), [0.5, 1.0, 1.0])
    other = fitted(toy, epochs=3, plan_kwargs={"n_steps_kl_warmup": 10, "min_kl_weight": 0.5})
    np.testing.assert_allclose(record(other, "kl_weight"), [0.75, 1.0, 1.0])


def test_a_small_weight_lets_the_latent_hold_more(toy):
    kl = [
        record(fitted(toy, epochs=10, lr=1e-2, plan_kwargs={"max_kl_weight": w}), "z_train")[-1]
        for w in (0.01, 1.0, 30.0)
    ]
    assert kl[0] > 1.5 * kl[1] > 1.5 * 1.5 * kl[2]


def test_reports_have_weight_one(toy):
    """A model trained with another weight reports the bound itself."""
    model = fitted(toy, plan_kwargs={"max_kl_weight": 0.1})
    terms = model.get_elbo(return_terms=True)
    assert terms["total"] == pytest.approx(terms["R"] + terms["Z"])


REFUSED = {
    "unknown": ({"learning_rate": 1e-3}, "no option 'learning_rate'.*lr"),
    "by step": ({"on_step": True}, "no option 'on_step'"),
    "of the loss": ({"use_labels": False}, "no option 'use_labels'"),
    "optimizer": ({"optimizer": "Adamm"}, "optimizer='Adamm' is not known.*'Adam'"),
    "rate": ({"lr": 0.0}, "lr must be a positive number"),
    "decay": ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    "two warm-ups": ({"n_epochs_kl_warmup": 2, "n_steps_kl_warmup": 9}, "Pass one of them"),
    "half epochs": ({"n_epochs_kl_warmup": 2.5}, "n_epochs_kl_warmup must be a positive whole"),
    "a begin without": ({"min_kl_weight": 0.1}, "min_kl_weight is where a warm-up begins"),
    "turned round": (
        {"n_epochs_kl_warmup": 2, "min_kl_weight": 2.0},
        "min_kl_weight=2.0 must lie between 0 and max_kl_weight=1.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_effect_is_refused(toy, case):
    options, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        fitted(toy, plan_kwargs=options)


def test_refused_together(toy):
    with pytest.raises(ValueError, match=r"lr=0.1, but plan_kwargs has lr=0.01"):
        fitted(toy, lr=0.1, plan_kwargs={"lr": 1e-2})
    with pytest.raises(ValueError, match="stages name their learning rates"):
        fitted(toy, epochs=None, stages=[(1e-3, 1)], plan_kwargs={"lr": 1e-2})
    with pytest.raises(ValueError, match="n_epochs_kl_warmup weighs the KL terms.*has none"):
        fitted(toy, mixvi.AE, plan_kwargs={"n_epochs_kl_warmup": 4})


def test_numbers_of_numpy(toy):
    """They train as Python's do, and messages show them as numbers."""
    plain = fitted(toy, epochs=2, train_size=0.5)
    theirs = fitted(
        toy,
        epochs=np.int64(2),
        batch_size=np.int32(100),
        train_size=np.float32(0.5),
        lr=np.float64(1e-3),
        plan_kwargs={"n_epochs_kl_warmup": None},
    )
    assert torch.equal(weights(plain), weights(theirs))
    fitted(toy, epochs=None, stages=[(np.float32(1e-3), np.int64(1))])
    for argument, value, said in (
        ("epochs", np.int64(0), "max_epochs must be a positive whole number, but is 0."),
        ("batch_size", np.int64(-1), "batch_size must be a positive whole number, but is -1."),
        ("train_size", np.float64(2.0), "train_size must be a share between 0 and 1, but is 2.0."),
        ("lr", np.float64(-0.5), "lr must be a positive number, but is -0.5."),
    ):
        with pytest.raises(ValueError, match=said):
            fitted(toy, **{argument: value})
