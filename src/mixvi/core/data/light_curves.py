"""Where light curves lie in an AnnData: padded arrays, one object a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def padded_curves(
    codes: np.ndarray,
    time: np.ndarray,
    magnitude: np.ndarray,
    error: np.ndarray,
    *,
    n_objects: int,
    bands: np.ndarray | None = None,
    n_bands: int = 1,
) -> dict[str, np.ndarray]:
    """Observations, one a row, as arrays of ``obsm``.

    Parameters
    ----------
    codes
        Number of the object of each observation, ``(N,)``.
    time, magnitude, error
        Of each observation, ``(N,)``.
    n_objects, n_bands
        How many objects and bands there are.
    bands
        Number of the band of each observation, ``(N,)``.

    Returns
    -------
    ``time`` float64, ``magnitude`` and ``error`` float32, NaN beyond a curve's end, and ``valid``
    bool, each ``(n_objects, L)``, or ``(n_objects, L, n_bands)`` of several bands; in the order of
    time, L being the longest band of any object.
    """
    rows = np.asarray(codes, np.int64) * n_bands + (0 if bands is None else bands)
    order = np.lexsort((time, rows))
    rows, counts = rows[order], np.bincount(rows, minlength=n_objects * n_bands)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (n_objects, n_bands, int(counts.max(initial=1)))

    def laid(values: np.ndarray, dtype: type, empty: float) -> np.ndarray:
        array = np.full((shape[0] * n_bands, shape[2]), empty, dtype)
        array[rows, place] = np.asarray(values)[order]
        array = np.ascontiguousarray(array.reshape(shape).transpose(0, 2, 1))
        return array[..., 0] if n_bands == 1 else array

    return {
        "time": laid(time, np.float64, np.nan),
        "magnitude": laid(magnitude, np.float32, np.nan),
        "error": laid(error, np.float32, np.nan),
        "valid": laid(np.ones(len(rows), bool), bool, False),
    }


def counted_curves(affected: np.ndarray, names: Sequence[str]) -> str:
    """How many curves a mask ``(n_objects,)`` chooses, and the first of them, for a message."""
    n, of = int(affected.sum()), len(affected)
    return f"{n} of {of} curves (the first is {str(names[int(affected.argmax())])!r})"
