"""Library sizes of generated cells."""

import numpy as np
import pytest
from conftest import CPU

from mixvi import CGMVAE, CVAE, GMVAE, VAE

MODELS = [VAE, CVAE, GMVAE, CGMVAE]


@pytest.fixture
def deep(counts):
    """Totals spread tenfold, and batch two is four times as deep as batch one."""
    rng = np.random.default_rng(0)
    depth = np.exp(rng.normal(3, 0.5, counts.n_obs))
    depth *= np.where(counts.obs["batch"] == "two", 4, 1)
    shares = rng.dirichlet(np.full(30, 5.0), counts.n_obs)
    counts.layers["counts"] = (
        rng.poisson(shares * depth[:, None]) + np.eye(30)[np.arange(counts.n_obs) % 30]
    )
    counts.obs["relative"] = depth / np.median(depth)
    return counts


def build(cls, adata, fit, **setup):
    setup |= {"layer": "counts", "batch_key": "batch"}
    options = {"likelihood": "nb"}
    if cls in (CVAE, CGMVAE):
        setup |= {"condition_key": "condition"}
    if cls in (GMVAE, CGMVAE):
        options["n_components"] = 2
    return fit(cls, adata, epochs=30, setup=setup, **options)


@pytest.mark.parametrize("cls", MODELS)
def test_library_sizes_spread_as_those_of_the_batch(deep, fit, cls):
    model = build(cls, deep, fit)
    totals = np.log(deep.layers["counts"].sum(1))
    for batch in ("one", "two"):
        real = totals[deep.obs["batch"] == batch]
        drawn = np.log1p(model.sample(400, batch=batch, use_mean=False).X.sum(1))
        assert drawn.mean() == pytest.approx(real.mean(), abs=0.15)
        assert drawn.std() == pytest.approx(real.std(), rel=0.2)
        means = model.sample(3, batch=batch).X.sum(1)
        np.testing.assert_allclose(means, np.median(np.exp(real)), rtol=0.01)
    fixed = model.sample(100, library_size=1e4)
    np.testing.assert_allclose(fixed.X.sum(1), 1e4, rtol=1e-4)


def test_size_factors_are_drawn_too(deep, fit):
    model = build(GMVAE, deep, fit, size_factor_key="relative")
    real = np.log(deep.layers["counts"].sum(1))[deep.obs["batch"] == "two"]
    drawn = np.log1p(model.sample(400, batch="two", use_mean=False).X.sum(1))
    assert drawn.std() == pytest.approx(real.std(), rel=0.25)
    assert drawn.mean() == pytest.approx(real.mean(), abs=0.25)


def test_a_loaded_model_knows_them(deep, fit, tmp_path):
    model = build(VAE, deep, fit)
    model.save(tmp_path / "model")
    loaded = VAE.load(tmp_path / "model", adata=False)
    real = np.log(deep.layers["counts"].sum(1))[deep.obs["batch"] == "two"]
    drawn = np.log1p(loaded.sample(400, batch="two", use_mean=False).X.sum(1))
    assert drawn.std() == pytest.approx(real.std(), rel=0.2)
    # files written before have the median alone
    weights = model.module.state_dict()
    weights.pop("library_quantiles")
    loaded.module.load_state_dict(weights)
    np.testing.assert_allclose(loaded.sample(3, batch="two").X.sum(1), model.module.typical_library)


def test_a_query_keeps_the_batches_of_its_reference(deep, fit):
    """Cells of the new batch are drawn like its own, those of the others as before."""
    model = build(VAE, deep, fit)
    new = deep[deep.obs["batch"] == "one"].copy()
    new.layers["counts"] = new.layers["counts"] * 20
    new.obs["batch"] = "three"
    mapped = VAE.load_query_data(new, model)
    mapped.train(2, **CPU)
    one = deep.layers["counts"][deep.obs["batch"] == "one"].sum(1)
    for batch, scale in (("one", 1), ("three", 20)):
        total = mapped.sample(1, batch=batch).X.sum()
        assert total == pytest.approx(scale * np.median(one), rel=0.01)


@pytest.mark.filterwarnings("ignore:.*holds whole numbers alone:UserWarning")
def test_bad_input(deep, fit):
    model = build(GMVAE, deep, fit)
    with pytest.raises(ValueError, match="batch='four' is not known"):
        model.sample(1, batch="four")
    with pytest.raises(ValueError, match="library_size must be a positive number"):
        model.sample(1, library_size=0)
    gaussian = fit(VAE, deep, epochs=1, likelihood="gaussian")
    with pytest.raises(ValueError, match="library_size has no effect with likelihood='gaussian'"):
        gaussian.sample(1, library_size=1e4)
