"""Changes of means: by hand, within the support, and what cannot be learned."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from conftest import on_disk

from mixvi.cells import (
    predict_class_means,
    predict_linear_shift,
    predict_mean_shift,
    predict_no_change,
)

KEYS = {"labels_key": "kind", "condition_key": "condition", "to": "stim"}
# means of kinds a, b, c before, and how they change
BEFORE = np.array([[0.0, 0, 5], [3, 0, 5], [0, 4, 5]])
CHANGES = np.array([[1.0, 0, 0], [0, 2, 0], [-3, 0, 0]])


def population(means, kinds, condition, n=10, seed=0):
    x = np.repeat(np.asarray(means, float), n, axis=0)
    noise = np.random.default_rng(seed).normal(0, 0.1, (len(means), n, x.shape[1]))
    x += (noise - noise.mean(axis=1, keepdims=True)).reshape(x.shape)
    obs = pd.DataFrame({"kind": np.repeat(kinds, n), "condition": condition})
    obs.index = [f"{condition} {kind} {i}" for kind in kinds for i in range(n)]
    return AnnData(x.astype(np.float32), obs=obs)


def joined(*parts):
    return anndata.concat(parts)


@pytest.fixture
def control():
    return population(BEFORE - 10, list("abc"), "ctrl")


@pytest.fixture
def train(control):
    return joined(control, population(BEFORE - 10 + CHANGES, list("abc"), "stim", seed=1))


def changes_of(predicted, control):
    by = control.obs["kind"].to_numpy()
    return np.stack([(predicted.X - control.X)[by == kind].mean(axis=0) for kind in "abc"])


def test_own_change_moves_each_cell_alike(train, control):
    predicted = predict_mean_shift(train, control, **KEYS)
    np.testing.assert_allclose(predicted.X - control.X, np.repeat(CHANGES, 10, axis=0), atol=1e-5)
    assert set(predicted.obs["target_condition"]) == {"stim"}
    assert predicted.uns["mixvi_prediction"]["source"] == "mean shift (own)"
    means = predict_mean_shift(train, control, keep_residual=False, **KEYS)
    np.testing.assert_allclose(means.X, np.repeat(BEFORE - 10 + CHANGES, 10, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "expected"),
    # from a to b 9, to c 16: their changes by 16 to 9
    [("similar", (16 * CHANGES[1] + 9 * CHANGES[2]) / 25), ("nearest", CHANGES[1])],
)
def test_changes_of_others(train, control, weights, expected):
    without = train[~((train.obs["kind"] == "a") & (train.obs["condition"] == "stim"))]
    for cells in (train, without):
        predicted = predict_mean_shift(cells, control, weights=weights, **KEYS)
        np.testing.assert_allclose(changes_of(predicted, control)[0], expected, atol=1e-4)
    by_default = predict_mean_shift(without, control, **KEYS)
    similar = (16 * CHANGES[1] + 9 * CHANGES[2]) / 25
    np.testing.assert_allclose(changes_of(by_default, control)[0], similar, atol=1e-4)
    mean = predict_mean_shift(without, control, weights="mean", **KEYS)
    np.testing.assert_allclose(changes_of(mean, control)[0], CHANGES[1:].mean(axis=0), atol=1e-4)


def test_a_label_nobody_trained_on_is_placed_by_its_own_cells(train, control):
    only = train[train.obs["kind"] != "a"]
    predicted = predict_mean_shift(only, control, weights="nearest", **KEYS)
    np.testing.assert_allclose(changes_of(predicted, control)[0], CHANGES[1], atol=1e-4)


def test_linear_shift_finds_a_linear_law():
    rng = np.random.default_rng(0)
    kinds = [f"k{i}" for i in range(8)]
    before = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 12)) - 20
    law = rng.normal(size=(12, 12)) / 4
    control = population(before, kinds, "ctrl")
    after = population(before + (before + 20) @ law + 1, kinds, "stim", seed=1)
    train = joined(control, after[after.obs["kind"] != "k0"])
    first, real = control[control.obs["kind"] == "k0"], after[after.obs["kind"] == "k0"]
    error = {}
    for name, predict in {"linear": predict_linear_shift, "mean": predict_mean_shift}.items():
        options = {"weights": "mean"} if name == "mean" else {"ridge": 1e-6}
        predicted = predict(train, first, **KEYS, **options)
        error[name] = np.abs(predicted.X.mean(axis=0) - real.X.mean(axis=0)).max()
    assert error["linear"] < 1e-3 < 0.1 < error["mean"]
    shrunk = predict_linear_shift(train, first, **KEYS, ridge=1e9)
    by_mean = predict_mean_shift(train, first, weights="mean", **KEYS)
    np.testing.assert_allclose(shrunk.X, by_mean.X, atol=1e-4)


def test_linear_shift_of_counts_is_of_proportions():
    """By the default penalty, which proportions are too small for."""
    rng = np.random.default_rng(0)
    kinds, place = [f"k{i}" for i in range(6)], np.array([1.0, -1, -0.6, -0.2, 0.2, 0.6])
    shares = np.full((6, 20), 0.05)
    shares[:, 0] += 0.04 * place
    shares[:, 1] -= 0.04 * place
    after = shares.copy()
    after[:, 2] += 0.04 * place
    after[:, 3] -= 0.04 * place

    def drawn(means, condition):
        cells = population(means, kinds, condition, n=40)
        cells.X = rng.poisson(2000 * np.repeat(means, 40, axis=0)).astype(np.float32)
        return cells

    control, stim = drawn(shares, "ctrl"), drawn(after, "stim")
    train, first = joined(control, stim[stim.obs["kind"] != "k0"]), control[:40]
    found = predict_linear_shift(train, first, **KEYS).X
    assert not (found % 1).any()
    by_mean = predict_mean_shift(train, first, weights="mean", **KEYS).X
    off = [np.abs(x.mean(axis=0) - 2000 * after[0])[2:4].mean() for x in (found, by_mean)]
    assert off[0] < 0.4 * off[1]


def test_log_data_stay_above_zero_with_their_zeros(sparse_logs):
    control = sparse_logs[sparse_logs.obs["condition"] == "ctrl"]
    real = sparse_logs[sparse_logs.obs["condition"] == "stim"]
    predicted = predict_mean_shift(sparse_logs, control, **KEYS)
    assert predicted.X.min() >= 0
    zeros = (predicted.X == 0).mean(axis=0), (real.X == 0).mean(axis=0)
    assert np.abs(zeros[0] - zeros[1]).mean() < 0.05
    np.testing.assert_allclose(predicted.X.mean(axis=0), real.X.mean(axis=0), atol=0.25)
    again = predict_mean_shift(sparse_logs, control, **KEYS)
    np.testing.assert_array_equal(again.X, predicted.X)
    assert (predict_mean_shift(sparse_logs, control, **KEYS, seed=1).X != predicted.X).any()


@pytest.fixture
def sparse_logs(counts):
    counts.X = counts.X.toarray()
    stim = (counts.obs["condition"] == "stim").to_numpy()
    counts.X[stim, :5] = np.random.default_rng(0).poisson(4, (stim.sum(), 5))
    counts.layers["counts"] = counts.X.copy()
    sc.pp.normalize_total(counts, target_sum=100)
    sc.pp.log1p(counts)
    return counts


def test_centred_residuals_have_the_means_that_were_learned(sparse_logs):
    control = sparse_logs[sparse_logs.obs["condition"] == "ctrl"][::3]
    centred = predict_mean_shift(sparse_logs, control, keep_residual="centred", **KEYS)
    means = predict_class_means(sparse_logs, control, **KEYS)
    for kind in "ab":
        of = (control.obs["kind"] == kind).to_numpy()
        np.testing.assert_allclose(centred.X[of].mean(0), means.X[of].mean(0), atol=1e-4)
    assert centred.X.min() >= 0 and (centred.X == 0).mean() > 0.1
    with pytest.raises(ValueError, match="fractions of counts"):
        predict_mean_shift(sparse_logs, control, keep_residual="centred", layer="counts", **KEYS)


def test_counts_stay_counts_at_their_library_size(sparse_logs):
    control = sparse_logs[sparse_logs.obs["condition"] == "ctrl"]
    real = sparse_logs[sparse_logs.obs["condition"] == "stim"].layers["counts"]
    predicted = predict_mean_shift(sparse_logs, control, layer="counts", **KEYS)
    x = predicted.layers["counts"]
    assert (x % 1 == 0).all() and predicted.uns["mixvi_prediction"]["layer"] == "counts"
    assert x.sum() == pytest.approx(control.layers["counts"].sum(), rel=0.03)
    np.testing.assert_allclose(x.sum(axis=0) / x.sum(), real.sum(axis=0) / real.sum(), atol=0.02)
    same = predict_no_change(control, condition_key="condition", to="stim", layer="counts")
    np.testing.assert_array_equal(same.layers["counts"], control.layers["counts"])


def test_what_cannot_be_learned_is_said(train, control):
    before = train.copy()
    stim = train.obs["condition"] == "stim"
    with pytest.raises(ValueError, match="No training cell has the condition 'nowhere'"):
        predict_mean_shift(train, control, **(KEYS | {"to": "nowhere"}))
    few = train[~stim | (train.obs_names.str[-1] == "0")]
    with pytest.raises(ValueError, match="No label has 5 training cells"):
        predict_mean_shift(few, control, **KEYS)
    first = train[~(stim & (train.obs["kind"] == "a")) | (train.obs_names.str[-1] == "0")]
    with pytest.warns(UserWarning, match=r"Fewer than 5 .* 'stim': 'a' \(1\)"):
        predict_mean_shift(first, control, **KEYS)
    alone = train[train.obs["kind"] == "a"]
    with pytest.raises(ValueError, match="Use weights='own'"):
        predict_mean_shift(alone, control, weights="nearest", **KEYS)
    with pytest.raises(ValueError, match="weights='best' is not known"):
        predict_mean_shift(train, control, weights="best", **KEYS)
    np.testing.assert_array_equal(train.X, before.X)


def test_logs_where_counts_were_trained_are_refused(sparse_logs):
    other = sparse_logs.copy()
    other.layers["counts"] = other.X
    with pytest.raises(ValueError, match="training cells has count values, .* non-negative"):
        predict_mean_shift(sparse_logs, other, layer="counts", **KEYS)


def test_counts_where_logs_were_trained_are_refused(sparse_logs):
    other = sparse_logs.copy()
    other.X = other.layers["counts"]
    with pytest.raises(ValueError, match="training cells has non-negative values, .* count ones"):
        predict_mean_shift(sparse_logs, other, **KEYS)


def test_conditions_may_be_numbers(train, control):
    expected = predict_mean_shift(train, control, **KEYS)
    sides = train.copy(), control.copy()
    for side in sides:
        side.obs["condition"] = (side.obs["condition"] == "stim").astype(int)
    means = predict_class_means(train, control, **KEYS).X
    for to in (1, "1", np.int64(1)):
        found = predict_mean_shift(*sides, **(KEYS | {"to": to}))
        np.testing.assert_array_equal(found.X, expected.X)
        assert set(found.obs["condition"]) == {1}
        again = predict_class_means(*sides, **(KEYS | {"to": to}))
        np.testing.assert_array_equal(again.X, means)


def test_few_cells_before_the_change_are_told_of(train, control):
    few = train[~((train.obs["kind"] == "b") & (train.obs["condition"] == "ctrl"))]
    few = joined(few, control[10:13])
    with pytest.warns(UserWarning, match=r"Fewer than 5 .* 'ctrl': 'b' \(3\)"):
        predict_mean_shift(few, control, **KEYS)


def test_pairs_that_read_alike_are_apart(train, control):
    named = {"a": "x", "b": "y x", "c": "z"}
    of = {"ctrl": "u y", "stim": "v"}
    sides = []
    for side in (train, control):
        side = side.copy()
        side.obs["kind"] = side.obs["kind"].map(named)
        side.obs["condition"] = side.obs["condition"].map(of)
        sides.append(side)
    # cells "u y" of "x" and cells "u" of "y x"
    third = sides[1][10:20].copy()
    third.obs["condition"], third.obs_names = "u", [f"u {i}" for i in range(10)]
    # their own residuals are centred, not those of both
    sides[1].X[:10] += 1
    cells = joined(sides[1], third)
    to = KEYS | {"to": "v", "keep_residual": "centred"}
    with_third = joined(sides[0], third)
    together = predict_mean_shift(with_third, cells, **to)
    alone = predict_mean_shift(with_third, sides[1], **to)
    np.testing.assert_allclose(together.X[:30], alone.X, atol=1e-4)
    np.testing.assert_allclose(alone.X[:10].mean(axis=0), (BEFORE - 10 + CHANGES)[0], atol=1e-4)


def test_values_and_sides_that_cannot_be_used_are_said(train, control):
    for name, side in (("train", train), ("cells", control)):
        given = {"train": train, "cells": control} | {name: side.copy()}
        given[name].X[2, 1] = np.nan
        with pytest.raises(ValueError, match=rf"^{name}\.X has NaN or infinite values in 1 cells"):
            predict_mean_shift(**given, **KEYS)
        given[name] = side[:0]
        with pytest.raises(ValueError, match=f"^{name} is empty: it has 0 cells"):
            predict_mean_shift(**given, **KEYS)
        given[name] = side.X
        with pytest.raises(TypeError, match=f"^{name} must be an AnnData, but is a ndarray"):
            predict_mean_shift(**given, **KEYS)
    counts = control.copy()
    counts.layers["counts"] = counts.X
    with pytest.raises(KeyError, match=r"layer='counts' is not in adata\.layers of train"):
        predict_mean_shift(train, counts, layer="counts", **KEYS)


def test_cells_on_disk_and_cells_without_counts(sparse_logs, tmp_path):
    sparse_logs.X = sparse_logs.layers["counts"].copy()
    sparse_logs.uns.clear()
    control = sparse_logs[sparse_logs.obs["condition"] == "ctrl"].copy()
    expected = predict_mean_shift(sparse_logs, control, **KEYS)
    stored = on_disk(sparse_logs, tmp_path, "h5ad csr")
    np.testing.assert_array_equal(predict_mean_shift(stored, control, **KEYS).X, expected.X)
    control.X[:2] = 0
    control.obs["kind"] = ["new"] * 2 + list(control.obs["kind"][2:])
    found = predict_mean_shift(sparse_logs, control, **KEYS)
    assert not found.X[:2].any() and np.isfinite(found.X).all()
