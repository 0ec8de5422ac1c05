"""Probabilities of labels: calibrated on labels that training held out."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
from conftest import CPU
from sklearn.metrics import log_loss

from mixvi import GMVAE
from mixvi.cells.held_out import held_out_labels

TRAINING = {"lr": 5e-3, "batch_size": 50} | CPU


@pytest.fixture
def noisy(toy):
    """Blobs of which a fifth have another type's label, so that nothing can be sure of them."""
    rng = np.random.default_rng(0)
    types = toy.obs["cell_type"].astype(str).to_numpy()
    wrong = rng.random(toy.n_obs) < 0.2
    toy.obs["noisy"] = np.where(wrong, rng.permutation(types), types)
    return toy


def sure(adata, fit, **train):
    """A model that has learnt its labels by heart."""
    options = {"n_components": 5, "classification_weight": 50.0, "classifier_sees_x": True}
    options |= {"dropout_rate": 0.0, "n_hidden": 128}
    scvi.settings.seed = 0
    return fit(GMVAE, adata, 60, {"labels_key": "noisy"}, train, **options)


def test_probabilities_are_calibrated_on_labels_that_were_held_out(noisy, fit, tmp_path):
    model = sure(noisy, fit)
    held = model.calibration_indices
    assert len(held) == 50 and len(model.train_indices) == 500
    assert model.calibration.n_cells == 50 and model.calibration.temperature > 1.1
    truth = noisy.obs["noisy"].iloc[held]
    calibrated = model.predict(indices=held, soft=True, level="label")
    raw_labels = noisy.obs["noisy"].copy()
    noisy.obs.loc[noisy.obs_names[held], "noisy"] = "Unknown"
    plain = sure(noisy, fit, calibrate=False, mode="semi", init=None)
    noisy.obs["noisy"] = raw_labels
    assert plain.calibration is None and plain.calibration_indices is None
    raw = plain.predict(indices=held, soft=True, level="label")
    assert log_loss(truth, calibrated) < log_loss(truth, raw) - 0.02
    right = (calibrated.idxmax(axis=1) == truth).mean()
    assert calibrated.max(axis=1).mean() == pytest.approx(right, abs=0.05)
    # one temperature for all: logits are divided, and nothing else is changed
    components = model.predict(soft=True).to_numpy(float)
    logits = np.log(plain.predict(soft=True).to_numpy(float).clip(1e-30))
    scaled = np.exp(logits / model.calibration.temperature)
    np.testing.assert_allclose(components, scaled / scaled.sum(1, keepdims=True), atol=1e-3)
    model.annotate(noisy)
    everything = model.predict(soft=True, level="label")
    np.testing.assert_allclose(noisy.obs["gmvae_confidence"], everything.max(axis=1))
    model.save(tmp_path / "model")
    again = GMVAE.load(tmp_path / "model", noisy)
    assert again.calibration == model.calibration
    np.testing.assert_array_equal(again.calibration_indices, held)
    np.testing.assert_array_equal(again.predict(soft=True), model.predict(soft=True))
    # cells are known by name: others may stand at those row numbers
    turned = GMVAE.load(tmp_path / "model", noisy[::-1].copy())
    assert turned.calibrate() == pytest.approx(model.calibration.temperature, rel=1e-3)


def test_held_out_labels_are_a_tenth_of_each_and_the_same_at_every_call():
    codes = np.repeat([0, 1, 2, -1], [100, 30, 9, 50])
    held = held_out_labels(codes, np.arange(189))
    assert np.bincount(codes[held]).tolist() == [10, 3]
    again = held_out_labels(codes, np.repeat(np.arange(189)[::-1], 2))
    np.testing.assert_array_equal(held, again)
    assert len(held_out_labels(codes, np.arange(80, 189))) == 0
    assert len(held_out_labels(np.zeros(50_000, int), np.arange(50_000))) == 1000


def test_hidden_labels_do_not_teach(noisy, fit):
    """A semi-supervised model ends as one that was never given them."""
    noisy.obs.loc[noisy.obs_names[::3], "noisy"] = "Unknown"
    model = sure(noisy, fit)
    held = model.calibration_indices
    assert len(held) > 20 and np.isin(held, model.train_indices).all()
    noisy.obs.loc[noisy.obs_names[held], "noisy"] = "Unknown"
    expected = sure(noisy, fit, calibrate=False).module.state_dict()
    for name, value in model.module.state_dict().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_labelled_cells_of_the_validation_set_are_enough(noisy, fit):
    model = sure(noisy, fit, train_size=0.8)
    np.testing.assert_array_equal(model.calibration_indices, model.validation_indices)
    assert len(model.train_indices) == 400


def test_few_labels_all_teach(toy, fit, caplog):
    toy.obs["noisy"] = "Unknown"
    shown = toy.obs.groupby("cell_type", observed=True).head(5).index
    toy.obs.loc[shown, "noisy"] = toy.obs.loc[shown, "cell_type"].astype(str)
    model = fit(GMVAE, toy, 1, {"labels_key": "noisy"}, n_components=5)
    assert model.calibration is None
    assert "too few to hold any out" in caplog.text
    with pytest.raises(ValueError, match="held no labels out.*Pass adata or indices"):
        model.calibrate()
    with pytest.raises(ValueError, match="3 cells .* too few .* at least 10"):
        model.calibrate("cell_type", indices=[0, 1, 2])
    assert model.calibrate("cell_type", toy) == model.calibration.temperature


def test_what_ends_a_calibration(noisy, fit):
    model = sure(noisy, fit)
    found = model.calibration
    assert model.calibrate() == found.temperature
    model.train(1, mode="unsupervised", **TRAINING)
    assert model.calibration is None and model.calibration_indices is None
    with pytest.raises(ValueError, match="no labels yet"):
        model.calibrate("cell_type", noisy)
    model.assign_components("cell_type")
    model.calibrate("cell_type", noisy)
    model.assign_components("cell_type")
    assert model.calibration is None


def test_a_query_keeps_the_calibration_of_its_reference(noisy, fit):
    noisy.obs["batch"] = "one"
    setup = {"labels_key": "noisy", "batch_key": "batch"}
    reference = fit(GMVAE, noisy, 2, setup, n_components=5)
    query = noisy[::4].copy()
    query.obs["batch"] = "two"
    mapped = GMVAE.load_query_data(query, reference)
    mapped.train(1, **TRAINING)
    assert mapped.calibration == reference.calibration
    assert mapped.calibration_indices is None


def test_epochs_by_default(noisy, fit):
    """With labels 60, unless stages name theirs."""
    model = fit(GMVAE, noisy, None, {"labels_key": "noisy"}, n_components=5)
    assert len(model.history["elbo_train"]) == 60
    model = fit(GMVAE, noisy, None, {"labels_key": "noisy"}, {"stages": [(1e-3, 2)]})
    assert len(model.history["elbo_train"]) == 2


def test_calibrate_must_be_a_boolean(noisy):
    GMVAE.setup_anndata(noisy, labels_key="noisy")
    with pytest.raises(ValueError, match="calibrate must be True or False, but is 'yes'"):
        GMVAE(noisy).train(1, calibrate="yes", **CPU)
