"""A condition of several columns: what their combinations are called, and whether they serve."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.data.fields import found_categories, name_of
from mixvi.core.maths.additive import FEWEST_CELLS, AdditiveWeights

MOST_COMBINATIONS = 1000
"""Means of every component and gene are kept for each."""

# one column, or several
Columns = str | list[str]


def columns_of(condition_key: Columns | None) -> list[str]:
    """Columns of the condition; none without one."""
    if condition_key is None:
        return []
    return condition_key if isinstance(condition_key, list) else [condition_key]


def plain_columns(condition_key: object) -> object:
    """One column as its name, and several as a list, which files can hold."""
    if not isinstance(condition_key, list | tuple | np.ndarray | pd.Index):
        return condition_key
    keys = list(condition_key)
    return keys[0] if len(keys) == 1 else keys


def names_of_cells(obs: pd.DataFrame, condition_key: Columns) -> np.ndarray:
    """What the condition of each cell is called, ``(n_obs,)``."""
    if not isinstance(condition_key, list):
        return obs[condition_key].astype(str).to_numpy()
    columns = []
    for key in condition_key:
        codes, found = found_categories(obs[key])
        columns.append(np.array(list(map(name_of, found)), dtype=object)[codes])
    return np.array([name_of(own) for own in zip(*columns, strict=True)], dtype=object)


def called(target: object) -> str:
    """The name of a condition, or of a combination."""
    return name_of(target) if isinstance(target, tuple) else str(target)


def check_combinations(adata: AnnData, keys: Sequence[str]) -> None:
    """Raise ValueError if there are too many combinations, or two are called alike.

    The columns are usable as categories.
    """
    found = [found_categories(adata.obs[key])[1] for key in keys]
    sizes = [len(of) for of in found]
    listed = ", ".join(map(repr, keys))
    if math.prod(sizes) > MOST_COMBINATIONS:
        raise ValueError(
            f"The columns {listed} (condition_key) have {' x '.join(map(str, sizes))} = "
            f"{math.prod(sizes):,} combinations, of each of which means are kept; at most "
            f"{MOST_COMBINATIONS:,} can be. Join rare categories, or leave some out."
        )
    names = Counter(map(name_of, product(*found)))
    if len(names) < math.prod(sizes):
        raise ValueError(
            f"Two combinations of the columns {listed} (condition_key) are both called "
            f"{names.most_common(1)[0][0]!r}. Rename a category that has ' + ' in its name."
        )


def warn_combinations(adata: AnnData, keys: Sequence[str]) -> None:
    """Warn of combinations with too few cells for a mean, and of those that effects cannot tell."""
    columns = [found_categories(adata.obs[key]) for key in keys]
    sizes = [len(found) for _, found in columns]
    names = [name_of(own) for own in product(*(found for _, found in columns))]
    codes = np.ravel_multi_index([codes for codes, _ in columns], sizes)
    n_cells = np.bincount(codes, minlength=len(names))
    few = np.flatnonzero((n_cells > 0) & (n_cells < FEWEST_CELLS))
    listed = " and ".join(f"adata.obs[{key!r}]" for key in keys)
    if len(few):
        shown = ", ".join(f"{names[code]!r} ({n_cells[code]})" for code in few[:5])
        warnings.warn(
            f"{len(few)} of the {int((n_cells > 0).sum())} combinations of {listed} "
            f"(condition_key) have fewer than {FEWEST_CELLS} cells: {shown}. Counterfactuals take "
            "them for combinations that were never seen.",
            UserWarning,
            stacklevel=5,
        )
    told = AdditiveWeights.of(sizes, n_cells >= FEWEST_CELLS).told
    if not told.all():
        untold = np.flatnonzero(~told)
        shown = ", ".join(repr(names[code]) for code in untold[:3])
        warnings.warn(
            f"{listed} (condition_key) are confounded: what one does cannot be told from what the "
            f"other does for {len(untold)} of their {len(names)} combinations, e.g. {shown}, and "
            "counterfactuals to and from them are refused. Add cells of combinations that link "
            "them.",
            UserWarning,
            stacklevel=5,
        )
