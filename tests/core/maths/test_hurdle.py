"""Zeros and positive values of non-negative expression."""

import pytest
import torch

from mixvi.core.maths.hurdle import Hurdle


@pytest.fixture
def hurdle():
    return Hurdle(torch.tensor([1e-6, 0.5, 3.0]), torch.tensor([0.1, 0.3, 0.2]))


def constant(*means, n=40_000):
    return torch.tensor(means).expand(n, -1)


def test_share_and_level_make_up_the_mean(hurdle):
    mean = torch.tensor([[1e-9, 0.0, 1e-5], [0.1, 0.1, 0.1], [5.0, 5.0, 50.0]])
    torch.testing.assert_close(hurdle.share(mean) * hurdle.level(mean), mean, atol=1e-6, rtol=1e-4)
    assert ((hurdle.share(mean) >= 0) & (hurdle.share(mean) <= 1)).all()
    assert (hurdle.level(mean) >= hurdle.unit * 0.999).all()


def test_means_below_zero_are_zero(hurdle):
    below = torch.full((1, 3), -0.4)
    assert (hurdle.share(below) == 0).all()
    assert (hurdle.sample(below) == 0).all()


def test_draws_have_the_mean_and_the_zeros(hurdle):
    mean = constant(2.0, 0.3, 1.5)
    x = hurdle.sample(mean)
    torch.testing.assert_close(x.mean(0), mean[0], rtol=0.03, atol=0)
    torch.testing.assert_close((x > 0).float().mean(0), hurdle.share(mean[0]), rtol=0.03, atol=0)
    positive = x[x[:, 2] > 0, 2]
    assert float(positive.std() / positive.mean()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("here", "there"), [((2.0, 0.1, 0.2), (3.0, 2.0, 4.0)), ((3.0, 2.0, 4.0), (2.0, 0.1, 0.2))]
)
def test_carrying_over_moves_the_mean_and_the_zeros(hurdle, here, there):
    before, after = constant(*here), constant(*there)
    x = hurdle.carry_over(hurdle.sample(before), before, after)
    assert (x >= 0).all()
    torch.testing.assert_close(x.mean(0), after[0], rtol=0.05, atol=0)
    torch.testing.assert_close((x > 0).float().mean(0), hurdle.share(after[0]), rtol=0.05, atol=0)


def test_what_does_not_change_stays(hurdle):
    mean = constant(2.0, 0.3, 1.5, n=500)
    x = hurdle.sample(mean)
    torch.testing.assert_close(hurdle.carry_over(x, mean, mean), x)
    # a decoder without an activation may expect less than zero
    below = -mean
    torch.testing.assert_close(hurdle.carry_over(x, below, below), x)


def test_a_cell_above_its_mean_stays_above(hurdle):
    x = torch.linspace(1.0, 3.0, 50).unsqueeze(-1).expand(-1, 3)
    for there in (1.0, 4.0):
        moved = hurdle.carry_over(x, torch.full_like(x, 2.0), torch.full_like(x, there))[:, 0]
        assert (moved.diff() > 0).all()


def test_fit_finds_unit_and_spread():
    torch.manual_seed(0)
    true = Hurdle(torch.tensor([0.2, 1.0, 3.0]), torch.tensor([0.4, 0.3, 0.2]))
    mean = torch.rand(20_000, 3) * 2
    fitted = Hurdle.fit(true.sample(mean), mean)
    torch.testing.assert_close(fitted.unit, true.unit, rtol=0.08, atol=0)
    torch.testing.assert_close(fitted.spread, true.spread, rtol=0.08, atol=0)


def test_data_without_zeros_get_none():
    mean = 4 + torch.rand(300, 2)
    x = mean + 0.1 * torch.randn(300, 2)
    moved = Hurdle.fit(x, mean).carry_over(x, mean, mean + 1)
    torch.testing.assert_close(moved, x + 1)


def test_genes_never_seen_are_no_fault():
    mean = torch.full((50, 2), 0.01)
    fitted = Hurdle.fit(torch.zeros(50, 2), mean)
    assert torch.isfinite(fitted.unit).all() and torch.isfinite(fitted.spread).all()
    assert (fitted.carry_over(torch.zeros(50, 2), mean, mean) == 0).all()


@pytest.mark.parametrize("power", [0.0, 0.6])
def test_spread_grows_with_the_level_as_it_does_in_the_data(power):
    torch.manual_seed(0)
    mean = 2 + 6 * torch.rand(5000, 4)
    x = (mean + 0.3 * mean**power * torch.randn(5000, 4)).clamp_min(0.01)
    fitted = Hurdle.fit(x, mean)
    assert float(fitted.power) == pytest.approx(power, abs=0.1)
    here, there = torch.full((5000, 4), 2.0), torch.full((5000, 4), 8.0)
    before = 2 + 0.3 * 2**power * torch.randn(5000, 4)
    moved = fitted.carry_over(before, here, there)
    torch.testing.assert_close(moved.mean(0), there[0], rtol=0.02, atol=0)
    assert float((moved.std(0) / before.std(0)).mean()) == pytest.approx(4**power, rel=0.15)
