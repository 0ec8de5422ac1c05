"""Doses and hours: cells under a number that lies between two conditions that were seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mixvi import CGMVAE
from mixvi.cells.between_conditions import between

SETUP = {"labels_key": "cell_type", "condition_key": "dose"}
N_GENES = 12


@pytest.fixture(scope="module")
def doses():
    """Three types, whose first genes rise with the dose, each by its own slope."""
    rng = np.random.default_rng(0)
    types, dose = (a.ravel() for a in np.meshgrid(np.arange(3), [0, 2, 3, 4], indexing="ij"))
    types, dose = np.repeat(types, 60), np.repeat(dose, 60)
    x = 3.0 + 2.0 * rng.normal(size=(3, N_GENES))[types] + 0.3 * rng.normal(size=(720, N_GENES))
    x[:, :4] += 0.5 * (1 + types)[:, None] * dose[:, None]
    obs = pd.DataFrame(
        {"cell_type": [f"type {i}" for i in types], "dose": dose},
        index=[f"cell {i}" for i in range(720)],
    )
    return AnnData(x.astype(np.float32), obs=obs)


@pytest.fixture(scope="module")
def model(doses):
    train = doses[doses.obs["dose"] != 3].copy()
    CGMVAE.setup_anndata(train, **SETUP)
    model = CGMVAE(train, n_components=3, n_hidden=32, n_layers=1, likelihood="mse")
    trainer = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    model.train(15, **trainer)
    return model


@pytest.mark.parametrize("keep", [True, "centred", False])
def test_a_dose_between_two(doses, model, keep):
    control = doses[doses.obs["dose"] == 0].copy()
    options = {"keep_residual": keep, "correct_means": True}
    converted = model.counterfactual(control, to=3, **options)
    assert set(converted.obs["target_condition"]) == {"3"}
    assert set(converted.obs["dose"]) == {3}
    ends = [model.counterfactual(control, to=to, **options) for to in (2, 4)]
    for name in np.unique(doses.obs["cell_type"]):
        of = (control.obs["cell_type"] == name).to_numpy()
        real = ((doses.obs["cell_type"] == name) & (doses.obs["dose"] == 3)).to_numpy()
        mean = converted.X[of].mean(axis=0)
        np.testing.assert_allclose(mean, doses.X[real].mean(axis=0), atol=0.25)
        halfway = (ends[0].X[of] + ends[1].X[of]).mean(axis=0) / 2
        np.testing.assert_allclose(mean, halfway, atol=0.02)
    near = model.counterfactual(control, to="2.02", **options)
    np.testing.assert_allclose(near.X.mean(axis=0), ends[0].X.mean(axis=0), atol=0.05)


def test_its_mean_change(doses, model):
    control = doses[doses.obs["dose"] == 0].copy()
    found = model.get_mean_change(control, 3)
    ends = [model.get_mean_change(control, to)["change"] for to in (2, 4)]
    np.testing.assert_allclose(found["change"], (ends[0] + ends[1]) / 2, atol=1e-4)
    assert (found["upper"] > found["lower"]).all()


def test_beyond_the_doses_the_last_one_is_taken(doses, model):
    control = doses[doses.obs["dose"] == 0].copy()
    with pytest.warns(UserWarning, match=r"to=9 lies outside .* 0 to 4: .* converted to 4"):
        beyond = model.counterfactual(control, to=9)
    np.testing.assert_allclose(beyond.X, model.counterfactual(control, to=4).X, atol=1e-5)
    assert set(beyond.obs["target_condition"]) == {"4"}


def test_what_is_no_number_or_has_no_means(doses, model):
    with pytest.raises(ValueError, match="to='high' is not known"):
        model.counterfactual(doses, to="high")
    with pytest.raises(ValueError, match="to=3 lies between two conditions.*use_mean=True"):
        model.counterfactual(doses, to=3, use_mean=False)


def test_numbers_among_names():
    assert between("2", ["control", "stim"]) is None
    assert between("2", ["control", "1", "3"]) is None
    target = between("2.5", ["control", "4", "2", "8"])
    assert target.codes == [2, 1] and target.shares == [0.75, 0.25]
    assert between(float("nan"), ["1", "2", "3"]) is None
