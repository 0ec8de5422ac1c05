"""Means of each label's cells under each condition, of which predictions by arithmetic are made."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from mixvi.core.arguments import shown
from mixvi.core.data.fields import name_of
from mixvi.core.maths.additive import FEWEST_CELLS, AdditiveWeights

_SHARES_OF = 1e4


class LabelMeans(NamedTuple):
    """Mean of each label's training cells under each condition; of counts, of proportions."""

    labels: list[str]
    conditions: list[str]
    values: np.ndarray
    """``(L, C, G)``; zero where there are no cells."""
    n_cells: np.ndarray
    """``(L, C)``."""
    unit: float
    """By which values come to about the size of logarithms: proportions are tiny."""

    @classmethod
    def taken(cls, x: np.ndarray, labels: np.ndarray, conditions: np.ndarray, counts: bool):
        """Of cells ``(n, G)``, their labels and conditions, each ``(n,)``."""
        names, codes = np.unique(labels, return_inverse=True)
        kinds, columns = np.unique(conditions, return_inverse=True)
        cell = codes * len(kinds) + columns
        n = np.bincount(cell, minlength=len(names) * len(kinds))
        sums = np.zeros((len(n), x.shape[1]))
        np.add.at(sums, cell, x)
        over = sums.sum(axis=1) if counts else n
        values = sums / np.where(over > 0, over, 1)[:, None]
        shape = len(names), len(kinds)
        values, n = values.reshape(*shape, -1), n.reshape(shape)
        return cls(list(names), list(kinds), values, n, _SHARES_OF if counts else 1.0)

    def completed(self, columns: Sequence[Sequence]) -> LabelMeans:
        """With all combinations of the categories of several columns.

        Those that a label was not seen under, of counts on the scale of log1p of their share of
        10,000, are what the effects of the columns add up to, fitted by least squares to the others
        of that label, and count as of the average number of cells.
        """
        names = [name_of(own) for own in product(*columns)]
        places = [names.index(name) for name in self.conditions]
        shape = len(self.labels), len(names)
        values, n_cells = np.zeros((*shape, self.values.shape[-1])), np.zeros(shape, int)
        values[:, places], n_cells[:, places] = self.values, self.n_cells
        counts = self.unit != 1.0
        for own, n in zip(values, n_cells, strict=True):
            seen = n >= FEWEST_CELLS
            found = AdditiveWeights.of(list(map(len, columns)), seen)
            if len(found.made):
                scaled = found.weights[found.made] @ (np.log1p(self.unit * own) if counts else own)
                made = np.expm1(scaled).clip(0.0) if counts else scaled
                # shares of a library sum to one
                own[found.made] = made / made.sum(axis=1, keepdims=True) if counts else made
                n[found.made] = n[seen].mean()
        return LabelMeans(self.labels, names, values, n_cells, self.unit)

    def enough(self, condition: str) -> np.ndarray:
        """Which labels have a mean under the condition, ``(L,)``."""
        if condition not in self.conditions:
            return np.zeros(len(self.labels), bool)
        return self.n_cells[:, self.conditions.index(condition)] >= FEWEST_CELLS

    def seen(self, source: str, target: str) -> list[str]:
        """Labels with a mean under both conditions; an error if there are none."""
        both = self.enough(source) & self.enough(target)
        if not both.any():
            raise ValueError(
                f"No label has {FEWEST_CELLS} training cells or more both under {shown(source)} "
                f"and under {shown(target)}, so that no change can be learned."
            )
        return [name for name, found in zip(self.labels, both, strict=True) if found]

    def of(self, condition: str, labels: list[str]) -> np.ndarray:
        """Means ``(len(labels), G)``."""
        rows = [self.labels.index(label) for label in labels]
        return self.values[rows, self.conditions.index(condition)]

    def changes(self, source: str, target: str, labels: list[str]) -> np.ndarray:
        """Differences of the means, ``(len(labels), G)``."""
        return self.of(target, labels) - self.of(source, labels)

    def warn_of_few(self, targets: Mapping[str, str], cells: set[tuple[str, str]]) -> None:
        """Warn of labels that have cells on both sides, but too few on one.

        Those without any under the target are left out on purpose. ``targets`` are those of each
        condition, ``cells`` the labels and conditions that are converted.
        """
        few: dict[str, set[str]] = {}
        for label, source in cells:
            target = targets[source]
            if label not in self.labels or source == target:
                continue
            of = self.n_cells[self.labels.index(label)]
            if not of[self.conditions.index(target)]:
                continue
            for condition in {source, target} & set(self.conditions):
                n = of[self.conditions.index(condition)]
                if 0 < n < FEWEST_CELLS:
                    few.setdefault(condition, set()).add(f"{label!r} ({n})")
        for condition, names in sorted(few.items()):
            warnings.warn(
                f"Fewer than {FEWEST_CELLS} training cells under {shown(condition)}: "
                f"{', '.join(sorted(names))}. The changes of other labels stand in for theirs.",
                UserWarning,
                stacklevel=4,
            )
