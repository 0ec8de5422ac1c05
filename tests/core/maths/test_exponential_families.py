"""Families by natural parameters against torch.distributions, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from mixvi.core.maths.exponential_families import (
    FAMILIES,
    Bernoulli,
    Categorical,
    Gaussian,
    NegativeBinomial,
    Poisson,
    summed,
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# family, torch's distribution of the same raw parameters, and whether torch knows the KL
CASES = {
    "bernoulli": lambda raw: td.Bernoulli(logits=raw),
    "gaussian": lambda raw: td.Normal(raw[:, :3], (raw[:, 3:] / 2).exp()),
    "poisson": lambda raw: td.Poisson(raw.exp()),
    "negative_binomial": lambda raw: td.NegativeBinomial(1.0, logits=raw),
}


def pair(name: str) -> tuple:
    n = 3 * FAMILIES[name].n_parameters
    raws = numbers(4, n, seed=1), numbers(4, n, seed=2)
    return [FAMILIES[name].from_raw(raw) for raw in raws] + [CASES[name](raw) for raw in raws]


@pytest.mark.parametrize("name", CASES)
def test_density_moments_and_divergence_are_those_of_torch(name):
    p, q, torch_p, torch_q = pair(name)
    x = torch_p.sample()
    torch.testing.assert_close(p.log_prob(x), torch_p.log_prob(x))
    torch.testing.assert_close(p.mean, torch_p.mean)
    torch.testing.assert_close(p.variance, torch_p.variance)
    if name != "negative_binomial":
        torch.testing.assert_close(p.kl(q), td.kl_divergence(torch_p, torch_q))
    torch.testing.assert_close(p.kl(p), torch.zeros_like(p.kl(p)))


@pytest.mark.parametrize("name", ["gaussian", "negative_binomial"])
def test_divergence_is_the_mean_log_ratio(name):
    torch.manual_seed(0)
    p, q, torch_p, _ = pair(name)
    x = torch_p.sample((200_000,))
    ratio = (p.log_prob(x) - q.log_prob(x)).mean(0)
    torch.testing.assert_close(ratio, p.kl(q), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_statistics_are_the_gradient_of_the_log_normaliser(name):
    raw = numbers(4, 3 * FAMILIES[name].n_parameters)
    eta = [e.detach().requires_grad_() for e in FAMILIES[name].from_raw(raw).eta]
    family = FAMILIES[name](*eta)
    slopes = torch.autograd.grad(family.log_normaliser().sum(), eta)
    for slope, expected in zip(slopes, family.expected_statistics(), strict=True):
        torch.testing.assert_close(slope, expected)


def test_categorical_is_that_of_torch():
    a, b = numbers(5, 4, 2, seed=1), numbers(5, 4, 2, seed=2)
    p, q = Categorical(a), Categorical(b)
    torch_p, torch_q = (td.Categorical(logits=t.movedim(1, -1)) for t in (a, b))
    x = p.sample()
    assert torch.equal(x.sum(1), torch.ones(5, 2, dtype=torch.float64))
    torch.testing.assert_close(p.log_prob(x), torch_p.log_prob(x.argmax(1)))
    torch.testing.assert_close(p.kl(q), td.kl_divergence(torch_p, torch_q))
    merged = p.merge(q).mean
    torch.testing.assert_close(
        merged,
        (a.softmax(1) * b.softmax(1))
        / (a + b).exp().sum(1, True)
        * a.exp().sum(1, True)
        * b.exp().sum(1, True),
    )


def test_gaussians_merge_by_precision():
    p, q, torch_p, torch_q = pair("gaussian")
    weights = torch_p.variance.reciprocal(), torch_q.variance.reciprocal()
    merged = p.merge(q)
    torch.testing.assert_close(merged.variance, 1 / (weights[0] + weights[1]))
    mean = (torch_p.mean * weights[0] + torch_q.mean * weights[1]) * merged.variance
    torch.testing.assert_close(merged.mean, mean)


def test_bernoulli_variables_merge_by_adding_logits():
    p, q, *_ = pair("bernoulli")
    torch.testing.assert_close(p.merge(q).mean, (p.eta[0] + q.eta[0]).sigmoid())


def test_a_sum_out_of_the_domain_is_projected():
    flat = Gaussian(torch.ones(2), torch.tensor([-1.0, 3.0])).project()
    assert (flat.variance > 0).all()
    assert flat.variance[0] == 0.5


@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_moments_and_no_gradient(name):
    torch.manual_seed(0)
    raw = torch.full((100_000, FAMILIES[name].n_parameters), 0.3).requires_grad_()
    family = FAMILIES[name].from_raw(raw)
    x = family.sample()
    assert not x.requires_grad
    assert x.mean() == pytest.approx(family.mean[0].item(), rel=0.02)
    assert x.var() == pytest.approx(family.variance[0].item(), rel=0.05)


def test_only_gaussians_are_drawn_with_gradients():
    raw = torch.zeros(1, 2, requires_grad=True)
    assert Gaussian.from_raw(raw).rsample().requires_grad
    assert not hasattr(Bernoulli, "rsample")


def test_masked_sums_do_not_see_what_is_masked():
    mean = torch.zeros(2, 3, requires_grad=True)
    x = torch.tensor([[1.0, float("nan"), 2.0], [1e30, 0.0, 0.0]])
    mask = torch.tensor([[True, False, True], [False, True, True]])
    total = Gaussian.from_moments(mean, torch.ones(2, 3)).log_likelihood(x, mask)
    seen = td.Normal(0.0, 1.0).log_prob(torch.tensor([[1.0, 2.0], [0.0, 0.0]])).sum(1)
    torch.testing.assert_close(total, seen)
    total.sum().backward()
    assert torch.equal(mean.grad, torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(summed(torch.ones(2, 3), mask), torch.tensor([2.0, 2.0]))


def test_jensen_shannon_lies_between_nothing_and_log_two():
    sure, even = Bernoulli(numbers(3) * 0 + 50), Bernoulli(numbers(3) * 0)
    assert torch.allclose(even.jensen_shannon(even), even.eta[0] * 0, atol=1e-9)
    opposite = sure.jensen_shannon(Bernoulli(-sure.eta[0]))
    torch.testing.assert_close(opposite, torch.full_like(opposite, 2.0).log(), rtol=1e-4, atol=0)


def test_two_families_do_not_merge():
    with pytest.raises(ValueError, match="a Poisson are of two families"):
        Bernoulli(torch.zeros(1)).merge(Poisson(torch.zeros(1)))
    with pytest.raises(ValueError, match=r"dispersion 1\.0 and 2\.0"):
        NegativeBinomial(-torch.ones(1)).kl(NegativeBinomial(-torch.ones(1), 2.0))
