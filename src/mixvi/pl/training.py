"""How the loss terms went."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

_TERMS = {
    "reconstruction_loss": "R: reconstruction",
    "z": "Z: z against its component",
    "w": "W: w against its prior",
    "y": "Y: component",
    "d": "D: Dirichlet",
}
_PANELS_A_ROW = 5


def loss_terms(history: Mapping[str, pd.DataFrame] | object) -> list[Axes]:
    """Each term of the loss over epochs; validation dashed.

    Of models of expression the terms of minus the ELBO, in nats a cell; of models of images every
    term and every step's loss.

    Parameters
    ----------
    history
        A trained model or its ``history``.

    Returns
    -------
    One axes a term.

    Raises
    ------
    ValueError
        If there is no history yet, or none of the terms is in it.
    """
    history = getattr(history, "history", history)
    if not history:
        raise ValueError("There is no history yet: train the model first.")
    shown = {k: label for k, label in _TERMS.items() if f"{k}_train" in history}
    unit = "nats per cell" if shown else "mean of an epoch"
    if not shown:
        found = [k.removesuffix("_train") for k in history if k.endswith("_train")]
        shown = {term: term.replace("_", " ") for term in found}
    if not shown:
        found = ", ".join(map(repr, list(history)[:10]))
        raise ValueError(f"The history has no term of a loss (<name>_train). It has {found}.")
    n_columns = min(len(shown), _PANELS_A_ROW)
    n_rows = -(-len(shown) // n_columns)
    _, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(2.9 * n_columns, 2.7 * n_rows),
        squeeze=False,
        layout="constrained",
    )
    axes, spare = grid.ravel()[: len(shown)], grid.ravel()[len(shown) :]
    for ax, (term, label) in zip(axes, shown.items(), strict=True):
        for stage, style in (("train", "-"), ("validation", "--")):
            values = history.get(f"{term}_{stage}")
            if values is not None:
                ax.plot(values.index, values.iloc[:, 0].astype(float), style, label=stage, lw=1.3)
        ax.set(title=label, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.title.set_fontsize(9)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in spare:
        ax.remove()
    for row in grid:
        row[0].set_ylabel(unit)
    if any(f"{term}_validation" in history for term in shown):
        axes[-1].legend(frameon=False, fontsize=8)
    return list(axes)
