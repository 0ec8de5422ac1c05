"""Label probabilities: of a query they are found by name, and checked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi import CGMVAE

# the shift would be that of the training cells' observed or predicted labels
PLAIN = {"route": "w", "keep_residual": False}


@pytest.fixture
def soft(toy, fit):
    probs = pd.get_dummies(toy.obs["cell_type"]).astype(float)
    toy.obsm["soft"] = probs
    setup = {"soft_labels_key": "soft", "condition_key": "condition"}
    return fit(CGMVAE, toy, setup=setup, epochs=3), probs


def observed(model, cells, table):
    cells = cells.copy()
    cells.obsm["soft"] = table
    return model.counterfactual(cells, to="condition 1", labels="observed", **PLAIN).X


def test_soft_labels_are_found_by_name(toy, soft):
    model, probs = soft
    expected = observed(model, toy, probs)
    turned = probs[probs.columns[::-1]]
    np.testing.assert_array_equal(observed(model, toy, turned), expected)
    np.testing.assert_array_equal(observed(model, toy, turned.assign(other=0.0)), expected)
    np.testing.assert_array_equal(observed(model, toy, probs.to_numpy()), expected)
    few = toy[toy.obs["cell_type"].astype(str) < "type 3"]
    part = probs.loc[few.obs_names].drop(columns=["type 4", "type 3"])
    np.testing.assert_array_equal(
        observed(model, few, part), expected[toy.obs_names.isin(few.obs_names)]
    )


def test_soft_labels_of_unknown_classes_are_none(toy, soft):
    model, probs = soft
    predicted = model.counterfactual(toy.copy(), to="condition 1", labels="predicted", **PLAIN).X
    other = pd.DataFrame({"other": np.ones(toy.n_obs)}, index=toy.obs_names)
    np.testing.assert_allclose(observed(model, toy, other), predicted, atol=1e-4)
    mostly = (0.6 * probs).assign(other=0.4)
    np.testing.assert_allclose(observed(model, toy, mostly), observed(model, toy, probs), atol=1e-5)


def test_soft_labels_of_a_query_are_checked(toy, soft):
    model, probs = soft
    with pytest.raises(ValueError, match=r"4 columns.*trained on 5.*DataFrame"):
        observed(model, toy, probs.to_numpy()[:, :4] * [[0, 0, 0, 0]])
    with pytest.raises(ValueError, match="sum to 1"):
        observed(model, toy, 2 * probs)
    with pytest.raises(ValueError, match="called 'type 0'"):
        observed(model, toy, probs.set_axis(["type 0", *probs.columns[:-1]], axis=1))
