"""Whatever ends training, the model is that of its last complete epoch, and usable."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import scanpy as sc
import scvi
import torch
from conftest import CPU, blobs
from lightning.pytorch.callbacks import Callback

import mixvi
from mixvi.core.training.plan import StagedTrainingPlan


class InEpoch(Callback):
    """Do something in the second minibatch of an epoch."""

    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch - 1, 1):
            self.act(pl_module.module)


def interrupt(module):
    signal.raise_signal(signal.SIGINT)


def fail(module):
    raise OSError("the disk is full")


def spoil(module):
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))


ENDS = {
    "interrupted": (interrupt, KeyboardInterrupt, "as it was after epoch 2 of 4"),
    "not a number": (spoil, FloatingPointError, "epoch 3.*reconstruction_loss.*after epoch 2.*lr"),
    "another error": (fail, OSError, "the disk is full"),
}


def build(adata, cls=mixvi.GMVAE, **setup):
    scvi.settings.seed = 0
    cls.setup_anndata(adata, **setup)
    return cls(adata, **({"n_components": 5} if cls is mixvi.GMVAE else {}), n_hidden=16)


def weights(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def assert_equal(ours, others):
    for name, value in ours.items():
        assert torch.equal(value, others[name]), name


TRAIN = CPU | {"batch_size": 100, "init_epochs": 2}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("bar", [True, False])
def test_the_last_complete_epoch_stays(toy, end, bar, capsys):
    act, kind, said = ENDS[end]
    whole = build(toy, labels_key="cell_type")
    whole.train(2, mode="unsupervised", **TRAIN)
    model = build(toy, labels_key="cell_type")
    train = TRAIN | {"enable_progress_bar": bar}
    with pytest.raises(kind, match=said):
        model.train(4, mode="unsupervised", callbacks=[InEpoch(3, act)], **train)
    assert_equal(weights(model), weights(whole))
    assert list(model.history["elbo_train"].index) == [0, 1]
    assert model.is_trained_ and not model.module.training
    assert model.train_indices.tolist() == list(range(500))
    np.testing.assert_array_equal(model.predict(), whole.predict())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    out = capsys.readouterr().out
    assert "Exception raised" not in out and "graceful" not in out
    model.train(1, mode="unsupervised", **TRAIN)
    assert list(model.history["elbo_train"].index) == [0, 1, 2]


def test_a_first_epoch_that_is_lost_leaves_an_untrained_model(toy):
    model = build(toy, mixvi.VAE)
    before = weights(model)
    with pytest.raises(FloatingPointError, match="epoch 1,.*before this call of train"):
        model.train(2, callbacks=[InEpoch(1, spoil)], batch_size=100, **CPU)
    assert_equal(weights(model), before)
    assert not model.is_trained_ and model.history is None and model.train_indices is None


def test_weights_that_the_last_minibatch_spoils(toy):
    """Every loss of the epoch was a number."""

    class Spoil(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            spoil(pl_module.module)

    model = build(toy, mixvi.VAE)
    before = weights(model)
    with pytest.raises(FloatingPointError, match="epoch 1, where weights became NaN"):
        model.train(1, callbacks=[Spoil()], **CPU)
    assert_equal(weights(model), before)


def test_labels_outlive_a_lost_run(counts):
    sc.pp.log1p(counts)
    model = build(counts, labels_key="kind")
    model.train(5, **TRAIN)
    labels = model.predict(level="label")
    with pytest.raises(FloatingPointError, match="before this call of train"):
        model.train(3, lr=1e12, gradient_clip_val=None, **TRAIN)
    assert model.predict(level="label").equals(labels)
    model.annotate()
    assert counts.obs["gmvae_confidence"].notna().all()


def test_labels_of_an_interrupted_model(toy):
    model = build(toy, labels_key="cell_type")
    with pytest.raises(KeyboardInterrupt, match="after epoch 12 of 40"):
        model.train(40, lr=1e-2, callbacks=[InEpoch(13, interrupt)], **TRAIN)
    labels = toy.obs["cell_type"].astype(str)
    assert (model.predict(level="label").astype(str) == labels).mean() > 0.9


def test_interrupted_while_components_start(toy, monkeypatch):
    model = build(toy)
    steps = []

    def on_train_batch_end(plan, *args):
        steps.append(plan)
        if len(steps) == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(StagedTrainingPlan, "on_train_batch_end", on_train_batch_end, raising=False)
    with pytest.raises(KeyboardInterrupt, match="after epoch 1 of 2 of its start, and not trained"):
        model.train(3, **TRAIN)
    assert not model.is_trained_ and model.history is None
    assert len(model.start_history["elbo_train"]) == 1


def test_images_of_the_last_complete_epoch():
    model_of = mixvi.images.GenerativeInference
    train = CPU | {"batch_size": 30, "lr": 1e-3}
    models = []
    for act in (None, interrupt, spoil):
        scvi.settings.seed = 0
        adata = blobs(90)
        model_of.setup_anndata(adata)
        options = {"backbone": "mlp", "backbone_kwargs": {"n_hidden": 8}}
        model = model_of(adata, "vae", n_latent=2, **options)
        if act is None:
            model.train(2, **train)
        else:
            with pytest.raises((KeyboardInterrupt, FloatingPointError), match="after epoch 2"):
                model.train(4, callbacks=[InEpoch(3, act)], **train)
        models.append(model)
    for model in models[1:]:
        assert_equal(weights(model), weights(models[0]))
        assert model.is_trained_ and len(model.history["train_loss"]) == 2
