"""What an evaluation is given: counts and their means, one scale of all sides, usable arguments."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mixvi import metrics
from mixvi.cells import evaluate_counterfactual, predict_mean_shift, training_reference

FEW = {"n_splits": 1, "n_permutations": 0, "k": 3}
SHIFT = {"labels_key": "kind", "condition_key": "condition", "to": "stim"}
KEYS = {"groupby": "kind", "condition_key": "condition", "control": "ctrl", "to": "stim"}


def logs(x):
    return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)


def cells(condition, seed, n=12):
    """Two kinds by 8 genes: counts in a layer, their logs in X."""
    rng = np.random.default_rng(seed)
    rate = np.repeat([[9.0] * 8, [6.0] * 4 + [12] * 4], n, axis=0)
    rate[:, :2] *= 4 if condition == "stim" else 1
    x = rng.poisson(rate).astype(np.float32)
    obs = pd.DataFrame({"kind": np.repeat(["a", "b"], n), "condition": condition})
    obs.index = [f"{condition} {seed} {i}" for i in range(2 * n)]
    genes = pd.DataFrame(index=[f"g{i}" for i in range(8)])
    return AnnData(logs(x), obs=obs, var=genes, layers={"counts": x})


def of_x(adata, layer=None):
    """Cells that say nothing of a scale."""
    x = adata.X if layer is None else adata.layers[layer]
    return AnnData(x.copy(), obs=adata.obs.copy(), var=adata.var.copy())


@pytest.fixture(scope="module")
def train():
    return anndata.concat([cells("ctrl", 0), cells("stim", 1)])


@pytest.fixture(scope="module")
def sides():
    return cells("ctrl", 2), cells("stim", 3), cells("ctrl", 4)


def value(table, metric, column="value"):
    return table.set_index("metric")[column][metric]


def test_means_of_counts_are_compared_as_counts_are(train, sides):
    control, real, other = sides
    means = predict_mean_shift(train, control, layer="counts", keep_residual=False, **SHIFT)
    assert (means.X % 1).any()
    found = evaluate_counterfactual(means, real, other, **FEW)
    expected = logs(means.X.astype(float)), logs(real.layers["counts"].astype(float))
    rmse = metrics.change_rmse(*expected)
    assert value(found, "rmse") == pytest.approx(rmse, rel=1e-5) and rmse < 0.3
    # cells of other sources may say so
    plain = of_x(means)
    with pytest.raises(ValueError, match=r"predicted has values that are no counts in X, .*counts"):
        evaluate_counterfactual(plain, of_x(real, "counts"), of_x(other, "counts"), **FEW)
    plain.uns["mixvi_prediction"] = {"scale": "count"}
    said = evaluate_counterfactual(plain, of_x(real, "counts"), of_x(other, "counts"), **FEW)
    assert value(said, "rmse") == pytest.approx(rmse, rel=1e-5)
    # a Gaussian decoder's may lie below zero
    plain.X[:, 3] = -1
    below = evaluate_counterfactual(plain, of_x(real, "counts"), of_x(other, "counts"), **FEW)
    plain.X[:, 3] = 0
    zero = evaluate_counterfactual(plain, of_x(real, "counts"), of_x(other, "counts"), **FEW)
    pd.testing.assert_frame_equal(below, zero)


@pytest.mark.parametrize("odd", ["predicted", "control", "duplicate"])
@pytest.mark.parametrize("layer", [None, "counts"], ids=["logs", "counts"])
def test_one_scale_is_asked_of_all(sides, odd, layer):
    names = ("predicted", "real", "control", "duplicate")
    of = dict(zip(names, (*sides, cells("stim", 5)), strict=True))
    given = {name: of_x(side, layer) for name, side in of.items()}
    assert not evaluate_counterfactual(**given, **FEW).empty
    given[odd] = of_x(of[odd], None if layer else "counts")
    has = "values that are no counts" if layer else "counts"
    with pytest.raises(ValueError, match=f"^{odd} has {has} in X, but real has"):
        evaluate_counterfactual(**given, **FEW)


def test_the_reference_is_of_that_scale_and_of_those_genes(train, sides):
    by_counts = training_reference(train, layer="counts", **KEYS)
    assert by_counts.of_counts
    x = logs(train.layers["counts"].astype(float))
    kind, stim = train.obs["kind"] == "a", train.obs["condition"] == "stim"
    of_a = x[kind & stim].mean(axis=0) - x[kind & ~stim].mean(axis=0)
    of_b = x[~kind & stim].mean(axis=0) - x[~kind & ~stim].mean(axis=0)
    np.testing.assert_allclose(by_counts.mean_change, (of_a + of_b) / 2, rtol=1e-6)
    found = evaluate_counterfactual(*sides, reference=by_counts, layer="counts", **FEW)
    same = evaluate_counterfactual(*sides, reference=training_reference(train, **KEYS), **FEW)
    for metric in ("rmse", "pearson_perturbed", "weighted_r2", "r2_top", "energy_pca"):
        assert value(found, metric) == pytest.approx(value(same, metric), rel=1e-3), metric
    with pytest.raises(ValueError, match="reference is of counts, but real has values that are no"):
        evaluate_counterfactual(*sides, reference=by_counts, **FEW)
    for genes in (slice(None, None, -1), slice(0, 5)):
        others = training_reference(train[:, genes].copy(), **KEYS)
        with pytest.raises(ValueError, match="reference and real name their genes differently"):
            evaluate_counterfactual(*sides, reference=others, **FEW)


def test_the_form_of_a_matrix_does_not_matter(sides):
    control, real, other = (of_x(side, "counts") for side in sides)
    expected = evaluate_counterfactual(control, real, other, groupby="kind", **FEW)
    control.X, real.X = sparse.csc_matrix(control.X), real.X.astype(int)
    control.obs["kind"] = pd.Categorical(control.obs["kind"], ["z", "b", "a"])
    found = evaluate_counterfactual(control, real[:], other, groupby="kind", **FEW)
    pd.testing.assert_frame_equal(found, expected)


def test_methods_may_be_called_as_sides_are(sides):
    control, real, other = sides
    named = evaluate_counterfactual({"real": control, "control": control}, real, other, **FEW)
    alone = evaluate_counterfactual(control, real, other, **FEW)
    for name in ("real", "control"):
        of = named[named["method"] == name]
        np.testing.assert_array_equal(of["value"], alone["value"])
    with pytest.raises(ValueError, match=r"predicted\['real'\] has NaN or infinite .* 1 cells"):
        evaluate_counterfactual({"real": with_nan(control)}, real, other, **FEW)


def with_nan(adata):
    adata = of_x(adata)
    adata.X[3, 2] = np.nan
    return adata


def test_what_cannot_be_evaluated_is_said(train, sides):
    control, real, other = sides
    cases = {
        "predicted is empty: pass": ({}, real, other),
        r"predicted\['a'\] must be an AnnData, but is a ndarray": ({"a": real.X}, real, other),
        "predicted must be an AnnData, but is a list": ([control], real, other),
        "real has NaN or infinite values in 1 cells": (control, with_nan(real), other),
        "control is empty: it has 0 cells": (control, real, other[:0]),
    }
    for message, given in cases.items():
        with pytest.raises((ValueError, TypeError), match=f"^{message}"):
            evaluate_counterfactual(*given, **FEW)
    with pytest.raises(ValueError, match="predicted has one cell of 'a'; 2 are needed"):
        evaluate_counterfactual(control[11:], real, other, groupby="kind", **FEW)
    with pytest.raises(ValueError, match="n_top must be a positive whole number"):
        evaluate_counterfactual(*sides, n_top=0, **FEW)
    for name in ("n_permutations", "k"):
        with pytest.raises(ValueError, match=f"{name} must be a .*whole number"):
            evaluate_counterfactual(*sides, **(FEW | {name: -1}))
    with pytest.raises(KeyError, match="layer='counts' is not in adata.layers of real"):
        evaluate_counterfactual(control, of_x(real), other, layer="counts", **FEW)
    called = real.copy()
    called.obs["kind"] = called.obs["kind"].replace({"a": "all"})
    with pytest.raises(ValueError, match="a group that is called 'all'"):
        evaluate_counterfactual(control, called, other, groupby="kind", **FEW)
    with pytest.warns(UserWarning, match="control has no cells of 'a' in"):
        evaluate_counterfactual(control, real, other[12:], groupby="kind", **FEW)
    with pytest.raises(ValueError, match="control and to are both 'stim'"):
        training_reference(train, **(KEYS | {"control": "stim"}))
    with pytest.raises(ValueError, match=r"^train.X has NaN or infinite values in 1 cells"):
        training_reference(with_nan(train), **KEYS)


def test_conditions_may_be_numbers(train, sides):
    numbered = train.copy()
    numbered.obs["condition"] = (train.obs["condition"] == "stim").astype(int)
    expected = training_reference(train, **KEYS)
    for control, to in ((0, 1), ("0", "1")):
        found = training_reference(numbered, **(KEYS | {"control": control, "to": to}))
        pd.testing.assert_series_equal(found.mean_change, expected.mean_change)
        pd.testing.assert_frame_equal(found.de_scores, expected.de_scores)


def test_genes_and_cells_without_spread(train, sides):
    control, real, other = (side.copy() for side in sides)
    for side, level in ((control, 1.0), (real, 2.0), (other, 1.0)):
        side.X[:, 0] = level
    parted = train.copy()
    parted.X[:, 0] = (train.obs["condition"] == "stim") + 1.0
    reference = training_reference(parted, **KEYS)
    assert reference.top_genes("a", 1) == ["g0"]
    assert np.isfinite(reference.de_scores).all(axis=None)
    found = evaluate_counterfactual(
        control, real, other, reference=reference, n_top=3, method="t-test", **FEW
    )
    assert value(found, "r2_top", "ceiling") > 0.9
    real.X[:] = real.X[0]
    found = evaluate_counterfactual(control, real, other, **FEW)
    assert np.isnan(value(found, "mmd")) and value(found, "energy") > 0
    one = evaluate_counterfactual(*(side[:, 3].copy() for side in sides), **FEW)
    assert np.isnan(value(one, "r2")) and value(one, "rmse") > 0
