"""The decoder's identities, against a dense float64 process and against gpytorch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributions as td

from mixvi.lightcurves.gaussian_process import (
    JITTER,
    KERNELS,
    VARIANCE_FLOOR,
    CholeskySolve,
    GaussianProcessDecoder,
    Periodic,
    SquaredExponential,
    expected_log_likelihood,
    induction_times,
)


def curves(kind="squared_exponential", n=3, n_bands=2, n_points=24, n_times=50, dtype=torch.double):
    """Random induction points of several curves and bands, and times to decode at."""
    drawn = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=drawn, dtype=torch.double).to(dtype)

    return SimpleNamespace(
        kernel=KERNELS[kind](0.5 + uniform(n, 1), (0.3 + 0.7 * uniform(n, 1)) / n_points),
        points=induction_times(n_points, kind == "periodic").to(dtype),
        values=2 * uniform(n, n_bands, n_points) - 1,
        noise=0.02 + 0.2 * uniform(n, n_bands, n_points),
        t=uniform(n, n_bands, n_times),
    )


def decoded(of: SimpleNamespace, t=None):
    return GaussianProcessDecoder(of.kernel, of.points, of.values, of.noise)(
        of.t if t is None else t
    )


def covariance(kind: str, t: np.ndarray, u: np.ndarray, scale: float, length: float) -> np.ndarray:
    """By the formula of each kernel, one pair at a time."""
    distance = t[:, None] - u[None, :]
    if kind == "periodic":
        return scale**2 * np.exp(-(np.sin(np.pi * distance) ** 2) / (2 * np.pi**2 * length**2))
    return scale**2 * np.exp(-(distance**2) / (2 * length**2))


def dense(kind: str, of: SimpleNamespace, i: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of one band of one curve by numpy's solver, in double precision."""
    scale, length = float(of.kernel.scale[i, 0]), float(of.kernel.length[i, 0])
    points, t = of.points.numpy(), of.t[i, b].numpy()
    noise = of.noise[i, b].numpy() ** 2 + JITTER * scale**2
    among = covariance(kind, points, points, scale, length) + np.diag(noise)
    across = covariance(kind, t, points, scale, length)
    whole = covariance(kind, t, t, scale, length) - across @ np.linalg.solve(among, across.T)
    return across @ np.linalg.solve(among, of.values[i, b].numpy()), np.diag(whole)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_all_curves_at_once_are_each_curve_densely(kind, dtype):
    mean, variance = decoded(curves(kind, dtype=dtype))
    for i, b in np.ndindex(3, 2):
        expected = dense(kind, curves(kind), i, b)
        tolerance = {"rtol": 0, "atol": 1e-10 if dtype == torch.double else 2e-4}
        np.testing.assert_allclose(mean[i, b].double(), expected[0], **tolerance)
        np.testing.assert_allclose(
            variance[i, b].double(), expected[1].clip(VARIANCE_FLOOR), **tolerance
        )


def test_all_curves_at_once_are_gpytorch():
    gpytorch = pytest.importorskip("gpytorch", reason="gpytorch, to compare with, is not installed")
    of = curves()
    mean, variance = decoded(of)
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    for i, b in np.ndindex(3, 2):
        kernel.outputscale = of.kernel.variance[i, 0]
        kernel.base_kernel.lengthscale = of.kernel.length[i, 0]
        among, across = kernel(of.points), kernel(of.t[i, b], of.points).to_dense()
        added = of.noise[i, b].square() + JITTER * of.kernel.variance[i, 0]
        among = among.add_diagonal(added)
        torch.testing.assert_close(mean[i, b], across @ among.solve(of.values[i, b]))
        taken = (across * among.solve(across.T).T).sum(-1)
        torch.testing.assert_close(
            variance[i, b], (of.kernel.variance[i, 0] - taken).clamp_min(VARIANCE_FLOOR)
        )


def test_near_the_diagonal_the_periodic_kernel_is_the_squared_exponential():
    scale, length = torch.tensor(1.5), torch.tensor(0.02)
    t = torch.tensor([0.5, 0.505, 0.53], dtype=torch.double)
    near = SquaredExponential(scale, length)(t, t)
    torch.testing.assert_close(Periodic(scale, length)(t, t), near, rtol=0.02, atol=0)


def test_the_periodic_decoder_has_one_value_at_both_ends():
    of = curves("periodic")
    ends = torch.tensor([0.0, 1.0], dtype=torch.double)
    mean, variance = decoded(of, ends)
    torch.testing.assert_close(mean[..., 0], mean[..., 1])
    torch.testing.assert_close(variance[..., 0], variance[..., 1])


def test_a_noiseless_point_is_met_without_variance():
    of = curves()
    of.noise = torch.zeros_like(of.noise)
    mean, variance = decoded(of, of.points)
    torch.testing.assert_close(mean, of.values, rtol=0, atol=1e-3)
    assert variance.max() <= VARIANCE_FLOOR


def test_far_from_all_points_the_prior_is_left():
    of = curves()
    of.kernel = SquaredExponential(of.kernel.scale, torch.full_like(of.kernel.scale, 1e-3))
    between = (of.points[:-1] + of.points[1:]) / 2
    mean, variance = decoded(of, between)
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(variance, of.kernel.variance[..., None].expand_as(variance))


def test_the_order_of_times_does_not_matter():
    of = curves()
    order = torch.randperm(of.t.shape[-1])
    (mean, variance), there = decoded(of), decoded(of, of.t[..., order])
    torch.testing.assert_close(there[0], mean[..., order])
    torch.testing.assert_close(there[1], variance[..., order])


def test_gradients_are_those_of_finite_differences():
    of = curves(n=2, n_bands=1, n_points=4, n_times=3)

    def decoder(scale, length, values, noise):
        kernel = SquaredExponential(scale, length)
        return GaussianProcessDecoder(kernel, of.points, values, noise)(of.t)

    inputs = of.kernel.scale, of.kernel.length, of.values, of.noise
    assert torch.autograd.gradcheck(decoder, [v.clone().requires_grad_() for v in inputs])


def test_whitening_is_the_inverse_of_the_factor():
    root = torch.randn(2, 5, 5, dtype=torch.double)
    solve = CholeskySolve(root @ root.mT + torch.eye(5, dtype=torch.double))
    columns = torch.randn(2, 5, 3, dtype=torch.double)
    torch.testing.assert_close(solve.factor @ solve.whiten(columns), columns)


def observed(n=2, n_times=7):
    drawn = torch.Generator().manual_seed(1)
    x, mean = torch.randn(2, n, 1, n_times, generator=drawn, dtype=torch.double)
    error, sd = 0.1 + torch.rand(2, n, 1, n_times, generator=drawn, dtype=torch.double)
    valid = torch.rand(n, 1, n_times, generator=drawn) < 0.7
    return x, error, mean, sd.square(), valid


def test_the_likelihood_is_the_mean_over_draws_of_the_datum():
    x, error, mean, variance, valid = observed()
    draws = td.Normal(x, error).sample((200_000,))
    each = td.Normal(mean, variance.sqrt()).log_prob(draws).mean(0)
    expected = (each * valid).flatten(1).sum(1)
    found = expected_log_likelihood(x, error, mean, variance, valid)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0.05)


def test_the_best_variance_is_that_of_error_and_residual():
    x, error, mean, _, valid = observed()
    best = error.square() + (x - mean).square()
    at_best = expected_log_likelihood(x, error, mean, best, valid)
    for factor in (0.9, 1.1):
        assert (expected_log_likelihood(x, error, mean, factor * best, valid) < at_best).all()


def test_padding_may_hold_anything():
    x, error, mean, variance, valid = observed()
    expected = expected_log_likelihood(x, error, mean, variance, valid)
    x = torch.where(valid, x, torch.nan)
    torch.testing.assert_close(expected_log_likelihood(x, error, mean, variance, valid), expected)


def test_phases_of_the_induction_points():
    torch.testing.assert_close(induction_times(24)[[0, -1]], torch.tensor([1 / 25, 24 / 25]))
    assert induction_times(4, periodic=True).tolist() == [0.0, 0.25, 0.5, 0.75]
