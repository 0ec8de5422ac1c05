"""Mean expression of predicted against real cells."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from mixvi.metrics import mean_expression_r2


def mean_expression(
    predicted: AnnData,
    real: AnnData,
    *,
    n_named: int = 8,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Per-gene means of predicted cells against real ones, with R2 (scGen's ``reg_mean_plot``).

    Parameters
    ----------
    predicted, real
        Cells with the same genes.
    n_named
        How many of the genes farthest from the diagonal are named.
    ax, title
        Axes to draw on, and its title.
    """
    x = np.asarray(predicted.X.mean(axis=0)).ravel()
    y = np.asarray(real.X.mean(axis=0)).ravel()
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 4), layout="constrained")
    top = max(x.max(), y.max()) * 1.05
    ax.plot([0, top], [0, top], color="0.7", lw=1)
    ax.scatter(x, y, s=8, linewidths=0, color="tab:blue")
    # a name runs to the right of its gene; letters are this wide on axes of this size
    width = 0.022 * top * real.var_names.str.len().to_numpy()
    named = []
    for j in np.argsort(-np.abs(x - y)):
        # names that would lie on one another are left out
        if len(named) < n_named and all(
            not -width[j] < x[j] - x[i] < width[i] or abs(y[j] - y[i]) > 0.04 * top for i in named
        ):
            ax.annotate(
                real.var_names[j],
                (x[j], y[j]),
                fontsize=7,
                xytext=(3, 2),
                textcoords="offset points",
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )
            named.append(j)
    r2 = mean_expression_r2(predicted, real)
    name = f"{title}: " if title else ""
    ax.set(xlabel="predicted mean", ylabel="real mean", title=f"{name}R² = {r2:.3f}")
    return ax
