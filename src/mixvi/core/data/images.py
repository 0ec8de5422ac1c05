"""Where images lie in an AnnData, and the form and range that networks take them in."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from mixvi.core.arguments import near_matches

IMAGE_KEY = "image"
SHAPE_KEY = "image_shape"
# rounding of a float image that was bytes before
_TOLERANCE = 1e-3


def image_array(images, name: str = "images") -> np.ndarray:
    """Images ``(n, C, H, W)``, values as they are.

    Parameters
    ----------
    images
        Array or tensor ``(n, C, H, W)``, or an AnnData with ``obsm["image"]`` of that form or else
        rows of pixels in ``X`` and ``uns["image_shape"]``, ``(C, H, W)``.
    name
        What messages call them.

    Raises
    ------
    KeyError
        If an AnnData has neither.
    ValueError
        If there are no images, their shape is another, or they are not numbers.
    """
    if isinstance(images, AnnData):
        images = _of_adata(images, name)
    elif isinstance(images, torch.Tensor):
        images = images.detach().cpu().numpy()
    x = np.asarray(images)
    if x.ndim != 4 or x.size == 0:
        raise ValueError(
            f"{name} must be (n, channels, height, width) with n > 0, but has the shape {x.shape}."
        )
    if x.dtype == bool or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise ValueError(f"{name} must be numbers, but has the dtype {x.dtype}.")
    return x


def signed_images(
    images, name: str = "images", pixel_range: tuple[float, float] = (-1.0, 1.0)
) -> np.ndarray:
    """Images ``(n, C, H, W)`` in single precision and [-1, 1], as networks take and give them.

    Parameters
    ----------
    images
        As for :func:`image_array`: bytes (uint8, of which 0 becomes -1 and 255 becomes 1), or
        floats in ``pixel_range``.
    name
        What messages call them.
    pixel_range
        Floats that become -1 and 1.

    Raises
    ------
    ValueError
        As :func:`image_array`; also if values are not finite or lie elsewhere, the dtype is an
        integer other than uint8, or the range is none.
    """
    lowest, highest = pixel_range
    if not lowest < highest:
        raise ValueError(f"pixel_range must be (smallest, largest), but is {pixel_range!r}.")
    x = image_array(images, name)
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 127.5 - 1.0
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} has the dtype {x.dtype}; pass bytes (uint8, 0 to 255) or floats.")
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{name} has NaN or infinite values.")
    slack = _TOLERANCE * (highest - lowest)
    if low < lowest - slack or high > highest + slack:
        raise ValueError(
            f"{name} has values from {low:.4g} to {high:.4g}, but floats must lie in "
            f"[{lowest:g}, {highest:g}]. Pass their range as pixel_range=(smallest, largest)."
        )
    if (lowest, highest) == (-1, 1):
        return x.astype(np.float32, copy=False)
    return ((x - lowest) * (2 / (highest - lowest)) - 1).astype(np.float32)


def warn_of_scale(images: np.ndarray, name: str) -> None:
    """Warn if all values are light: images in [0, 1] pass for [-1, 1], and spoil what is measured.

    Parameters
    ----------
    images
        As :func:`signed_images` returns them.
    name
        What the message calls them.
    """
    if images.min() >= 0:
        warnings.warn(
            f"{name} has no value below the middle of its range. If it lies in [0, 1], pass "
            "pixel_range=(0, 1), or scale it with mixvi.datasets.prepare_images.",
            stacklevel=3,
        )


def _of_adata(adata: AnnData, name: str) -> np.ndarray:
    if IMAGE_KEY in adata.obsm:
        return np.asarray(adata.obsm[IMAGE_KEY])
    if SHAPE_KEY not in adata.uns:
        raise KeyError(
            f"{name} is an AnnData without obsm[{IMAGE_KEY!r}] and without uns[{SHAPE_KEY!r}]; "
            f"set one of them. {near_matches(SHAPE_KEY, adata.uns)}"
        )
    shape = tuple(int(length) for length in adata.uns[SHAPE_KEY])
    if len(shape) != 3 or np.prod(shape) != adata.n_vars:
        raise ValueError(
            f"{name}: uns[{SHAPE_KEY!r}] must be (channels, height, width) with a product of "
            f"{adata.n_vars}, the number of pixels in X, but is {shape}."
        )
    x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    return x.reshape(-1, *shape)
