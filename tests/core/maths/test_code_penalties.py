"""What disentangling VAEs penalise: check values, identities and known biases."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch.distributions import Normal

from mixvi.core.maths.disentanglement import (
    ESTIMATORS,
    CodeDiscriminator,
    aggregate_log_density,
    annealed,
    code_covariance,
    covariance_penalty,
    kl_terms,
    log_stratified_weights,
    pairwise_log_density,
    permute_codes,
)
from mixvi.core.maths.mixture import (
    gaussian_log_prob,
    reparameterise,
    standard_gaussian_kl_per_dim,
)

B, D, N = 64, 10, 737_280


@pytest.fixture
def codes():
    torch.manual_seed(0)
    mu, log_var = torch.randn(2, B, D, dtype=torch.float64)
    return reparameterise(mu, log_var), mu, log_var


def test_the_kl_has_the_check_value():
    sigma = torch.tensor([0.5, 2.0])
    kl = standard_gaussian_kl_per_dim(torch.tensor([0.5, -1.0]), 2.0 * sigma.log())
    assert float(kl.sum()) == pytest.approx(1.75)


def test_pairwise_densities_are_those_of_torch(codes):
    z, mu, log_var = codes
    expected = Normal(mu, (0.5 * log_var).exp()).log_prob(z[:, None])
    torch.testing.assert_close(pairwise_log_density(z, mu, log_var), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_terms_add_up_to_the_monte_carlo_kl(codes, estimator):
    z, mu, log_var = codes
    zero = torch.zeros_like(z)
    kl = gaussian_log_prob(z, mu, log_var) - gaussian_log_prob(z, zero, zero)
    torch.testing.assert_close(sum(kl_terms(z, mu, log_var, N, estimator)), kl.mean())


def test_weighted_sampling_is_the_formula_and_its_constant_is_no_news(codes):
    z, mu, log_var = codes
    joint, marginals = aggregate_log_density(z, mu, log_var, N)
    i = 5
    by_row = [Normal(mu[j], (0.5 * log_var[j]).exp()).log_prob(z[i]) for j in range(B)]
    expected = torch.stack([d.sum() for d in by_row]).exp().sum().log() - math.log(N * B)
    torch.testing.assert_close(joint[i], expected)
    # without constants the estimate is never positive, and (D - 1) log(N B) below the other
    unnormalised = joint + math.log(N * B) - (marginals + math.log(N * B)).sum(-1)
    assert (unnormalised <= 0).all()
    tc = kl_terms(z, mu, log_var, N).total_correlation
    offset = (D - 1) * math.log(N * B)
    assert offset == pytest.approx(159.0, abs=0.1)
    torch.testing.assert_close(unnormalised.mean(), tc - offset)


@pytest.mark.parametrize(("n_batch", "n_data"), [(2, 2), (2, 50), (7, 7), (64, N)])
def test_stratified_weights_have_each_code_s_own_on_the_diagonal(n_batch, n_data):
    weights = log_stratified_weights(n_batch, n_data).double().exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(n_batch, dtype=torch.float64))
    assert torch.allclose(weights.diagonal(), torch.tensor(1 / n_data, dtype=torch.float64))


def test_stratified_estimate_of_the_density_is_unbiased():
    # over all minibatches of three of five rows that begin with the code's own
    torch.manual_seed(0)
    mu, log_var = torch.randn(2, 5, 2, dtype=torch.float64)
    z = reparameterise(mu, log_var)
    found = []
    for others in permutations(range(1, 5), 2):
        rows = [0, *others]
        joint, _ = aggregate_log_density(z[rows], mu[rows], log_var[rows], 5, "stratified")
        found.append(joint[0].exp())
    mixture = pairwise_log_density(z[:1], mu, log_var).sum(-1).exp().mean()
    torch.testing.assert_close(torch.stack(found).mean(), mixture)


def test_too_small_minibatches_are_refused():
    with pytest.raises(ValueError, match="two rows at least"):
        log_stratified_weights(1, 50)
    with pytest.raises(ValueError, match="no more than there are"):
        log_stratified_weights(64, 50)


def test_estimates_of_independent_codes_have_the_known_bias():
    # five dimensions of standard deviation 0.15, five unused: the true value is 0
    torch.manual_seed(0)
    sigma = torch.tensor([0.15] * 5 + [1.0] * 5)
    found = {"weighted": [], "stratified": []}
    for _ in range(40):
        mu = torch.randn(B, D) * (1 - sigma**2).sqrt()
        log_var = (2 * sigma.log()).expand(B, D)
        z = reparameterise(mu, log_var)
        for estimator, values in found.items():
            values.append(float(kl_terms(z, mu, log_var, N, estimator).total_correlation))
    means = {name: sum(values) / 40 for name, values in found.items()}
    assert means == pytest.approx({"weighted": 126.6, "stratified": -2.7}, abs=1.0)


def test_permuted_codes_keep_marginals_and_lose_dependence():
    torch.manual_seed(0)
    z = torch.randn(5000, 1) @ torch.ones(1, 2)
    permuted = permute_codes(z)
    torch.testing.assert_close(permuted.sort(0).values, z.sort(0).values)
    assert abs(float(torch.corrcoef(permuted.T)[0, 1])) < 0.05


def test_covariance_has_the_check_values():
    mu = torch.tensor([[1.0, 1], [-1, -1], [2, 0], [-2, 0]])
    log_var = torch.full((4, 2), math.log(0.25))
    of_means = code_covariance(mu, log_var, "i")
    torch.testing.assert_close(of_means, torch.tensor([[2.5, 0.5], [0.5, 0.5]]))
    total = code_covariance(mu, log_var, "ii")
    for covariance, diagonal in ((of_means, 2.5), (total, 3.125)):
        assert float(covariance_penalty(covariance, 1.0, 0.0)) == pytest.approx(0.5)
        assert float(covariance_penalty(covariance, 0.0, 1.0)) == pytest.approx(diagonal)


def test_penalty_of_independent_codes_is_its_noise_floor():
    torch.manual_seed(0)
    z = torch.randn(2000, B, D)
    none = torch.full((B, D), -100.0)
    mean = torch.stack([covariance_penalty(code_covariance(m, none, "i")) for m in z]).mean()
    assert float(mean) == pytest.approx(D * (D - 1) / B + 2 * D / B, rel=0.05)


def test_discriminator_has_the_thesis_s_size_and_tells_permuted_codes():
    made = CodeDiscriminator(10)
    assert sum(p.numel() for p in made.parameters()) == 4_017_002
    z = torch.randn(8, 10)
    logits = made(z)
    expected = (logits.log_softmax(1)[:, 0] - logits.log_softmax(1)[:, 1]).mean()
    torch.testing.assert_close(made.total_correlation(z), expected)
    loss, accuracy = made.loss(z, z)
    halves = -logits.log_softmax(1).mean()
    torch.testing.assert_close(loss, halves)
    assert float(accuracy) == 0.5


def test_annealed_settings_rise_and_stay():
    assert [annealed(n, 4, 25.0) for n in (0, 1, 4, 9)] == [0.0, 6.25, 25.0, 25.0]
    torch.testing.assert_close(annealed(torch.tensor(2), 4, 3.0), torch.tensor(1.5))
