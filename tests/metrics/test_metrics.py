from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mixvi import metrics

COMPONENTS = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
LABELS = ["a", "a", "b", "b", "b", "c", "c", "c", "a", "c"]


def test_clustering_by_hand():
    table = metrics.component_table(COMPONENTS, LABELS)
    assert table.loc[2].to_dict() == {"a": 1, "b": 0, "c": 3}
    assert metrics.overlap_map(table) == {0: "a", 1: "b", 2: "c", 3: "c"}
    assert metrics.hungarian_map(table) == {0: "a", 1: "b", 2: "c"}
    assert metrics.accuracy_by_overlap(COMPONENTS, LABELS) == pytest.approx(0.8)
    assert metrics.hungarian_accuracy(COMPONENTS, LABELS) == pytest.approx(0.7)
    report = metrics.clustering_report(COMPONENTS, LABELS)
    assert report["recall"] == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 1.0})
    assert report["labels_with_component"] == report["n_labels"] == 3
    assert report["n_clusters"] == 4
    perfect = metrics.clustering_report(LABELS, LABELS)
    assert perfect["ari"] == perfect["nmi"] == perfect["accuracy_overlap"] == 1


def test_a_map_from_elsewhere_is_used():
    assert metrics.accuracy_by_overlap([0, 1], ["a", "b"], {0: "b", 1: "b"}) == 0.5
    assert metrics.accuracy_by_overlap([0, 5], ["a", "b"], {0: "a"}) == 0.5


@pytest.mark.parametrize(
    ("components", "labels", "words"),
    [([0, 1], ["a"], "one length"), ([], [], "no cells"), ([0, 1], ["a", None], "missing")],
)
def test_clustering_bad_input(components, labels, words):
    with pytest.raises(ValueError, match=words):
        metrics.component_table(components, labels)


def test_usage_and_active_units():
    probs = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1]])
    assert metrics.used_components(probs) == 1
    mean = np.array([[2.0, 0.0], [-2.0, 0.0]])
    assert metrics.active_units(mean, np.ones((2, 2))) == 1


def test_mean_expression():
    rng = np.random.default_rng(0)
    x = rng.random((20, 6))
    assert metrics.mean_expression_r2(x, sparse.csr_matrix(x)) == pytest.approx(1)
    other = rng.random((30, 6))
    expected = np.corrcoef(x.mean(0), other.mean(0))[0, 1] ** 2
    assert metrics.mean_expression_r2(AnnData(x), other) == pytest.approx(expected)
    with pytest.raises(ValueError, match="6 genes, real has 5"):
        metrics.mean_expression_r2(x, other[:, :5])
    groups = np.repeat(["a", "b"], 10)
    table = metrics.mean_expression_table(x, x[::-1], groups, groups[::-1])
    assert list(table.index) == ["a", "b", "all"]
    np.testing.assert_allclose(table["r2"], 1)
    assert table.loc["a", "n_real"] == 10


def test_baseline_and_variance():
    x = np.arange(12.0).reshape(4, 3)
    means = metrics.class_mean_baseline(x, ["a", "a", "b", "b"], ["s", "c", "s", "s"], "s")
    np.testing.assert_array_equal(means["a"], x[0])
    np.testing.assert_array_equal(means["b"], x[2:].mean(0))
    with pytest.raises(ValueError, match="'t'"):
        metrics.class_mean_baseline(x, ["a"] * 4, ["s"] * 4, "t")
    ratio = metrics.variance_ratio(2 * x, x)
    np.testing.assert_allclose(ratio, 4)
    assert np.isnan(metrics.variance_ratio(x, np.ones((4, 3)))).all()


def test_calibration():
    probs = pd.DataFrame({"a": [0.75] * 8, "b": [0.25] * 8})
    labels = ["a"] * 6 + ["b"] * 2
    assert metrics.expected_calibration_error(probs, labels) == pytest.approx(0)
    assert metrics.expected_calibration_error(probs, ["b"] * 8) == pytest.approx(0.75)
    curve = metrics.reliability_curve(probs, labels)
    assert curve.iloc[0].to_dict() == {"confidence": 0.75, "accuracy": 0.75, "n": 8}
    with pytest.raises(ValueError, match="8 rows"):
        metrics.reliability_curve(probs, ["a"])
