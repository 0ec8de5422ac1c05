"""What kind of values a matrix of expression holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import sparse

from mixvi.core.data.backed import BackedMatrix, is_backed
from mixvi.core.maths.sparse import distinct_entries

_CHUNK_ROWS = 4096
_N_MARKED = 4096


def stored_values(x) -> Iterator[np.ndarray]:
    """Values of a matrix by blocks, stored values alone if sparse, each as it is stored."""
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


def mark_of(x) -> tuple | None:
    """What tells a matrix in memory from another, or from itself before all of it was transformed.

    Parameters
    ----------
    x
        Matrix ``(n_obs, n_vars)``, dense or sparse.

    Returns
    -------
    Its form, where its values lie, and a sample of a few thousand of them; None where it is neither
    of NumPy nor of scipy.
    """
    values = x.data if sparse.issparse(x) else x
    if not isinstance(values, np.ndarray):
        return None
    each_axis = round(_N_MARKED ** (1 / values.ndim))
    sample = values[tuple(slice(None, None, n // each_axis + 1) for n in values.shape)]
    return type(x), x.shape, values.dtype, values.ctypes.data, sample.tobytes()


def distinct_values(x) -> Iterator[np.ndarray]:
    """As :func:`stored_values`; entries that repeat are judged by their sum."""
    if is_backed(x):
        return BackedMatrix(x).distinct_blocks()
    return stored_values(distinct_entries(x) if sparse.issparse(x) else x)


def holds_counts(x) -> bool:
    """Whether a matrix ``(n_obs, n_vars)`` holds whole numbers from zero, and not 0 and 1 alone."""
    largest = 0
    for values in distinct_values(x):
        if values.size:
            if values.min() < 0 or (values.dtype.kind == "f" and (values % 1).any()):
                return False
            largest = max(largest, values.max())
    return largest > 1


def support_of(x) -> str:
    """``"count"`` (whole numbers from zero), ``"non-negative"`` or ``"real"``.

    Parameters
    ----------
    x
        Matrix ``(n_obs, n_vars)``, dense, sparse or on disk.
    """
    whole = True
    for values in distinct_values(x):
        if values.size and values.min() < 0:
            return "real"
        if whole and values.dtype.kind == "f":
            whole = not (values % 1).any()
    return "count" if whole else "non-negative"
