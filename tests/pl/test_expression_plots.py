from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mixvi import metrics, pl
from mixvi.core.model.counterfactual import predicted_adata


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


GENES = [f"gene {i}" for i in range(30)]


def cells(means, seed):
    x = np.random.default_rng(seed).normal(means, 0.05, (40, 30)).astype(np.float32)
    return AnnData(x, var=pd.DataFrame(index=GENES))


@pytest.fixture
def sides():
    """Control, real and predicted; gene 3 rises, 4 falls, and 7 is predicted badly."""
    before = np.linspace(0, 5, 30)
    after = before.copy()
    after[[3, 4]] += [2.0, -0.6]
    guess = after.copy()
    guess[7] += 1.5
    return cells(before, 0), cells(after, 1), cells(guess, 2)


def named(ax):
    return {t.get_text() for t in ax.texts}


def test_responders_are_named_not_outliers(sides):
    control, real, predicted = sides
    ax = pl.mean_expression(predicted, real, control=control, n_named=2)
    assert named(ax) == {"gene 3", "gene 4"}
    assert named(pl.mean_expression(predicted, real, genes=["gene 9"])) == {"gene 9"}
    assert not named(pl.mean_expression(predicted, real))
    with pytest.raises(KeyError, match="'gene x'"):
        pl.mean_expression(predicted, real, genes=["gene x"])


def test_names_neither_overlap_nor_leave_the_axes(sides):
    control, real, predicted = sides
    crowded = real.X.copy()
    crowded[:, 10:] = 2.5
    real.X = crowded
    ax = pl.mean_expression(predicted, real, control=control, n_named=30)
    ax.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.texts]
    assert len(boxes) > 5
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert ax.bbox.x0 - 1 <= box.x0 and box.x1 <= ax.bbox.x1 + 1


def test_the_scale_of_the_prediction_is_drawn(sides):
    _, real, predicted = sides
    real.layers["scaled"] = 2 * real.X
    made = predicted_adata(
        2 * predicted.X, predicted.obs, predicted.var, source="VAE", layer="scaled", scale="real"
    )
    ax = pl.mean_expression(made, real)
    drawn = ax.collections[0].get_offsets().data
    np.testing.assert_allclose(drawn[:, 1], 2 * real.X.mean(axis=0), rtol=1e-5)
    assert f"{metrics.mean_expression_r2(made, real):.3f}" in ax.get_title()
    del real.layers["scaled"]
    with pytest.raises(ValueError, match="no such layer"):
        pl.mean_expression(made, real)


def test_table_of_responders(sides):
    control, real, predicted = sides
    table = metrics.responding_genes(control, real, predicted)
    assert list(table.index[:2]) == ["gene 3", "gene 4"]
    assert table.loc["gene 4", "change"] == pytest.approx(-0.6, abs=0.05)
    assert table.loc["gene 7", "predicted_change"] == pytest.approx(1.5, abs=0.05)
    np.testing.assert_allclose(table["treated"] - table["control"], table["change"])
    assert list(metrics.responding_genes(control, real).columns) == ["control", "treated", "change"]
