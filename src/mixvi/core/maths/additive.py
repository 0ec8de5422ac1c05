"""Means of combinations that were never seen, from effects of each category that add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST_CELLS = 5
"""Training cells of a group under a condition, of which a mean is taken."""
_TINY = 1e-8


def combination_levels(sizes: Sequence[int]) -> np.ndarray:
    """Category of each column in every combination, ``(C, n_columns)``, the last one fastest.

    Parameters
    ----------
    sizes
        Number of categories of each column.
    """
    return np.indices(tuple(sizes)).reshape(len(sizes), -1).T


def side_by_side(sizes: Sequence[int]) -> np.ndarray:
    """One-hot rows of all columns of every combination, ``(C, sum of sizes)``."""
    levels = combination_levels(sizes)
    parts = [np.eye(n)[levels[:, column]] for column, n in enumerate(sizes)]
    return np.concatenate(parts, axis=1)


class AdditiveWeights(NamedTuple):
    """By which means of the seen combinations make those of every combination."""

    weights: np.ndarray
    """``(C, C)``; of a combination that was seen, itself; zero where effects do not tell."""
    told: np.ndarray
    """Combinations with a mean, seen or made of others, ``(C,)``."""
    left_out: np.ndarray
    """What makes a seen combination of the other ones, ``(C, C)``."""
    testable: np.ndarray
    """Seen combinations that the other ones tell, ``(C,)``."""

    @property
    def made(self) -> np.ndarray:
        """Codes of the combinations that are made of others, ``(M,)``."""
        return np.flatnonzero(self.told & (self.weights.diagonal() == 0.0))

    @classmethod
    def of(cls, sizes: Sequence[int], seen: np.ndarray) -> AdditiveWeights:
        """Least squares of the categories' effects, every seen combination counting alike.

        Parameters
        ----------
        sizes
            Number of categories of each column.
        seen
            Combinations that have a mean, ``(C,)``.
        """
        design = side_by_side(sizes)
        rows = np.flatnonzero(seen)
        inverse = np.linalg.pinv(design[rows])
        fitted = np.zeros((len(design), len(design)))
        fitted[:, rows] = design @ inverse
        # effects that are not told apart lie outside the rows that were seen
        told = np.abs(design @ (inverse @ design[rows]) - design).max(1, initial=0.0) < _TINY
        own = fitted.diagonal()
        # each leaves itself out of its fit (Cook and Weisberg 1982, section 2.2)
        others = 1.0 - own
        testable = seen & (others > _TINY)
        left_out = np.zeros_like(fitted)
        left_out[testable] = (fitted - np.diag(own))[testable] / others[testable, None]
        weights = np.where(told[:, None], fitted, 0.0)
        weights[rows] = np.eye(len(design))[rows]
        return cls(weights, told | seen, left_out, testable)
