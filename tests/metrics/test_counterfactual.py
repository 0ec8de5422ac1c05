from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from mixvi import metrics


@pytest.fixture
def cells():
    x = np.random.default_rng(0).random((6, 4))
    return AnnData(x, var=pd.DataFrame(index=list("wxyz")))


def test_r2_by_hand():
    # means (1, 2, 3) and (1, 3, 2): r = 0.5
    left = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    right = sparse.csr_matrix([[1.0, 3.0, 2.0]])
    assert metrics.mean_expression_r2(left, right) == pytest.approx(0.25)
    assert metrics.mean_expression_r2(left, right, [0, 1]) == pytest.approx(1)


def test_genes_by_name_number_and_mask_agree(cells):
    other = cells.copy()
    other.X = other.X[::-1, ::-1].copy()
    expected = metrics.mean_expression_r2(cells.X[:, 1:], other.X[:, 1:])
    assert 0 < expected < 1
    for genes in (["x", "y", "z"], [1, 2, 3], np.array([False, True, True, True])):
        assert metrics.mean_expression_r2(cells, other, genes) == pytest.approx(expected)
    groups = list("aaabbb")
    table = metrics.mean_expression_table(cells, other, groups, groups, genes=["x", "y", "z"])
    assert table.loc["all", "r2"] == pytest.approx(expected)


def test_genes_that_do_not_fit(cells):
    with pytest.raises(ValueError, match="another order"):
        metrics.mean_expression_r2(cells, cells[:, ::-1])
    with pytest.raises(ValueError, match="another order"):
        metrics.mean_expression_table(cells, cells[:, ::-1], ["a"] * 6, ["a"] * 6)
    with pytest.raises(ValueError, match="'q'"):
        metrics.mean_expression_r2(cells, cells, ["x", "q"])
    with pytest.raises(ValueError, match="must be an AnnData"):
        metrics.mean_expression_r2(cells.X, cells.X, ["x"])
    with pytest.raises(ValueError, match="1 genes, real has 4"):
        metrics.variance_ratio(cells.X[:, :1], cells)
    with pytest.raises(ValueError, match="at least one cell"):
        metrics.mean_expression_r2(cells[:0], cells)


def test_groups_that_do_not_fit(cells):
    with pytest.raises(ValueError, match="predicted_groups must have one entry a cell"):
        metrics.mean_expression_table(cells, cells, ["a"], ["a"] * 6)
    with pytest.raises(ValueError, match="real_groups has missing"):
        metrics.mean_expression_table(cells, cells, ["a"] * 6, ["a"] * 5 + [None])
    with pytest.raises(ValueError, match="conditions must have one entry a cell"):
        metrics.class_mean_baseline(cells, ["a"] * 6, ["s"], "s")


def test_genes_that_cannot_be_chosen_are_said(cells):
    cases = {
        "genes chooses none": [],
        "mask of 3 entries, but there are 4 genes": [True, False, True],
        "whole numbers below 4": [0, 4],
    }
    for message, genes in cases.items():
        for side in (cells, cells.X):
            with pytest.raises(ValueError, match=message):
                metrics.mean_expression_r2(side, side, genes)
    with pytest.raises(ValueError, match="genes chooses none"):
        metrics.mean_expression_r2(cells, cells, np.zeros(4, bool))
    with pytest.raises(ValueError, match="predicted and real have no genes"):
        metrics.change_rmse(cells[:, :0], cells[:, :0])
    with pytest.raises(ValueError, match=r"real\.X is empty \(None\)"):
        metrics.change_rmse(cells, AnnData(obs=cells.obs, var=cells.var))
    cells.var_names = list("wxyx")
    with pytest.raises(ValueError, match="var_names repeat, e.g. 'x'"):
        metrics.change_rmse(cells, cells, ["w", "y"])


def test_means_without_spread_have_no_correlation(cells):
    assert np.isnan(metrics.mean_expression_r2(cells, cells, ["x"]))
    assert np.isnan(metrics.mean_expression_r2(np.ones((3, 4)), cells.X))
    assert np.isnan(metrics.mean_expression_r2(cells.X, np.ones((3, 4))))


def test_responding_genes_of_matrices_are_numbered(cells):
    after = cells.X + np.array([0.0, 1, 3, -2])
    by_number = metrics.responding_genes(cells.X, after)
    assert list(by_number.index) == [2, 3, 1, 0]
    by_name = metrics.responding_genes(cells.X, AnnData(after, var=cells.var))
    assert list(by_name.index) == list("yzxw")
