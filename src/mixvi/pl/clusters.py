"""Components against labels, and how sure the model is."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from mixvi.core.data.checks import check_key
from mixvi.metrics import component_table, expected_calibration_error, reliability_curve

# areas of points, those of the bins with most cells and with few
_LARGEST, _SMALLEST = 60.0, 4.0


def component_heatmap(
    adata: AnnData | pd.DataFrame,
    labels_key: str | None = None,
    *,
    component_key: str = "gmvae_component",
    ax: Axes | None = None,
) -> Axes:
    """Which share of each component's cells has which label; counts are written in.

    Parameters
    ----------
    adata
        Annotated cells, or a table of counts (components by labels).
    labels_key
        Column of ``obs`` with the labels.
    component_key
        Column of ``obs`` with the components.
    ax
        Axes to draw on.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    if isinstance(adata, pd.DataFrame):
        table = adata
    else:
        if labels_key is None:
            raise ValueError("Name the column of labels: component_heatmap(adata, labels_key=...).")
        check_key(adata, "obs", labels_key, "labels_key")
        check_key(adata, "obs", component_key, "component_key")
        table = component_table(adata.obs[component_key], adata.obs[labels_key])
    table = table.loc[table.sum(axis=1) > 0]
    shares = table.div(table.sum(axis=1), axis=0)
    # components of one label stand together, in the order of the labels
    order = np.lexsort((-shares.max(axis=1), shares.to_numpy().argmax(axis=1)))
    table, shares = table.iloc[order], shares.iloc[order]
    if ax is None:
        _, ax = plt.subplots(
            figsize=(2.2 + 0.62 * table.shape[1], 1.8 + 0.3 * len(table)), layout="constrained"
        )
    image = ax.imshow(shares.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.argwhere(table.to_numpy() > 0):
        dark = shares.iat[i, j] > 0.55
        ax.text(
            j,
            i,
            str(table.iat[i, j]),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "0.2",
        )
    ax.set_xticks(range(table.shape[1]), table.columns, rotation=40, ha="right", fontsize=8)
    ax.set_yticks(range(len(table)), table.index, fontsize=8)
    ax.set(ylabel="component", title="cells of each component by label")
    ax.figure.colorbar(image, ax=ax, shrink=0.7, label="share of the component")
    return ax


def confidence(
    adata: AnnData,
    groupby: str | None = None,
    *,
    key: str = "gmvae_confidence",
    ax: Axes | None = None,
) -> Axes:
    """Distribution of confidence, the largest probability of a cell, over all or for each group.

    ``annotate`` writes that of the component, or of the label where components have labels.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    check_key(adata, "obs", key, "key")
    check_key(adata, "obs", groupby, "groupby")
    values = adata.obs[key]
    if groupby is None:
        if ax is None:
            _, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
        ax.hist(values, bins=np.linspace(0, 1, 41), color="tab:blue")
        ax.set(xlabel="confidence (largest probability)", ylabel="cells", xlim=(0, 1))
        return ax
    grouped = values.groupby(adata.obs[groupby], observed=True)
    groups = {str(name): part.to_numpy() for name, part in grouped}
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 1.2 + 0.32 * len(groups)), layout="constrained")
    ax.boxplot(
        list(groups.values()),
        tick_labels=list(groups),
        orientation="horizontal",
        flierprops={"markersize": 2},
    )
    ax.invert_yaxis()
    ax.set(xlabel="confidence (largest probability)", ylabel=groupby, xlim=(0, 1.02))
    return ax


def reliability(
    probs: pd.DataFrame | np.ndarray, labels: Sequence, *, n_bins: int = 15, ax: Axes | None = None
) -> Axes:
    """Accuracy against confidence; on the diagonal, probabilities mean what they say.

    The larger a point, the more cells it is of: few cells may lie anywhere.
    """
    curve = reliability_curve(probs, labels, n_bins)
    if ax is None:
        _, ax = plt.subplots(figsize=(3.8, 3.6), layout="constrained")
    ax.plot([0, 1], [0, 1], color="0.7", lw=1)
    ax.plot(curve["confidence"], curve["accuracy"], lw=1)
    sizes = _LARGEST * curve["n"] / curve["n"].max()
    ax.scatter(curve["confidence"], curve["accuracy"], s=sizes.clip(_SMALLEST), zorder=3)
    error = expected_calibration_error(probs, labels, n_bins)
    ax.set(
        xlabel="confidence",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        title=f"expected calibration error {error:.3f}",
    )
    return ax
