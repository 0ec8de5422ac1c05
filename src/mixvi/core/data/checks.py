"""Checks of what users bring, and the sentences they get when something is wrong.

Every function returns nothing and changes nothing; it raises before any field is registered.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import is_float_dtype, is_numeric_dtype
from scipy import sparse

from mixvi.core.arguments import near_matches
from mixvi.core.data.backed import BackedMatrix, is_backed, row_sums
from mixvi.core.maths.sparse import distinct_entries

_CHUNK_ROWS = 4096


def check_key(adata: AnnData, slot: str, key: str | None, argument: str) -> None:
    """Raise KeyError if ``adata.<slot>`` lacks ``key``, with near matches; None is fine."""
    if key is None:
        return
    known = getattr(adata, slot).keys()
    if key not in known:
        raise KeyError(
            f"{argument}={key!r} is not in adata.{slot}. {near_matches(key, list(known))}"
        )


def check_not_empty(adata: AnnData) -> None:
    """Raise ValueError for an AnnData without cells or without genes."""
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData, but is a {type(adata).__name__}.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"adata is empty: it has {adata.n_obs} cells and {adata.n_vars} genes. "
            "Check the filters that came before."
        )


def check_not_backed_view(adata: AnnData) -> None:
    """Raise ValueError for a part of an AnnData on disk, which has no rows of its own there."""
    if adata.is_view and adata.isbacked:
        raise ValueError(
            "adata is a view of an AnnData on disk. Register the whole and name the cells with "
            "indices=..., or take the view into memory with adata.to_memory()."
        )


def check_categories(adata: AnnData, key: str | None, argument: str) -> None:
    """Raise unless ``adata.obs[key]`` is usable as categories: no floats, no missing values."""
    if key is None:
        return
    check_key(adata, "obs", key, argument)
    column = adata.obs[key]
    if column.isna().any():
        n = int(column.isna().sum())
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) has {n} missing values (NaN). Fill them first, e.g. "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].astype(object).fillna('Unknown')."
        )
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if is_numeric_dtype(values) and is_float_dtype(values):
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) holds floats, but categories are expected. "
            f"Convert it first: adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)."
        )


def check_numbers(adata: AnnData, key: str | None, argument: str, positive: bool = False) -> None:
    """Raise unless ``adata.obs[key]`` is a finite numeric column (positive on demand)."""
    if key is None:
        return
    check_key(adata, "obs", key, argument)
    column = adata.obs[key]
    if not is_numeric_dtype(column):
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) is not numeric (dtype {column.dtype}). "
            "Pass it as a categorical covariate or convert it to numbers."
        )
    values = column.to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) has {int((~np.isfinite(values)).sum())} NaN or "
            "infinite values. Fill or drop those cells first."
        )
    if positive and (values <= 0).any():
        raise ValueError(f"adata.obs[{key!r}] ({argument}) must be positive everywhere.")


def _chunks(x) -> Iterator[np.ndarray]:
    """Values of a matrix by blocks, stored values alone if sparse."""
    if is_backed(x):
        yield from BackedMatrix(x).stored_blocks()
        return
    if sparse.issparse(x):
        for start in range(0, x.data.size, _CHUNK_ROWS * 1024):
            yield x.data[start : start + _CHUNK_ROWS * 1024]
        return
    if isinstance(x, pd.DataFrame):
        x = x.to_numpy()
    for start in range(0, x.shape[0], _CHUNK_ROWS):
        yield np.asarray(x[start : start + _CHUNK_ROWS])


def check_matrix(x, name: str) -> None:
    """Raise if the matrix is not numeric or holds NaN or infinite values.

    Parameters
    ----------
    x
        Dense array, scipy sparse matrix or a backed dataset, ``(n_obs, n_vars)``.
    name
        How the message calls it, e.g. ``"adata.X"``.
    """
    if x is None:
        raise ValueError(f"{name} is empty (None): there is no expression matrix to train on.")
    if is_backed(x):
        # refuses what cannot be read by rows
        BackedMatrix(x, name)
    elif not (sparse.issparse(x) or isinstance(x, np.ndarray | pd.DataFrame)):
        raise TypeError(
            f"{name} is a {type(x).__name__}; a NumPy array or a scipy CSR or CSC matrix is "
            "needed, or data on disk as mixvi.read_backed opens them."
        )
    for values in _chunks(x):
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{name} holds {values.dtype}, not real numbers.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(
                f"{name} has NaN or infinite values ({bad} in the first faulty block). "
                "Remove those cells or genes, or impute, before setup."
            )


def check_support(x, name: str, likelihood: str, is_count: bool) -> None:
    """Raise if the data lie outside the support of the likelihood.

    Non-integers under a count likelihood give a warning, as in scvi-tools.
    """
    if not is_count and likelihood != "bernoulli":
        return
    whole = True
    if sparse.issparse(x):
        x = distinct_entries(x)
    for values in _chunks(x):
        if values.size and values.min() < 0:
            raise ValueError(
                f"{name} has negative values, which likelihood={likelihood!r} cannot have. "
                + ("Pass raw counts (layer=...)" if is_count else "Scale the data to [0, 1]")
                + " or choose likelihood='gaussian'."
            )
        if likelihood == "bernoulli" and values.size and values.max() > 1:
            raise ValueError(
                f"{name} has values above 1, but likelihood='bernoulli' needs values in [0, 1]. "
                "Divide by the maximum (255 for images) or choose likelihood='gaussian'."
            )
        if is_count and whole and values.dtype.kind == "f":
            whole = bool((values == np.round(values)).all())
    if not whole:
        warnings.warn(
            f"{name} has values that are not whole numbers, but likelihood={likelihood!r} expects "
            "raw counts. Training goes on; pass layer=... if the counts are in a layer.",
            UserWarning,
            stacklevel=3,
        )


def check_library(x, name: str, likelihood: str) -> None:
    """Raise if a cell has no counts at all, whose library size would be zero."""
    n_empty = int((row_sums(x) <= 0).sum())
    if n_empty:
        raise ValueError(
            f"{n_empty} cells have no counts in {name}, so likelihood={likelihood!r} has no "
            "library size for them. Drop them with sc.pp.filter_cells(adata, min_counts=1) or "
            "register a size_factor_key."
        )


def check_soft_labels(adata: AnnData, key: str | None) -> None:
    """Raise unless ``adata.obsm[key]`` has rows that sum to one, or to zero if unlabelled."""
    if key is None:
        return
    check_key(adata, "obsm", key, "soft_labels_key")
    values = np.asarray(adata.obsm[key], dtype=float)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"adata.obsm[{key!r}] (soft_labels_key) must be a (n_obs, n_classes) matrix of "
            "probabilities, without NaN or negative values."
        )
    totals = values.sum(axis=1)
    if not (np.isclose(totals, 1.0, atol=1e-4) | (totals == 0)).all():
        raise ValueError(
            f"Rows of adata.obsm[{key!r}] (soft_labels_key) must sum to 1, or to 0 for unlabelled "
            "cells. Divide each row by its sum."
        )


def check_genes(found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise unless the query has the model's genes in the model's order."""
    found, expected = pd.Index(found).astype(str), pd.Index(expected).astype(str)
    if len(found) == len(expected) and (found == expected).all():
        return
    missing = expected.difference(found)
    if len(missing):
        raise ValueError(
            f"The data lack {len(missing)} of the model's {len(expected)} genes, e.g. "
            f"{', '.join(map(repr, missing[:3]))}. A model reads the genes it was trained on; "
            "train it on the genes both data sets share."
        )
    raise ValueError(
        "The data have the model's genes, but in another order or among others. "
        "Reorder first: adata = adata[:, model.var_names].copy()."
    )


def check_known_categories(
    adata: AnnData, key: str, known: Sequence, argument: str, hint: str
) -> None:
    """Raise if ``adata.obs[key]`` holds categories that the model has not seen."""
    check_categories(adata, key, argument)
    unseen = sorted(set(map(str, adata.obs[key].unique())) - set(map(str, known)))
    if unseen:
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) has categories that the model was not trained on: "
            f"{', '.join(map(repr, unseen[:5]))}. It knows {', '.join(map(repr, known))}. {hint}"
        )


def check_has_elbo(likelihood: str, has_elbo: bool) -> None:
    """Raise ValueError for a likelihood that is only a loss."""
    if not has_elbo:
        raise ValueError(
            f"likelihood={likelihood!r} is a loss, not a density: it has no ELBO. "
            "Train with likelihood='gaussian' or 'gaussian_sigma' to report one."
        )
