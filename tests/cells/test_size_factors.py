"""Counts scaled by a size factor: what it is measured in does not matter."""

import numpy as np
import pytest
import torch

from mixvi import GMVAE, VAE

COUNTS = ("poisson", "nb", "zinb")


@pytest.mark.parametrize("likelihood", COUNTS)
def test_factors_near_one_are_as_good_as_totals(counts, fit, likelihood):
    totals = counts.obs["size"]
    counts.obs["relative"] = totals / totals.median()
    setups = {
        "none": {"layer": "counts"},
        "totals": {"layer": "counts", "size_factor_key": "size"},
        "relative": {"layer": "counts", "size_factor_key": "relative"},
    }
    evidence = {}
    for name, setup in setups.items():
        model = fit(VAE, counts, epochs=60, setup=setup, likelihood=likelihood)
        evidence[name] = model.get_marginal_ll(n_mc_samples=20)
        sums = model.get_reconstruction().sum(1)
        assert sums.mean() == pytest.approx(totals.mean(), rel=0.1)
        # the total is not imposed, but follows the factor
        assert np.corrcoef(sums, totals)[0, 1] > 0.9
    assert evidence["relative"] > evidence["none"] - 3
    assert evidence["totals"] > evidence["none"] - 3


def test_rates_at_a_size_factor_of_one(counts, fit):
    """As in scvi-tools: normalised expression times the factor is the mean."""
    counts.obs["relative"] = counts.obs["size"] / counts.obs["size"].median()
    setup = {"layer": "counts", "size_factor_key": "relative"}
    model = fit(GMVAE, counts, epochs=20, setup=setup, likelihood="nb", n_components=2)
    factors = counts.obs[["relative"]].to_numpy()
    rates = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(rates * factors, model.get_reconstruction(), rtol=1e-5)
    latent = model.get_normalized_expression(return_numpy=True, library_size="latent")
    np.testing.assert_allclose(latent, model.get_reconstruction(), rtol=1e-5)


@pytest.mark.parametrize("likelihood", COUNTS)
def test_reconstructions_are_the_mean_of_what_is_drawn(counts, fit, likelihood):
    """Zeros that the likelihood adds are in both."""
    model = fit(GMVAE, counts, setup={"layer": "counts"}, likelihood=likelihood, n_components=2)
    like, module = model.module.likelihood, model.module
    (rows,) = model._batches(model.adata, None, 200)
    with torch.inference_mode():
        raw = module.decode(model._z(rows, use_mean=True), rows)
        drawn = sum(like.sample(raw, rows.library, rows.batch) for _ in range(500)) / 500
    np.testing.assert_allclose(model.get_reconstruction().mean(0), drawn.mean(0), rtol=0.05)
