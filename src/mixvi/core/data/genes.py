"""Cells brought onto the genes of a model: in its order, zeros where a gene is missing."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mixvi.core.data import checks
from mixvi.core.data.backed import is_backed

# the copy of a gene on Y keeps its mark behind the version: ENSG00000182378.14_PAR_Y
_VERSION = re.compile(r"^(ENS\w+)\.\d+")


def with_genes(
    adata: AnnData, names: pd.Index, min_overlap: float, var: pd.DataFrame | None = None
) -> AnnData:
    """Cells with the genes ``names`` in their order.

    Genes are found by ``adata.var_names``, or by the column of ``adata.var`` or of ``var`` under
    which more of them are found: symbols where the names are Ensembl identifiers, or the other way.
    Versions of Ensembl identifiers do not count.

    Parameters
    ----------
    adata
        Cells; not changed.
    names
        Genes of the model, ``(G,)``.
    min_overlap
        Smallest share of them that the cells must have.
    var
        What else the model's genes are called: columns by gene; ``None``: nothing else.

    Returns
    -------
    AnnData ``(n_obs, G)``, ``X`` and layers of the formats and types they had, named as the model's
    genes. Where genes were added, ``var`` has missing values for them, and ``varm`` and ``varp``
    are left out.

    Raises
    ------
    ValueError
        If fewer genes overlap, or names repeat.
    """
    _check(adata, names)
    positions, source = _positions(adata, names, var)
    missing = names[positions < 0]
    share = len(missing) / len(names)
    text = (
        f"adata lacks {len(missing)} of the model's {len(names)} genes ({share:.1%})"
        + (f", e.g. {', '.join(map(repr, missing[:3]))}" if len(missing) else "")
        + source
    )
    if len(missing) == len(names) or 1.0 - share < min_overlap:
        raise ValueError(
            f"{text}. At least {min_overlap:.0%} are needed (min_overlap). The model's are e.g. "
            f"{names[0]!r}, those of adata {adata.var_names[0]!r}: name genes alike in both (a "
            "column of adata.var may have the other names), or train a model on the genes that "
            "both data sets share."
        )
    if len(missing) == 0:
        ordered = adata[:, positions].copy()
        ordered.var_names = names
        return ordered
    warnings.warn(f"{text}. They are filled up with zeros.", UserWarning, stacklevel=3)
    own = adata.var.iloc[positions[positions >= 0]].set_axis(names[positions >= 0])
    filled = AnnData(
        _padded(adata.X, positions),
        obs=adata.obs.copy(),
        var=own.reindex(names),
        uns=dict(adata.uns),
        obsm=dict(adata.obsm),
        obsp=dict(adata.obsp),
        layers={key: _padded(layer, positions) for key, layer in adata.layers.items() if key},
    )
    if adata.raw is not None:
        filled.raw = adata.raw.to_adata()
    return filled


def _positions(adata: AnnData, names: pd.Index, var: pd.DataFrame | None) -> tuple[np.ndarray, str]:
    """Column of each of the model's genes, -1 where there is none, and by what they were found."""
    theirs = [("", adata.var_names), *_text_columns(adata.var, " by adata.var[{!r}]")]
    ours = [("", names)]
    if var is not None:
        ours += _text_columns(var.reindex(names), " by the model's adata.var[{!r}]")
    best, most = None, -1
    for of_model, wanted in ours:
        for of_adata, found in theirs:
            found, wanted = _unversioned(found), _unversioned(wanted)
            n = len(wanted.intersection(found).dropna())
            # a name for its own sake beats one by way of a column
            if n > most:
                best, most = (found, wanted, of_adata, of_model), n
    found, wanted, of_adata, of_model = best
    return _found(found, wanted, of_adata), of_adata + of_model


def _text_columns(var: pd.DataFrame, text: str) -> list[tuple[str, pd.Index]]:
    """Columns of ``var`` that may hold names of genes, each with what messages call it."""
    named = [key for key in var if not pd.api.types.is_numeric_dtype(var[key])]
    return [(text.format(key), pd.Index(var[key].astype(object))) for key in named]


def _unversioned(names: pd.Index) -> pd.Index:
    """Ensembl identifiers without their version, other names as they are."""
    return pd.Index(
        [_VERSION.sub(r"\1", name) if isinstance(name, str) else name for name in names],
        dtype=object,
    )


def _found(names: pd.Index, wanted: pd.Index, source: str) -> np.ndarray:
    """Place of each wanted name among ``names``, -1 without."""
    used = names.isin(wanted.dropna())
    kept = names[used]
    if not kept.is_unique:
        raise ValueError(
            f"adata has several genes called {kept[kept.duplicated()][0]!r}{source}. Keep one of "
            "them, or add up their counts."
        )
    places = kept.get_indexer(wanted)
    # the last entry is for genes that are not there
    return np.append(np.flatnonzero(used), -1)[places]


def _check(adata: AnnData, names: pd.Index) -> None:
    checks.check_anndata(adata)
    for owner, index in (("adata", adata.var_names), ("the model", names)):
        if not index.is_unique:
            raise ValueError(
                f"Gene names of {owner} repeat, e.g. {index[index.duplicated()][0]!r}, and cannot "
                "be found by name. Call adata.var_names_make_unique() before set-up and training."
            )
    if any(is_backed(matrix) for matrix in (adata.X, *adata.layers.values())):
        raise ValueError("adata is on disk. Take it into memory first: adata = adata.to_memory().")


def _padded(x: Any, positions: np.ndarray) -> Any:
    """Columns of a matrix at ``positions``, and zeros at those that are -1."""
    if x is None:
        return None
    if sparse.issparse(x):
        zeros = type(x)((x.shape[0], 1), dtype=x.dtype)
        # the last column is the zeros'
        return sparse.hstack([x, zeros], format=x.format)[:, positions]
    x = np.asarray(x)
    padded = np.zeros((x.shape[0], len(positions)), dtype=x.dtype)
    padded[:, positions >= 0] = x[:, positions[positions >= 0]]
    return padded
