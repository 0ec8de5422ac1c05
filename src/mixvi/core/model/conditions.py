"""The conditions of a model: of one column, or the combinations of several."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from mixvi.core import arguments
from mixvi.core.data.combinations import Columns, columns_of
from mixvi.core.data.keys import CONDITION_KEY


class ConditionsMixin:
    """What conditions are called, and their codes."""

    @property
    def conditions(self) -> list:
        """Known conditions, in the order of their codes; empty without a condition.

        Of several columns, tuples: every combination of their categories, seen or not.
        """
        if self._setup_args["condition_key"] is None:
            return []
        if self._has_combinations:
            return list(product(*self._condition_categories))
        return self._categories(CONDITION_KEY)

    @property
    def condition_key(self) -> Columns | None:
        """Column of ``obs`` with the condition, a list of several, or None."""
        return self._setup_args["condition_key"]

    @property
    def _has_combinations(self) -> bool:
        return isinstance(self.condition_key, list)

    @property
    def _condition_categories(self) -> list[list]:
        """Categories of each column of the condition, in the order of their codes."""
        if not self._has_combinations:
            return [self.conditions] if self.conditions else []
        mappings = self._state(CONDITION_KEY)["mappings"]
        return [np.asarray(mappings[key]).tolist() for key in self.condition_key]

    @property
    def _condition_sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self._condition_categories))

    def _condition_code(self, value: Any, argument: str) -> int | None:
        """Code of a condition; a combination by its name, as a tuple or by column."""
        if isinstance(value, Mapping):
            named = self._named_columns(value, argument)
            missing = [key for key in columns_of(self.condition_key) if key not in named]
            if missing:
                raise ValueError(f"{argument} does not say which {missing[0]!r}. Add it.")
            value = tuple(named.values()) if self._has_combinations else next(iter(named.values()))
        return self._code(value, self.conditions, argument)

    def _condition_codes(self, conditions: Any, argument: str) -> list[int]:
        """Codes of one condition or of several; ``"all"`` means all."""
        if isinstance(conditions, str) and conditions == "all":
            return list(range(len(self.conditions)))
        one = isinstance(conditions, str | Mapping)
        names = [conditions] if one else conditions
        return [self._condition_code(name, argument) for name in names]

    def _named_columns(self, value: Mapping, argument: str) -> dict[str, Any]:
        """Values by column, in the columns' order; an error that names one that is none."""
        keys = columns_of(self.condition_key)
        for key in value:
            if key not in keys:
                raise ValueError(
                    f"{argument} names the column {key!r}, which is none of condition_key. "
                    + arguments.near_matches(key, keys)
                )
        if not value:
            raise ValueError(f"{argument} is an empty dict. Name a column: {keys}.")
        return {key: value[key] for key in keys if key in value}
