"""Two populations of cells side by side: brought to matrices of one scale, checked, projected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from mixvi.core.data.alignment import in_order_of
from mixvi.core.data.backed import is_backed
from mixvi.core.data.checks import check_key
from mixvi.core.data.keys import PREDICTION_KEY
from mixvi.core.data.support import support_of


def dense(x, layer: str | None = None, name: str | None = None) -> np.ndarray:
    """``(n, G)`` in double precision from a dense or sparse matrix or a layer of an AnnData."""
    x = _in_memory(matrix(x, layer, name))
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    return np.atleast_2d(x).astype(np.float64)


def matrix(x, layer: str | None = None, name: str | None = None):
    """The layer of an AnnData (``None``: ``X``), anything else as it is.

    Parameters
    ----------
    x
        AnnData or matrix.
    layer
        Layer of an AnnData.
    name
        How messages call it; ``None``: not at all.

    Raises
    ------
    KeyError
        If the AnnData has no such layer.
    ValueError
        If it has no ``X``.
    """
    if not isinstance(x, AnnData):
        return x
    if layer is not None:
        check_key(x, "layers", layer, "layer", name)
        return x.layers[layer]
    if x.X is None:
        raise ValueError(
            f"{name or 'adata'}.X is empty (None). Name the layer that has the values: layer='...'."
        )
    return x.X


def of_counts(x, values: np.ndarray, layer: str | None = None) -> bool:
    """Whether values are counts or, as predicted cells say of theirs, means of counts.

    Parameters
    ----------
    x, layer
        AnnData or matrix, and the layer that is read of it.
    values
        What was read, ``(n, G)``.
    """
    noted = _scale(x, layer) if isinstance(x, AnnData) else None
    return (noted or support_of(values)) == "count"


def common_layer(layer: str | None, sides: dict[str, object]) -> str | None:
    """The layer to read of every AnnData among ``sides``.

    Parameters
    ----------
    layer
        ``"auto"``: the layer that predicted cells say their model reads (``uns``), ``X`` if there
        are none or it reads ``X``. Anything else is returned as it is.
    sides
        How messages call each side, and the side.

    Returns
    -------
    Name of the layer, or None for ``X``.

    Raises
    ------
    ValueError
        If the sides' models read different layers, a side lacks the layer, or ``X`` of predicted
        cells was changed since, so that there are two scales to choose from.
    """
    if layer != "auto":
        return layer
    sides = {name: side for name, side in sides.items() if isinstance(side, AnnData)}
    noted = {
        name: side.uns[PREDICTION_KEY].get("layer")
        for name, side in sides.items()
        if PREDICTION_KEY in side.uns
    }
    if not noted:
        return None
    if len(set(noted.values())) > 1:
        raise ValueError(
            "Cells predicted by models that read different matrices: "
            + ", ".join(f"{name} lies in {called(of)}" for name, of in noted.items())
            + ". Bring them to one scale and name it: layer='...' (None: X)."
        )
    name, layer = next(iter(noted.items()))
    if layer is None:
        return None
    for other, side in sides.items():
        if layer not in side.layers:
            raise ValueError(
                f"{name} is on the scale of layers[{layer!r}], the matrix its model reads, and "
                f"{other} has no such layer: their X need not be of one scale. Add "
                f"{other}.layers[{layer!r}], or compare other matrices with layer='...' (None: X)."
            )
        if other in noted and not _equal(side.X, side.layers[layer]):
            raise ValueError(
                f"{other}.X was changed since it was predicted and differs from "
                f"layers[{layer!r}]. Say which to compare: layer={layer!r} (the prediction) or "
                "layer=None (X of both sides)."
            )
    return layer


def pair(
    left,
    right,
    names: tuple[str, str] = ("predicted", "real"),
    layer: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides dense, once it is sure that their columns are the same genes on one scale.

    Parameters
    ----------
    left, right
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    names
        How messages call them.
    layer
        What is read of an AnnData, see :func:`common_layer`.

    Raises
    ------
    KeyError
        If an AnnData lacks the layer.
    ValueError
        If the genes differ, a side has no cells, there are no genes, or predicted cells are of
        another scale than the other side.
    """
    a, b = names
    layer = common_layer(layer, {a: left, b: right})
    x, y = dense(left, layer, a), dense(right, layer, b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{a} has {x.shape[1]} genes, {b} has {y.shape[1]}; both need the "
            "same genes in the same order."
        )
    if not len(x) or not len(y):
        raise ValueError(f"{a} and {b} need at least one cell each.")
    if not x.shape[1]:
        raise ValueError(f"{a} and {b} have no genes. Check the filters that came before.")
    if isinstance(left, AnnData) and isinstance(right, AnnData):
        if not left.var_names.equals(right.var_names):
            raise ValueError(
                f"{a} and {b} name their genes differently or in another order. "
                f"Reorder first: {b} = {b}[:, {a}.var_names]."
            )
        _check_scales({a: (left, x), b: (right, y)}, layer)
    return x, y


def finite_pair(
    left,
    right,
    names: tuple[str, str] = ("predicted", "real"),
    layer: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`pair`, with a ValueError for NaN and infinite values too."""
    sides = pair(left, right, names, layer)
    for name, x in zip(names, sides, strict=True):
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"{name} has NaN or infinite values in {bad} cells; drop those cells first."
            )
    return sides


def of_each_cell(values: Sequence, n: int, name: str, names: pd.Index | None = None) -> np.ndarray:
    """``values`` as an array ``(n,)``; ValueError if one is missing or the length differs.

    A Series is put in the order of ``names``, those of the cells, if they have some.
    """
    if len(values) == n:
        values = in_order_of(names, values, name)
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"{name} must have one entry a cell ({n}), but has {len(values)}.")
    if pd.isna(values).any():
        raise ValueError(f"{name} has missing values (NaN); drop those cells first.")
    return values


def on_components_of(
    real: np.ndarray, other: np.ndarray, n_pcs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both ``(n, G)`` on the first principal components of ``real``; as they are if G <= n_pcs.

    Of fewer than ``n_pcs`` real cells, as many components as there are cells.
    """
    if real.shape[1] <= n_pcs:
        return real, other
    pca = PCA(min(n_pcs, len(real)), random_state=0).fit(real)
    return pca.transform(real), pca.transform(other)


def called(layer: str | None) -> str:
    """How messages call the layer (None: X)."""
    return "X" if layer is None else f"layers[{layer!r}]"


def _in_memory(x):
    return x[:] if is_backed(x) else x


def _equal(x, y) -> bool:
    x, y = _in_memory(x), _in_memory(y)
    if sparse.issparse(x) or sparse.issparse(y):
        return (sparse.csr_matrix(x) != sparse.csr_matrix(y)).nnz == 0
    return np.array_equal(x, y, equal_nan=True)


def _scale(adata: AnnData, layer: str | None) -> str | None:
    """Scale of the values read of predicted cells; None of other cells or of changed values."""
    note = adata.uns.get(PREDICTION_KEY)
    if note is None or note.get("scale") is None:
        return None
    own = note.get("layer")
    if layer == own:
        # scanpy says so in uns where it took logarithms of X
        return None if own is None and "log1p" in adata.uns else note["scale"]
    unchanged = own in adata.layers and _equal(matrix(adata, layer), adata.layers[own])
    return note["scale"] if unchanged else None


def _check_scales(sides: dict[str, tuple[AnnData, np.ndarray]], layer: str | None) -> None:
    """Raise ValueError if what predicted cells say of their scale is untrue of the other side."""
    scales = {name: _scale(adata, layer) for name, (adata, _) in sides.items()}
    for (name, scale), other in zip(scales.items(), reversed(sides), strict=True):
        if scale is None:
            continue
        found = scales[other] or _contradiction(scale, sides[other][1])
        if found not in (None, scale):
            raise ValueError(
                f"{name} has {scale} values, as its model's data, but {other} has {found} values "
                f"in {called(layer)}. Bring both to one scale and name the matrix "
                "with layer='...' (None: X), or pass matrices instead of AnnData."
            )


def _contradiction(scale: str, x: np.ndarray) -> str | None:
    """What ``x`` is where it cannot be of the scale, else None."""
    x = x[np.isfinite(x)]
    if scale != "real" and (x < 0).any():
        return "negative"
    whole = not (x % 1).any()
    if scale == "count" and not whole:
        return "fractional"
    if scale == "non-negative" and whole and x.any():
        return "count"
    return None
