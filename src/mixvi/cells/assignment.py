"""Which label a component stands for (Kolb 2022, section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixvi.metrics import component_table, hungarian_map, per_label_recall


@dataclass(frozen=True, repr=False)
class ComponentAssignment:
    """Which label each component stands for, and how well that fits.

    Attributes
    ----------
    mapping
        Component number to label.
    accuracy
        Share of the labelled cells whose component's label is their own.
    recall
        The same for each label.
    table
        Cells of each component (rows) with each label (columns).
    method
        ``"overlap"`` or ``"hungarian"``.
    """

    mapping: dict[int, Any]
    accuracy: float
    recall: pd.Series
    table: pd.DataFrame
    method: str

    def __repr__(self) -> str:
        n_labels = len(set(self.mapping.values()))
        return (
            f"ComponentAssignment({len(self.mapping)} components, {n_labels} labels, "
            f"accuracy={self.accuracy:.3f}, method={self.method!r})"
        )


def assign(probs: np.ndarray, labels: pd.Series, method: str) -> ComponentAssignment:
    """Map components to labels.

    Parameters
    ----------
    probs
        Component probabilities ``(n_obs, K)``.
    labels
        Known labels ``(n_obs,)``.
    method
        ``"overlap"`` or ``"hungarian"``.
    """
    components = pd.Series(probs.argmax(axis=1), index=labels.index)
    table = component_table(components, labels)
    # by name: booleans in brackets would choose rows
    onehot = pd.get_dummies(labels).reindex(columns=table.columns).to_numpy(dtype=float)
    overlap = table.columns[(probs.T @ onehot).argmax(axis=1)]
    mapping = dict(enumerate(overlap))
    mapping |= {int(j): row.idxmax() for j, row in table.iterrows() if row.sum()}
    if method == "hungarian":
        mapping |= hungarian_map(table)
    predicted = components.map(mapping)
    return ComponentAssignment(
        mapping=mapping,
        accuracy=float((predicted == labels).mean()),
        recall=per_label_recall(predicted, labels),
        table=table,
        method=method,
    )
