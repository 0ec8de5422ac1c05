"""What the decoder misses of a change is learned from the training cells, or left out."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from mixvi import CGMVAE
from mixvi.cells.decoder_fit import DecoderFit, _linear_weights
from mixvi.cells.shifting import ConditionMeans

SETUP = {"labels_key": "cell_type", "condition_key": "condition"}


def fitted(changes, decode=None, variance=0.0, n_cells=100.0):
    """Five components at 0 to 4, of which the last was not seen under the target."""
    changes = torch.as_tensor(np.asarray(changes), dtype=torch.float32)
    decode = decode or (lambda z, _: torch.zeros(len(z), changes.shape[1]))
    places = torch.arange(5.0).view(5, 1)
    # how alike they are is told by the genes before the change
    before = places * torch.ones_like(changes)
    mean = torch.stack([before, before + changes])
    decoded = torch.stack([decode(places, code) for code in (0, 1)])
    examples = places.view(1, 5, 1, 1).expand(2, 5, 3, 1)
    fit = DecoderFit(mean, decoded, torch.full_like(mean, variance), examples, torch.zeros(2))
    cells = torch.full((2, 5), n_cells)
    cells[1, 4] = 0.0
    means = ConditionMeans(cells, places * cells.unsqueeze(-1))
    return fit.corrections(means, decode, 0, 1, False)


def test_seen_components_get_their_own_and_others_that_of_their_neighbours():
    shared = np.tile([1.0, -2.0, 0.5], (5, 1))
    found = fitted(shared)
    np.testing.assert_allclose(found.change, shared, rtol=1e-5)
    assert float(found.variance.max()) == pytest.approx(0.0, abs=1e-9)
    # a linear law goes on, as far out as components were seen, and shrunk by the penalty
    line = np.outer([0.0, 1.0, 2.0, 3.0, 0.0], [1.0, -2.0, 0.5])
    found = fitted(line)
    np.testing.assert_allclose(found.change[3], line[3], rtol=1e-5)
    assert 2.7 < found.change[4, 0] <= 3.0 + 1e-5
    np.testing.assert_allclose(found.expected, found.change, rtol=1e-5)


def test_the_decoder_says_how_a_component_differs_as_far_as_it_can_tell():
    """The pattern of its change; the size is that of the others'."""
    place = torch.arange(5.0)
    law = torch.stack([place.square(), torch.ones(5), -torch.ones(5)], dim=1)

    def lawful(z, sign):
        return sign * torch.cat([z.square(), torch.ones_like(z), -torch.ones_like(z)], dim=1)

    none = fitted(law)
    able = fitted(law, lambda z, code: code * lawful(z, 1))
    # half of what leaving out says: the decoder has seen what is left out
    assert float(able.reliance) == pytest.approx(0.5)
    near, halfway = none.expected[4], (none.expected[4] + law[4]) / 2
    np.testing.assert_allclose(able.expected[4].norm(), near.norm(), rtol=1e-4)
    np.testing.assert_allclose(able.expected[4] / near.norm(), halfway / halfway.norm(), rtol=1e-4)
    np.testing.assert_allclose(able.change[4] + law[4], able.expected[4], rtol=1e-4)
    # it has learned the opposite of what is particular to each
    wrong = fitted(law, lambda z, code: code * lawful(z, -1))
    assert float(wrong.reliance) == 0.0
    np.testing.assert_allclose(wrong.expected[4], near, rtol=1e-4)


def test_of_what_changed_under_another_condition_the_decoder_is_believed():
    """The last component was seen under a third condition, too."""
    places, genes = torch.arange(5.0).view(5, 1), torch.tensor([[1.0, -1.0, 2.0]])
    mean = torch.stack([places * genes, places * genes + 1.0, places * genes - 1.0])
    examples = places.view(1, 5, 1, 1).expand(3, 5, 3, 1)

    def decode(z, code):
        return z * genes + 0.3 * code

    decoded = torch.stack([decode(places, code) for code in range(3)])
    fit = DecoderFit(mean, decoded, torch.zeros_like(mean), examples, torch.zeros(3))
    cells = torch.full((3, 5), 100.0)
    cells[1, 4] = 0.0
    for elsewhere in (100.0, 0.0):
        cells[2, 4] = elsewhere
        means = ConditionMeans(cells, places * cells.unsqueeze(-1))
        found = fit.corrections(means, decode, 0, 1, False)
        np.testing.assert_allclose(found.expected[:4], 1.0, rtol=1e-5)
        np.testing.assert_allclose(found.expected[4], 0.3 if elsewhere else 1.0, rtol=1e-4)
        np.testing.assert_allclose(found.change[4], 0.0 if elsewhere else 0.7, atol=1e-4)


def test_nothing_is_extrapolated_farther_than_components_were_seen():
    """The unseen one lies ten times as far out."""
    places = torch.tensor([0.0, 1.0, 2.0, 3.0, 30.0]).view(5, 1)
    seen = torch.tensor([True, True, True, True, False])
    weights = _linear_weights(places, seen)
    assert float(weights[4] @ places) == pytest.approx(3.0)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-5)
    assert not weights.diagonal().any() and not weights[:, 4].any()


def test_variances_are_of_chance_and_of_what_neighbours_left_unsaid():
    # the means of ten cells on each side vary by 2 / 10 of what one does
    found = fitted(np.full((5, 4), 0.3), variance=0.9, n_cells=10.0)
    np.testing.assert_allclose(found.variance[:4], 0.18, rtol=1e-4)
    np.testing.assert_allclose(found.variance[4], 0.0, atol=1e-6)
    # one gene in which components differ, and one in which they do not
    apart = fitted(np.array([[1.0, 3], [-1, 3], [1, 3], [-1, 3], [0, 0]]), variance=0.9)
    assert apart.variance[4, 0] > 2 * apart.variance[4, 1] > 0


@pytest.fixture
def model(toy, fit):
    """Not trained to the end: the decoder misses much."""
    return fit(CGMVAE, toy, epochs=15, setup=SETUP, n_components=5, likelihood="mse")


def test_a_difference_between_batches_is_not_taken_for_the_effect(toy, fit):
    """Four in five stimulated cells are of the batch that one in five of the others are of."""
    stimulated = (toy.obs["condition"] == "condition 1").to_numpy()
    truth = toy.X.copy()
    second = np.random.default_rng(0).random(toy.n_obs) < np.where(stimulated, 0.8, 0.2)
    toy.X[second, :3] += 4.0
    toy.obs["batch"] = np.where(second, "two", "one")
    setup = SETUP | {"batch_key": "batch"}
    model = fit(CGMVAE, toy, epochs=40, setup=setup, n_components=5, likelihood="mse")
    control = toy[~stimulated].copy()
    change = model.get_mean_change(control, "condition 1").set_index("gene")["change"][:3]
    converted = model.counterfactual(control, to="condition 1")
    effect = truth[stimulated, :3].mean(0) - truth[~stimulated, :3].mean(0)
    # three fifths of the difference would be 2.4
    assert np.abs((converted.X - control.X)[:, :3].mean(0) - effect).max() < 0.4
    assert np.abs(change - effect).max() < 0.4


def test_means_are_right_where_the_cells_of_a_type_differ(fit):
    """Half of the cells have nothing that could fall."""
    rng = np.random.default_rng(0)
    n = 600
    condition, has_it = rng.integers(0, 2, n), rng.random(n) < 0.5
    rate = np.full((n, 12), 3.0)
    rate[:, :4] = np.where(has_it, 12.0, 0.1)[:, None] * np.where(condition, 0.2, 1.0)[:, None]
    obs = {"cell_type": ["one"] * n, "condition": [f"condition {c}" for c in condition]}
    obs = pd.DataFrame(obs, index=[f"cell {i}" for i in range(n)])
    cells = AnnData(rng.poisson(rate).astype(np.float32), obs=obs)
    model = fit(CGMVAE, cells, epochs=40, setup=SETUP, n_components=1, likelihood="nb")
    control = cells[condition == 0].copy()
    library = cells.X.sum(axis=1, keepdims=True)
    shares = model.counterfactual(control, to="condition 1").X / library[condition == 0]
    expected, before = ((cells.X / library)[condition == c, :4].mean(0) for c in (1, 0))
    converted = shares[:, :4].mean(0)
    assert np.abs(converted - expected).max() < 0.25 * np.abs(expected - before).min()


@pytest.fixture
def control(toy):
    return toy[toy.obs["condition"] == "condition 0"].copy()


def errors(converted, toy):
    of, real = converted.obs["cell_type"], toy[toy.obs["condition"] == "condition 1"]
    return [
        np.abs(
            converted.X[(of == name).to_numpy()].mean(axis=0)
            - real.X[(real.obs["cell_type"] == name).to_numpy()].mean(axis=0)
        ).mean()
        for name in toy.obs["cell_type"].cat.categories
    ]


@pytest.mark.parametrize("keep", [True, False, "centred"])
def test_means_of_seen_types_are_those_of_their_cells(toy, model, control, keep):
    options = {"to": "condition 1", "keep_residual": keep}
    plain = errors(model.counterfactual(control, correct_means=False, **options), toy)
    corrected = errors(model.counterfactual(control, correct_means=True, **options), toy)
    assert max(corrected) < 0.25 * np.mean(plain)


@pytest.mark.parametrize("keep", [True, "centred"])
def test_own_condition_changes_nothing(toy, model, keep):
    options = {"to": "condition 1", "keep_residual": keep}
    converted = model.counterfactual(toy, **options)
    there = (toy.obs["condition"] == "condition 1").to_numpy()
    np.testing.assert_allclose(converted.X[there], toy.X[there], atol=1e-4)


def test_means_are_corrected_where_residuals_are_kept(model, control):
    options = {"to": "condition 1"}
    for keep, correct in ((True, True), ("centred", True), (False, False)):
        given = model.counterfactual(control, keep_residual=keep, correct_means=correct, **options)
        by_default = model.counterfactual(control, keep_residual=keep, **options)
        np.testing.assert_array_equal(by_default.X, given.X)
    default = model.counterfactual(control, **options)
    corrected = model.counterfactual(control, correct_means=True, keep_residual=True, **options)
    np.testing.assert_array_equal(default.X, corrected.X)
    by_route = model.counterfactual(control, route="z", keep_residual=True, **options)
    plain = {"keep_residual": True, "correct_means": False}
    same = model.counterfactual(control, route="z", **plain, **options)
    np.testing.assert_array_equal(by_route.X, same.X)


def test_chance_in_few_cells_is_left_out_and_what_is_more_is_kept(toy, model, control):
    """The average of centred cells, of eight cells of a type and of eight that differ from it."""
    options = {"to": "condition 1", "keep_residual": "centred"}
    one = control.obs["cell_type"] == "type 0"
    few = control[np.flatnonzero(one)[:8]].copy()
    of = (toy.obs["cell_type"] == "type 0") & (toy.obs["condition"] == "condition 1")
    expected = toy[of.to_numpy()].X.mean(axis=0)
    size = np.abs(expected - control[one.to_numpy()].X.mean(axis=0)).mean()
    off = {}
    for correct in (True, False):
        x = model.counterfactual(few.copy(), correct_means=correct, **options).X
        off[correct] = np.abs(x.mean(axis=0) - expected).mean()
    assert off[True] < 0.2 * size and off[True] < 0.5 * off[False]
    few.X[:, :3] += 2.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* of the converted cells")
        apart = model.counterfactual(few, **options).X.mean(axis=0) - expected
    assert np.abs(apart[:3]).mean() > 3 * off[True]


def test_an_unseen_type_comes_nearer(toy, fit, control):
    """The decoder misses a change that all types have."""
    toy.X[(toy.obs["condition"] == "condition 1").to_numpy(), :10] += 3.0
    unseen = (toy.obs["cell_type"] == "type 0") & (toy.obs["condition"] == "condition 1")
    train = {"indices": np.flatnonzero(~unseen)}
    model = fit(CGMVAE, toy, epochs=6, setup=SETUP, n_components=5, train=train)
    first = control[control.obs["cell_type"] == "type 0"].copy()
    real = toy[unseen.to_numpy()].X.mean(axis=0)
    off = {}
    for correct_means in (False, True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "100 % of the converted cells")
            converted = model.counterfactual(first, to="condition 1", correct_means=correct_means)
        off[correct_means] = np.abs(converted.X.mean(axis=0) - real)[:10].mean()
    assert off[True] < 0.8 * off[False]


def test_saved_models_correct_alike(model, control, tmp_path):
    options = {"to": "condition 1", "correct_means": True}
    expected = model.counterfactual(control.copy(), **options)
    intervals = model.get_mean_change(control.copy(), "condition 1")
    model.save(tmp_path / "model")
    for cells in (False, control[:7].copy()):
        loaded = CGMVAE.load(tmp_path / "model", cells)
        got = loaded.counterfactual(control.copy(), **options)
        np.testing.assert_allclose(got.X, expected.X, atol=1e-4)
        np.testing.assert_allclose(got.obs["support"], expected.obs["support"], rtol=1e-3)
        again = loaded.get_mean_change(control.copy(), "condition 1")
        np.testing.assert_allclose(again["lower"], intervals["lower"], atol=1e-4)
    query = control[:30].copy()
    mapped = CGMVAE.load_query_data(query, model)
    np.testing.assert_allclose(
        mapped.counterfactual(query, **options).X, expected.X[:30], atol=1e-4
    )


def test_counts_stay_counts(counts, fit):
    setup = {"layer": "counts", "labels_key": "kind", "condition_key": "condition"}
    model = fit(CGMVAE, counts, setup=setup, n_components=2, likelihood="nb")
    control = (counts.obs["condition"] == "ctrl").to_numpy()
    real = counts.layers["counts"][~control].toarray()
    rates = real.sum(axis=0) / real.sum()
    off = []
    for correct_means in (False, True):
        x = model.counterfactual(to="stim", indices=control, correct_means=correct_means).X
        assert (x >= 0).all() and not (x % 1).any()
        off.append(np.abs(x.sum(axis=0) / x.sum() - rates).mean())
    assert off[1] < off[0]


def test_support_is_told(model, control):
    converted = model.counterfactual(control, to="condition 1")
    assert converted.obs["within_support"].mean() > 0.9
    control.obs["note"] = 1
    model.counterfactual(control, to="condition 1", key_added="there")
    np.testing.assert_allclose(control.obs["there_support"], converted.obs["support"], rtol=1e-5)
    far = control.copy()
    far.X = far.X * 3 + 20
    with pytest.warns(UserWarning, match="100 % .*'condition 1' .*extrapolation"):
        outside = model.counterfactual(far, to="condition 1")
    assert not outside.obs["within_support"].any()
    assert outside.obs["support"].max() < converted.obs["support"].min()


def test_intervals_hold_the_changes(toy, fit):
    """Trained on half of the cells, compared with the other half."""
    half = np.arange(toy.n_obs) % 2 == 0
    train = {"indices": np.flatnonzero(half)}
    model = fit(CGMVAE, toy, epochs=15, setup=SETUP, n_components=5, train=train)
    rest = toy[~half].copy()
    control = rest[rest.obs["condition"] == "condition 0"].copy()
    real = rest[rest.obs["condition"] == "condition 1"]
    options = {"to": "condition 1", "groupby": "cell_type"}
    found = model.get_mean_change(control, n_real=25, **options)
    assert list(found) == ["group", "gene", "change", "lower", "upper"]
    held = []
    for name, table in found.groupby("group"):
        after, before = (x[(x.obs["cell_type"] == name).to_numpy()].X for x in (real, control))
        change = after.mean(axis=0) - before.mean(axis=0)
        held.append(((table["lower"] <= change) & (change <= table["upper"])).mean())
    assert 0.8 < np.mean(held) < 0.98
    width = (found["upper"] - found["lower"]).mean()
    expected = model.get_mean_change(control, **options)
    assert (expected["upper"] - expected["lower"]).mean() < width
    wider = model.get_mean_change(control, n_real=25, level=0.99, **options)
    assert (wider["upper"] - wider["lower"]).mean() > 1.3 * width


def test_what_does_not_go_together_is_said(model, control):
    for options in ({"route": "w"}, {"use_mean": False}):
        with pytest.raises(ValueError, match="route='shift' and use_mean=True"):
            model.counterfactual(control, to="condition 1", correct_means=True, **options)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        model.get_mean_change(control, "condition 1", level=90)
    with pytest.raises(ValueError, match="correct_means must be True or False"):
        model.get_mean_change(control, "condition 1", correct_means="bad")
    with pytest.raises(ValueError, match="n_real must be a positive whole number"):
        model.get_mean_change(control, "condition 1", n_real=0)
    with pytest.raises(ValueError, match="Name the target condition"):
        model.get_mean_change(control)


def test_labels_with_a_handful_of_cells_are_named(toy, fit, control):
    first = (toy.obs["cell_type"] == "type 0") & (toy.obs["condition"] == "condition 1")
    train = {"indices": np.flatnonzero(~first | (first.cumsum() <= 3))}
    model = fit(CGMVAE, toy, epochs=2, setup=SETUP, n_components=5, train=train)
    with pytest.warns(UserWarning, match=r"Fewer than 5 .* 'condition 1': 'type 0' \(3\)"):
        model.counterfactual(control, to="condition 1")
    # the same on the side that cells come from
    treated = toy[toy.obs["condition"] == "condition 1"].copy()
    for verb in (model.counterfactual, model.get_mean_change):
        with pytest.warns(UserWarning, match=r"Fewer than 5 .* 'condition 1': 'type 0' \(3\)"):
            verb(treated, to="condition 0")


def test_types_that_are_each_of_one_condition_are_refused(toy, fit):
    """Nothing tells what the condition does: a shift of zero would pass for no effect."""
    first = toy.obs["cell_type"] == "type 0"
    own = np.where(first, "condition 0", "condition 1") == toy.obs["condition"]
    train = {"indices": np.flatnonzero(own)}
    model = fit(CGMVAE, toy, epochs=1, setup=SETUP, n_components=5, train=train)
    cells = toy[first & own].copy()
    before = cells.copy()
    for verb in (model.counterfactual, model.get_mean_change):
        with pytest.raises(ValueError, match="both under 'condition 0' and under 'condition 1'"):
            verb(cells, to="condition 1")
    np.testing.assert_array_equal(cells.X, before.X)
    model.counterfactual(cells, to="condition 1", route="w")
