import numpy as np
import pytest
from conftest import CPU

from mixvi import CGMVAE
from mixvi.metrics import mean_expression_table, variance_ratio

SETUP = {"labels_key": "cell_type", "condition_key": "condition"}


@pytest.fixture
def trained(toy, fit):
    return fit(CGMVAE, toy, epochs=40, setup=SETUP, likelihood="mse", n_components=5, n_hidden=64)


@pytest.fixture
def sides(toy):
    here, there = toy.obs["condition"].cat.categories
    return (toy.obs["condition"] == here).to_numpy(), there


@pytest.mark.parametrize("route", ["w", "shift"])
def test_residuals_keep_the_variance_and_the_means(toy, trained, sides, route):
    cells, to = sides
    real = toy[~cells]
    options = {"to": to, "indices": cells, "route": route}
    plain = trained.counterfactual(toy, **options, keep_residual=False)
    kept = trained.counterfactual(toy, to=to, indices=cells, route=route, keep_residual=True)
    types = kept.obs["cell_type"], real.obs["cell_type"]
    assert mean_expression_table(kept, real, *types)["r2"].min() > 0.98

    def within(converted):
        ours = [converted.obs["cell_type"] == t for t in toy.obs["cell_type"].cat.categories]
        theirs = [real.obs["cell_type"] == t for t in toy.obs["cell_type"].cat.categories]
        pairs = zip(ours, theirs, strict=True)
        return np.median([variance_ratio(converted.X[a], real.X[b]) for a, b in pairs])

    assert 0.5 < within(kept) < 2
    assert within(plain) < within(kept)


def test_own_condition_changes_nothing(toy, trained, sides):
    cells, _ = sides
    own = toy.obs["condition"][cells].iloc[0]
    for route in ("w", "z", "shift"):
        same = trained.counterfactual(toy, to=own, indices=cells, route=route, keep_residual=True)
        assert np.allclose(same.X, toy.X[cells], atol=1e-4)
    shifted = trained.counterfactual(toy, to=own, indices=cells, keep_residual=False).X
    assert np.allclose(shifted, trained.get_reconstruction(indices=cells), atol=1e-4)


def test_counts_stay_counts(counts):
    CGMVAE.setup_anndata(counts, layer="counts", labels_key="kind", condition_key="condition")
    model = CGMVAE(counts, likelihood="nb", n_components=2, n_hidden=32, n_layers=1)
    model.train(3, **CPU)
    model.counterfactual(to="stim", route="shift", keep_residual=True, key_added="there")
    assert (counts.layers["there"] % 1 == 0).all()
    with pytest.raises(ValueError, match="fractions of counts"):
        model.counterfactual(to="stim", keep_residual="centred")


@pytest.mark.parametrize("activation", [None, "softplus"])
def test_centred_residuals_have_the_means_of_the_decoder(toy, fit, sides, activation):
    cells, to = sides
    toy.X = np.abs(toy.X)
    options = {"likelihood": "mse", "output_activation": activation, "n_components": 5}
    model = fit(CGMVAE, toy, epochs=10, setup=SETUP, **options)
    arguments = {"to": to, "indices": np.flatnonzero(cells)[::3], "route": "shift"}
    plain = model.counterfactual(toy, keep_residual=False, **arguments)
    centred = model.counterfactual(toy, keep_residual="centred", correct_means=False, **arguments)
    for name in toy.obs["cell_type"].cat.categories:
        ours, theirs = (x.X[(x.obs["cell_type"] == name).to_numpy()] for x in (centred, plain))
        assert np.allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=1e-3)
        assert ours.var(axis=0).mean() > theirs.var(axis=0).mean()
    assert activation is None or (centred.X >= 0).all()


def test_draws_have_no_residual(trained, sides):
    with pytest.raises(ValueError, match="keep_residual=True"):
        trained.counterfactual(to=sides[1], keep_residual=True, use_mean=False)
    with pytest.raises(ValueError, match="shift"):
        trained.counterfactual(to=sides[1], route="v")


def test_decoding_a_latent_of_ones_own(toy, trained):
    z = trained.get_latent_representation()
    assert np.allclose(trained.decode_latent(z), trained.get_reconstruction(), atol=1e-5)
    part = trained.decode_latent(z[5:9], indices=[5, 6, 7, 8], batch_size=3)
    assert np.allclose(part, trained.get_reconstruction()[5:9], atol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(500, 12\), but has \(500, 3\)"):
        trained.decode_latent(z[:, :3])


def test_cells_named_as_labels(toy, trained):
    """pandas once read the labels as names of cells."""
    cells = toy[:20].copy()
    cells.obs_names = [f"type {i}" for i in range(20)]
    predicted = trained.predict(cells, level="label")
    assert list(predicted) == list(trained.predict(toy, level="label")[:20])


def test_training_on_chosen_cells(toy):
    CGMVAE.setup_anndata(toy, **SETUP)
    model = CGMVAE(toy, n_hidden=32, n_layers=1)
    chosen = np.repeat(np.arange(60), 2)
    model.train(1, indices=chosen, **CPU)
    assert list(model.train_indices) == list(chosen)
    with pytest.raises(ValueError, match="indices must be row numbers"):
        model.train(1, indices=[0, 500], **CPU)
