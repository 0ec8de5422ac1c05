"""A condition of two columns: combinations that were never seen together."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import mixvi
from mixvi import CGMVAE, CVAE
from mixvi.cells import predict_class_means, predict_linear_shift, predict_mean_shift

STIMULI, TIMES, TYPES = ("ctrl", "A", "B"), ("1h", "2h", "6h"), ("T", "B")
KEYS = ["stimulus", "time"]
SETUP = {"labels_key": "cell_type", "condition_key": KEYS}
LEFT_OUT = ("B", "6h")
N_GENES = 30


def made_cells(interaction: float = 0.0, n: int = 50) -> tuple[AnnData, dict]:
    """Counts whose log rates are sums of effects of type, stimulus and time, and true shares.

    At 6 h both stimuli do something more, by so much.
    """
    rng = np.random.default_rng(0)
    of_type = {name: rng.normal(1.5, 0.7, N_GENES) for name in TYPES}
    effects = [
        {name: (i > 0) * rng.normal(0, 0.7, N_GENES) for i, name in enumerate(names)}
        for names in (STIMULI, TIMES)
    ]
    more = interaction * rng.normal(size=N_GENES)
    x, obs, shares = [], [], {}
    for kind, stimulus, time in np.stack(np.meshgrid(TYPES, STIMULI, TIMES), -1).reshape(-1, 3):
        rates = of_type[kind] + effects[0][stimulus] + effects[1][time]
        rates = np.exp(rates + more * (stimulus != "ctrl" and time == "6h"))
        x.append(rng.poisson(rates * rng.lognormal(0, 0.2, (n, 1))))
        obs += [(kind, stimulus, time)] * n
        shares[kind, stimulus, time] = rates / rates.sum()
    obs = pd.DataFrame(obs, columns=["cell_type", *KEYS])
    obs.index = [f"cell_{i}" for i in range(len(obs))]
    return AnnData(np.concatenate(x).astype(np.float32), obs=obs), shares


def of_combination(cells: AnnData, stimulus: str, time: str) -> np.ndarray:
    return ((cells.obs["stimulus"] == stimulus) & (cells.obs["time"] == time)).to_numpy()


def fitted(fit, train, **options):
    options = {"n_components": 2, "condition_in": "x_only", "dropout_rate": 0.0} | options
    return fit(CGMVAE, train, 20, SETUP, **options)


@pytest.fixture
def additive():
    """All cells, those without one combination, and true shares."""
    cells, shares = made_cells()
    return cells, cells[~of_combination(cells, *LEFT_OUT)].copy(), shares


def share_of(cells: AnnData, kind: str) -> np.ndarray:
    x = np.asarray(cells.X)[(cells.obs["cell_type"] == kind).to_numpy()].sum(axis=0)
    return x / x.sum()


def missed(share: np.ndarray, true: np.ndarray) -> float:
    return float(np.abs(share - true).sum())


def test_effects_that_add_up(fit, additive, lines):
    _, train, shares = additive
    before = train.copy()
    model = fitted(fit, train)
    own = train[of_combination(train, "B", "2h")].copy()
    found = model.counterfactual(own, to={"time": "6h"})
    assert set(found.obs["stimulus"]) == {"B"}
    assert set(found.obs["time"]) == {"6h"}
    assert set(found.obs["original_condition"]) == {"B + 2h"}
    assert set(found.obs["target_condition"]) == {"B + 6h"}
    assert found.obs["within_support"].mean() > 0.9
    # what departs from effects that add up is chance here, which the network has learnt
    assert found.uns["mixvi_prediction"]["network_share"] < 0.1
    assert any("'B + 6h': never seen" in line for line in lines())
    change = model.get_mean_change(own, {"time": "6h"}, groupby="cell_type")
    for kind in TYPES:
        true = shares[kind, *LEFT_OUT]
        seen = [
            missed(of, true) for name, of in shares.items() if name[0] == kind and of is not true
        ]
        error = missed(share_of(found, kind), true)
        assert error < 0.3 * min(seen)
        rows = change[change["group"] == kind]
        expected = true - shares[kind, "B", "2h"]
        np.testing.assert_allclose(rows["change"], expected, atol=0.02)
        # the cells themselves add chance to it
        assert missed(rows["change"].to_numpy(), expected) < 0.2 * min(seen)
        assert ((rows["lower"] <= expected) & (expected <= rows["upper"])).mean() > 0.7
    # the user's columns are as they were, and none is new but the codes
    pd.testing.assert_frame_equal(train.obs[before.obs.columns], before.obs)
    assert all(
        name.startswith("_scvi_") for name in train.obs.columns.difference(before.obs.columns)
    )


def test_a_strong_interaction_is_missed_and_the_interval_says_so(fit, additive):
    """Nothing that was seen tells of what B does at 6 h; that A does more there widens it."""
    wide = []
    for interaction in (0.0, 1.0):
        cells, shares = made_cells(interaction)
        train = cells[~of_combination(cells, *LEFT_OUT)].copy()
        model = fitted(fit, train)
        own = train[of_combination(train, "B", "2h")].copy()
        change = model.get_mean_change(own, {"time": "6h"}, groupby="cell_type")
        wide.append((change["upper"] - change["lower"]).median())
        error = [
            missed(
                share_of(model.counterfactual(own, to={"time": "6h"}), kind),
                shares[kind, *LEFT_OUT],
            )
            for kind in TYPES
        ]
        kept = [missed(shares[kind, "B", "2h"], shares[kind, *LEFT_OUT]) for kind in TYPES]
        # better than no change, but far from the truth
        assert (np.array(error) < kept).all()
        assert (np.array(error) > 0.2).all() == (interaction > 0)
    assert wide[1] > 2 * wide[0]


def test_seen_combinations_change_as_their_cells_do(fit, additive):
    """As with one column that joins them, of which all are seen."""
    _, train, shares = additive
    model = fitted(fit, train)
    own = train[of_combination(train, "A", "1h")].copy()
    found = model.counterfactual(own, to=("A", "6h"))
    assert "network_share" not in found.uns["mixvi_prediction"]
    for kind in TYPES:
        assert missed(share_of(found, kind), shares[kind, "A", "6h"]) < 0.06
    same = model.get_mean_change(own, "A + 6h", groupby="cell_type")
    pd.testing.assert_frame_equal(
        same, model.get_mean_change(own, {"time": "6h", "stimulus": "A"}, groupby="cell_type")
    )


def test_cells_keep_what_is_not_named(fit, additive):
    _, train, _ = additive
    model = fitted(fit, train)
    change = model.get_mean_change(train, {"time": "6h"}, groupby="stimulus")
    found = model.counterfactual(train, to={"time": "6h"}, keep_residual=False)
    assert found.obs_names.equals(train.obs_names)
    assert (found.obs["stimulus"].astype(str) == train.obs["stimulus"].astype(str)).all()
    for stimulus in STIMULI:
        of = (train.obs["stimulus"] == stimulus).to_numpy()
        one = train[of].copy()
        alone = model.counterfactual(one, to={"time": "6h"}, keep_residual=False)
        np.testing.assert_allclose(found.X[of], alone.X, rtol=1e-4, atol=1e-4)
        part = change[change["group"] == stimulus]["change"].to_numpy()
        of_one = model.get_mean_change(one, {"time": "6h"})["change"].to_numpy()
        np.testing.assert_allclose(part, of_one, atol=1e-5)


def test_files_queries_views_and_orders(fit, additive, tmp_path):
    cells, train, _ = additive
    model = fitted(fit, train)
    query = cells[of_combination(cells, *LEFT_OUT) | of_combination(cells, "B", "2h")].copy()
    query.obs["time"] = pd.Categorical(query.obs["time"], ["6h", "2h", "1h"])
    to = {"stimulus": "A"}

    def converted(of, adata):
        return of.counterfactual(adata, to=to, keep_residual=False)

    expected = converted(model, query.copy())
    model.save(tmp_path / "model")
    loaded = CGMVAE.load(tmp_path / "model", train)
    mapped = CGMVAE.load_query_data(query.copy(), tmp_path / "model")
    alone = CGMVAE.load(tmp_path / "model", False)
    for other in (loaded, mapped, alone):
        assert other.conditions == model.conditions
        np.testing.assert_allclose(converted(other, query.copy()).X, expected.X, rtol=1e-5)
    order = np.random.default_rng(0).permutation(query.n_obs)
    turned = converted(model, query[order])
    np.testing.assert_allclose(turned.X, expected[turned.obs_names].X, rtol=1e-4, atol=1e-5)
    # cells of a combination that training lacks are converted, too
    assert set(expected.obs["original_condition"]) == {"B + 2h", "B + 6h"}
    sample = model.sample(2, conditions=[{"stimulus": "B", "time": "6h"}])
    assert set(zip(sample.obs["stimulus"], sample.obs["time"], strict=True)) == {LEFT_OUT}
    model.annotate(query, counterfactual_to=to)
    assert "A + 2h" in query.uns["gmvae"]["counterfactual_condition"]


def test_hours_between_two_beside_a_stimulus(fit, additive):
    _, train, _ = additive
    train.obs["time"] = train.obs["time"].str.removesuffix("h").astype(int)
    model = fitted(fit, train)
    own = train[(train.obs["stimulus"] == "B").to_numpy()].copy()
    middle, *ends = (
        model.get_mean_change(own, {"stimulus": "B", "time": time})["change"] for time in (4, 2, 6)
    )
    np.testing.assert_allclose(middle, (ends[0] + ends[1]) / 2, atol=1e-5)


def test_the_example_of_the_page(additive):
    cells, train, _ = additive
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (example,) = (block for block in blocks if "network_share" in block)
    assert example.count("model.train()") == 1
    few = 'model.train(2, accelerator="cpu", enable_progress_bar=False)'
    own = cells[of_combination(cells, "B", "2h")].copy()
    names = {"mixvi": mixvi, "train": train, "cells": own}
    exec(example.replace("model.train()", few), names)
    assert "network_share" in names["converted"].uns["mixvi_prediction"]
    assert set(names["shifted"].obs["target_condition"]) == {"B + 6h"}


def test_what_was_registered_is_shown(additive, capsys):
    _, train, _ = additive
    CGMVAE.setup_anndata(train, **SETUP)
    model = CGMVAE(train, n_components=2)
    assert "condition ['stimulus', 'time'] (9: A + 1h, A + 2h" in str(model)
    model.view_anndata_setup()
    assert "stimulus + time" in capsys.readouterr().out


def test_one_column_in_a_list_is_that_column(additive):
    _, train, _ = additive
    CGMVAE.setup_anndata(train, condition_key=["stimulus"])
    model = CGMVAE(train, n_components=2)
    assert model.condition_key == "stimulus"
    assert model.conditions == sorted(STIMULI)


@pytest.mark.parametrize("prior", ["fixed", "learned"])
def test_other_models_take_columns_side_by_side(fit, additive, prior):
    _, train, _ = additive
    model = fit(CVAE, train, 1, {"condition_key": KEYS}, prior=prior)
    assert model.module.n_condition_columns == 6
    rows = next(model._batches(train, None, None))
    np.testing.assert_array_equal(rows.covariates[:, :6].sum(1), 2.0)
    found = model.counterfactual(to={"time": "6h"})
    assert (found.obs["stimulus"].astype(str) == train.obs["stimulus"]).all()
    assert model.sample(1).n_obs == 9


@pytest.mark.parametrize("predict", [predict_mean_shift, predict_linear_shift])
def test_arithmetic_on_means(additive, predict):
    cells, train, shares = additive
    own = cells[of_combination(cells, "B", "2h")].copy()
    options = {"labels_key": "cell_type", "condition_key": KEYS}
    found = predict(train, own, to={"time": "6h"}, **options)
    assert set(found.obs["target_condition"]) == {"B + 6h"}
    for kind in TYPES:
        true = shares[kind, *LEFT_OUT]
        assert missed(share_of(found, kind), true) < 0.3 * missed(shares[kind, "A", "6h"], true)
    order = np.random.default_rng(0).permutation(train.n_obs)
    both = {"stimulus": "B", "time": "6h"}
    again = predict(train[order], own, to=both, keep_residual=False, **options)
    first = predict(train, own, to=both, keep_residual=False, **options)
    np.testing.assert_allclose(again.X, first.X, rtol=1e-4)


def test_values_that_are_no_counts_add_up_as_they_are(additive):
    cells, _, _ = additive
    x = cells.obs["stimulus"].map({"ctrl": 0, "A": 1, "B": 2}).to_numpy(float)
    x = 0.5 - x - cells.obs["time"].map({"1h": 0, "2h": 3, "6h": 5}).to_numpy(float)
    cells = AnnData(np.repeat(x[:, None], 3, axis=1), obs=cells.obs)
    train = cells[~of_combination(cells, *LEFT_OUT)].copy()
    own = cells[of_combination(cells, "ctrl", "1h")].copy()
    to = dict(zip(KEYS, LEFT_OUT, strict=True))
    found = predict_mean_shift(train, own, labels_key="cell_type", condition_key=KEYS, to=to)
    np.testing.assert_allclose(found.X, -6.5, atol=1e-5)


def test_messages_before_training(additive):
    _, train, _ = additive
    columns = list(train.obs.columns)
    with pytest.raises(ValueError, match="condition_key names 'time' more than once"):
        CGMVAE.setup_anndata(train, condition_key=["time", "time"])
    with pytest.raises(KeyError, match="condition_key='tme' is not in.*'time'"):
        CGMVAE.setup_anndata(train, condition_key=["stimulus", "tme"])
    with pytest.raises(ValueError, match="empty list"):
        CGMVAE.setup_anndata(train, condition_key=[])
    lacking = train.copy()
    lacking.obs.loc[lacking.obs_names[:3], "time"] = np.nan
    with pytest.raises(ValueError, match=r"obs\['time'\] \(condition_key\) has 3 missing"):
        CGMVAE.setup_anndata(lacking, condition_key=KEYS)
    train.obs["number"] = [f"n{i}" for i in range(train.n_obs)]
    with pytest.raises(ValueError, match=r"3 x 800 = 2,400 combinations"):
        CGMVAE.setup_anndata(train, condition_key=["stimulus", "number"])
    train.obs["left"], train.obs["right"] = "a", "c"
    train.obs.loc[train.obs_names[:9], ["left", "right"]] = ["a + b", "b + c"]
    with pytest.raises(ValueError, match=r"both called 'a \+ b \+ c'"):
        CGMVAE.setup_anndata(train, condition_key=["left", "right"])
    assert list(train.obs.columns) == [*columns, "number", "left", "right"]


def test_a_combination_of_few_cells_counts_as_unseen(additive):
    cells, _, _ = additive
    few = of_combination(cells, *LEFT_OUT).copy()
    few[np.flatnonzero(few)[:4]] = False
    with pytest.warns(UserWarning, match=r"fewer than 5 cells: 'B \+ 6h' \(4\)"):
        CGMVAE.setup_anndata(cells[~few].copy(), condition_key=KEYS)


def test_arithmetic_takes_columns_however_they_are_listed(additive):
    cells, train, _ = additive
    own = train[of_combination(train, "B", "2h")].copy()
    keys = {"labels_key": "cell_type", "to": {"time": "6h"}, "keep_residual": False}
    found = predict_mean_shift(train, own, condition_key=KEYS, **keys)
    again = predict_mean_shift(train, own, condition_key=tuple(KEYS), **keys)
    assert np.array_equal(found.X, again.X)
    with pytest.raises(TypeError, match="condition_key is .* but must be one name"):
        predict_class_means(train, own, condition_key=KEYS, labels_key="cell_type", to="6h")


def test_true_is_no_hour(additive):
    _, train, _ = additive
    train.obs["time"] = train.obs["time"].str.removesuffix("h").astype(int)
    CGMVAE.setup_anndata(train, **SETUP)
    with pytest.raises(ValueError, match=r"to\['time'\]=True is not known"):
        CGMVAE(train, n_components=2).counterfactual(to={"time": True})


def test_confounded_columns(fit, additive):
    cells, _, _ = additive
    pairs = {("ctrl", "1h"), ("A", "2h"), ("B", "6h")}
    kept = [own in pairs for own in zip(cells.obs["stimulus"], cells.obs["time"], strict=True)]
    train = cells[np.array(kept)].copy()
    with pytest.warns(UserWarning, match=r"confounded.* for 6 of their 9 combinations"):
        CGMVAE.setup_anndata(train, **SETUP)
    model = CGMVAE(train, n_components=2, n_hidden=16, n_layers=1)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    own = train[of_combination(train, "A", "2h")].copy()
    with pytest.raises(ValueError, match=r"'A \+ 6h' was never seen.*route='z'"):
        model.counterfactual(own, to={"time": "6h"})
    assert model.counterfactual(own, to={"time": "6h"}, route="z").n_obs == own.n_obs
    # nor is the way told that begins there
    unseen = cells[of_combination(cells, "A", "6h")].copy()
    for convert in (model.counterfactual, model.get_mean_change):
        with pytest.raises(ValueError, match=r"'A \+ 6h' was never seen"):
            convert(unseen, {"stimulus": "A", "time": "2h"})
    with pytest.raises(ValueError, match="no change can be learned"):
        predict_mean_shift(
            train, own, labels_key="cell_type", condition_key=KEYS, to={"time": "6h"}
        )


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ({"tim": "6h"}, "names the column 'tim'.*'time'"),
        ({"time": "7h"}, r"to\['time'\]='7h' is not known.*'6h'"),
        ({"time": None}, r"to\['time'\] is None.*'6h'"),
        ("B", r"to='B' is not known"),
        ({}, "empty dict"),
    ],
)
def test_unknown_targets(fit, additive, to, message):
    _, train, _ = additive
    CGMVAE.setup_anndata(train, **SETUP)
    with pytest.raises(ValueError, match=message):
        CGMVAE(train, n_components=2).counterfactual(to=to)


@pytest.mark.parametrize(
    ("to", "error", "message"),
    [
        ({"tim": "6h"}, ValueError, "names the column 'tim'.*'time'"),
        ({"time": "7h"}, ValueError, "'7h'.*'6h'"),
        ("6h", TypeError, "'stimulus'.*'time'"),
    ],
)
def test_unknown_targets_of_arithmetic(additive, to, error, message):
    _, train, _ = additive
    with pytest.raises(error, match=message):
        predict_mean_shift(train, train, labels_key="cell_type", condition_key=KEYS, to=to)
