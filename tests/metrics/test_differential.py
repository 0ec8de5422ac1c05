"""Genes that differ: against scipy, by hand, and against cell-eval where it is installed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

from mixvi import metrics

RNG = np.random.default_rng(0)
CONTROL = RNG.gamma(2, 1, (40, 8))
CELLS = RNG.gamma(2, 1, (30, 8)) + np.array([2.0, -1, 1, 0, 0, 0, 0, 0.3])


def table(scores, changes=None, p=None):
    n = len(scores)
    changes = scores if changes is None else changes
    p = np.full(n, 0.5) if p is None else p
    return pd.DataFrame({"score": scores, "p_adjusted": p, "change": changes}, dtype=float)


def test_tables_are_those_of_scipy():
    found = metrics.de_table(CELLS, CONTROL)
    p = [
        mannwhitneyu(x, y, method="asymptotic", use_continuity=False).pvalue
        for x, y in zip(CELLS.T, CONTROL.T, strict=True)
    ]
    np.testing.assert_allclose(found["p_adjusted"], false_discovery_control(p), rtol=1e-4)
    np.testing.assert_allclose(found["change"], CELLS.mean(axis=0) - CONTROL.mean(axis=0))
    by_t = metrics.de_table(CELLS, CONTROL, "t-test")
    expected = ttest_ind(CELLS, CONTROL, equal_var=False)
    np.testing.assert_allclose(by_t["score"], expected.statistic, rtol=1e-4)


def test_genes_stay_in_their_order_and_keep_their_names():
    names = pd.DataFrame(index=list("bahdefgc"))
    found = metrics.de_table(AnnData(CELLS, var=names), AnnData(CONTROL, var=names))
    assert list(found.index) == list(names.index)
    assert set(found["score"].abs().nlargest(3).index) == {"b", "a", "h"}
    same = metrics.de_table(CONTROL, CONTROL)
    assert not same["score"].any() and (same["p_adjusted"] > 0.9).all()


def test_a_gene_without_spread_has_a_score_that_figures_can_use():
    x, y = CELLS.copy(), CONTROL.copy()
    x[:, 0], y[:, 0], x[:, 1], y[:, 1] = 2, 1, 3, 3
    found = metrics.de_table(x, y, "t-test")
    assert found["score"][0] == 1e9 and found["score"][1] == 0
    assert metrics.de_weights(found["score"])[0] == pytest.approx(1)
    assert metrics.de_auprc(found, found) == 1


def test_overlap():
    real = table([5, -4, 3, 2, 1, 0])
    assert metrics.de_overlap(real, real, 3) == 1
    assert metrics.de_overlap(table([0, 4, 0, -5, 0, 1]), real, 2) == 0.5
    # one list is as short as there are genes that differ
    assert metrics.de_overlap(table([1, 0, 0, 0, 0, 0]), real, 2) == 0.5
    assert metrics.de_overlap(table(np.zeros(6)), real, 2) == 0
    with pytest.raises(ValueError, match="there are 6 genes"):
        metrics.de_overlap(real, real, 7)
    with pytest.raises(ValueError, match="same genes"):
        metrics.de_overlap(real[:3], real, 2)


def test_directions():
    real = table([5, -4, 3, 2], p=[0.01, 0.01, 0.01, 0.9])
    assert metrics.de_direction_match(table([1, 1, 1, -1], [1, -2, -1, -1]), real) == 2 / 3
    assert metrics.de_direction_match(table(np.zeros(4)), real) == 0
    assert np.isnan(metrics.de_direction_match(real, table([1, 1, 1, 1])))


def test_average_precision_by_hand():
    real = table([5, -4, 3, 2], p=[0.01, 0.9, 0.01, 0.9])
    # ranks of the two: first and third
    assert metrics.de_auprc(table([9, 8, -7, 1]), real) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.de_auprc(real, real) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.de_auprc(table(np.zeros(4)), real) == pytest.approx(0.5)
    assert np.isnan(metrics.de_auprc(real, table([1, 1, 1, 1])))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_figures_of_cell_eval():
    """Equal numbers on the same cells and the same tables of genes."""
    cell_eval = pytest.importorskip("cell_eval")
    polars = pytest.importorskip("polars")
    from cell_eval import _types, data
    from cell_eval.metrics import _anndata as arrays
    from cell_eval.metrics import _de as genes

    assert cell_eval.__name__
    names = [f"p{i}" for i in range(6)]
    real, predicted = (data.build_random_anndata(n_cells=300, n_genes=30) for _ in range(2))
    for i, cells in enumerate((real, predicted)):
        rng = np.random.default_rng(i)
        kinds = np.resize(["control", *names], 300)
        cells.obs = pd.DataFrame({"perturbation": kinds}, index=cells.obs_names)
        cells.X = rng.gamma(2, 1, (300, 30)) + np.unique(kinds, return_inverse=True)[1][:, None] / 9
    pair = _types.PerturbationAnndataPair(
        real=real, pred=predicted, pert_col="perturbation", control_pert="control"
    )
    theirs, squares = arrays.pearson_delta(pair), arrays.mse(pair)

    def rows(cells, name):
        return cells.X[(cells.obs["perturbation"] == name).to_numpy()]

    # it takes each side's change from its own control
    for name in names:
        ours, truth = (
            rows(c, name).mean(0) - rows(c, "control").mean(0) for c in (predicted, real)
        )
        zero = np.zeros(30)
        assert metrics.change_pearson(ours, truth, zero) == pytest.approx(theirs[name], rel=1e-6)
        rmse = metrics.change_rmse(rows(predicted, name), rows(real, name))
        assert rmse**2 == pytest.approx(squares[name], rel=1e-6)
    tables = {
        side: {name: metrics.de_table(rows(c, name), rows(c, "control")) for name in names}
        for side, c in (("real", real), ("pred", predicted))
    }

    def framed(of):
        frames = [
            polars.DataFrame(
                {
                    "target": [name] * 30,
                    "feature": [str(g) for g in range(30)],
                    "fold_change": np.exp2(t["change"].to_numpy()),
                    "log2_fold_change": t["change"].to_numpy(),
                    "abs_log2_fold_change": t["change"].abs().to_numpy(),
                    "p_value": t["p_adjusted"].to_numpy(),
                    # a ranking without ties, below any threshold where ours is
                    "fdr": np.where(t["p_adjusted"] < 0.05, 1e-3, 0.1)
                    * (1 - t["score"].abs() / 100).to_numpy(),
                }
            )
            for name, t in of.items()
        ]
        return polars.concat(frames)

    compared = _types.initialize_de_comparison(
        real=framed(tables["real"]), pred=framed(tables["pred"])
    )
    directions, precision = genes.DEDirectionMatch()(compared), genes.compute_pr_auc(compared)
    overlap = compared.compute_overlap(k=10, fdr_threshold=1.0)
    for name in names:
        ours, truth = tables["pred"][name], tables["real"][name]
        match = metrics.de_direction_match(ours, truth)
        assert np.isnan(match) or match == pytest.approx(directions[name])
        found = metrics.de_auprc(ours, truth)
        assert found == pytest.approx(precision[name], nan_ok=True)
        by_change = (t.assign(score=t["change"]) for t in (ours, truth))
        assert metrics.de_overlap(*by_change, k=10) == pytest.approx(overlap[name])
