"""The table of all figures: its values, floors, ceilings, and what training cells decide."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mixvi import metrics
from mixvi.cells import (
    evaluate_counterfactual,
    predict_mean_shift,
    predict_no_change,
    training_reference,
)

KINDS = list("abcdef")
KEYS = {"groupby": "kind", "condition_key": "condition", "control": "ctrl"}
SHIFT = {"labels_key": "kind", "condition_key": "condition", "to": "stim"}
FEW = {"n_splits": 2, "n_permutations": 9, "k": 5}


def cells(condition, seed, n=30, n_genes=25):
    """Six kinds; all share a change of genes 0 to 4, and each has a gene of its own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (6 * n, n_genes)) - 10
    kind = np.repeat(np.arange(6), n)
    if condition == "stim":
        x[:, :5] += [2, 1.5, -2, 1, -1]
        x[np.arange(6 * n), 10 + kind] += 3
    obs = pd.DataFrame({"kind": np.array(KINDS)[kind], "condition": condition})
    obs.index = [f"{condition} {seed} {i}" for i in range(6 * n)]
    genes = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return AnnData(x.astype(np.float32), obs=obs, var=genes)


@pytest.fixture(scope="module")
def sides():
    """Training cells, control cells to convert, real cells, and other controls."""
    train = anndata.concat([cells("ctrl", 0), cells("stim", 1)])
    return train, cells("ctrl", 2), cells("stim", 3), cells("ctrl", 0)


@pytest.fixture(scope="module")
def table(sides):
    train, control, real, other = sides
    predicted = {
        "own": predict_mean_shift(train, control, **SHIFT),
        "mean": predict_mean_shift(train, control, weights="mean", **SHIFT),
        "no change": predict_no_change(control, condition_key="condition", to="stim"),
    }
    reference = training_reference(train, to="stim", **KEYS)
    return evaluate_counterfactual(
        predicted, real, other, groupby="kind", reference=reference, n_top=8, **FEW
    )


def value(table, method, metric, group="all", column="value"):
    of = table.set_index(["method", "metric", "group"])[column]
    return of[method, metric, group]


def test_every_figure_is_that_of_its_function(sides, table):
    train, control, real, other = sides
    predicted = predict_mean_shift(train, control, **SHIFT)
    ours, theirs, before = (
        s[s.obs["kind"] == "b"].X.astype(float) for s in (predicted, real, other)
    )
    reference = training_reference(train, to="stim", **KEYS)
    shared = before.mean(axis=0) + reference.mean_change.to_numpy()
    weights, space = metrics.de_weights(reference.scores("b")), reference.components.T
    tables = metrics.de_table(ours, before), metrics.de_table(theirs, before)
    expected = {
        "r2": metrics.mean_expression_r2(ours, theirs),
        "pearson": metrics.change_pearson(ours, theirs, before),
        "pearson_perturbed": metrics.change_pearson(ours, theirs, shared),
        "weighted_r2": metrics.change_r2(ours, theirs, before, weights),
        "weighted_r2_perturbed": metrics.change_r2(ours, theirs, shared, weights),
        "rmse": metrics.change_rmse(ours, theirs),
        "cosine": metrics.change_cosine(ours, theirs, before),
        "norm_ratio": metrics.change_norm_ratio(ours, theirs, before),
        "de_overlap": metrics.de_overlap(*tables, 5),
        "direction_match": metrics.de_direction_match(*tables),
        "de_auprc": metrics.de_auprc(*tables),
        "energy": metrics.energy_distance(ours, theirs),
        "energy_pca": metrics.energy_distance(ours @ space, theirs @ space),
    }
    for metric, figure in expected.items():
        assert value(table, "own", metric, "b") == pytest.approx(figure, abs=1e-6), metric
    of_b = table[(table["group"] == "b") & (table["method"] == "own")]
    assert set(expected) | {"r2_top", "mmd", "mmd_pca", "centroid_accuracy"} == set(of_b["metric"])
    assert of_b["metric"].is_unique


def test_scores_tell_good_predictions_from_bad_ones(table):
    own, mean, none = (
        table[(table["method"] == name) & (table["group"] == "all")].set_index("metric")["score"]
        for name in ("own", "mean", "no change")
    )
    # as good as half of the real cells, but for what chance does to 30 cells
    assert (own > 0.75).all()
    # controls that differ by chance make a change of it
    assert none.dropna().max() < 0.3
    assert (mean < own + 0.01).all()
    # what is particular to a kind, the mean of all changes misses
    assert mean["pearson"] > 0.5 > 0.4 > mean["pearson_perturbed"]
    assert mean["centroid_accuracy"] < 0.4 < 0.9 < own["centroid_accuracy"]


def test_floors_and_ceilings(table):
    by_metric = table[table["group"] == "a"].groupby("metric")[["floor", "ceiling"]]
    assert (by_metric.nunique() == 1).all(axis=None)
    bounds = by_metric.first()
    assert bounds.loc["de_overlap", "floor"] == 5 / 25
    assert bounds.loc["direction_match", "floor"] == 0.5
    assert (bounds.drop(["rmse"])["ceiling"] <= 1.2).all()
    assert bounds.loc["energy", "ceiling"] < 0.2 < 1 < bounds.loc["energy", "floor"]
    # within floor and ceiling is not better than the ceiling
    assert value(table, "no change", "energy", "a") == pytest.approx(
        bounds.loc["energy", "floor"], abs=0.5
    )


def test_other_real_cells_may_be_the_ceiling(sides):
    train, control, real, other = sides
    first = real[real.obs["kind"].isin(list("ab"))]
    duplicate = train[(train.obs["condition"] == "stim") & (train.obs["kind"] == "a")]
    found = evaluate_counterfactual(
        control, first, other, groupby="kind", duplicate=duplicate, **(FEW | {"n_permutations": 0})
    )
    r2 = found[found["metric"] == "r2"].set_index("group")["ceiling"]
    theirs = first[first.obs["kind"] == "a"]
    assert r2["a"] == pytest.approx(metrics.mean_expression_r2(duplicate, theirs))
    # of halves of the real cells, whose means vary more
    assert r2["b"] < r2["a"]


def test_p_values_are_of_distances(table):
    p = table.pivot_table("p_value", "metric", "method")
    assert set(p.index) == {"energy", "mmd", "energy_pca", "mmd_pca"}
    assert p["no change"].to_numpy() == pytest.approx(0.1)
    assert (p["own"] > 0.12).all()


def test_training_cells_choose_the_genes(sides):
    train = sides[0]
    unseen = train[(train.obs["kind"] != "a") | (train.obs["condition"] == "ctrl")]
    reference = training_reference(unseen, to="stim", **KEYS)
    assert list(reference.de_scores.index) == KINDS[1:]
    assert set(reference.top_genes("b", 6)) == {"g0", "g1", "g2", "g3", "g4", "g11"}
    # of an unseen kind: what the others share
    assert set(reference.top_genes("a", 3)) == {"g0", "g1", "g2"}
    np.testing.assert_allclose(reference.mean_change.iloc[:3], [2, 1.5, -2], atol=0.3)
    by_condition = training_reference(
        train, groupby="condition", condition_key="condition", control="ctrl"
    )
    assert list(by_condition.de_scores.index) == ["stim"]
    with pytest.raises(ValueError, match="Name the target condition"):
        training_reference(train, **KEYS)
    with pytest.raises(ValueError, match="to='stym' .* Did you mean 'stim'"):
        training_reference(train, to="stym", **KEYS)
    with pytest.raises(ValueError, match="No group of obs.*has 5 training cells"):
        training_reference(anndata.concat([train[:180], train[-2:]]), to="stim", **KEYS)


def test_counts_are_compared_by_their_logs(counts):
    counts.X = counts.X.toarray()
    control, real = (counts[counts.obs["condition"] == c].copy() for c in ("ctrl", "stim"))
    few = {"n_splits": 1, "n_permutations": 0, "k": 5}
    found = evaluate_counterfactual(control, real, control, **few)
    for side in (control, real):
        side.X = np.log1p(side.X / side.X.sum(axis=1, keepdims=True) * 1e4)
    logs = evaluate_counterfactual(control, real, control, **few)
    np.testing.assert_allclose(found["value"], logs["value"], rtol=1e-4, atol=1e-5)
    assert set(found["group"]) == {"all"} and found["p_value"].isna().all()
    assert "weighted_r2" not in set(found["metric"])


def test_what_cannot_be_compared_is_said(sides):
    _, control, real, other = sides
    with pytest.raises(ValueError, match="predicted has no cells of 'a'"):
        evaluate_counterfactual(control[30:], real, other, groupby="kind", **FEW)
    with pytest.raises(ValueError, match="'f' has 2 real"):
        evaluate_counterfactual(control, real[:152], other, groupby="kind", **FEW)
    with pytest.raises(KeyError, match="groupby"):
        evaluate_counterfactual(control, real, other, groupby="kin", **FEW)
