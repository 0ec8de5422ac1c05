from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mixvi import pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_heatmap_orders_components_by_label():
    table = pd.DataFrame({"a": [0, 9, 6, 0], "b": [8, 1, 4, 0]}, index=["0", "1", "2", "3"])
    ax = pl.component_heatmap(table)
    # component 3 has no cells; of those of label a, the purer comes first
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "0"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown, [[0.9, 0.1], [0.6, 0.4], [0.0, 1.0]])
    assert sorted(t.get_text() for t in ax.texts) == ["1", "4", "6", "8", "9"]


def test_plots_draw_on_the_axes_they_are_given():
    _, axes = plt.subplots(1, 2)
    table = pd.DataFrame({"a": [2, 0], "b": [0, 3]})
    assert pl.component_heatmap(table, ax=axes[0]) is axes[0]
    probs = np.array([[0.8, 0.2]] * 5)
    assert pl.reliability(probs, [0, 0, 0, 0, 1], ax=axes[1]) is axes[1]
    np.testing.assert_allclose(axes[1].lines[1].get_xydata(), [[0.8, 0.8]])


def test_points_of_reliability_are_as_large_as_their_cells_are_many():
    probs = np.array([[0.9, 0.1]] * 80 + [[0.7, 0.3]] * 20)
    points = pl.reliability(probs, [0] * 100, n_bins=5).collections[0]
    np.testing.assert_allclose(points.get_offsets(), [[0.7, 1], [0.9, 1]])
    np.testing.assert_allclose(points.get_sizes(), [15, 60])
