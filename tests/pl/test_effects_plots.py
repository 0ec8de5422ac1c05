from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mixvi import pl

ROWS = [
    {"group": group, "method": method, "metric": metric, "value": value + shift}
    for metric, value in (("pearson", 0.5), ("energy", 2.0))
    for method, shift in (("one", 0.1), ("two", 0.2))
    for group in ("a", "b")
]
TABLE = pd.DataFrame(ROWS).assign(floor=0.0, ceiling=1.0, score=0.4)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_a_panel_a_metric_with_bars_points_and_bounds():
    means = TABLE.groupby(["method", "metric"])[["value", "floor", "ceiling", "score"]].mean()
    axes = pl.counterfactual_metrics(pd.concat([TABLE, means.reset_index().assign(group="all")]))
    assert [ax.get_title() for ax in axes] == ["pearson", "energy"]
    assert [bar.get_width() for bar in axes[0].patches] == pytest.approx([0.6, 0.7])
    assert len(axes[0].collections[0].get_offsets()) == 4
    assert sorted(line.get_xdata()[0] for line in axes[0].lines) == [0.0, 1.0]
    (ax,) = pl.counterfactual_metrics(TABLE, metrics=["energy"], column="score")
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.4, 0.4])


def test_methods_may_be_numbers():
    axes = pl.counterfactual_metrics(TABLE.assign(method=TABLE["method"].map({"one": 1, "two": 2})))
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["1", "2"]


def test_what_is_not_there_is_said():
    for table, metrics in ((TABLE[:0], None), (TABLE, [])):
        with pytest.raises(ValueError, match="no metric to draw"):
            pl.counterfactual_metrics(table, metrics=metrics)
    with pytest.raises(TypeError, match=r"metrics=\['pearson'\]"):
        pl.counterfactual_metrics(TABLE, metrics="pearson")
    with pytest.raises(KeyError, match="'pearsn'"):
        pl.counterfactual_metrics(TABLE, metrics=["pearsn"])
    with pytest.raises(KeyError, match="'ceiling'"):
        pl.counterfactual_metrics(TABLE.drop(columns="ceiling"))
