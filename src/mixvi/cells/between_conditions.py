"""The conditions to convert to: one that was seen, or two of numbers around one that was not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from mixvi.core.arguments import shown


class Target(NamedTuple):
    """Seen conditions and how much each of them counts."""

    name: Any
    """The condition that converted cells have; of several columns, a tuple."""
    codes: list[int]
    shares: list[float]

    def average(self, parts: Iterable) -> Any:
        """Of what there is for each of the codes."""
        return sum(share * part for share, part in zip(self.shares, parts, strict=True))


def combined(parts: Sequence[Target], sizes: Sequence[int]) -> Target:
    """Combinations of the targets of several columns, of so many categories each."""
    codes = [int(np.ravel_multi_index(own, sizes)) for own in product(*(p.codes for p in parts))]
    shares = [math.prod(own) for own in product(*(p.shares for p in parts))]
    return Target(tuple(part.name for part in parts), codes, shares)


def as_number(value: Any) -> float:
    """A dose or hour, also as text; NaN if it is none, such as True."""
    try:
        return np.nan if isinstance(value, bool | np.bool) else float(value)
    except (TypeError, ValueError):
        return np.nan


def between(to: Any, conditions: list) -> Target | None:
    """The two numbers next to ``to``; None unless it is one, and three conditions or more are.

    Warns
    -----
    UserWarning
        If ``to`` lies outside the numbers, of which the nearest one then stands for it.
    """
    numbers = np.array([as_number(name) for name in conditions])
    value, known = as_number(to), np.flatnonzero(np.isfinite(numbers))
    # two may be codes, such as 0 and 1
    if len(known) < 3 or not np.isfinite(value):
        return None
    known = known[np.argsort(numbers[known])]
    upper = int(np.searchsorted(numbers[known], value))
    if upper in (0, len(known)):
        end = int(known[min(upper, len(known) - 1)])
        warnings.warn(
            f"to={shown(to)} lies outside the trained conditions, which are {numbers[known[0]]:g} "
            f"to {numbers[known[-1]]:g}: cells are converted to {shown(conditions[end])}.",
            UserWarning,
            stacklevel=6,
        )
        return Target(conditions[end], [end], [1.0])
    pair = known[upper - 1 : upper + 1]
    share = (value - numbers[pair[0]]) / (numbers[pair[1]] - numbers[pair[0]])
    return Target(to, pair.tolist(), [1.0 - float(share), float(share)])
