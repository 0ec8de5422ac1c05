"""The prior against torch.distributions and Monte Carlo, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.images.likelihoods import bernoulli_loss

K, J = 3, 4


@pytest.fixture
def prior():
    """A prior far from its start, with unlike weights."""
    torch.manual_seed(0)
    prior = GaussianMixturePrior(K, J, floor=0.5, learn_weights=True).double()
    with torch.no_grad():
        for values in prior.parameters():
            values.normal_()
    return prior


def as_distribution(prior: GaussianMixturePrior) -> MixtureSameFamily:
    components = Independent(Normal(prior.mu, prior.sigma), 1)
    return MixtureSameFamily(Categorical(logits=prior.logits), components)


def test_start_of_the_thesis():
    prior = GaussianMixturePrior(10, 24, floor=0.5)
    torch.testing.assert_close(prior.mu @ prior.mu.T, torch.eye(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(prior.sigma, torch.full((10, 24), 0.5 + math.exp(0.5)))
    torch.testing.assert_close(prior.log_phi.exp(), torch.full((10,), 0.1))
    # weights that are fixed are no parameter
    assert {name for name, _ in prior.named_parameters()} == {"mu", "raw"}


def test_densities(prior):
    z = torch.randn(20, J).double()
    mixture = as_distribution(prior)
    torch.testing.assert_close(prior.log_joint(z).logsumexp(-1), mixture.log_prob(z))
    membership = prior.log_membership(z).exp()
    torch.testing.assert_close(membership.sum(-1), torch.ones(20).double())
    for k in range(K):
        joint = prior.log_phi[k] + Normal(prior.mu[k], prior.sigma[k]).log_prob(z).sum(-1)
        torch.testing.assert_close(membership[:, k], (joint - mixture.log_prob(z)).exp())
    assert (prior.assign(z) == membership.argmax(-1)).all()


def test_draws(prior):
    torch.manual_seed(1)
    z, y = prior.draw(200_000)
    torch.testing.assert_close(
        torch.bincount(y) / len(y), prior.log_phi.exp().float(), atol=0.01, rtol=0
    )
    for k in range(K):
        torch.testing.assert_close(z[y == k].mean(0), prior.mu[k], atol=0.05, rtol=0)
        torch.testing.assert_close(z[y == k].std(0), prior.sigma[k], atol=0.05, rtol=0)
    z, y = prior.draw(5, cluster=2)
    assert (y == 2).all()
    z.sum().backward()
    # reparameterised: a mean moves each of its draws
    torch.testing.assert_close(prior.mu.grad[2], torch.full((J,), 5.0).double())
    assert not prior.mu.grad[:2].any() and prior.raw.grad[2].all()


def test_negative_entropy(prior):
    """Of p(y) as it is, of p(z | y) for each dimension."""
    entropy_z = Normal(prior.mu, prior.sigma).entropy().mean(-1)
    phi = prior.log_phi.exp()
    expected = -Categorical(probs=phi).entropy() - (phi * entropy_z).sum()
    torch.testing.assert_close(prior.negative_entropy(), expected, rtol=1e-6, atol=1e-6)


def test_legacy_sigma(prior):
    ours = prior.sigma
    prior.legacy_sigma = True
    torch.testing.assert_close(prior.sigma, ours)
    torch.testing.assert_close(prior.log_var.exp(), prior.raw.exp() + 0.25)
    phi = prior.log_phi.exp()
    wide = 0.5 * (1 + math.log(2 * math.pi) + prior.raw).mean(-1)
    torch.testing.assert_close(
        prior.negative_entropy(), (phi * (prior.log_phi - wide)).sum(), rtol=1e-6, atol=1e-6
    )


def test_distance(prior):
    z = torch.randn(6, J).double()
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    spread = torch.stack([torch.diag(prior.sigma[k] ** 2) for k in y])
    shift = (z - prior.mu[y]).unsqueeze(-1)
    expected = (shift.mT @ torch.linalg.inv(spread) @ shift).flatten() / J
    torch.testing.assert_close(prior.distance(z, y), expected)


def test_start_at(prior):
    weights = torch.tensor([0.2, 0.3, 0.5]).double()
    means, variances = torch.randn(K, J).double(), 0.5 + torch.rand(K, J).double()
    variances[0, 0] = 1e-3
    prior.start_at(weights, means, variances)
    torch.testing.assert_close(prior.log_phi.exp(), weights)
    torch.testing.assert_close(prior.mu.data, means)
    torch.testing.assert_close(prior.sigma[1:], variances[1:].sqrt())
    # a scale below the floor starts just above it
    assert 0.5 < float(prior.sigma[0, 0].detach()) < 0.51


def test_bernoulli_loss():
    torch.manual_seed(0)
    x, x_hat = (2 * torch.rand(5, 1, 3, 3).double() - 1 for _ in range(2))
    p, q = (x + 1) / 2, (x_hat + 1) / 2
    expected = -(p * q.log() + (1 - p) * (1 - q).log()).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_loss(x, x_hat), expected)
    whole = torch.tensor([[-1.0, 1.0]])
    assert float(bernoulli_loss(whole, whole)) < 1e-4
    assert float(bernoulli_loss(whole, -whole)) > 20
