"""Bounded outputs, covariates in the networks, prior tables."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mixvi.core.maths.networks import (
    MLP,
    ConditionalPrior,
    DirichletHead,
    Dropout,
    bounded_gaussian,
    soft_clip,
)


@pytest.mark.parametrize(("low", "high"), [(-5.0, 5.0), (-9.0, 1.0), (-6.0, 8.0)])
def test_soft_clip(low, high):
    """Line 14: range, strictly monotone, near identity inside, usable gradient at the bounds."""
    t = torch.linspace(low - 10, high + 10, 2001, dtype=torch.float64, requires_grad=True)
    y = soft_clip(t, low, high)
    # the lower bound is high - softplus(high - low), a hair below low
    slack = math.exp(low - high)
    assert y.min() >= low - slack and y.max() <= high
    assert (y.diff() > 0).all()
    middle = torch.tensor((low + high) / 2, dtype=torch.float64)
    assert float(soft_clip(middle, low, high) - middle) == pytest.approx(0, abs=0.02)
    (gradient,) = torch.autograd.grad(y.sum(), t)
    assert (gradient > 0).all() and (gradient <= 1).all()
    at_bounds = torch.tensor([low, high], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_clip(at_bounds, low, high).sum(), at_bounds)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_clip_far_outside(dtype):
    """Line 14: finite values and gradients at +-1e3, in training precision too."""
    far = torch.tensor([-1e3, 1e3], dtype=dtype, requires_grad=True)
    y = soft_clip(far, -9.0, 1.0)
    torch.testing.assert_close(y, torch.tensor([-9.0, 1.0], dtype=dtype), atol=1e-4, rtol=0)
    y.sum().backward()
    assert torch.isfinite(far.grad).all()


def test_bounded_gaussian():
    """Means first, then log-variances; a zero logit is log-variance -0.313; std in 0.011-1.65."""
    raw = torch.tensor([[2.0, -100.0, 0.0, 100.0], [0.0, 100.0, -100.0, 0.0]])
    mean, log_var = bounded_gaussian(raw)
    expected = torch.tensor([[1.9523, -5.0], [0.0, 5.0]])
    torch.testing.assert_close(mean, expected, atol=1e-3, rtol=0)
    expected = torch.tensor([[-0.313, 1.0], [-9.0, -0.313]])
    torch.testing.assert_close(log_var, expected, atol=1e-3, rtol=0)
    std = (log_var / 2).exp()
    assert float(std.min()) == pytest.approx(0.0111, abs=1e-4)
    assert float(std.max()) == pytest.approx(1.6487, abs=1e-4)


def test_covariates_are_concatenated():
    """The first layer is one Linear of [x | c]."""
    torch.manual_seed(0)
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    network = MLP(3, 4, n_covariates=2, n_layers=0)
    joined = nn.Linear(5, 4)
    joined.weight.data = torch.cat([network.linears[0].weight, network.covariates[0].weight], 1)
    joined.bias.data = network.linears[0].bias.data
    torch.testing.assert_close(network(x, c), joined(torch.cat([x, c], 1)))


@pytest.mark.parametrize(("inject", "n"), [(False, 1), (True, 3)])
def test_injected_covariates_enter_every_layer(inject, n):
    network = MLP(3, 4, n_covariates=2, n_layers=2, n_hidden=8, inject=inject).eval()
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    assert len(network.covariates) == n
    for layer in network.covariates:
        before = network(x, c)
        layer.weight.data += 1.0
        assert not torch.allclose(before, network(x, c))


def test_layers_stand_in_the_order_of_the_thesis():
    """Linear, dropout, batch norm, LeakyReLU(0.01), and a Linear at the end."""
    network = MLP(3, 4, n_layers=1, n_hidden=8, dropout_rate=0.3)
    kinds = [type(layer) for layer in network.hidden[0]]
    assert kinds == [Dropout, nn.BatchNorm1d, nn.LeakyReLU]
    assert network.hidden[0][0].p == 0.3 and network.hidden[0][2].negative_slope == 0.01
    assert [(m.in_features, m.out_features) for m in network.linears] == [(3, 8), (8, 4)]
    assert not any(
        isinstance(m, nn.BatchNorm1d) for m in MLP(3, 4, n_layers=1, batch_norm=False).modules()
    )


def test_dirichlet_head_range():
    """Within (1e-2, 1e3) for any output of its network; softplus in between."""
    network = MLP(1, 1, n_layers=0).double()
    nn.init.ones_(network.linears[0].weight)
    head = DirichletHead(network)
    raw = torch.tensor([-1e4, -3.0, 0.0, 5.0, 1e5], dtype=torch.float64).view(-1, 1)
    a = head(raw).detach()
    assert a.min() >= 1e-2 and a.max() <= 1e3
    torch.testing.assert_close(
        a[1:4], 1e-2 + nn.functional.softplus(raw[1:4]), rtol=1e-4, atol=1e-4
    )
    assert float(a[0]) == pytest.approx(1e-2) and float(a[-1]) == pytest.approx(1e3)


def test_conditional_prior_is_a_bounded_table():
    prior = ConditionalPrior(3, 2)
    codes = torch.tensor([2, 0, 2])
    mean, log_var = prior(codes)
    expected = bounded_gaussian(prior.table.weight[codes])
    torch.testing.assert_close(mean, expected[0])
    torch.testing.assert_close(log_var, expected[1])
    torch.testing.assert_close(log_var, torch.full((3, 2), -0.313), atol=1e-3, rtol=0)
    assert not torch.allclose(mean[0], mean[1])
