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


def loss_terms(history: Mapping[str, pd.DataFrame] | object) -> list[Axes]:
    """Each term of minus the ELBO over epochs, in nats a cell; validation dashed.

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
    if not shown:
        found = ", ".join(map(repr, list(history)[:10]))
        raise ValueError(
            f"The history has none of {', '.join(f'{k}_train' for k in _TERMS)}. It has {found}."
        )
    _, grid = plt.subplots(
        1, len(shown), figsize=(2.9 * len(shown), 2.7), squeeze=False, layout="constrained"
    )
    for ax, (term, label) in zip(grid.ravel(), shown.items(), strict=True):
        for stage, style in (("train", "-"), ("validation", "--")):
            values = history.get(f"{term}_{stage}")
            if values is not None:
                ax.plot(values.index, values.iloc[:, 0].astype(float), style, label=stage, lw=1.3)
        ax.set(title=label, xlabel="epoch")
        ax.title.set_fontsize(9)
        ax.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("nats per cell")
    if any(f"{term}_validation" in history for term in shown):
        grid.ravel()[-1].legend(frameon=False, fontsize=8)
    return list(grid.ravel())
