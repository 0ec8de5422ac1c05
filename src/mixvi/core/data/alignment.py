"""One value for each row, in the order of the rows: by name where the values have names."""

from __future__ import annotations

from typing import Any

import pandas as pd
from anndata import AnnData


def names_of(rows: Any) -> pd.Index | None:
    """Names of the rows of an AnnData, a Series or a table; None where there are none.

    Rows that are numbered from 0 have none.
    """
    if isinstance(rows, AnnData):
        return rows.obs_names
    if not isinstance(rows, pd.Series | pd.DataFrame) or _is_numbered(rows.index):
        return None
    return rows.index


def in_order_of(names: pd.Index | None, values: Any, argument: str) -> Any:
    """A Series or table with its rows in the order of ``names``.

    Parameters
    ----------
    names
        Names of the rows, such as ``adata.obs_names``; None: there are none.
    values
        One value (or row) for each; more rows are fine, as those of all cells are for a part of
        them. What has no names, as an array, a list or a Series that is numbered from 0, is taken
        in the order it has.
    argument
        How messages call it.

    Returns
    -------
    ``values``, reordered if need be; rows of other names are left out.

    Raises
    ------
    ValueError
        If a row's name is missing, or names are not unique, so that there is no one order; or
        values are numbered while the names are the same numbers in another order.
    """
    if names is None or not isinstance(values, pd.Series | pd.DataFrame):
        return values
    names, found = pd.Index(names).astype(str), values.index.astype(str)
    if found.equals(names):
        return values
    if _is_numbered(values.index):
        if len(found) == len(names) and found.difference(names).empty:
            raise ValueError(
                f"{argument} is numbered from 0, and the rows that it goes with are named by the "
                "same numbers in another order. Pass an array if it is in their order "
                "(values.to_numpy()), or give it their names as index."
            )
        return values
    missing = names.difference(found)
    if len(missing):
        raise ValueError(
            f"{argument} has names, but none is {missing[0]!r} ({len(missing)} of {len(names)} "
            "names are missing). Name every row as those that it goes with (cells: "
            "adata.obs_names), or pass an array in their order: values.to_numpy()."
        )
    if not (found.is_unique and names.is_unique):
        raise ValueError(
            f"{argument} has another order than the rows it goes with, and names repeat, so that "
            "it cannot be put in order. Call adata.obs_names_make_unique() first, or pass an "
            "array: values.to_numpy()."
        )
    return values.set_axis(found).loc[names]


def _is_numbered(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.start == 0
