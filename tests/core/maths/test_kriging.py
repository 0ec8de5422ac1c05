"""Weights by which known places foretell the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from mixvi.core.maths.kriging import _covariance, kriging_weights

EVERY = torch.ones(6, dtype=torch.bool)


def two_groups(n_values=200, noise=0.0):
    """Places in two groups, whose values are alike within each."""
    rng = np.random.default_rng(0)
    places = np.array([[0, 0], [0.1, 0], [0, 0.1], [5, 5], [5.1, 5], [5, 5.1]])
    values = np.repeat(rng.normal(size=(2, n_values)), 3, axis=0)
    values += rng.normal(size=values.shape) * np.sqrt(noise)
    return torch.as_tensor(places), torch.as_tensor(values)


def test_rows_sum_to_one_and_nothing_tells_of_itself():
    places, values = two_groups(noise=0.1)
    known = EVERY.clone()
    known[5] = False
    weights = kriging_weights(places, values, 0.1, known)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-5)
    assert not weights.diagonal().any() and not weights[:, 5].any()


def test_those_of_the_own_group_count():
    places, values = two_groups(noise=0.1)
    weights = kriging_weights(places, values, 0.1, EVERY)
    for place in range(6):
        own = [i for i in range(6) if i // 3 == place // 3 and i != place]
        assert weights[place, own].sum() > 0.9
    np.testing.assert_allclose(weights[0, 1:3], 0.5, atol=0.06)


def test_where_likeness_says_nothing_all_count_alike():
    rng = np.random.default_rng(1)
    places = torch.as_tensor(rng.normal(size=(6, 2)))
    values = torch.as_tensor(rng.normal(size=(6, 500)))
    weights = kriging_weights(places, values, 1.0, EVERY)
    np.testing.assert_allclose(weights + 0.2 * torch.eye(6), 0.2, atol=0.08)


@pytest.mark.parametrize(("n_known", "sums"), [(0, (0, 0)), (1, (0, 1)), (2, (1, 1))])
def test_few_known_places(n_known, sums):
    places, values = two_groups()
    weights = kriging_weights(places, values, 0.0, torch.arange(6) < n_known)
    np.testing.assert_allclose(weights.sum(1)[[0, 5]], sums, rtol=1e-5)


def test_weights_solve_the_equations_of_ordinary_kriging():
    places, values = two_groups(noise=0.1)
    weights = kriging_weights(places, values, 0.1, EVERY)
    squared = torch.cdist(places, places).square()
    covariance = _covariance(squared, values, 0.1, torch.arange(6)).numpy()
    system = np.ones((6, 6))
    system[:5, :5] = covariance[1:, 1:] + 0.1 * np.eye(5)
    system[5, 5] = 0.0
    solved = np.linalg.solve(system, np.append(covariance[0, 1:], 1.0))
    np.testing.assert_allclose(weights[0, 1:], solved[:5], atol=1e-4)


def test_the_likeliest_covariance_is_taken():
    """Scipy's density of contrasts, in which the mean has no part."""
    places, values = two_groups(noise=0.1)
    squared = torch.cdist(places, places).square()
    found = _covariance(squared, values, 0.1, torch.arange(6)).numpy()
    contrasts = np.linalg.svd(np.ones((1, 6)))[2][1:]

    def likelihood(covariance):
        own = contrasts @ (covariance + 0.1 * np.eye(6)) @ contrasts.T
        return multivariate_normal(cov=own).logpdf((contrasts @ values.numpy()).T).sum()

    size = found[0, 0]
    for other in (3 * found, found / 3, size * (found / size) ** 4, size * (found / size) ** 0.01):
        assert likelihood(other) < likelihood(found)
