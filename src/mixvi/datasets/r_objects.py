"""Cells out of files of R (``.rda``), which rdata reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

if TYPE_CHECKING:
    from rdata.parser import RObject


def read_rda(path: Path) -> dict[str, Any]:
    """The objects of a file that R's ``save`` wrote, by name.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    A matrix of genes x cells (sparse, also within R's lists, or dense with names) is AnnData: its
    values in ``X`` (CSR float32, (n_obs, n_genes)), cells and genes in the file's order. So is a
    ``SummarizedExperiment`` of Bioconductor: its assay ``counts`` in ``X``, the columns of its
    ``colData`` in ``obs`` and of its ``elementMetadata`` in ``var``; factors are categorical. All
    else is as rdata makes it: dicts, arrays, pandas tables.

    Raises
    ------
    ImportError
        If rdata is not installed.
    """
    try:
        from rdata import parser
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a file of R, to be read by rdata: pip install 'mixvi[datasets]'."
        ) from error
    objects = _entries(parser.parse_file(path).object)
    return {name: _python_object(robject) for name, robject in objects.items()}


def _python_object(robject: RObject) -> Any:
    slots = _entries(robject.attributes)
    if "assays" not in slots:
        return _converted(robject)
    adata = _converted(_assays(slots["assays"]), inner="counts")
    for table, slot in ((adata.obs, "colData"), (adata.var, "elementMetadata")):
        for name, column in _converted(slots[slot]).items():
            table[str(name)] = column
    return adata


def _assays(assays: RObject) -> RObject:
    slots = _entries(assays.attributes)
    if "data" in slots:
        return slots["data"]
    # older ones are an environment, which refers to itself: rdata cannot convert it as a whole
    entries = {}
    for bucket in slots[".xData"].value.hash_table.value:
        entries |= _entries(bucket)
    return entries[".->data"]


def _entries(pairs: RObject | None) -> dict[str, RObject]:
    """Elements of a linked list by name; R keeps a file's objects and attributes in such lists."""
    entries = {}
    # what is not a list is R's NULL, the end of it
    while pairs is not None and pairs.info.type.name == "LIST":
        # a name is stored once and referred to afterwards
        symbol = pairs.tag.referenced_object or pairs.tag
        entries[symbol.value.value.decode()], pairs = pairs.value
    return entries


def _converted(robject: RObject, inner: str | None = None) -> Any:
    """The object, or what is called ``inner`` in it, in Python."""
    from rdata import conversion

    classes = {
        "DataFrame": _contents,
        "DFrame": _contents,
        "SimpleList": _contents,
        "dgCMatrix": _of_sparse_columns,
        "dgTMatrix": _of_triplets,
    }
    value = conversion.convert(robject, conversion.DEFAULT_CLASS_MAP | classes)
    if inner is not None:
        value = value[inner]
    # rdata makes xarray's arrays of dense matrices with names
    if getattr(value, "ndim", None) == 2 and hasattr(value, "coords"):
        return _cells(
            value.values,
            [value.coords[d].values if d in value.coords else None for d in value.dims],
        )
    return value


def _contents(value: Any, attributes: dict) -> dict[str, Any]:
    return value.listData


def _of_sparse_columns(value: Any, attributes: dict) -> AnnData:
    counts = sparse.csc_matrix((value.x, value.i, value.p), shape=tuple(value.Dim))
    return _cells(counts, value.Dimnames)


def _of_triplets(value: Any, attributes: dict) -> AnnData:
    counts = sparse.coo_matrix((value.x, (value.i, value.j)), shape=tuple(value.Dim))
    return _cells(counts, value.Dimnames)


def _cells(counts: np.ndarray | sparse.spmatrix, names: list[np.ndarray | None]) -> AnnData:
    """Cells x genes of a matrix of genes x cells and its names, of rows and of columns."""
    genes, cells = (
        pd.RangeIndex(n).astype(str) if of is None else of
        for n, of in zip(counts.shape, names, strict=True)
    )
    return AnnData(
        sparse.csr_matrix(counts.T, dtype=np.float32),
        obs=pd.DataFrame(index=cells),
        var=pd.DataFrame(index=genes),
    )
