"""Disentangling objectives of the VAE of cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU

import mixvi
from mixvi.cells.objectives import OBJECTIVES

ZERO = {
    "beta_vae": {"beta": 1.0},
    "factor_vae": {"tc_weight": 0.0},
    "beta_tcvae": {"tc_weight": 0.0},
    "dip_vae": {"lambda_offdiag": 0.0, "lambda_diag": 0.0},
}


def loss_of(counts, name: str, options: dict):
    torch.manual_seed(0)
    model = mixvi.VAE(counts, n_latent=3, likelihood="nb", objective=name, objective_kwargs=options)
    tensors = {"X": torch.as_tensor(counts.X[:64].toarray()), "batch": torch.zeros(64, 1)}
    torch.manual_seed(1)
    return model.module, model.module(tensors)[2]


@pytest.mark.parametrize("name", ZERO)
def test_without_weight_each_is_the_vae_to_the_last_bit(counts, name):
    mixvi.VAE.setup_anndata(counts)
    plain = loss_of(counts, "vae", {})[1].loss
    assert torch.equal(loss_of(counts, name, ZERO[name])[1].loss, plain)


def test_discriminator_and_encoder_leave_each_other_alone(counts):
    mixvi.VAE.setup_anndata(counts)

    def gradient(weight: float, part: str) -> list[torch.Tensor]:
        module, output = loss_of(counts, "factor_vae", {"tc_weight": weight})
        parameters = list(getattr(module, part).parameters())
        return torch.autograd.grad(output.loss, parameters)

    for light, heavy in zip(
        gradient(0.0, "discriminator"), gradient(50.0, "discriminator"), strict=True
    ):
        assert light.any()
        torch.testing.assert_close(light, heavy)
    plain = torch.autograd.grad(
        (made := loss_of(counts, "vae", {}))[1].loss, list(made[0].encoder.parameters())
    )
    for ours, theirs in zip(gradient(0.0, "encoder"), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_models_train_save_and_load(counts, fit, name, tmp_path):
    setup = {"batch_key": "batch"}
    options = {"n_latent": 3, "likelihood": "nb", "objective": name}
    model = fit(mixvi.VAE, counts, epochs=2, setup=setup, **options)
    recorded = {
        "factor_vae": ["total_correlation", "discriminator_accuracy"],
        "beta_tcvae": ["mutual_information", "total_correlation", "dimension_kl"],
        "dip_vae": ["covariance_penalty"],
    }
    for term in recorded.get(name, []):
        assert np.isfinite(model.history[f"{term}_train"].to_numpy(float)).all()
    model.save(tmp_path / "model")
    loaded = mixvi.VAE.load(tmp_path / "model", counts)
    ours, theirs = (m.get_latent_representation() for m in (model, loaded))
    np.testing.assert_array_equal(ours, theirs)


def test_the_estimator_knows_how_many_cells_train(counts):
    mixvi.VAE.setup_anndata(counts)
    model = mixvi.VAE(counts, n_latent=2, likelihood="nb", objective="beta_tcvae", n_hidden=8)
    model.train(1, train_size=0.8, **CPU)
    assert model.module.n_training_cells == 160


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "tcvae"}, "objective='tcvae' is not known"),
        ({"objective": "dip_vae", "objective_kwargs": {"beta": 2}}, "has no option 'beta'"),
        (
            {"objective": "beta_vae", "objective_kwargs": {"beta": -1.0}},
            "beta must be a number of at least 0",
        ),
        ({"objective": "dip_vae", "n_latent": 1}, "n_latent must be 2 or more"),
    ],
)
def test_unusable_settings_are_named(counts, options, message):
    mixvi.VAE.setup_anndata(counts)
    with pytest.raises(ValueError, match=message):
        mixvi.VAE(counts, **options)
