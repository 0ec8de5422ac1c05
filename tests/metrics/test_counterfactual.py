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
