"""Figures of predicted changes by method, with the room there is for them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mixvi.core.arguments import check_choice, check_positive, near_matches

_COLUMNS = ("group", "method", "metric", "value", "floor", "ceiling", "score")


def counterfactual_metrics(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    column: str = "value",
    n_columns: int = 4,
) -> np.ndarray:
    """Each metric by method: groups as points, their mean as a bar, floor and ceiling as lines.

    Parameters
    ----------
    table
        Of :func:`mixvi.cells.evaluate_counterfactual`.
    metrics
        Which, in this order; default all.
    column
        ``"value"``, or ``"score"``: 0 at the floor, 1 at the ceiling.
    n_columns
        Panels in a row.

    Returns
    -------
    Axes, one a metric, ``(n_metrics,)``.

    Raises
    ------
    KeyError
        If the table lacks a column or a metric.
    TypeError
        If ``metrics`` is one name instead of a list.
    ValueError
        If ``column`` is neither, or there is nothing to draw.
    """
    check_choice("column", column, ("value", "score"))
    check_positive("n_columns", n_columns)
    if isinstance(metrics, str):
        raise TypeError(f"metrics must be a list of names: metrics=[{metrics!r}].")
    for name in _COLUMNS:
        if name not in table:
            raise KeyError(f"table has no column {name!r}: pass one of evaluate_counterfactual.")
    known = list(table["metric"].unique())
    metrics = known if metrics is None else list(metrics)
    if not metrics:
        raise ValueError("There is no metric to draw: table has no rows, or metrics is empty.")
    for name in metrics:
        if name not in known:
            raise KeyError(f"metrics has {name!r}. {near_matches(name, known)}")
    methods = list(table["method"].unique())
    n_rows = -(-len(metrics) // n_columns)
    width, height = min(n_columns, len(metrics)), 0.24 * len(methods) + 0.75
    longest = max(len(str(name)) for name in methods)
    figure, grid = plt.subplots(
        n_rows,
        width,
        figsize=(2.3 * width + 0.075 * longest, height * n_rows + 0.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    axes = grid.ravel()
    for ax, metric in zip(axes, metrics, strict=False):
        _draw(ax, table[table["metric"] == metric], methods, column)
        ax.set_title(metric, fontsize=9)
    for ax in axes[len(metrics) :]:
        ax.set_visible(False)
    # half of them, or a duplicate: the table does not say which
    ceiling = Line2D([], [], color="0.2", ls="--", lw=1, label="other real cells")
    floor = Line2D([], [], color="0.6", ls=":", lw=1, label="no change, or chance")
    figure.legend(
        handles=[floor, ceiling], loc="outside lower right", ncols=2, fontsize=8, frameon=False
    )
    return axes[: len(metrics)]


def _draw(ax: Axes, table: pd.DataFrame, methods: list[str], column: str) -> None:
    single = table[table["group"] != "all"] if table["group"].nunique() > 1 else table
    means = single.groupby("method")[column].mean()
    floor, ceiling = (0.0, 1.0) if column == "score" else single[["floor", "ceiling"]].mean()
    places = {name: place for place, name in enumerate(methods)}
    base = floor if np.isfinite(floor) else 0.0
    ax.barh(
        [places[name] for name in means.index], means - base, left=base, height=0.6, color="#9ecae1"
    )
    ax.scatter(
        single[column], single["method"].map(places), s=9, color="#08519c", linewidths=0, zorder=3
    )
    ax.axvline(floor, color="0.6", ls=":", lw=1)
    ax.axvline(ceiling, color="0.2", ls="--", lw=1)
    ax.set_yticks(range(len(methods)), methods, fontsize=8)
    ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
