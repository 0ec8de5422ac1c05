"""Objectives on Gaussian data with linear networks, where the least loss has a closed form."""

from __future__ import annotations

from math import e, log, pi

import numpy as np
import pytest
import torch
from torch import nn

from mixvi.images import objectives as o
from mixvi.images.backbones import Encoder
from mixvi.images.generative_inference import GenerativeInferenceModule

N_LATENT = 2
# variances of the data along their axes, of which two have a latent dimension
VARIANCES = np.array([6.0, 4.0, 0.5, 0.3])


class Constant(nn.Module):
    """The same output for every input."""

    def __init__(self, n_out: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(n_out))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(h), -1)


class LinearNetworks:
    """A backbone of linear maps, for images of one row."""

    def __init__(self, n_values: int):
        self.image_shape = (1, 1, n_values)
        self.n_latent = N_LATENT

    def encoder(self) -> Encoder:
        return Encoder(nn.Flatten(), nn.Linear(self.image_shape[2], N_LATENT), Constant(N_LATENT))

    def generator(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(N_LATENT, self.image_shape[2]), nn.Unflatten(1, self.image_shape)
        )

    def image_critic(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(self.image_shape[2], 1))


def gaussian_images(n: int = 256) -> torch.Tensor:
    """Images of which mean and covariance are exactly 0 and diag(VARIANCES), then turned."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, len(VARIANCES)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / n)).T * np.sqrt(VARIANCES)
    turn = np.linalg.qr(rng.normal(size=(len(VARIANCES),) * 2))[0]
    return torch.from_numpy((x @ turn)[:, None, None])


def trained(objective, x: torch.Tensor, step_name: str, n_steps: int = 1500):
    """The module after full-batch training by one step, and its mean loss over draws of z."""
    torch.manual_seed(0)
    module = GenerativeInferenceModule(LinearNetworks(x.shape[-1]), objective, (-1.0, 1.0))
    module = module.double()
    (step,) = [step for step in module.steps() if step.name == step_name]
    weights = [p for name in step.updates for p in getattr(module, name).parameters()]
    optimizer = torch.optim.Adam(weights, lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for _ in range(n_steps):
        optimizer.zero_grad()
        module.loss(step, x)[0].backward(inputs=weights)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return module, float(np.mean([float(module.loss(step, x)[0]) for _ in range(200)]))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_linear_vae_is_probabilistic_pca(beta):
    """Its least loss is minus the log likelihood (Tipping and Bishop 1999), of noise beta.

    With the Gaussian's constant left out, and times beta: the loss is rec + beta KL.
    """
    kept, lost = VARIANCES[:N_LATENT], VARIANCES[N_LATENT:]
    least = 0.5 * beta * (np.log(kept / beta) + 1.0).sum() + 0.5 * lost.sum()
    objective = o.VAE() if beta == 1.0 else o.BetaVAE(beta=beta)
    module, loss = trained(objective, gaussian_images(), "autoencoder")
    assert loss == pytest.approx(least, rel=0.02)
    assert loss > 0.995 * least
    # the posterior's variance, too: noise over the variance along the axis, in any rotation
    weight = module.generator[0].weight.detach()
    posterior = torch.linalg.inv(torch.eye(2).double() + weight.T @ weight / beta)
    found = float(module.encoder.log_var.value.detach().sum())
    assert found == pytest.approx(float(posterior.logdet()), abs=0.1)


@pytest.mark.parametrize("objective", [o.WVAE(), o.JSVAE(), o.IKLVAE(), o.FKLVAE()])
def test_linear_codes_of_matched_moments_are_pca(objective):
    """Linear codes can have the prior's moments at no cost: what PCA loses is left."""
    x = gaussian_images()
    module, loss = trained(objective, x, "autoencoder")
    assert loss == pytest.approx(0.5 * VARIANCES[N_LATENT:].sum(), rel=0.02)
    codes = module.encode(x)[0].detach()
    np.testing.assert_allclose(codes.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(np.cov(codes.T), np.eye(N_LATENT), atol=0.05)


def test_aim_learns_the_posterior_of_a_linear_generator():
    """x = z1 + z2 leaves each of z with variance 1/2: least L_q is log(pi e)."""
    torch.manual_seed(0)
    # as many draws as there are images, of which the encoder sees none
    x = torch.zeros(2048, 1, 1, 1)
    module = GenerativeInferenceModule(LinearNetworks(1), o.AIM(), (-1.0, 1.0))
    with torch.no_grad():
        module.generator[0].weight.fill_(1.0)
        module.generator[0].bias.zero_()
    (step,) = [one for one in module.steps() if one.name == "encoder"]
    optimizer = torch.optim.Adam(module.encoder.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        module.loss(step, x)[0].backward()
        optimizer.step()
    with torch.no_grad():
        loss = np.mean([float(module.loss(step, x)[0]) for _ in range(50)])
    assert loss == pytest.approx(log(pi * e), rel=0.01)
    np.testing.assert_allclose(module.encoder.mean.weight.detach(), 0.5, atol=0.03)
    np.testing.assert_allclose(module.encoder.log_var.value.detach().exp(), 0.5, atol=0.03)
