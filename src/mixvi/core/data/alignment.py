"""One value for each row, in the order of the rows: by name where the values have names."""

from __future__ import annotations

from typing import Any

import pandas as pd


def in_order_of(names: pd.Index, values: Any, argument: str) -> Any:
    """A Series or table with its rows in the order of ``names``.

    Parameters
    ----------
    names
        Names of the rows, such as ``adata.obs_names``.
    values
        One value (or row) for each. What has no names, as an array, a list or a Series that is
        numbered from 0, is taken in the order it has.
    argument
        How messages call it.

    Returns
    -------
    ``values``, reordered if need be; rows of other names are left out.

    Raises
    ------
    ValueError
        If a row's name is missing, or names are not unique, so that there is no one order.
    """
    if not isinstance(values, pd.Series | pd.DataFrame):
        return values
    if isinstance(values.index, pd.RangeIndex) and values.index.start == 0:
        return values
    found = values.index.astype(str)
    if found.equals(pd.Index(names).astype(str)):
        return values
    missing = names.difference(found)
    if len(missing):
        raise ValueError(
            f"{argument} has names, but none is {missing[0]!r} ({len(missing)} of {len(names)} "
            "names are missing). Name every row as in adata.obs_names, or pass an array in their "
            "order: values.to_numpy()."
        )
    if not (found.is_unique and names.is_unique):
        raise ValueError(
            f"{argument} has another order than adata, and names repeat, so that it cannot be put "
            "in order. Call adata.obs_names_make_unique() first, or pass an array: "
            "values.to_numpy()."
        )
    return values.set_axis(found).loc[names]
