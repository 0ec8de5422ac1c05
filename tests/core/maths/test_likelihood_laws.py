"""Laws of every likelihood in the table."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tables import LIKELIHOODS

LIBRARY = 6.0
SUPPORTS = {
    "bernoulli": torch.tensor([0.0, 1.0]),
    "counts": torch.arange(0.0, 4000.0),
    "real": torch.linspace(-60, 60, 240_001, dtype=torch.float64),
}
BATCH = torch.zeros(1, dtype=torch.long)


def support(likelihood):
    """Values x may take, ``(n, 1)`` float64, and the width of a step."""
    kind = "counts" if likelihood.is_count else likelihood.name
    values = SUPPORTS.get(kind, SUPPORTS["real"]).double()
    return values[:, None], 1.0 if kind in ("counts", "bernoulli") else float(values[1] - values[0])


def one_gene(name, seed=0):
    """A likelihood of one gene in float64, with scales that are not those it starts with."""
    likelihood = LIKELIHOODS[name](1).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    raw = torch.randn(1, likelihood.n_outputs, generator=generator, dtype=torch.float64)
    return likelihood.eval(), raw


def densities(likelihood, raw):
    x, step = support(likelihood)
    rows = len(x)
    library = torch.full((rows, 1), LIBRARY, dtype=torch.float64)
    loss = likelihood.neg_log_prob(x, raw.expand(rows, -1), library, BATCH.expand(rows))
    return x.ravel(), (-loss).exp().detach() * step


DENSITIES = [name for name in LIKELIHOODS if name != "mse"]


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_sum_to_one(name):
    _, p = densities(*one_gene(name))
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_are_drawn_from_the_density(name):
    """The distance of their distribution functions is that of chance (Kolmogorov)."""
    likelihood, raw = one_gene(name)
    x, p = densities(likelihood, raw)
    n = 20_000
    torch.manual_seed(0)
    library = torch.full((n, 1), LIBRARY, dtype=torch.float64)
    with torch.no_grad():
        drawn = likelihood.sample(raw.expand(n, -1), library, BATCH.expand(n)).double().ravel()
    empirical = np.searchsorted(np.sort(drawn.numpy()), x.numpy() + 1e-9, side="right") / n
    distance = np.abs(empirical - p.cumsum(0).numpy()).max()
    # exceeded by one correct sampler in a thousand
    assert distance < 1.95 / math.sqrt(n)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_finite(name, size):
    likelihood = LIKELIHOODS[name](5)
    torch.manual_seed(0)
    raw = (size * torch.randn(4, likelihood.n_outputs)).requires_grad_()
    x = torch.poisson(torch.full((4, 5), 3.0))
    x = x.clamp_max(1) if likelihood.name == "bernoulli" else x
    batch = torch.tensor([0, 1, 0, 1]) if "batch" in name else torch.zeros(4, dtype=torch.long)
    loss = likelihood.neg_log_prob(x, raw, x.sum(1, keepdim=True), batch).sum()
    loss.backward()
    assert torch.isfinite(loss.detach())
    for value in (raw, *likelihood.parameters()):
        assert value.grad is None or torch.isfinite(value.grad).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_rows_are_independent(name):
    """Losses of permuted rows are the permuted losses, and those of a part are the part of them."""
    likelihood = LIKELIHOODS[name](5).double().eval()
    torch.manual_seed(0)
    raw = torch.randn(6, likelihood.n_outputs, dtype=torch.float64)
    x = torch.poisson(torch.full((6, 5), 3.0, dtype=torch.float64))
    x = x.clamp_max(1) if likelihood.name == "bernoulli" else x
    library, batch = x.sum(1, keepdim=True) + 1, torch.zeros(6, dtype=torch.long)
    loss = likelihood.neg_log_prob(x, raw, library, batch)
    for rows in (torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([4, 2])):
        part = likelihood.neg_log_prob(x[rows], raw[rows], library[rows], batch[rows])
        torch.testing.assert_close(part, loss[rows])
