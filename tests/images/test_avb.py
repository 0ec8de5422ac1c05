"""AVB's estimate of the KL where the KL is known."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrize import is_parametrized

from mixvi.core.maths.mixture import reparameterise, standard_gaussian_kl_per_dim
from mixvi.images.backbones import make_backbone
from mixvi.images.generative_inference import GenerativeInferenceModule
from mixvi.images.objectives import AVB
from mixvi.images.objectives.autoencoder import Codes

# two values an image, of which codes are linear
X = torch.randn(512, 1, 1, 2, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True)
class GivenPosterior(AVB):
    """q(z | x) = N(slope x, scale^2), or with the same moments and two modes a dimension."""

    slope: float = 1.0
    scale: float = 1.0
    two_modes: bool = False

    def codes_of(self, nets, x):
        mu = self.slope * x.flatten(1)
        log_var = torch.full_like(mu, 2 * log(self.scale))
        if not self.two_modes:
            return Codes(mu, log_var, reparameterise(mu, log_var))
        noise = 0.95 * torch.randn_like(mu).sign() + sqrt(1 - 0.95**2) * torch.randn_like(mu)
        return Codes(mu, log_var, mu + self.scale * noise)


def gaussian_kl(objective: GivenPosterior) -> float:
    mu, log_var, _ = objective.codes_of(None, X)
    return float(standard_gaussian_kl_per_dim(mu, log_var).sum(1).mean())


def excess_of_two_modes() -> float:
    """KL of the two-mode noise to N(0, 1), by quadrature."""
    u = np.linspace(-4, 4, 4001)
    spread = 1 - 0.95**2
    density = sum(np.exp(-((u - m) ** 2) / (2 * spread)) for m in (-0.95, 0.95))
    density /= 2 * sqrt(2 * pi * spread)
    ratio = np.log(np.maximum(density, 1e-300)) + 0.5 * u**2 + 0.5 * log(2 * pi)
    return float((density * ratio).sum() * (u[1] - u[0]))


def estimate(objective: AVB, n_steps: int = 600, critics: dict | None = None) -> float:
    """``kl_estimate`` after the critic's training."""
    torch.manual_seed(0)
    backbone = make_backbone("mlp", (1, 1, 2), 2, {"n_hidden": 64})
    module = GenerativeInferenceModule(backbone, objective, (-1.0, 1.0))
    for name, critic in (critics or {}).items():
        setattr(module, name, critic)
    (step,) = [step for step in module.steps() if step.name == "critic"]
    weights = [p for name in step.updates for p in getattr(module, name).parameters()]
    adam = torch.optim.Adam(weights, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_steps)
    for _ in range(n_steps):
        adam.zero_grad()
        module.loss(step, X)[0].backward(inputs=weights)
        adam.step()
        schedule.step()
    module.eval()
    with torch.no_grad():
        restrictions = [
            objective.restriction(module, X, objective.codes_of(module, X))[1] for _ in range(40)
        ]
    return float(torch.stack(restrictions).mean())


def test_many_nats_of_a_linear_gaussian_posterior():
    objective = GivenPosterior(slope=8.0, scale=exp(-4.0))
    expected = gaussian_kl(objective)
    assert expected > 60
    assert estimate(objective) == pytest.approx(expected, rel=0.01)


def test_the_critic_finds_what_a_gaussian_of_the_same_moments_lacks():
    objective = GivenPosterior(slope=2.0, scale=0.3, two_modes=True)
    excess = 2 * excess_of_two_modes()
    assert excess > 0.9
    assert estimate(objective) - gaussian_kl(objective) == pytest.approx(excess, rel=0.1)


def test_without_adaptive_contrast_the_critic_finds_all_and_spectral_norm_would_forbid_it():
    objective = GivenPosterior(slope=1.0, scale=0.2, adaptive_contrast=False)
    expected = gaussian_kl(objective)
    assert expected == pytest.approx(2 * (-0.5 + 0.02 + 0.5 + log(5)), rel=0.05)
    assert estimate(objective, 1500) == pytest.approx(expected, rel=0.1)
    bounded = make_backbone("mlp", (1, 1, 2), 2, {"n_hidden": 64}).pair_critics()
    assert estimate(objective, 1500, bounded) < 0.6 * expected


@pytest.mark.parametrize("backbone", ["resnet", "conv", "mlp"])
def test_no_layer_of_the_critic_has_a_spectral_norm(backbone):
    options = {"n_hidden": 8} if backbone == "mlp" else {"n_channels": 2}
    critics = AVB().make_networks(make_backbone(backbone, (1, 16, 16), 3, options))
    assert not any(is_parametrized(m) for critic in critics.values() for m in critic.modules())
    assert all(p.requires_grad for critic in critics.values() for p in critic.parameters())


def test_a_fitted_model_estimates_its_own_kl(fit_images):
    model = fit_images("avb", epochs=60, train={"lr": 2e-3, "batch_size": 32})
    found = model.history["kl_estimate_train"]["kl_estimate_train"].astype(float).iloc[-5:].mean()
    exact = model.get_elbo(return_terms=True)["Z"]
    assert exact > 3
    assert found == pytest.approx(exact, rel=0.1)
