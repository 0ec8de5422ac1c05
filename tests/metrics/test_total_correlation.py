"""Total correlation against Gaussian codes of which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from mixvi import metrics

EXACT = -0.5 * np.log(1 - 0.8**2)


def correlated(n: int, sigma: float = 0.3, rho: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors whose mixture is N(0, I) with one correlation."""
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, rho], [rho, 1.0]]) - sigma**2 * np.eye(2)
    means = rng.multivariate_normal([0, 0], covariance, n)
    return means, np.full((n, 2), sigma**2)


def independent(n: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Five dimensions that tell something, and five that do not."""
    scales = np.array([sigma] * 5 + [1.0] * 5)
    means = np.random.default_rng(0).normal(size=(n, 10)) * np.sqrt(1 - scales**2)
    return means, np.broadcast_to(scales**2, means.shape)


def test_gaussian_codes_are_exact():
    assert EXACT == pytest.approx(0.511, abs=1e-3)
    assert metrics.gaussian_total_correlation(*correlated(50_000)) == pytest.approx(EXACT, abs=0.02)
    means, variances = correlated(1000)
    # a dimension that all rows share depends on nothing
    more = np.hstack([means, np.zeros((1000, 1))])
    assert metrics.gaussian_total_correlation(more) == pytest.approx(
        metrics.gaussian_total_correlation(means)
    )


@pytest.mark.parametrize(
    ("posteriors", "exact", "with_own", "without"),
    [
        (correlated(2_000), EXACT, 0.48, 0.49),
        (independent(2_000, 0.3), 0.0, 0.32, -0.52),
        (independent(2_000, 0.15), 0.0, 2.06, -4.91),
    ],
)
@pytest.mark.filterwarnings("ignore:The total correlation:UserWarning")
def test_two_estimates_have_the_truth_between_them(posteriors, exact, with_own, without):
    found = metrics.kl_decomposition(*posteriors, n_draws=400)
    bracket = found.total_correlation
    margin = 3 * bracket.standard_error
    assert bracket.lower - margin <= exact <= bracket.upper + margin
    # of other draws: codes and draws vary
    assert (bracket.upper, bracket.lower) == pytest.approx(
        (max(with_own, without), min(with_own, without)), abs=max(0.15, 4 * margin)
    )
    assert found.n_codes == 2_000 and found.n_draws == 400


@pytest.mark.filterwarnings("ignore:The total correlation:UserWarning")
def test_parts_add_up_to_the_kl():
    means, variances = independent(1_000, 0.3)
    found = metrics.kl_decomposition(means, variances, n_draws=400)
    kl = metrics.posterior_kl(means, variances)
    parts = (found.mutual_information, found.total_correlation, found.dimension_kl)
    # with the own code: lowest information, highest correlation
    total = parts[0].lower + parts[1].upper + parts[2].upper
    errors = sum(part.standard_error for part in parts)
    assert total == pytest.approx(kl, abs=3 * errors)


def test_wide_brackets_are_told():
    with pytest.warns(UserWarning, match="known to within"):
        metrics.kl_decomposition(*independent(500, 0.15), n_draws=100)


@pytest.mark.parametrize(("estimator", "biased"), [("weighted", 126.6), ("stratified", -2.7)])
def test_estimates_of_minibatches_have_their_known_bias(estimator, biased):
    found = metrics.minibatch_total_correlation(
        *independent(2_000, 0.15), estimator=estimator, n_data=737_280, n_batches=40
    )
    assert found == pytest.approx(biased, abs=1.5)


def test_the_discriminator_is_within_a_tenth():
    found = metrics.discriminator_total_correlation(
        *correlated(20_000), n_hidden=32, n_steps=800, batch_size=256, lr=3e-3
    )
    assert found == pytest.approx(EXACT, rel=0.1)


@pytest.mark.parametrize(
    ("means", "variances", "message"),
    [
        (np.ones((5, 1)), np.ones((5, 1)), "no total correlation"),
        (np.ones((5, 2)), np.zeros((5, 2)), "variances must be positive"),
        (np.ones((5, 2)), np.ones((4, 2)), "same shape"),
    ],
)
def test_unusable_codes_are_named(means, variances, message):
    with pytest.raises(ValueError, match=message):
        metrics.kl_decomposition(means, variances)
