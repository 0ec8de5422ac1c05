"""Changes of means: known values, and plain references gene by gene."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import pearsonr

from mixvi import metrics

RNG = np.random.default_rng(0)
CONTROL, REAL, PREDICTED = (RNG.normal(i, 1 + i, (20 + i, 6)) for i in range(3))


def changes(reference=CONTROL):
    before = [sum(column) / len(column) for column in np.atleast_2d(reference).T]
    return tuple(
        np.array([column.mean() - b for column, b in zip(side.T, before, strict=True)])
        for side in (PREDICTED, REAL)
    )


@pytest.mark.parametrize("reference", [CONTROL, np.arange(6.0)], ids=["control", "a mean"])
def test_against_plain_references(reference):
    ours, theirs = changes(reference)
    assert metrics.change_pearson(PREDICTED, REAL, reference) == pytest.approx(
        pearsonr(ours, theirs).statistic
    )
    cosine = sum(ours * theirs) / (sum(ours**2) * sum(theirs**2)) ** 0.5
    assert metrics.change_cosine(PREDICTED, REAL, reference) == pytest.approx(cosine)
    ratio = sum(ours**2) ** 0.5 / sum(theirs**2) ** 0.5
    assert metrics.change_norm_ratio(PREDICTED, REAL, reference) == pytest.approx(ratio)
    rmse = np.mean([(a - b) ** 2 for a, b in zip(ours, theirs, strict=True)]) ** 0.5
    assert metrics.change_rmse(PREDICTED, REAL) == pytest.approx(rmse)


def test_weighted_r2_is_that_of_scikit_learn():
    from sklearn.metrics import r2_score

    ours, theirs = changes()
    weights = np.array([0.0, 1, 2, 0, 4, 5])
    expected = r2_score(theirs, ours, sample_weight=weights)
    assert metrics.change_r2(PREDICTED, REAL, CONTROL, weights) == pytest.approx(expected)
    assert metrics.change_r2(PREDICTED, REAL, CONTROL) == pytest.approx(r2_score(theirs, ours))
    # a gene without weight may be anything
    off = PREDICTED + 100 * (weights == 0)
    assert metrics.change_r2(off, REAL, CONTROL, weights) == pytest.approx(expected)
    with pytest.raises(ValueError, match="6 numbers of at least 0"):
        metrics.change_r2(PREDICTED, REAL, CONTROL, weights[:3])


def test_known_values():
    control, real = np.zeros((1, 4)), np.array([[1.0, -1, 2, -2]])
    half = real / 2
    assert metrics.change_pearson(half, real, control) == pytest.approx(1)
    assert metrics.change_cosine(-half, real, control) == pytest.approx(-1)
    assert metrics.change_norm_ratio(half, real, control) == pytest.approx(0.5)
    assert metrics.change_rmse(half, real) == pytest.approx(np.sqrt(10 / 4) / 2)
    assert metrics.change_r2(half, real, control) == pytest.approx(0.75)
    assert metrics.change_r2(half, real, control, [0, 0, 1, 1]) == pytest.approx(0.75)
    # no change explains nothing and has no direction
    assert metrics.change_r2(control, real, control) == pytest.approx(0)
    assert np.isnan(metrics.change_pearson(control, real, control))
    assert np.isnan(metrics.change_cosine(control, real, control))
    # the mean of the perturbed cells is no change from itself
    shared = np.array([[1.0, -1, 0, 0]])
    own = np.array([[1.0, -1, 3, 0]])
    assert np.isnan(metrics.change_pearson(shared, own, shared))
    assert metrics.change_pearson(shared, own, control) > 0


def test_genes_and_layers_are_those_of_anndata():
    names = pd.DataFrame(index=list("abcdef"))
    sides = [AnnData(x.copy(), var=names) for x in (PREDICTED, REAL, CONTROL)]
    expected = metrics.change_pearson(PREDICTED, REAL, CONTROL, [1, 3, 4])
    assert metrics.change_pearson(*sides, ["b", "d", "e"]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="'z'"):
        metrics.change_rmse(*sides[:2], ["z"])
    with pytest.raises(ValueError, match="reference has 5"):
        metrics.change_pearson(PREDICTED, REAL, CONTROL[:, :5])


def test_weights_of_genes():
    np.testing.assert_allclose(metrics.de_weights([-3, 1, 2]), np.array([4, 0, 1]) / 5)
    np.testing.assert_allclose(metrics.de_weights([2, 2]), [0.5, 0.5])
    with pytest.raises(ValueError, match="finite"):
        metrics.de_weights([1, np.nan])


def test_centroid_accuracy():
    centres = np.array([[0.0], [1], [10]])
    names = ["a", "b", "c"]
    # a lies nearest to b, then a, then c
    found = metrics.centroid_accuracy(np.array([[0.8], [1.1], [10]]), centres, names, names)
    assert found.to_dict() == {"a": 0.5, "b": 1.0, "c": 1.0}
    # of one mean for all, ties counted, a half on average
    same = np.tile(centres.mean(axis=0), (3, 1))
    assert metrics.centroid_accuracy(same, centres, names, names).mean() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no real cells of 'd'"):
        metrics.centroid_accuracy(centres, centres, ["a", "b", "d"], names)
    with pytest.raises(ValueError, match="one group alone"):
        metrics.centroid_accuracy(centres, centres, ["a"] * 3, ["a"] * 3)
    missing = np.array([[np.nan], [1], [10]])
    with pytest.raises(ValueError, match="predicted has NaN or infinite values in 1 cells"):
        metrics.centroid_accuracy(missing, centres, names, names)


def test_scores_between_floor_and_ceiling():
    assert metrics.normalised_score(0.8, 0.5, 0.9) == pytest.approx(0.75)
    assert metrics.normalised_score(2.0, 6.0, 0.0) == pytest.approx(2 / 3)
    assert np.isnan(metrics.normalised_score(1.0, 0.5, 0.5))
    assert np.isnan(metrics.normalised_score(np.nan, 0.0, 1.0))
