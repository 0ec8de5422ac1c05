from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from mixvi.metrics import (
    aggregate_kl,
    code_moments,
    encoder_entropy,
    mutual_information,
    posterior_kl,
)


@pytest.fixture
def posterior():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    return rng.normal(size=(400, 3)) @ root + 1.0, rng.uniform(0.1, 2.0, (400, 3))


def test_a_linear_gaussian_channel():
    """x ~ N(0, 1), z = x + noise of variance 0.25: I = 0.5 log 5 a dimension."""
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(200_000, 2)), np.full((200_000, 2), 0.25)
    assert mutual_information(means, variances) == pytest.approx(np.log(5.0), rel=0.01)
    # without the noise: h of the means less h of the noise
    assert mutual_information(means, variances, "means") == pytest.approx(np.log(4.0), rel=0.01)


def test_entropy_and_kl_of_gaussians(posterior):
    means, variances = posterior
    entropies = [multivariate_normal(m, np.diag(v)).entropy() for m, v in zip(*posterior)]  # noqa: B905
    assert encoder_entropy(variances) == pytest.approx(np.mean(entropies))
    mean, covariance = code_moments(means, variances, "means")
    z = np.random.default_rng(1).multivariate_normal(mean, covariance, 200_000)
    ratio = multivariate_normal(mean, covariance).logpdf(z) - multivariate_normal(
        np.zeros(3)
    ).logpdf(z)
    assert aggregate_kl(means, variances, "means") == pytest.approx(ratio.mean(), rel=0.02)
    assert posterior_kl(np.zeros((5, 2)), np.ones((5, 2))) == 0.0
    assert posterior_kl(np.ones((5, 2)), np.ones((5, 2))) == pytest.approx(1.0)


def test_both_forms_of_the_estimate_agree(posterior):
    """Astorga 2021, eqs. 5.10 and 5.11."""
    difference = posterior_kl(*posterior) - aggregate_kl(*posterior)
    assert mutual_information(*posterior) == pytest.approx(difference, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_total_moments_are_never_negative(seed):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(30, 4)) * 10 ** rng.uniform(-4, 1)
    variances = 10 ** rng.uniform(-4, 2, (30, 4))
    assert mutual_information(means, variances) >= 0.0
    assert mutual_information(means, variances, "means") <= mutual_information(means, variances)


def test_means_alone_may_be_negative():
    rng = np.random.default_rng(0)
    means, variances = 0.01 * rng.normal(size=(50, 3)), np.ones((50, 3))
    assert mutual_information(means, variances, "means") < -10
    assert mutual_information(means, variances) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("means", "variances", "moments", "message"),
    [
        (np.ones((5, 2)), np.ones((5, 3)), "total", "same shape"),
        (np.ones((5, 2)), -np.ones((5, 2)), "total", "must be positive"),
        (np.ones(5), np.ones(5), "total", "must be a finite matrix"),
        (np.ones((3, 4)), np.ones((3, 4)), "total", "no full covariance"),
        (np.ones((5, 2)), np.ones((5, 2)), "mean", "moments='mean' is not known"),
    ],
)
def test_bad_input(means, variances, moments, message):
    with pytest.raises(ValueError, match=message):
        mutual_information(means, variances, moments)
