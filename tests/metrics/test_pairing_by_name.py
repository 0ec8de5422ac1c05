"""Values with names of cells are paired by them, whatever their order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import bars

from mixvi import metrics, pl
from mixvi.core.data.alignment import in_order_of

NAMES = [f"cell_{i}" for i in range(90)]
LABELS = pd.Series(np.repeat(["a", "b", "c"], 30), index=NAMES)
SHUFFLED = LABELS.sample(frac=1, random_state=0)
RENAMED = LABELS.set_axis([f"other_{i}" for i in range(90)])
X = np.repeat(np.eye(3), 30, axis=0) + np.random.default_rng(0).normal(0, 0.1, (90, 3))
CELLS = AnnData(X, obs=pd.DataFrame(index=NAMES))
PROBS = pd.get_dummies(LABELS).astype(float)
IMAGES = AnnData(obsm={"image": bars(90)}, obs=pd.DataFrame(index=NAMES))

PAIRED = {
    "accuracy_by_overlap": lambda labels: metrics.accuracy_by_overlap(LABELS, labels),
    "the other side": lambda labels: metrics.hungarian_accuracy(labels, LABELS),
    "nmi": lambda labels: metrics.nmi(labels, LABELS),
    "ari": lambda labels: metrics.ari(labels, LABELS.astype("category")),
    "recall": lambda labels: metrics.per_label_recall(labels, LABELS).tolist(),
    "report": lambda labels: list(metrics.clustering_report(LABELS, labels).values()),
    "calibration": lambda labels: metrics.expected_calibration_error(PROBS, labels),
    "knn": lambda labels: metrics.knn_agreement(CELLS, CELLS, labels, LABELS, 5),
    "knn, real": lambda labels: metrics.knn_agreement(CELLS, CELLS, LABELS, labels, 5),
    "table": lambda labels: metrics.mean_expression_table(CELLS, CELLS, labels, LABELS).values,
    "baseline": lambda labels: list(
        metrics.class_mean_baseline(CELLS, labels, ["x"] * 90, "x").values()
    ),
    "probe": lambda labels: metrics.linear_probe(
        pd.DataFrame(X, NAMES), labels, pd.DataFrame(X, NAMES), LABELS
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_a_series_is_taken_by_the_names_of_its_rows(name):
    score = PAIRED[name]
    expected = score(LABELS.to_numpy())
    for same in (LABELS, SHUFFLED, SHUFFLED.astype("category"), LABELS.reset_index(drop=True)):
        np.testing.assert_equal(score(same), expected)
    with pytest.raises(ValueError, match="has names, but none is '(cell|other)_0'"):
        score(RENAMED)
    with pytest.raises(ValueError, match="length|one entry a cell|labels"):
        score(LABELS.iloc[:10])


def test_clusters_of_images_are_taken_by_name():
    grids = [
        pl.images_by_cluster(IMAGES, clusters).get_images()[0].get_array()
        for clusters in (LABELS, SHUFFLED)
    ]
    np.testing.assert_array_equal(*grids)


CODES = pd.DataFrame(X, NAMES)
FACTOR_SCORES = {
    "beta_vae_score": {"n_train": 50, "n_test": 20, "batch_size": 8},
    "factor_vae_score": {"n_train": 50, "n_test": 20, "batch_size": 8},
    "mig": {},
    "modularity": {},
    "sap": {},
    "dci": {},
    "downstream_probe": {"sizes": (20,), "n_test": 40, "probe": "logistic"},
}


@pytest.mark.parametrize("name", FACTOR_SCORES)
def test_factors_are_taken_by_the_names_of_codes(name):
    factors = pd.DataFrame({"label": LABELS, "third": np.tile([0, 1, 2], 30)}, index=NAMES)
    shuffled = factors.sample(frac=1, random_state=0)

    def score(codes, factors) -> float:
        return float(getattr(metrics, name)(codes, factors, **FACTOR_SCORES[name]))

    expected = score(X, factors.to_dict("list"))
    for same in (factors, shuffled, {k: shuffled[k] for k in shuffled}):
        assert score(CODES, same) == expected
    with pytest.raises(ValueError, match="has names, but none is 'cell_0'"):
        score(CODES, factors.set_axis(RENAMED.index))


def test_models_are_ranked_by_the_names_of_rows():
    same = metrics.udr([CODES, CODES.sample(frac=1, random_state=0)])
    assert same.pairs.equals(metrics.udr([X, X]).pairs)


def test_names_that_are_numbers():
    names = pd.Index(["2", "0", "1"])
    numbered = pd.Series([5, 6, 7])
    with pytest.raises(ValueError, match="same numbers in another order"):
        in_order_of(names, numbered, "clusters")
    with pytest.raises(ValueError, match="same numbers in another order"):
        metrics.ari(pd.Series(["x", "y", "z"], index=names), numbered)
    assert in_order_of(names, numbered.to_numpy(), "clusters").tolist() == [5, 6, 7]
    by_name = numbered.set_axis([0, 1, 2])
    assert in_order_of(pd.Index([2, 0, 1]), by_name, "clusters").tolist() == [7, 5, 6]


def test_more_rows_than_wanted_are_left_out():
    part = in_order_of(pd.Index(NAMES[20:10:-1]), SHUFFLED, "clusters")
    assert part.equals(LABELS.iloc[20:10:-1])
    with pytest.raises(ValueError, match="names repeat"):
        in_order_of(pd.Index(NAMES), pd.concat([SHUFFLED, SHUFFLED[:1]]), "clusters")
