"""Predicted cells lie where the model's data lie, and go back into its verbs."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy as sc

from mixvi import CGMVAE, CVAE, GMVAE, VAE
from mixvi.cells import (
    predict_class_means,
    predict_label_condition_cvae,
    predict_latent_shift,
    train_label_condition_cvae,
)
from mixvi.metrics import energy_distance, mean_expression_r2

KEYS = {"labels_key": "kind", "condition_key": "condition"}
SETUP = {
    "layer": "counts",
    "batch_key": "batch",
    "categorical_covariate_keys": ["site"],
    "continuous_covariate_keys": ["age"],
}
SMALL = {"likelihood": "nb", "n_hidden": 32, "n_layers": 1}


@pytest.fixture
def cells(counts):
    """The documented layout: log-normalised in X, counts in a layer."""
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return counts


@pytest.fixture
def model(cells, fit):
    return fit(CGMVAE, cells, setup=SETUP | KEYS, n_components=2, likelihood="nb")


def test_counterfactuals_are_compared_on_the_scale_of_the_model(cells, model):
    control = (cells.obs["condition"] == "ctrl").to_numpy()
    real = cells[~control]
    converted = model.counterfactual(to="stim", indices=control)
    np.testing.assert_array_equal(converted.X, converted.layers["counts"])
    assert converted.X is not converted.layers["counts"]
    assert converted.uns["mixvi_prediction"] == {
        "source": "CGMVAE",
        "layer": "counts",
        "scale": "count",
    }
    expected = mean_expression_r2(converted.X, real.layers["counts"])
    assert mean_expression_r2(converted, real) == expected
    assert energy_distance(converted, real) < 1
    assert list(converted.var_names) == list(cells.var_names)


def test_the_word_on_scale_survives_files_and_subsets(cells, model, tmp_path):
    converted = model.counterfactual(to="stim")
    converted.write_h5ad(tmp_path / "converted.h5ad")
    again = anndata.read_h5ad(tmp_path / "converted.h5ad")[:50]
    assert mean_expression_r2(again, cells) == mean_expression_r2(converted[:50], cells)
    assert model.predict(again).shape == (50,)


def test_converted_cells_go_back_into_the_model(cells, model):
    there = model.counterfactual(to="stim", indices=range(30))
    back = model.counterfactual(there, to="ctrl")
    assert set(back.obs["original_condition"]) == {"stim"}
    assert list(back.obs_names) == list(cells.obs_names[:30])
    assert (back.layers["counts"] % 1 == 0).all()
    means = model.counterfactual(to="stim", route="w")
    assert model.get_latent_representation(means).shape == (200, 12)
    with pytest.warns(UserWarning, match="whole numbers"):
        other = cells.copy()
        other.layers["counts"] = other.X
        model.predict(other)


@pytest.mark.parametrize("cls", [VAE, CVAE, GMVAE, CGMVAE])
@pytest.mark.parametrize("use_mean", [True, False])
def test_generated_cells_go_back_into_the_model(cells, fit, cls, use_mean):
    conditional = {"condition_key": "condition"} if cls in (CVAE, CGMVAE) else {}
    components = {} if cls in (VAE, CVAE) else {"n_components": 2}
    setup = SETUP | conditional | {"size_factor_key": "size"}
    model = fit(cls, cells, setup=setup, epochs=1, likelihood="nb", **components)
    made = model.sample(3, use_mean=use_mean)
    np.testing.assert_array_equal(made.X, made.layers["counts"])
    registered = {"batch", "site", "age", "size", *conditional.values()}
    assert registered <= set(made.obs)
    assert set(made.obs["site"]) <= {"x", "y", "z"}
    latent = model.get_latent_representation(made)
    assert len(latent) == made.n_obs and np.isfinite(latent).all()
    if conditional:
        assert set(model.counterfactual(made, to="stim").obs["condition"]) == {"stim"}


def test_conditions_keep_their_column_and_their_kind(toy, fit):
    toy.obs["dose"] = toy.obs["condition"].cat.codes.astype(int)
    model = fit(CGMVAE, toy, setup={"condition_key": "dose"}, epochs=1, n_components=5)
    made = model.sample(2)
    assert set(made.obs["dose"]) == set(model.conditions)
    there = model.counterfactual(to="1")
    assert set(there.obs["dose"]) == {model.conditions[1]}
    assert set(model.counterfactual(there, to=0).obs["original_condition"]) == {"1"}


def test_baselines_predict_the_same_matrix(cells, fit):
    control = cells[cells.obs["condition"] == "ctrl"].copy()
    real = cells[cells.obs["condition"] == "stim"]
    vae = fit(VAE, cells, setup={"layer": "counts"}, epochs=1, likelihood="nb")
    train = {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"}
    pair = train_label_condition_cvae(cells, **KEYS, layer="counts", model_kwargs=SMALL, **train)
    for predicted in (
        predict_class_means(cells, control, to="stim", layer="counts", **KEYS),
        predict_latent_shift(vae, control, to="stim", **KEYS),
        predict_label_condition_cvae(pair, control, to="stim", **KEYS),
    ):
        note = predicted.uns["mixvi_prediction"]
        assert (note["layer"], note["scale"]) == ("counts", "count")
        expected = mean_expression_r2(predicted.X, real.layers["counts"])
        assert mean_expression_r2(predicted, real) == expected
    in_logs = predict_class_means(cells, control, to="stim", **KEYS)
    assert mean_expression_r2(in_logs, real) == mean_expression_r2(in_logs.X, real.X)
    with pytest.raises(ValueError, match="read different matrices"):
        mean_expression_r2(in_logs, predicted)


def test_corrected_means_of_binary_values_are_shares(cells, fit):
    stimulated = (cells.obs["condition"] == "stim").to_numpy()
    x = (cells.layers["counts"].toarray() > 1).astype(np.float32)
    # the change is larger than what an untrained decoder leaves to one
    x[:, :10] = stimulated[:, None]
    cells.layers["binary"] = x
    setup = {"layer": "binary"} | KEYS
    model = fit(CGMVAE, cells, epochs=1, setup=setup, n_components=2, likelihood="bernoulli")
    options = {"keep_residual": False, "correct_means": True}
    found = model.counterfactual(to="stim", indices=~stimulated, **options).X
    assert found.min() >= 0 and found.max() <= 1
    assert found[:, :10].mean() > 0.9
