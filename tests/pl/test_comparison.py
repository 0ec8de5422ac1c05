"""Plots of many trained models."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from codes_and_results import RESULTS, Decoder

from mixvi import metrics, pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_many_models_in_one_figure():
    ax = pl.tradeoff(RESULTS, "score")
    assert [len(c.get_offsets()) for c in ax.collections] == [4, 4]
    ax = pl.rank_correlations(RESULTS, ["score", "constant"], ["reconstruction", "score"])
    assert [text.get_text() for text in ax.texts] == ["-1.00", "1.00", "–", "–"]
    ax = pl.robustness(RESULTS, "score")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "1", "2"]
    with pytest.raises(KeyError, match="no column 'scor'. Did you mean 'score'"):
        pl.robustness(RESULTS, "scor")


def test_information_has_a_point_a_method():
    """Means over models, coloured by a figure; names stand beside the points."""
    ax = pl.information(RESULTS, "score", information="strength", error="reconstruction")
    means = RESULTS.groupby("method")[["reconstruction", "strength", "score"]].mean()
    np.testing.assert_allclose(ax.collections[0].get_offsets(), means.iloc[:, :2])
    np.testing.assert_allclose(ax.collections[0].get_array(), means["score"])
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("reconstruction", "strength")
    # names of points that lie together do not
    same = RESULTS.assign(reconstruction=1.0, strength=2.0)
    ax = pl.information(same, "score", information="strength", error="reconstruction")
    (_, low), (_, high) = (text.get_position() for text in ax.texts)
    assert high - low >= 8
    with pytest.raises(KeyError, match="no column 'mi_total'"):
        pl.information(RESULTS, "score")
    with pytest.raises(ValueError, match="results has no rows"):
        pl.information(RESULTS[:0], "score", information="strength", error="reconstruction")


def test_accuracy_by_the_number_of_labels():
    accuracy = pd.DataFrame({"mean": [0.2, 0.5, 0.8]}, index=[10, 100, 1000])
    scores = {"codes": metrics.DownstreamScore(accuracy, 0.625, "gbt")}
    ax = pl.sample_efficiency(scores)
    assert ax.lines[0].get_xdata().tolist() == [10, 100, 1000]
    assert ax.get_legend().get_texts()[0].get_text() == "codes (0.62)"
    with pytest.raises(ValueError, match="scores is empty"):
        pl.sample_efficiency({})


def test_changed_images_have_a_panel_a_figure():
    model = Decoder()
    x = model.adata.obsm["image"]
    report = metrics.domain_shift(model, x, {"inverted": metrics.inverted(x)})
    axes = pl.domain_shift(report)
    assert len(axes) == 4 and len(axes[0].patches) == 2
    with pytest.raises(ValueError, match="one entry a column"):
        pl.domain_shift(report, axes=axes[:1])
