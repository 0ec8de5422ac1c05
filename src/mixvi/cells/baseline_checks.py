"""Checks of cells to convert, and of the training cells that say how they change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from anndata import AnnData

from mixvi.core.arguments import check_choice, near_matches, shown
from mixvi.core.data import checks
from mixvi.core.data.combinations import Columns, columns_of, names_of_cells
from mixvi.core.data.fields import found_categories, name_of, plain
from mixvi.core.data.support import support_of
from mixvi.metrics.pairs import dense


def check_residual(keep_residual: bool | str, support: str) -> None:
    """Raise for an unknown way of keeping residuals, or one that these values do not allow."""
    check_choice("keep_residual", keep_residual, (False, True, "centred"))
    if keep_residual == "centred" and support == "count":
        raise ValueError(
            "keep_residual='centred' would make fractions of counts. Use keep_residual=True."
        )


def check_cells(cells: AnnData, name: str) -> None:
    """Raise unless it is an AnnData with cells and genes."""
    if not isinstance(cells, AnnData):
        raise TypeError(f"{name} must be an AnnData, but is a {type(cells).__name__}.")
    if 0 in cells.shape:
        raise ValueError(
            f"{name} is empty: it has {cells.n_obs} cells and {cells.n_vars} genes. "
            "Check the filters that came before."
        )


def check_columns(train: AnnData, cells: AnnData, labels_key: str, condition_key: Columns) -> None:
    """Raise unless both have cells, labels and conditions, and the same genes."""
    for name, side in (("train", train), ("cells", cells)):
        check_cells(side, name)
    for side in (train, cells):
        checks.check_categories(side, labels_key, "labels_key")
        if isinstance(condition_key, list):
            checks.check_keys(side, condition_key, "condition_key")
        for key in columns_of(condition_key):
            checks.check_categories(side, key, "condition_key")
    if not train.var_names.equals(cells.var_names):
        raise ValueError(
            "cells and training cells name their genes differently or in another order. Reorder "
            "first: cells = cells[:, train.var_names]."
        )


def finite_values(cells: AnnData, layer: str | None, name: str) -> np.ndarray:
    """Expression ``(n, G)``; a ValueError for NaN and infinite values."""
    x = dense(cells, layer, name)
    bad = int((~np.isfinite(x)).any(axis=1).sum())
    if bad:
        raise ValueError(
            f"{_called(name, layer)} has NaN or infinite values in {bad} cells; drop those cells "
            "first."
        )
    return x


def target_of(train: AnnData, condition_key: str, to: object) -> str | int | bool:
    """The target as the training cells' column has it, where 1 and "1" are one condition."""
    known = found_categories(train.obs[condition_key])[1]
    for condition in known:
        if name_of(condition) == name_of(to):
            return condition
    raise ValueError(
        f"No training cell has the condition {shown(to)} (to). {near_matches(name_of(to), known)}"
    )


def targets_of(
    train: AnnData, cells: AnnData, condition_key: Columns, to: object
) -> dict[str, object]:
    """Target of each condition that the cells have, by its name; of several columns tuples."""
    if not isinstance(condition_key, list):
        target = target_of(train, condition_key, to)
        return dict.fromkeys(names_of_cells(cells.obs, condition_key), target)
    if not isinstance(to, Mapping) or not to:
        example = dict.fromkeys(condition_key, "...")
        raise TypeError(f"to={shown(to)}: conditions of several columns are given as {example}.")
    for key in to:
        if key not in condition_key:
            raise ValueError(
                f"to names the column {key!r}, which is none of condition_key. "
                + near_matches(key, condition_key)
            )
    named = {key: target_of(train, key, value) for key, value in to.items()}
    found = {}
    for own in cells.obs[condition_key].drop_duplicates().itertuples(index=False, name=None):
        kept = dict(zip(condition_key, map(plain, own), strict=True))
        found[name_of(tuple(kept.values()))] = tuple((kept | named).values())
    return found


def check_same_support(support: str, x: np.ndarray, layer: str | None) -> None:
    """Raise if cells hold values that the training cells, which are of ``support``, cannot."""
    found = support_of(x)
    order = ("count", "non-negative", "real")
    # counts lie within any support, but not on the scale of other values; zeros do
    counts_alone = found == "count" != support and x.any()
    if counts_alone or order.index(found) > order.index(support):
        where = "X" if layer is None else f"layers[{layer!r}]"
        raise ValueError(
            f"{where} of the training cells has {support} values, but that of the cells {found} "
            "ones. Bring both to one scale."
        )


def _called(name: str, layer: str | None) -> str:
    return f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"
