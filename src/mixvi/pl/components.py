"""How many components: the path to their number, and the tree of those that become one."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram

from mixvi.cells.separation import MIN_AGREEMENT, ComponentTree


def component_path(
    path: pd.DataFrame, *, min_agreement: float = MIN_AGREEMENT, ax: Axes | None = None
) -> Axes:
    """How well the least distinct pair is told apart at each number of components.

    Parameters
    ----------
    path
        ``model.component_path``, or ``adata.uns["gmvae"]["component_path"]``.
    min_agreement
        Where a line is drawn: what is told apart less was merged.
    ax
        Axes to draw on.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
    ax.plot(path["n_components"], path["agreement"], marker="o", ms=4)
    chosen = int(path.loc[path["chosen"], "n_components"].iloc[0])
    ax.axvline(chosen, color="tab:red", lw=1, label=f"{chosen} components")
    ax.axhline(min_agreement, color="0.6", lw=1, ls="--")
    # from many to few, as they were merged
    ax.invert_xaxis()
    ax.set(xlabel="components", ylabel="agreement of gene halves (kappa)", ylim=(None, 1.03))
    ax.legend(frameon=False)
    return ax


def component_tree(
    tree: ComponentTree, *, min_agreement: float = MIN_AGREEMENT, ax: Axes | None = None
) -> Axes:
    """Dendrogram of components; branches meet at the agreement at which they are merged.

    Parameters
    ----------
    tree
        What ``model.merge_components()`` returned.
    min_agreement
        Groups of this level have a colour each.
    ax
        Axes to draw on.

    Raises
    ------
    ValueError
        If the tree has one component alone.
    """
    if not tree.merges:
        raise ValueError("The tree has one component alone: there is nothing to draw.")
    if ax is None:
        width = 1.5 + 0.3 * len(tree.components)
        _, ax = plt.subplots(figsize=(width, 3.2), layout="constrained")
    labels = [str(component) for component in tree.components]
    dendrogram(tree.linkage(), labels=labels, color_threshold=min_agreement, ax=ax)
    ax.axhline(min_agreement, color="0.6", lw=1, ls="--")
    ax.set(xlabel="component", ylabel="agreement of gene halves (kappa)")
    return ax
