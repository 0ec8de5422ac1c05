"""Likelihoods against torch.distributions and scvi.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Normal, Poisson

from mixvi.core.maths.likelihoods import LIKELIHOODS, LOG_SIGMA_BOUNDS, make_likelihood
from mixvi.core.maths.networks import soft_clip

B, G = 9, 5
COUNTS = ("poisson", "nb", "zinb")


def example(name, seed=0):
    """x, raw outputs and library of a likelihood, float64."""
    torch.manual_seed(seed)
    likelihood = make_likelihood(name, G).double()
    raw = torch.randn(B, likelihood.n_outputs, dtype=torch.float64)
    x = torch.randn(B, G, dtype=torch.float64)
    if name in COUNTS:
        x = torch.poisson(4 * torch.rand(B, G, dtype=torch.float64))
    if name == "bernoulli":
        x = torch.rand(B, G, dtype=torch.float64)
    return likelihood, x, raw, x.sum(-1, keepdim=True).clamp_min(1.0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_duplicating_genes_doubles_the_loss(name):
    """Line 7: sums over genes; a doubled library keeps the rates of counts."""
    likelihood, x, raw, library = example(name)
    twice = make_likelihood(name, 2 * G).double()
    wide = torch.cat([part.repeat(1, 2) for part in raw.split(G, dim=-1)], dim=-1)
    once = likelihood.neg_log_prob(x, raw, library)
    assert once.shape == (B,)
    torch.testing.assert_close(twice.neg_log_prob(x.repeat(1, 2), wide, 2 * library), 2 * once)


def test_gaussian_is_torchs_normal():
    likelihood, x, raw, _ = example("gaussian")
    expected = -Normal(raw, torch.ones_like(raw)).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood.neg_log_prob(x, raw, None), expected)


def test_bernoulli_takes_grey_levels():
    """For pixels of 0 and 1 torch's Bernoulli; grey levels interpolate linearly."""
    likelihood, grey, raw, _ = example("bernoulli")
    binary = (grey > 0.5).double()
    expected = -Bernoulli(logits=raw).log_prob(binary).sum(-1)
    torch.testing.assert_close(likelihood.neg_log_prob(binary, raw, None), expected)
    p = torch.sigmoid(raw)
    expected = -(grey * p.log() + (1 - grey) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(likelihood.neg_log_prob(grey, raw, None), expected)
    torch.testing.assert_close(likelihood.mean(raw, None), p)


def test_shared_sigma_counts_once_per_gene():
    """Line 12: the constant of a shared scale is G log sigma, not log sigma."""
    likelihood = make_likelihood("gaussian_sigma", G, sigma="shared").double()
    likelihood.raw_log_sigma.data.fill_(0.7)
    log_sigma = float(soft_clip(torch.tensor(0.7), *LOG_SIGMA_BOUNDS))
    x = torch.zeros(B, G, dtype=torch.float64)
    loss = likelihood.neg_log_prob(x, x, None)
    expected = G * (log_sigma + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(loss, torch.full_like(loss, expected), rtol=1e-6, atol=1e-6)


def test_feature_sigma_is_one_scale_a_gene():
    """Line 12."""
    likelihood, x, raw, _ = example("gaussian_sigma")
    likelihood.raw_log_sigma.data = torch.linspace(-2, 2, G, dtype=torch.float64)
    scale = soft_clip(likelihood.raw_log_sigma.data, *LOG_SIGMA_BOUNDS).exp()
    expected = -Normal(raw, scale).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood.neg_log_prob(x, raw, None), expected)


def test_small_sigma_tends_to_the_autoencoder():
    """sigma^2 R goes to half the squared error (Kolb 2022, eq. 4.15 with its square restored)."""
    likelihood, x, raw, _ = example("gaussian_sigma")
    likelihood.raw_log_sigma.data.fill_(-4.0)
    variance = (2 * likelihood.log_sigma()).exp().mean()
    half = 0.5 * (x - raw).square().sum(-1)
    torch.testing.assert_close(
        variance * likelihood.neg_log_prob(x, raw, None), half, atol=0.02, rtol=0
    )


@pytest.mark.parametrize("sigma", ["shared", "feature"])
def test_learned_sigma_has_a_floor(sigma):
    likelihood = make_likelihood("gaussian_sigma", G, sigma=sigma).double()
    likelihood.raw_log_sigma.data.fill_(-1e3)
    assert float(likelihood.log_sigma().detach().min()) == pytest.approx(-6, abs=1e-4)


def test_analytic_sigma():
    """Line 12: floored at exp(-6); first batch replaces the running value; eval only reads it."""
    likelihood = make_likelihood("gaussian_sigma", G, sigma="analytic").double().train()
    x = torch.randn(B, G, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = likelihood.neg_log_prob(x, x, None)
    assert float(likelihood.log_sigma()) == -6.0
    expected = G * (-6.0 + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(loss, torch.full_like(loss, expected))

    likelihood = make_likelihood("gaussian_sigma", G, sigma="analytic").double().train()
    sizes = [math.log(2.0), math.log(3.0)]
    for size in sizes:
        likelihood.neg_log_prob(torch.zeros_like(x), torch.full_like(x, math.exp(size)), None)
    running = 0.9 * sizes[0] + 0.1 * sizes[1]
    assert float(likelihood.log_sigma()) == pytest.approx(running)
    likelihood.eval()
    scale = torch.tensor(running, dtype=torch.float64).exp()
    expected = -Normal(torch.zeros_like(x), scale).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood.neg_log_prob(x, torch.zeros_like(x), None), expected)
    assert float(likelihood.log_sigma()) == pytest.approx(running)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_at_another_library(name):
    """Densities of scvi and torch, at a size factor that is not the sum of the counts."""
    likelihood, x, raw, _ = example(name)
    library = torch.linspace(1, 40, B, dtype=torch.float64).view(-1, 1)
    rate = torch.softmax(raw[:, :G], -1) * library
    if name == "poisson":
        expected = Poisson(rate)
    else:
        likelihood.log_theta.data = torch.linspace(-2, 3, G, dtype=torch.float64).view(1, -1)
        theta = likelihood.log_theta.exp()
        expected = NegativeBinomial(mu=rate, theta=theta)
        if name == "zinb":
            expected = ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=raw[:, G:])
    loss = likelihood.neg_log_prob(x, raw, library)
    torch.testing.assert_close(loss, -expected.log_prob(x).sum(-1))
    torch.testing.assert_close(likelihood.mean(raw, library), expected.mean)
    torch.testing.assert_close(likelihood.rate(raw, library), rate)
    torch.testing.assert_close(likelihood.proportions(raw).sum(-1), torch.ones_like(library[:, 0]))


@pytest.mark.parametrize("name", COUNTS)
def test_rates_at_a_size_factor_sum_to_any_total(name):
    """As in scVI: softplus, whose rows sum to what they will, times the factor."""
    likelihood = make_likelihood(name, G, has_size_factor=True).double()
    _, x, raw, _ = example(name)
    factor = torch.linspace(0.5, 2, B, dtype=torch.float64).view(-1, 1)
    rate = factor * torch.nn.functional.softplus(raw[:, :G])
    torch.testing.assert_close(likelihood.rate(raw, factor), rate)
    torch.testing.assert_close(likelihood.proportions(raw), rate / factor)
    if name == "poisson":
        expected = Poisson(rate)
    else:
        options = {"mu": rate, "theta": torch.ones(1, G, dtype=torch.float64)}
        expected = NegativeBinomial(**options)
        if name == "zinb":
            expected = ZeroInflatedNegativeBinomial(**options, zi_logits=raw[:, G:])
    loss = likelihood.neg_log_prob(x, raw, factor)
    torch.testing.assert_close(loss, -expected.log_prob(x).sum(-1), rtol=1e-5, atol=1e-5)


def test_negative_binomial_by_its_formula():
    """The density written out (spec 7), zeros inflated by hand."""
    likelihood, x, raw, library = example("zinb")
    mu, theta = likelihood.rate(raw, library), likelihood.log_theta.exp()
    log_nb = (
        torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
        + theta * (theta / (theta + mu)).log()
        + x * (mu / (theta + mu)).log()
    )
    extra = torch.sigmoid(raw[:, G:])
    inflated = (extra * (x == 0) + (1 - extra) * log_nb.exp()).log()
    loss = likelihood.neg_log_prob(x, raw, library)
    torch.testing.assert_close(loss, -inflated.sum(-1), rtol=1e-5, atol=1e-5)


def test_dispersion_per_batch():
    """Each row reads the dispersion of its own batch."""
    torch.manual_seed(0)
    likelihood = make_likelihood("nb", G, dispersion="gene-batch", n_batch=2).double()
    likelihood.log_theta.data = torch.randn(2, G, dtype=torch.float64)
    _, x, raw, library = example("nb")
    batch = torch.arange(B) % 2
    loss = likelihood.neg_log_prob(x, raw, library, batch)
    rate = likelihood.mean(raw, library)
    for code in (0, 1):
        theta = likelihood.log_theta[code].exp()
        expected = -NegativeBinomial(mu=rate, theta=theta).log_prob(x).sum(-1)
        torch.testing.assert_close(loss[batch == code], expected[batch == code])


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_have_the_named_mean(name):
    likelihood, _, raw, library = example(name)
    raw, library = raw[:2], 10 * library[:2]
    torch.manual_seed(0)
    draws = torch.stack([likelihood.sample(raw, library) for _ in range(4_000)]).double()
    mean = likelihood.mean(raw, library)
    error = (draws.mean(0) - mean).abs() / (draws.std(0) / math.sqrt(len(draws)) + 1e-12)
    assert error.max() < 4.5
    if name == "mse":
        assert float(draws.var(0).mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("name", "function"), [("relu", torch.relu), ("softplus", None)])
def test_output_activation(name, function):
    likelihood = make_likelihood("gaussian", G, output_activation=name)
    raw, x = torch.randn(2, B, G)
    mean = (function or torch.nn.functional.softplus)(raw)
    torch.testing.assert_close(likelihood.mean(raw, None), mean)
    expected = -Normal(mean, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood.neg_log_prob(x, raw, None), expected)
