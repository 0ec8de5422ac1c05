"""A model goes on reading what it was built on, whatever happens to the AnnData."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU

from mixvi import CGMVAE, GMVAE

SMALL = {"n_hidden": 16, "n_layers": 1, "n_latent_z": 3, "n_latent_w": 2}


def labels_of(model):
    codes = np.asarray(model.adata_manager.get_from_registry("labels")).ravel()
    return [model.classes[code] if code < len(model.classes) else None for code in codes]


def test_two_models_on_the_same_cells(toy, fit):
    """Each trains on the labels it was set up with, whoever came last."""
    toy.obs["half"] = np.where(toy.obs["cell_type"].astype(str) < "type 2", "x", "y")
    GMVAE.setup_anndata(toy, labels_key="cell_type")
    fine = GMVAE(toy, **SMALL)
    GMVAE.setup_anndata(toy, labels_key="half")
    coarse = GMVAE(toy, **SMALL)
    CGMVAE.setup_anndata(toy, labels_key="half", condition_key="cell_type")
    training = {"lr": 5e-3, "batch_size": 50} | CPU
    fine.train(15, **training)
    assert labels_of(fine) == list(toy.obs["cell_type"])
    coarse.train(5, **training)
    assert labels_of(coarse) == list(toy.obs["half"])
    predicted = fine.predict(level="label")
    assert (predicted == toy.obs["cell_type"].astype(str)).mean() > 0.95


def test_a_second_model_between_two_readings(toy, fit):
    """Rows of one verb are encoded by its own model, though another was used meanwhile."""
    model = fit(CGMVAE, toy, setup={"condition_key": "condition"}, epochs=1, n_components=5)
    rows = np.concatenate([r.condition for r in model._batches(toy, None, None)])
    other = fit(CGMVAE, toy, setup={"condition_key": "cell_type"}, epochs=1, n_components=5)
    again = np.concatenate([r.condition for r in model._batches(toy, None, None)])
    np.testing.assert_array_equal(rows, again)
    assert set(np.concatenate([r.condition for r in other._batches(toy, None, None)])) == {
        *range(5)
    }


def test_weights_do_not_depend_on_what_was_set_up_between(toy):
    """The same seed gives the same model, though another one was set up on the cells."""
    states = []
    for disturbed in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)
        GMVAE.setup_anndata(toy, labels_key="cell_type", condition_key="condition")
        model = GMVAE(toy, **SMALL)
        if disturbed:
            GMVAE.setup_anndata(toy, labels_key="condition", condition_key="cell_type")
        model.train(2, **CPU)
        states.append(model.module.state_dict())
    for name, values in states[0].items():
        assert torch.equal(values, states[1][name]), name


@pytest.mark.parametrize("own", [True, False])
def test_columns_that_changed_are_read_anew(toy, fit, own):
    model = fit(CGMVAE, toy, setup={"condition_key": "condition"}, epochs=3, n_components=5)
    cells = toy if own else toy.copy()
    before = model.get_reconstruction(cells)
    cells.obs["condition"] = "condition 1"
    changed = model.get_reconstruction(cells)
    assert model.conditions == ["condition 0", "condition 1"]
    np.testing.assert_array_equal(changed, model.get_reconstruction(cells.copy()))
    was_other = (toy.obs_names.isin(cells.obs_names)) & (np.abs(changed - before).max(1) > 1e-3)
    assert 0.4 < was_other.mean() < 0.6
    cells.obs["condition"] = "condition 9"
    with pytest.raises(ValueError, match="'condition 9'"):
        model.get_reconstruction(cells)
    if own:
        with pytest.raises(ValueError, match="'condition 9'"):
            model.train(1, **CPU)


def test_columns_of_the_registration_may_be_dropped(toy, fit):
    model = fit(CGMVAE, toy, setup={"condition_key": "condition"}, epochs=1, n_components=5)
    before = model.get_latent_representation()
    toy.obs = toy.obs[["cell_type", "condition"]].copy()
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    toy.uns.clear()
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    model.train(1, **CPU)


def test_a_matrix_that_changed_is_checked_in_training(counts):
    GMVAE.setup_anndata(counts)
    model = GMVAE(counts, n_components=3, likelihood="nb", **SMALL)
    counts.X = counts.X.log1p()
    with pytest.warns(UserWarning, match="not whole numbers"):
        model.train(1, init=None, **CPU)
    counts.X = -counts.X
    with pytest.raises(ValueError, match="negative"):
        model.train(1, **CPU)
    counts.X = counts.X.toarray() * np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.get_latent_representation()


def test_a_model_without_data_stays_so(toy, fit, tmp_path):
    """A query is no training data: what needs those says that they are missing."""
    model = fit(CGMVAE, toy, setup={"condition_key": "condition"}, epochs=1, n_components=5)
    model.save(tmp_path / "model")
    bare = CGMVAE.load(tmp_path / "model", adata=False)
    for query in (toy.copy(), toy.copy(), toy[:50].copy()):
        np.testing.assert_array_equal(bare.predict(query), model.predict(query))
    assert bare.adata is None
    with pytest.raises(ValueError, match="loaded without data"):
        bare.predict()
    with pytest.raises(ValueError, match="loaded without data"):
        bare.train(1, **CPU)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_gene_names_that_repeat(toy, fit):
    toy.var_names = ["twice", "twice", *toy.var_names[2:]]
    model = fit(GMVAE, toy, epochs=1, n_components=5)
    name = toy.var_names[5]
    found = model.get_normalized_expression(gene_list=[name])
    every = model.get_normalized_expression()
    np.testing.assert_array_equal(found[name], every.iloc[:, 5])
    assert model.get_normalized_expression(gene_list=name).equals(found)
    with pytest.raises(ValueError, match="'twice', but 2 genes.*var_names_make_unique"):
        model.get_normalized_expression(gene_list=["twice"])
    with pytest.raises(ValueError, match="'twice'.*var_names_make_unique"):
        model.predict(toy[:, ::-1].copy())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, list])
def test_indices_of_any_integer_type(toy, fit, dtype):
    model = fit(GMVAE, toy, epochs=1, n_components=5)
    chosen = np.array([7, 0, 7, 200])
    expected = model.get_latent_representation()[chosen]
    indices = list(chosen) if dtype is list else chosen.astype(dtype)
    np.testing.assert_allclose(
        model.get_latent_representation(indices=indices), expected, atol=1e-6
    )
    assert list(model.predict(indices=indices).index) == list(toy.obs_names[chosen])


def test_a_mask_follows_the_names_of_cells(toy, fit):
    model = fit(GMVAE, toy, epochs=1, n_components=5)
    mask = toy.obs["cell_type"] == "type 2"
    expected = model.get_latent_representation(indices=mask.to_numpy())
    shuffled = mask.sample(frac=1, random_state=0)
    for given in (mask, shuffled, mask.reset_index(drop=True), shuffled.astype("boolean")):
        np.testing.assert_array_equal(model.get_latent_representation(indices=given), expected)


def test_no_cells(toy, fit):
    model = fit(CGMVAE, toy, setup={"condition_key": "condition"}, epochs=1, n_components=5)
    misspelt = toy.obs["condition"] == "control"
    for verb in (
        model.predict,
        model.get_latent_representation,
        model.get_elbo,
        lambda indices: model.counterfactual(to="condition 1", indices=indices),
    ):
        with pytest.raises(ValueError, match="true for no row"):
            verb(indices=misspelt)
    with pytest.raises(ValueError, match="names no row"):
        model.get_latent_representation(indices=[])
    with pytest.raises(ValueError, match="row numbers"):
        model.get_latent_representation(indices=np.where(~misspelt))


def test_labels_that_training_no_longer_holds(toy, fit):
    """After training with labels and then without, the message is true."""
    model = fit(GMVAE, toy, setup={"labels_key": "cell_type"}, epochs=1)
    model.predict(level="label")
    model.train(1, mode="unsupervised", **CPU)
    with pytest.raises(ValueError, match="last training looked at none.*assign_components"):
        model.predict(level="label")
    model.assign_components()
    model.predict(level="label")
