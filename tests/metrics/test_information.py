from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from mixvi.metrics import (
    aggregate_kl,
    code_moments,
    empirical_information,
    encoder_entropy,
    latent_report,
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


def test_codes_that_tell_every_row_apart_have_all_the_information_there_is():
    """log n, where the Gaussian bound says more; and none where all posteriors are one."""
    rng = np.random.default_rng(0)
    means, small = rng.normal(size=(300, 4)), np.full((300, 4), 1e-10)
    assert empirical_information(means, small) == pytest.approx(np.log(300))
    assert mutual_information(means, small) > 6 * np.log(300)
    same = np.ones((300, 4)), np.full((300, 4), 0.3)
    assert empirical_information(*same) == pytest.approx(0.0, abs=1e-12)


def test_empirical_information_against_quadrature():
    """Of a mixture of five Gaussians on a line: its entropy less the mean of theirs."""
    means, variances = np.array([-2.0, -1.5, 0.0, 0.4, 3.0]), np.array([0.2, 0.5, 0.1, 1.0, 0.3])
    z = np.linspace(-12, 12, 40_001)
    each = np.exp(-0.5 * (z - means[:, None]) ** 2 / variances[:, None])
    each /= np.sqrt(2 * np.pi * variances)[:, None]
    mixture = each.mean(axis=0)
    entropy = -(mixture * np.log(np.maximum(mixture, 1e-300))).sum() * (z[1] - z[0])
    exact = entropy - 0.5 * np.log(2 * np.pi * np.e * variances).mean()
    # each row many times, so that there are many draws: the information is the same
    repeated = (np.tile(values, 2000)[:, None] for values in (means, variances))
    found = empirical_information(*repeated, n_draws=10_000)
    assert found == pytest.approx(exact, abs=0.03)


def test_empirical_information_of_a_linear_gaussian_channel():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(20_000, 2)), np.full((20_000, 2), 0.25)
    found = empirical_information(means, variances)
    assert found == pytest.approx(np.log(5.0), abs=0.06)
    assert found == empirical_information(means, variances)
    with pytest.raises(ValueError, match="n_draws must be a positive"):
        empirical_information(means, variances, n_draws=0)


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


def test_report_tells_used_dimensions_from_others():
    rng = np.random.default_rng(0)
    means = np.stack([rng.normal(size=20_000) * 0.8, np.zeros(20_000), 3 + np.zeros(20_000)], 1)
    variances = np.tile([0.36, 1.0, 1.0], (20_000, 1))
    report = latent_report(means, variances)
    assert list(report["active"]) == [True, False, True]
    assert report["kl"].sum() == pytest.approx(posterior_kl(means, variances))
    assert report["mean_variance"].to_numpy() == pytest.approx([0.64, 0, 0], abs=0.02)
    assert list(report["mean_sd"]) == pytest.approx([0.6, 1.0, 1.0])
    # the first two are N(0, 1), the third is away from it by its mean
    assert list(report["wasserstein"]) == pytest.approx([0.0, 0.0, 3.0], abs=0.03)
