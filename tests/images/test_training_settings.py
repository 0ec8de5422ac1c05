"""Settings of ``train`` that cannot be: a sentence before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import CPU, bars

from mixvi.images import MPCC, ConditionalMPCC, GenerativeInference, Objective, Step, VaDE
from mixvi.images.backbones import BACKBONES, MLPBackbone
from mixvi.images.objective import OBJECTIVES

SMALL = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 16, "n_layers": 1}}


def built(objective="vae", cls=GenerativeInference, n: int = 64, **options):
    adata = AnnData(obsm={"image": bars(n)})
    cls.setup_anndata(adata)
    if cls is GenerativeInference:
        return cls(adata, objective, **(SMALL | options))
    return cls(adata, 3, **(SMALL | options))


def refuses(model, message: str, *args, error=ValueError, **settings) -> None:
    """Nothing has changed when it says so."""
    before = {name: values.clone() for name, values in model.module.state_dict().items()}
    with pytest.raises(error, match=message):
        model.train(*args, **(CPU | settings))
    assert not model.is_trained_ and not model.history and not model.start_history
    for name, values in model.module.state_dict().items():
        assert torch.equal(values, before[name]), name


@pytest.mark.parametrize(
    ("objective", "train", "message"),
    [
        ("wvae", {"batch_size": 3}, "at least 4, more than n_latent"),
        ("vae", {"batch_size": 1}, "batch_size=1"),
        ("vae", {"lr": 0.0}, "lr must be a positive number"),
        ("vae", {"lr": {"encoder": 1e-3}}, "no learning rate for generator"),
        ("vae", {"lr": {"encoder": 1e-3, "critic": 1e-3}}, "no option 'critic'"),
        ("vae", {"lr": {"encodr": 1e-3}}, "no option 'encodr'. Did you mean 'encoder'"),
        ("vae", {"lr": 1e-3, "plan_kwargs": {"lr": 2e-3}}, "but plan_kwargs has lr=0.002"),
        ("vae", {"plan_kwargs": {"beta": (0, 1)}}, "no option 'beta'. Did you mean 'betas'"),
        ("vae", {"plan_kwargs": {"n_epochs_kl_warmup": 5}}, "no option 'n_epochs_kl_warmup'"),
        ("vae", {"plan_kwargs": {"lr_decay": 0}}, "lr_decay must be a positive number"),
        ("vae", {"resume": True}, "resume=True needs checkpoint_dir"),
        ("vae", {"accelerator": "gpu"}, "accelerator='gpu'.*cannot be had here.*'auto'"),
        ("vae", {"early_stopping_patience": 3}, "no effect without early_stopping"),
        ("vae", {"early_stopping": True, "train_size": 1.0}, "no rows are left to validate on"),
        ("vae", {"enable_checkpointing": True}, "no rows are left to validate on"),
    ],
)
def test_bad_settings(objective, train, message):
    if train.get("accelerator") == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refuses(built(objective), message, 1, **train)


def test_misspelt_arguments():
    refuses(
        built(), "no argument 'batchsize'. Did you mean 'batch_size'", error=TypeError, batchsize=3
    )


def test_the_rate_may_be_among_the_options_of_the_plan():
    """As in scvi-tools."""
    weights = []
    for settings in ({"lr": 5e-3}, {"plan_kwargs": {"lr": 5e-3}}):
        torch.manual_seed(0)
        model = built()
        model.train(2, **settings, **CPU)
        weights.append(model.module.state_dict())
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name])


@pytest.mark.parametrize("objective", ["aim", "ali", "alice", "veegan", "infogan"])
def test_epochs_in_which_the_generators_turn_would_not_come(objective):
    """Thirty images are one minibatch an epoch, and the generator steps at each fourth."""
    model = built(objective, n=30)
    refuses(model, "3 epoch.s. of 1 minibatch.* generator .*not be trained. Pass 4 epochs", 3)
    model.train(4, **CPU)
    assert model.is_trained_


def test_no_epochs_in_which_every_step_is_taken_are_the_default():
    model = built("aim", n=30)
    assert model._default_epochs(1) == 300_000


def test_teaching_in_which_the_generators_turn_would_not_come():
    model = built(cls=MPCC, n=30)
    refuses(model, "2 epoch.s. of 1 minibatch", 8, init="leiden", teach_epochs=2)


def test_early_stopping_by_the_validation_loss():
    model = built("vae", n=96)
    settings = {"early_stopping_patience": 2, "early_stopping_min_delta": 1e6}
    model.train(50, early_stopping=True, train_size=0.8, **settings, **CPU)
    assert len(model.history["validation_loss"]) == 3
    assert len(model.validation_indices) == 19


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_games_have_no_loss_to_stop_by(objective):
    model = built(objective)
    if len(model.module.steps()) == 1:
        model.train(2, early_stopping=True, batch_size=16, **CPU)
        assert "validation_loss" in model.history
        return
    refuses(model, "early_stopping: this model has several losses", 8, early_stopping=True)


def test_games_stop_by_a_record_that_is_named():
    model = built("aim", objective_kwargs={"d_steps": 1})
    model.train(
        20,
        early_stopping=True,
        early_stopping_monitor="latent_nll_validation",
        early_stopping_min_delta=1e6,
        early_stopping_patience=2,
        **CPU,
    )
    assert len(model.history["latent_nll_validation"]) == 3


def test_early_stopping_of_models_with_clusters():
    refuses(built(cls=MPCC), "several losses", 8, early_stopping=True)
    model = built(cls=VaDE)
    stop = {"early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    model.train(9, early_stopping=True, pretrain_epochs=2, n_init=1, **stop, **CPU)
    assert len(model.history["validation_loss"]) == 2
    assert len(model.start_history["pretraining_loss_train"]) == 2


@pytest.mark.parametrize("cls", [VaDE, MPCC])
@pytest.mark.parametrize("n_kinds", [1, 2])
def test_fewer_different_images_than_clusters(cls, n_kinds):
    adata = AnnData(obsm={"image": bars(40)[np.arange(40) % n_kinds]})
    cls.setup_anndata(adata)
    model = cls(adata, 3, **SMALL)
    refuses(model, f"n_clusters=3, but there are only {n_kinds} different image", 8)


def test_the_rate_of_the_prior():
    """It is taken beside a dict, too; two different ones are one too many."""
    model = built(cls=MPCC, d_steps=1)
    networks = {"image_critic": 1e-12, "encoder": 1e-12, "generator": 1e-12}
    moved = {}
    for prior_lr in (1e-12, 1e-2):
        before = model.module.prior.mu.detach().clone()
        model.train(1, lr=networks, prior_lr=prior_lr, **CPU)
        moved[prior_lr] = float((model.module.prior.mu.detach() - before).abs().max())
    assert moved[1e-12] < 1e-9 and moved[1e-2] > 1e-3
    refuses(
        built(cls=MPCC),
        "prior_lr=0.1, but lr has 0.2 for 'prior'",
        8,
        lr=networks | {"prior": 0.2},
        prior_lr=0.1,
    )
    refuses(built(cls=MPCC), "no option 'priorr'", 8, lr=networks | {"priorr": 0.2})
    refuses(built(cls=MPCC), "prior_lr must be a positive number", 8, prior_lr=-1.0)


def test_conditional_mpcc_has_the_rate_of_the_prior():
    adata = AnnData(obsm={"image": bars(64)})
    adata.obs["kind"] = np.resize(["a", "b"], 64)
    ConditionalMPCC.setup_anndata(adata, labels_key="kind")
    model = ConditionalMPCC(adata, conditioning="class_norm", d_steps=1, **SMALL)
    model.train(1, prior_lr=1e-2, **CPU)
    refuses(
        ConditionalMPCC(adata, conditioning="class_norm", **SMALL),
        "several losses",
        8,
        early_stopping=True,
    )


@dataclass(frozen=True, kw_only=True)
class OwnObjective(Objective):
    """An objective as a user might write it."""

    updates: object = ("encoder", "generator")
    returns: str = "both"

    def steps(self):
        return (Step("own", self.updates, self.own),)

    def own(self, nets, x):
        error = (x - nets.decode(nets.encode(x)[0])).square().mean()
        return {"both": (error, {"error": error}), "loss": error, "list": [error, {}]}[self.returns]


@pytest.fixture
def own_objective():
    """The class under a name of its own, for one test."""
    OwnObjective.name = "own"
    OBJECTIVES["own"] = OwnObjective
    yield OwnObjective
    del OBJECTIVES["own"]


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        (("generater",), "step 'own' updates 'generater', which is no network.*'generator'"),
        ("generator", r"as a tuple, such as \('encoder',\), but has 'generator'"),
        ((), "must name the networks"),
    ],
)
def test_steps_of_an_objective_of_ones_own(updates, message, own_objective):
    with pytest.raises(ValueError, match=message):
        built(own_objective(updates=updates))


@pytest.mark.parametrize("returns", ["loss", "list"])
def test_a_loss_without_terms(returns, own_objective):
    model = built(own_objective(returns=returns))
    refuses(model, "step 'own' must return the loss and its terms by name", 1)


def test_a_class_of_ones_own_does_not_take_the_name_of_another():
    with pytest.raises(ValueError, match=r"objective 'vae' is there already \(mixvi.images.obj"):

        class VAE(Objective):
            name = "vae"

    with pytest.raises(ValueError, match=r"backbone 'mlp' is there already \(mixvi.images.back"):

        class MLP(MLPBackbone):
            name = "mlp"

    class Nameless(MLPBackbone):
        """Its parent keeps the name."""

    assert BACKBONES["mlp"] is MLPBackbone
