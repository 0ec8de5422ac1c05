"""Checks of what users bring, and the sentences they get when something is wrong.

Every function returns nothing and changes nothing; it raises before any field is registered.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from pandas.api.types import is_float_dtype, is_numeric_dtype
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mixvi.core.arguments import check_positive, near_matches, shown
from mixvi.core.data.backed import BackedMatrix, is_backed, row_sums
from mixvi.core.data.fields import found_categories, labelled_cells, name_of, unknown_labels
from mixvi.core.data.support import distinct_values, stored_values

_FEWEST_CELLS = 3
# what others call cells without a label, and what text makes of missing values
_NO_LABELS = ("unknown", "unlabeled", "unlabelled", "unassigned", "nan", "none", "na")
# warnings name the user's line
_PACKAGE = str(Path(__file__).parents[2])


def check_key(
    adata: AnnData, slot: str, key: str | None, argument: str, side: str | None = None
) -> None:
    """Raise unless ``adata.<slot>`` has ``key``, once; near matches are named. None is fine.

    ``side`` is what messages call the AnnData where there are several.
    """
    if key is None:
        return
    if not isinstance(key, Hashable):
        raise TypeError(f"{argument} is {key!r}, but must be one name of adata.{slot}.")
    # among layers anndata lists X as None
    known = [name for name in getattr(adata, slot) if name is not None]
    if key not in known:
        of = f" of {side}" if side else ""
        raise KeyError(f"{argument}={key!r} is not in adata.{slot}{of}. {near_matches(key, known)}")
    if known.count(key) > 1:
        raise ValueError(
            f"adata.{slot} has {known.count(key)} columns that are called {key!r} ({argument}). "
            f"Keep one: adata.{slot} = adata.{slot}.loc[:, ~adata.{slot}.columns.duplicated()]."
        )


def check_keys(adata: AnnData, keys: Sequence[str] | None, argument: str) -> None:
    """Raise unless ``keys`` is a list of different columns of ``adata.obs``; None is fine."""
    if isinstance(keys, str):
        raise TypeError(f"{argument} must be a list of columns: {argument}=[{keys!r}].")
    keys = list(keys or ())
    for key in keys:
        check_key(adata, "obs", key, argument)
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"{argument} names {twice[0]!r} more than once.")


def check_anndata(adata: AnnData, class_name: str = "The model") -> None:
    """Raise TypeError for anything but an AnnData; for a MuData with the line to write."""
    if isinstance(adata, MuData):
        first = next(iter(adata.mod), "rna")
        raise TypeError(
            f"adata is a MuData, but {class_name} reads an AnnData, one modality: pass "
            f"mdata[{first!r}]. It has {', '.join(map(repr, adata.mod))}."
        )
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData, but is a {type(adata).__name__}.")


def check_not_empty(adata: AnnData) -> None:
    """Raise ValueError for an AnnData without cells or without genes."""
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


def check_categories(
    adata: AnnData,
    key: str | None,
    argument: str,
    *,
    missing: bool = False,
    whole_floats: bool = False,
) -> None:
    """Raise unless ``adata.obs[key]`` is usable as categories.

    Parameters
    ----------
    adata, key, argument
        The column, and by which argument it was named. None is fine.
    missing
        Whether values may be missing.
    whole_floats
        Whether floats are fine if they are whole, as integers become beside missing values.
    """
    if key is None:
        return
    check_key(adata, "obs", key, argument)
    column = adata.obs[key]
    if column.isna().any() and not missing:
        n = int(column.isna().sum())
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) has {n} missing values (NaN). Fill them first, e.g. "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].astype(object).fillna('Unknown')."
        )
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if is_numeric_dtype(values) and is_float_dtype(values):
        whole = bool((values.dropna() % 1 == 0).all())
        if not (whole and whole_floats):
            to = "int" if whole and not column.isna().any() else "str"
            raise ValueError(
                f"adata.obs[{key!r}] ({argument}) holds floats, but categories are expected. "
                f"Convert it first: adata.obs[{key!r}] = adata.obs[{key!r}].astype({to})."
            )
    names = [name_of(category) for category in found_categories(column)[1]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) has {twice[0]!r} both as text and as a number. "
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


def check_not_dask(x: object, name: str) -> None:
    """Raise TypeError for a dask array, with the line that reads it."""
    if type(x).__module__.partition(".")[0] == "dask":
        raise TypeError(
            f"{name} is a dask array. Read it into memory first: {name} = {name}.compute(). Files "
            "larger than memory are opened with mixvi.read_backed."
        )


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
    check_not_dask(x, name)
    if is_backed(x):
        # refuses what cannot be read by rows
        BackedMatrix(x, name)
    elif not (sparse.issparse(x) or isinstance(x, np.ndarray | pd.DataFrame)):
        raise TypeError(
            f"{name} is a {type(x).__name__}; a NumPy array or a scipy CSR or CSC matrix is "
            "needed, or data on disk as mixvi.read_backed opens them."
        )
    for values in stored_values(x):
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{name} holds {values.dtype}, not real numbers.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(
                f"{name} has NaN or infinite values ({bad} in the first faulty block). "
                "Remove those cells or genes, or impute, before setup."
            )


def check_support(x, name: str, likelihood: str, is_count: bool) -> bool:
    """Raise if the data lie outside the support of the likelihood.

    Returns
    -------
    Whether values are whole numbers where the likelihood expects counts.
    """
    if not is_count and likelihood != "bernoulli":
        return True
    whole = True
    for values in distinct_values(x):
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
    return whole


def check_library(x, name: str, likelihood: str) -> None:
    """Raise if a cell has no counts at all, whose library size would be zero."""
    n_empty = int((row_sums(x) <= 0).sum())
    if n_empty:
        raise ValueError(
            f"{n_empty} cells have no counts in {name}, so likelihood={likelihood!r} has no "
            "library size for them. Drop them with sc.pp.filter_cells(adata, min_counts=1) or "
            "register a size_factor_key."
        )


def check_labels(adata: AnnData, key: str | None, unlabeled_category: Hashable) -> None:
    """Raise unless ``adata.obs[key]`` has labels for some cells at least; None is fine."""
    if key is None:
        return
    check_categories(adata, key, "labels_key", missing=True, whole_floats=True)
    if not labelled_cells(adata.obs[key], unlabeled_category).any():
        raise ValueError(
            f"Every cell of adata.obs[{key!r}] (labels_key) is {shown(unlabeled_category)}, the "
            "unlabelled category, or NaN. Leave labels_key out to train without labels."
        )


def check_library_size(library_size: float | None, likelihood: str, is_count: bool) -> None:
    """Raise ValueError unless generated cells can have this library size; None is fine."""
    if library_size is None:
        return
    check_positive("library_size", library_size, integer=False)
    if not is_count:
        raise ValueError(
            f"library_size has no effect with likelihood={likelihood!r}, which models the data on "
            "their own scale. Leave it out."
        )


def check_soft_labels(
    adata: AnnData, key: str | None, columns: Sequence[str] | None = None
) -> None:
    """Raise unless ``adata.obsm[key]`` has rows that sum to one, or to zero if unlabelled.

    ``columns`` are those of the table that a trained model was given: an array, which names none,
    must have as many.
    """
    if key is None:
        return
    check_key(adata, "obsm", key, "soft_labels_key")
    name = f"adata.obsm[{key!r}] (soft_labels_key)"
    table = adata.obsm[key]
    values = np.asarray(table, dtype=float)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"{name} must be a (n_obs, n_classes) matrix of probabilities, without NaN or negative "
            "values."
        )
    totals = values.sum(axis=1)
    if not (np.isclose(totals, 1.0, atol=1e-4) | (totals == 0)).all():
        raise ValueError(
            f"Rows of {name} must sum to 1, or to 0 for unlabelled cells. Divide each row by its "
            "sum."
        )
    if isinstance(table, pd.DataFrame):
        names = [name_of(column) for column in table.columns]
        twice = sorted({column for column in names if names.count(column) > 1})
        if twice:
            raise ValueError(f"{name} has more than one column that is called {twice[0]!r}.")
    elif columns is not None and values.shape[1] != len(columns):
        raise ValueError(
            f"{name} is an array of {values.shape[1]} columns, but the model was trained on "
            f"{len(columns)}: {', '.join(map(repr, columns))}. Give a DataFrame with the classes' "
            "names as columns."
        )
    if columns is None and not totals.any():
        raise ValueError(f"{name} has a label for no cell. Leave it out to train without labels.")


def check_genes(found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise unless the query has the model's genes in the model's order."""
    found, expected = pd.Index(found).astype(str), pd.Index(expected).astype(str)
    if len(found) == len(expected) and (found == expected).all():
        return
    missing = expected.difference(found)
    if len(missing):
        raise ValueError(
            f"The data lack {len(missing)} of the model's {len(expected)} genes, e.g. "
            f"{', '.join(map(repr, missing[:3]))}. A model reads the genes it was trained on: fill "
            "up a few by prepare_query_anndata(adata, model), or train a model on the genes that "
            "both data sets share."
        )
    text = "The data have the model's genes, but in another order or among others. "
    twice = [index[index.duplicated()][0] for index in (expected, found) if not index.is_unique]
    if twice:
        raise ValueError(
            f"{text}They cannot be told apart by name, because more than one gene is called "
            f"{twice[0]!r}: call adata.var_names_make_unique() before set-up and training."
        )
    raise ValueError(f"{text}Reorder first: adata = adata[:, model.var_names].copy().")


def check_known_categories(
    adata: AnnData, key: str, known: Sequence, argument: str, hint: str
) -> None:
    """Raise if ``adata.obs[key]`` holds categories that the model has not seen."""
    check_categories(adata, key, argument, whole_floats=True)
    known = [name_of(category) for category in known]
    found = [name_of(category) for category in found_categories(adata.obs[key])[1]]
    unseen = sorted(set(found) - set(known))
    if unseen:
        raise ValueError(
            f"adata.obs[{key!r}] ({argument}) has categories that the model was not trained on: "
            f"{', '.join(map(repr, unseen[:5]))}. It knows {', '.join(map(repr, known))}. {hint}"
        )


def warn_few_cells(adata: AnnData, key: str, argument: str) -> None:
    """Warn of categories with fewer than 3 cells, from which nothing of them can be learned."""
    sizes = adata.obs[key].value_counts()
    few = sizes.index[(sizes > 0) & (sizes < _FEWEST_CELLS)]
    if len(few):
        warnings.warn(
            f"adata.obs[{key!r}] ({argument}): {len(few)} of its {int((sizes > 0).sum())} "
            f"categories have fewer than {_FEWEST_CELLS} cells, e.g. {name_of(few[0])!r}. What is "
            "particular to them cannot be learned; join them with others.",
            UserWarning,
            stacklevel=5,
        )


def warn_single_labels(adata: AnnData, labels_key: str | None, unlabeled_category: Any) -> None:
    """Warn of labels with one cell where half of the labels have at least 10."""
    if labels_key is None:
        return
    column = adata.obs[labels_key]
    sizes = column[labelled_cells(column, unlabeled_category)].value_counts()
    sizes = sizes[sizes > 0]
    single = sizes.index[sizes == 1]
    if len(single) and sizes.median() >= 10:
        warnings.warn(
            f"adata.obs[{labels_key!r}] (labels_key): {len(single)} of its {len(sizes)} labels "
            f"have one cell, e.g. {name_of(single[0])!r}. Nothing can be learned of such a label, "
            "nor measured. Join it with another, or leave its cell without a label.",
            UserWarning,
            stacklevel=5,
        )


def warn_no_labels(adata: AnnData, labels_key: str | None, unlabeled_category: Any) -> None:
    """Warn of labels whose name says that there is none, such as "unknown"."""
    if labels_key is None:
        return
    names = unknown_labels(adata.obs[labels_key], unlabeled_category, ())
    likely = [name for name in names if name.casefold() in _NO_LABELS]
    if likely:
        warnings.warn(
            f"adata.obs[{labels_key!r}] has {', '.join(map(repr, likely))} among its labels, which "
            "is learned as any other. If those cells have no label, call them "
            f"{shown(unlabeled_category)}, as the unlabelled category, or leave the value missing.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def warn_unknown_labels(
    adata: AnnData, labels_key: str, unlabeled_category: Any, known: Sequence
) -> None:
    """Warn of labels of a query that a reference has not."""
    unknown = unknown_labels(adata.obs[labels_key], unlabeled_category, known)
    if unknown:
        warnings.warn(
            f"adata.obs[{labels_key!r}] has labels that the reference does not know "
            f"({', '.join(map(repr, unknown[:5]))}). Their cells count as unlabelled; to teach "
            "them, train a model on reference and query together.",
            UserWarning,
            stacklevel=5,
        )


def warn_confounded(adata: AnnData, condition_key: str, key: str, argument: str) -> None:
    """Warn of conditions that no category of a nuisance column links, however indirectly."""
    pairs = adata.obs[[key, condition_key]].astype(str).drop_duplicates().to_numpy()
    (categories, rows), (names, columns) = (
        np.unique(of, return_inverse=True) for of in (pairs[:, 0], pairs[:, 1])
    )
    linked = sparse.coo_array((np.ones(len(rows)), (rows, columns + len(categories))))
    linked.resize((len(categories) + len(names),) * 2)
    n_groups, of = connected_components(linked, directed=False)
    if n_groups < 2:
        return
    of = of[len(categories) :]
    groups = [", ".join(map(repr, names[of == group].tolist())) for group in np.unique(of)]
    listed = "; ".join(groups[:5]) + ("; ..." if n_groups > 5 else "")
    warnings.warn(
        f"Conditions of adata.obs[{condition_key!r}] are confounded with adata.obs[{key!r}] "
        f"({argument}): no category of it has cells of two of these groups: {listed}. What a "
        "condition does cannot be told from what its categories do, and counterfactuals from one "
        f"group to another may show either. Leave {argument} out, or name a column whose "
        "categories have cells of several conditions.",
        UserWarning,
        stacklevel=5,
    )


def check_has_elbo(likelihood: str, has_elbo: bool) -> None:
    """Raise ValueError for a likelihood that is only a loss."""
    if not has_elbo:
        raise ValueError(
            f"likelihood={likelihood!r} is a loss, not a density: it has no ELBO. "
            "Train with likelihood='gaussian' or 'gaussian_sigma' to report one."
        )
