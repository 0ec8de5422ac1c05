"""Loss terms against closed cases, torch.distributions and Monte Carlo, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from mixvi.images import divergences as d
from mixvi.images.likelihoods import encoder_loss, reconstruction_loss


@pytest.fixture
def moments():
    """A mean and a covariance far from N(0, I)."""
    torch.manual_seed(0)
    root = torch.randn(4, 4, dtype=torch.float64)
    return torch.randn(4, dtype=torch.float64), root @ root.T / 4 + 0.3 * torch.eye(4).double()


@pytest.fixture
def both(moments):
    prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    return MultivariateNormal(*moments), prior


def test_batch_moments():
    codes = torch.randn(50, 4, dtype=torch.float64)
    mean, covariance = d.batch_moments(codes)
    torch.testing.assert_close(mean, codes.mean(0))
    torch.testing.assert_close(covariance, torch.cov(codes.T))


def test_kls(moments, both):
    q, p = both
    # the jitter of 1e-5 on the covariance
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(d.kl_to_prior(*moments), kl_divergence(q, p), **close)
    torch.testing.assert_close(d.kl_from_prior(*moments), kl_divergence(p, q), **close)
    middle = 0.5 * (kl_divergence(q, p) + kl_divergence(p, q))
    torch.testing.assert_close(d.symmetric_kl(*moments), middle, **close)


def test_kl_against_monte_carlo(moments, both):
    q, p = both
    torch.manual_seed(1)
    z = q.sample((200_000,))
    monte_carlo = (q.log_prob(z) - p.log_prob(z)).mean()
    torch.testing.assert_close(d.kl_to_prior(*moments), monte_carlo, rtol=0.02, atol=0.0)


def test_mixture_js(moments, both):
    q, p = both
    mean, covariance = moments
    eye = torch.eye(4).double()
    middle = MultivariateNormal(mean / 2, 0.5 * (covariance + eye) + 0.25 * torch.outer(mean, mean))
    expected = 0.5 * (kl_divergence(q, middle) + kl_divergence(p, middle))
    torch.testing.assert_close(d.mixture_js(*moments), expected, rtol=1e-4, atol=1e-4)


def test_w2_of_commuting_gaussians():
    mean = torch.tensor([1.0, -2.0]).double()
    scales = torch.tensor([0.5, 3.0]).double()
    expected = (mean**2).sum() + ((scales - 1) ** 2).sum()
    torch.testing.assert_close(d.squared_w2(mean, torch.diag(scales**2)), expected)


def test_w2_by_matrix_root(moments):
    mean, covariance = moments
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    expected = mean @ mean + covariance.trace() + 4 - 2 * root.trace()
    torch.testing.assert_close(d.squared_w2(mean, covariance), expected)


def test_w2_is_the_cost_of_the_best_map(moments):
    """Sorting is the optimal map in one dimension."""
    torch.manual_seed(0)
    mean, deviation = 1.5, 0.4
    a = torch.randn(200_000).double().sort().values
    cost = ((mean + deviation * a) - a).square().mean()
    value = d.squared_w2(torch.tensor([mean]).double(), torch.tensor([[deviation**2]]).double())
    torch.testing.assert_close(value, cost, rtol=0.01, atol=0.0)


@pytest.mark.parametrize(
    "divergence",
    [d.kl_to_prior, d.kl_from_prior, d.symmetric_kl, d.mixture_js, d.squared_w2],
)
def test_divergences_vanish_at_the_prior_alone(divergence, moments):
    at_prior = divergence(torch.zeros(4).double(), torch.eye(4).double())
    assert abs(float(at_prior)) < 1e-4
    assert float(divergence(*moments)) > 0.1


@pytest.mark.parametrize(
    "divergence",
    [d.kl_to_prior, d.kl_from_prior, d.symmetric_kl, d.mixture_js, d.squared_w2],
)
def test_divergences_lead_codes_to_the_prior(divergence):
    """The toy of which the optimum is known: free codes."""
    torch.manual_seed(0)
    codes = (0.7 * torch.randn(64, 2) + 1.0).requires_grad_()
    adam = torch.optim.Adam([codes], lr=0.1)
    for _ in range(400):
        adam.zero_grad()
        divergence(*d.batch_moments(codes)).backward()
        adam.step()
    mean, covariance = d.batch_moments(codes.detach())
    torch.testing.assert_close(mean, torch.zeros(2).double(), atol=0.03, rtol=0.0)
    torch.testing.assert_close(covariance, torch.eye(2).double(), atol=0.05, rtol=0.0)


def test_codes_without_spread_stay_finite():
    codes = torch.zeros(10, 3, requires_grad=True)
    for divergence in (d.kl_to_prior, d.kl_from_prior, d.symmetric_kl, d.squared_w2):
        (gradient,) = torch.autograd.grad(divergence(*d.batch_moments(codes)), codes)
        assert torch.isfinite(gradient).all()


def test_mmd_by_its_definition():
    torch.manual_seed(0)
    a, b = torch.randn(7, 3), torch.randn(7, 3) + 1
    total = 0.0
    for i in range(7):
        for j in range(7):
            for sign, x, y in ((1, a, a), (1, b, b), (-2, a, b)):
                total += sign * math.exp(-float((x[i] - y[j]).square().sum()) / 9) / 49
    assert float(d.squared_mmd(a, b)) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_of_gaussians(kernel):
    """Zero between draws of one law; E exp(-|a - b|^2 / J^2) of Gaussians is closed."""
    torch.manual_seed(0)
    same = d.squared_mmd(torch.randn(800, 2), torch.randn(800, 2), kernel)
    other = d.squared_mmd(torch.randn(800, 2) + 2, torch.randn(800, 2), kernel)
    assert abs(float(same)) < 0.02 * (1 if kernel == "rbf" else 7)
    assert float(other) > 20 * abs(float(same))
    if kernel == "rbf":
        # differences are N(m, 2 I): E exp(-s |d|^2) = (1 + 4 s)^(-J/2) exp(-s |m|^2 / (1 + 4 s))
        s, squared_shift = 1 / 4, 8.0
        own = 1 / (1 + 4 * s)
        between = own * math.exp(-s * squared_shift / (1 + 4 * s))
        assert float(other) == pytest.approx(2 * own - 2 * between, rel=0.05)


def test_imq_is_the_sum_of_its_scales():
    a, b = torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])
    own = len(d.IMQ_SCALES)
    between = sum(4 * s / (4 * s + 2) for s in d.IMQ_SCALES)
    assert float(d.squared_mmd(a, b, "imq")) == pytest.approx(2 * own - 2 * between, rel=1e-5)


def test_reconstruction_is_a_gaussian_of_unit_variance():
    torch.manual_seed(0)
    x, x_hat = torch.randn(5, 2, 3, 4).double(), torch.randn(5, 2, 3, 4).double()
    nll = -Normal(x_hat, 1.0).log_prob(x).sum((1, 2, 3))
    expected = nll - 24 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(reconstruction_loss(x, x_hat), expected)
    torch.testing.assert_close(reconstruction_loss(x, x_hat, 1.0), 2 * expected)


def test_encoder_loss_is_a_gaussian_nll():
    torch.manual_seed(0)
    z, mu, log_var = (torch.randn(6, 4).double() for _ in range(3))
    expected = -Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(encoder_loss(z, mu, log_var), expected)


def test_encoder_loss_is_least_at_the_posterior():
    """z ~ N(0, 1) and x = z + noise: the least mean L_q is h(z | x)."""
    torch.manual_seed(0)
    z = torch.randn(100_000, 1).double()
    x = z + 0.5 * torch.randn(100_000, 1).double()
    variance = 0.25 / 1.25
    at_best = encoder_loss(z, x / 1.25, torch.full_like(x, math.log(variance))).mean()
    assert float(at_best) == pytest.approx(
        0.5 * math.log(2 * math.pi * math.e * variance), rel=0.02
    )
    for mu, v in ((x, variance), (x / 1.25, 2 * variance), (x / 1.25, 0.5 * variance)):
        assert encoder_loss(z, mu, torch.full_like(x, math.log(v))).mean() > at_best + 0.05
