"""Pure functions of the mixture terms against torch, closed identities and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from torch.distributions import Dirichlet, Independent, Normal, kl_divergence

from mixvi.core.maths import mixture

B, K, D = 6, 4, 3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_component_terms_match_torch():
    """Line 1, broadcast: one Gaussian a row against its own K components."""
    mu, lv, z = random(3, B, D)
    means, log_vars = random(2, B, K, D, seed=1)
    kl = mixture.component_kl(mu, lv, means, log_vars)
    density = mixture.component_log_prob(z, means, log_vars)
    assert kl.shape == density.shape == (B, K)
    for j in range(K):
        q = Independent(Normal(mu, (lv / 2).exp()), 1)
        p = Independent(Normal(means[:, j], (log_vars[:, j] / 2).exp()), 1)
        torch.testing.assert_close(kl[:, j], kl_divergence(q, p))
        torch.testing.assert_close(density[:, j], p.log_prob(z))


def test_reparameterise_has_the_named_moments():
    mu, lv = random(2, 1, D)
    torch.manual_seed(0)
    z = mixture.reparameterise(mu.expand(100_000, D), lv.expand(100_000, D))
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), lv[0].exp(), atol=0, rtol=0.03)


@pytest.mark.parametrize("alpha", [0.05, 1.0, 20.0])
def test_dirichlet_kl_gradient_in_single_precision(alpha):
    """Line 2: over a in [1e-2, 1e3], float32 gradients are those of float64."""
    a = torch.logspace(-2, 3, 40, dtype=torch.float64).view(10, 4)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = a.clone().to(dtype).requires_grad_()
        mixture.dirichlet_kl(leaf, alpha).sum().backward()
        gradients.append(leaf.grad.double())
    assert torch.isfinite(gradients[1]).all()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize("alpha", [0.05, 1.0, 20.0])
def test_dirichlet_kl_is_zero_at_the_prior_alone(k, alpha):
    """Line 2."""
    prior = torch.full((1, k), alpha, dtype=torch.float64)
    assert mixture.dirichlet_kl(prior, alpha).abs() < 1e-10
    if k > 1:
        assert mixture.dirichlet_kl(1.5 * prior, alpha) > 1e-4


@pytest.mark.parametrize(
    ("k", "alpha", "tolerance"),
    [(10, 0.233, 1e-3), (7, 0.247, 1e-3), (8, 0.242, 1e-3), (20, 0.207, 1e-3), (28, 0.196, 1e-3)],
)
def test_alpha_of_equal_costs(k, alpha, tolerance):
    """Line 3: where a one-hot and a uniform row cost the same."""
    uniform = torch.full((1, k), 1 / k, dtype=torch.float64)

    def excess(value):
        cost = mixture.collapsed_dirichlet(uniform, value)
        return float(cost + mixture.negative_entropy(uniform.log())) - math.log(k)

    assert brentq(excess, 0.05, 1.0) == pytest.approx(alpha, abs=tolerance)


def test_collapsed_tends_to_the_categorical_prior():
    """F_alpha(pi) goes to KL(pi || 1/K) as alpha grows, from above."""
    pi = torch.softmax(random(B, K), -1)
    plain = (pi * (pi * K).log()).sum(-1)
    bound = mixture.collapsed_dirichlet(pi, 1e6) + mixture.negative_entropy(pi.log())
    torch.testing.assert_close(bound, plain, atol=1e-4, rtol=0)
    assert (bound >= plain).all()


def test_collapsed_gradient_at_the_corners():
    """Finite in float32 for one-hot rows and a small alpha."""
    pi = torch.eye(K, requires_grad=True)
    mixture.collapsed_dirichlet(pi, 0.05).sum().backward()
    assert torch.isfinite(pi.grad).all()


@pytest.mark.parametrize("low", [0.05, 1.0])
def test_expected_log_is_the_mean_of_samples(low):
    """Line 4, against torch's own sampler."""
    a = low + random(2, K).abs()
    torch.manual_seed(0)
    draws = Dirichlet(a).sample((200_000,)).clamp_min(1e-300).log()
    spread = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - mixture.expected_log_dirichlet(a)).abs() < 5 * spread).all()


def test_sampled_log_dirichlet_stays_away_from_the_sampler_that_fails():
    """Below the floor samples still lie near corners, not at the barycentre; gradients flow."""
    torch.manual_seed(0)
    a = torch.full((2_000, K), 1e-6)
    d = mixture.sampled_log_dirichlet(a).exp()
    assert (d.amax(-1) > 0.9).float().mean() > 0.5
    torch.testing.assert_close(d.mean(0), torch.full((K,), 1 / K), atol=0.05, rtol=0)
    assert d.min() >= 0.99e-6 and d.max() <= 1.0
    wide = torch.logspace(-2, 3, 40).view(10, 4).requires_grad_()
    mixture.sampled_log_dirichlet(wide).sum().backward()
    assert torch.isfinite(wide.grad).all()


def test_negative_entropy_of_a_certain_row_is_zero():
    """From log-probabilities so low that pi underflows."""
    log_pi = torch.log_softmax(torch.tensor([[0.0, -400.0, -400.0]]), -1)
    assert float(mixture.negative_entropy(log_pi)) == 0.0
