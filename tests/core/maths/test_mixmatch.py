"""MixMatch's operations: sharpening, mixing with and without gaps, means over views."""

from __future__ import annotations

import pytest
import torch

from mixvi.core.maths.mixmatch import (
    MixMatchSettings,
    draw_mixing,
    forward_interleaved,
    masked_mix_up,
    mix_up,
    ramp,
    sharpen,
    squared_error,
    valid_mean,
)


def simplex(*shape: int) -> torch.Tensor:
    """Distributions along the last axis."""
    return torch.rand(*shape).softmax(-1)


@pytest.mark.parametrize("dim", [-1, 1])
def test_sharpened_probabilities_by_hand(dim):
    p = torch.tensor([[0.6, 0.3, 0.1]])
    squares = p.square()
    torch.testing.assert_close(sharpen(p, 0.5, dim), squares / squares.sum())
    torch.testing.assert_close(sharpen(p, 1.0, dim), p)


def test_sharpening_to_the_end_leaves_one_class_and_stays_finite():
    p = torch.tensor([[0.5, 0.4, 0.1], [1.0, 0.0, 0.0], [0.0, 0.7, 0.3]])
    sharp = sharpen(p, 1e-3)
    torch.testing.assert_close(sharp, torch.eye(3)[[0, 0, 1]])
    torch.testing.assert_close(sharpen(p, 0.5).sum(-1), torch.ones(3))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.75])
def test_the_first_has_at_least_half(alpha):
    share = draw_mixing(2000, alpha)
    assert share.shape == (2000,) and 0.5 <= share.min() and share.max() <= 1
    assert (share == 1).all() == (alpha == 0)


def test_mix_up_has_one_share_an_example():
    first, second = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    mixed = mix_up(first, second, torch.tensor([0.75, 1.0]))
    assert (mixed[0] == 0.25).all() and (mixed[1] == 0).all()


def pair(by_date: bool = False):
    """Two series of 3 dates and 2 bands with their targets, and shares of the first."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 2, 5, 5)
    dates = (3,) if by_date else ()
    targets = simplex(2, 4, *dates, 5, 5, 3).movedim(-1, -3)
    return x, targets, draw_mixing(4, 0.75)


@pytest.mark.parametrize("by_date", [False, True])
def test_without_gaps_masked_mixing_is_plain(by_date):
    x, targets, share = pair(by_date)
    observed = torch.ones_like(x, dtype=torch.bool)
    has_target = torch.ones_like(targets[1].select(-3, 0), dtype=torch.bool)
    values, mixed = masked_mix_up(x, observed, targets, has_target, share)
    torch.testing.assert_close(values, mix_up(*x, share))
    torch.testing.assert_close(mixed, mix_up(*targets, share))


@pytest.mark.parametrize("of", ["first", "second", "target"])
@pytest.mark.parametrize("by_date", [False, True])
def test_where_either_has_a_gap_the_first_stays_to_the_bit(of, by_date):
    x, targets, share = pair(by_date)
    observed = torch.ones_like(x, dtype=torch.bool)
    has_target = torch.ones_like(targets[1].select(-3, 0), dtype=torch.bool)
    if of == "target":
        has_target[..., 1, 1] = False
    else:
        observed[0 if of == "first" else 1, ..., 1, 1] = False
    values, mixed = masked_mix_up(x, observed, targets, has_target, share)
    assert torch.equal(values[..., 1, 1], x[0][..., 1, 1])
    assert torch.equal(mixed[..., 1, 1], targets[0][..., 1, 1])
    torch.testing.assert_close(values[..., 2, 2], mix_up(*x, share)[..., 2, 2])


def test_targets_are_mixed_by_the_share_of_values_that_are():
    """By hand: two of the first's three dates meet a value of the second."""
    x, targets, _ = pair()
    share = torch.full((4,), 0.6)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[1, :, 0] = False
    has_target = torch.ones(4, 5, 5, dtype=torch.bool)
    _, mixed = masked_mix_up(x, observed, targets, has_target, share)
    expected = (1 - 0.4 * 2 / 3) * targets[0] + 0.4 * 2 / 3 * targets[1]
    torch.testing.assert_close(mixed, expected)


def test_means_are_of_the_views_that_see_a_pixel():
    p = simplex(2, 1, 1, 3, 4).movedim(-1, -3)
    valid = torch.tensor([[True, True, False], [True, False, False]])[:, None, None]
    mean, seen = valid_mean(p, valid)
    torch.testing.assert_close(mean[..., 0], p[..., 0].mean(0))
    torch.testing.assert_close(mean[..., 1], p[0][..., 1])
    assert (mean[..., 2] == 0).all()
    assert seen.flatten().tolist() == [True, True, False]


def test_examples_come_back_in_their_order_and_each_minibatch_has_all_kinds():
    kind = torch.tensor([0, 0, 1, 1, 1, 1])
    taken = []

    def forward(rows, part):
        taken.append((part, kind[rows].tolist()))
        return torch.arange(6)[rows, None]

    out = forward_interleaved(forward, 6, 3)
    assert out.flatten().tolist() == list(range(6))
    assert taken == [(0, [0, 1, 1]), (1, [0, 1, 1])]


def test_the_weight_rises_after_the_warm_up():
    settings = MixMatchSettings(lambda_u=2.0, alpha=0.3, rampup_steps=10, warmup_steps=5)
    assert [settings.weight(step) for step in (0, 5, 10, 15, 99)] == [0, 0, 1.0, 2.0, 2.0]
    assert ramp(5, 10) == 0.5


def test_squared_error_is_divided_by_the_classes():
    p, q = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert float(squared_error(p, q)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"lambda_u": -1.0}, "lambda_u"),
        ({"alpha": float("nan")}, "alpha"),
        ({"n_views": 0}, "n_views"),
        ({"rampup_steps": 0}, "rampup_steps"),
    ],
)
def test_unusable_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        MixMatchSettings(**({"lambda_u": 1.0, "alpha": 0.3} | settings))
