"""A cell's own deviation survives a change of the decoder's mean."""

import pytest
import torch

from mixvi.core.maths.likelihoods import make_likelihood

N = 20_000


def raws(n_outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, n_outputs, generator=generator), torch.randn(
        1, n_outputs, generator=generator
    )


@pytest.mark.parametrize("name", ["gaussian", "mse", "gaussian_sigma"])
def test_differences_are_added(name):
    like = make_likelihood(name, 5)
    here, there = raws(5)
    x = torch.randn(8, 5)
    assert torch.allclose(like.carry_over(x, here, there, None), x + there - here)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_never_negative_and_right_in_the_mean(activation):
    like = make_likelihood("mse", 6, output_activation=activation)
    here, there = raws(6)
    mean, target = like.mean(here, None), like.mean(there, None)
    # cells scatter around their mean without ever being negative
    x = mean * torch.distributions.Gamma(2.0, 2.0).sample((N, 6))
    moved = like.carry_over(x, here, there, None)
    assert (moved >= 0).all() and torch.isfinite(moved).all()
    assert torch.allclose(moved.mean(0), target[0], atol=0.05)


def test_grey_levels_stay_in_their_range():
    like = make_likelihood("bernoulli", 6)
    here, there = 3 * raws(6)[0], 3 * raws(6)[1]
    here[0, 0], there[0, 0] = 60.0, 60.0
    x = torch.rand(100, 6)
    moved = like.carry_over(x, here, there, None)
    assert ((moved >= 0) & (moved <= 1)).all()
    assert torch.allclose(like.carry_over(x[:, 1:], here[:, 1:], here[:, 1:], None), x[:, 1:])


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_counts_follow_the_target_distribution(name):
    """Draws from the likelihood here, carried over, are distributed as draws from it there."""
    torch.manual_seed(0)
    like = make_likelihood(name, 6)
    here, there = raws(like.n_outputs)
    if name == "zinb":
        # the dropout rates of the cells themselves
        there[:, 6:] = here[:, 6:]
    library = torch.full((N, 1), 40.0)
    x = like.sample(here.expand(N, -1), library)
    moved = like.carry_over(x, here.expand(N, -1), there.expand(N, -1), library)
    direct = like.sample(there.expand(N, -1), library)
    assert torch.equal(moved, moved.round()) and (moved >= 0).all()
    assert torch.allclose(moved.mean(0), direct.mean(0), rtol=0.06, atol=0.05)
    assert torch.allclose(moved.std(0), direct.std(0), rtol=0.06, atol=0.05)
    kept = torch.corrcoef(torch.stack([x[:, 0], moved[:, 0]]))[0, 1]
    assert kept > 0.2


def test_nothing_changes_without_a_change():
    like = make_likelihood("nb", 4)
    here = raws(4)[0]
    x = torch.poisson(torch.full((50, 4), 3.0))
    assert torch.equal(like.carry_over(x, here, here, torch.full((50, 1), 12.0)), x)


def test_vanishing_rates_are_no_trouble():
    like = make_likelihood("nb", 2)
    here, there = torch.tensor([[0.0, -200.0]]), torch.tensor([[0.0, -300.0]])
    moved = like.carry_over(torch.tensor([[3.0, 1.0]]), here, there, torch.tensor([[4.0]]))
    assert torch.isfinite(moved).all()
