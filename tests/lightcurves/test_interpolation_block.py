"""The interpolation-prediction block against its formulas, one reference time after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixvi.lightcurves.interpolation import INITIAL_RATE, TRANSIENT, InterpolationPrediction


def observations(n=3, n_channels=2, length=12):
    drawn = torch.Generator().manual_seed(0)
    t = torch.rand(n, n_channels, length, generator=drawn)
    x = torch.randn(n, n_channels, length, generator=drawn)
    valid = torch.rand(n, n_channels, length, generator=drawn) < 0.7
    return t, x, valid


def by_hand(block, t, x, valid):
    """Formulas of the paper in double precision, one number at a time."""
    n_channels, references = x.shape[0], block.references.double().numpy()
    rate, cross = block.rate.detach().double().numpy(), block.cross.detach().double().numpy()
    t, x, valid = t.double().numpy(), x.double().numpy(), valid.numpy()

    def weights(d, r, factor):
        distance = np.abs(r - t[d])
        if block.periodic:
            distance = np.minimum(distance, 1 - distance)
        return valid[d] * np.exp(-factor * rate[d] * distance**2)

    means = [x[d][valid[d]].mean() for d in range(n_channels)]
    rows = np.zeros((3, n_channels, len(references)))
    for k, r in enumerate(references):
        lam = [weights(d, r, 1).sum() for d in range(n_channels)]
        smooth = [(weights(d, r, 1) * x[d]).sum() / lam[d] for d in range(n_channels)]
        for d in range(n_channels):
            w = weights(d, r, TRANSIENT)
            others = sum(
                cross[d, e] * lam[e] * (smooth[e] - means[e]) for e in range(n_channels)
            ) / sum(lam)
            rows[:, d, k] = means[d] + others, lam[d], (w * x[d]).sum() / w.sum()
    rows[2] -= rows[0]
    return rows.reshape(3 * n_channels, -1)


@pytest.mark.parametrize("periodic", [False, True])
def test_outputs_are_those_of_the_formulas(periodic):
    block = InterpolationPrediction(2, n_references=7, periodic=periodic)
    with torch.no_grad():
        # wide enough that no weight underflows
        block.raw_rate.copy_(torch.tensor([5.0, 20.0]))
        block.cross.copy_(torch.tensor([[0.9, 0.3], [-0.2, 1.1]]))
    t, x, valid = observations()
    found = block(t, x, valid).detach()
    assert found.shape == (3, 6, 7)
    for i in range(3):
        np.testing.assert_allclose(found[i], by_hand(block, t[i], x[i], valid[i]), atol=2e-5)


def test_rates_start_at_kernels_a_thirty_second_wide():
    rate = InterpolationPrediction(2).rate
    torch.testing.assert_close(rate, torch.full((2,), INITIAL_RATE))


def test_padding_and_the_order_of_observations_change_nothing():
    block = InterpolationPrediction(2)
    t, x, valid = observations()
    expected = block(t, x, valid)
    order = torch.randperm(t.shape[-1])
    torch.testing.assert_close(block(t[..., order], x[..., order], valid[..., order]), expected)
    more = torch.full((3, 2, 5), torch.nan)
    padded = [torch.cat([v, w], -1) for v, w in ((t, more.nan_to_num(0.3)), (x, more))]
    padded.append(torch.cat([valid, torch.zeros(3, 2, 5, dtype=torch.bool)], -1))
    torch.testing.assert_close(block(*padded), expected)


def test_on_a_circle_phases_may_be_shifted_with_the_references():
    block = InterpolationPrediction(2, n_references=8, periodic=True)
    t, x, valid = observations()
    shifted = block((t + 0.25) % 1.0, x, valid)
    torch.testing.assert_close(shifted.roll(-2, -1), block(t, x, valid), rtol=1e-3, atol=1e-4)


def test_a_channel_without_observations_is_zero_and_gives_finite_gradients():
    block = InterpolationPrediction(2)
    t, x, valid = observations()
    valid[0, 1] = False
    found = block(t, x, valid)
    assert not found[0, 1::2].any()
    found.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


def test_channels_may_share_times():
    block = InterpolationPrediction(4)
    t, x, valid = observations()
    x = torch.cat([x, x.flip(1)], 1)
    apart = block(torch.cat([t, t], 1), x, torch.cat([valid, valid], 1))
    torch.testing.assert_close(block(t, x, valid), apart)


def test_gradients_are_those_of_finite_differences():
    block = InterpolationPrediction(2, n_references=3).double()
    t, x, valid = (v.double() if v.is_floating_point() else v for v in observations(n=2, length=4))

    def outputs(raw_rate, cross, x):
        own = {"raw_rate": raw_rate, "cross": cross}
        return torch.func.functional_call(block, own, (t, x, valid))

    inputs = torch.tensor([5.0, 20.0], dtype=torch.double), block.cross.detach(), x
    assert torch.autograd.gradcheck(outputs, [v.clone().requires_grad_() for v in inputs])


def test_intensities_may_be_left_out():
    t, x, valid = observations()
    block = InterpolationPrediction(2, intensity=False)
    assert block(t, x, valid).shape == (3, block.n_outputs, 64) == (3, 4, 64)
