"""Where images lie in an AnnData, and the form and range that networks take them in."""

from __future__ import annotations

import warnings
from functools import reduce

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from mixvi.core.arguments import near_matches
from mixvi.core.data.pixel_range import (
    PixelValues,
    check_within,
    checked_range,
    inferred_range,
    pixel_values,
)

IMAGE_KEY = "image"
SHAPE_KEY = "image_shape"


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
    images, name: str = "images", pixel_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Images ``(n, C, H, W)`` in single precision and [-1, 1], as networks take and give them.

    Parameters
    ----------
    images
        As for :func:`image_array`: bytes (uint8, of which 0 becomes -1 and 255 becomes 1), or
        floats.
    name
        What messages call them.
    pixel_range
        Floats that become -1 and 1. ``None``: -1 and 1 if some are negative, else 0 and 1.

    Raises
    ------
    ValueError
        As :func:`image_array`; also if values are not finite or lie elsewhere, the dtype is an
        integer other than uint8, or the range is none or cannot be told.
    """
    return signed_sides({name: images}, pixel_range)[name]


def signed_sides(
    sides: dict[str, object], pixel_range: tuple[float, float] | None = None
) -> dict[str, np.ndarray]:
    """Several sets of images, by name, as :func:`signed_images` makes them.

    Raises
    ------
    ValueError
        As :func:`float_range`.
    """
    arrays = {name: image_array(images, name) for name, images in sides.items()}
    pixel_range = float_range(arrays, pixel_range)
    return {
        name: _signed(x, (0.0, 255.0) if x.dtype == np.uint8 else pixel_range)
        for name, x in arrays.items()
    }


def float_range(
    sides: dict[str, object], pixel_range: tuple[float, float] | None = None
) -> tuple[float, float] | None:
    """The one range that floats of several sets are on; None if all are bytes.

    Parameters
    ----------
    sides
        Images by the name that messages call them.
    pixel_range
        The range that they are said to have. ``None``: -1 to 1 if some are below -0.5, 0 to 1 if
        none are negative; beside bytes also 0 to 255.

    Raises
    ------
    ValueError
        As :func:`signed_images`; also if floats of one set have negative values, those of another
        none.
    """
    floats, n_bytes = [], 0
    for name, images in sides.items():
        x = image_array(images, name)
        of = pixel_values([x], x.dtype, name)
        if of.is_bytes:
            inferred_range(of)
            n_bytes += 1
        elif np.issubdtype(x.dtype, np.floating):
            floats.append(of)
        else:
            raise ValueError(
                f"{name} has the dtype {x.dtype}; pass bytes (uint8, 0 to 255) or floats."
            )
    if pixel_range is not None:
        pixel_range = checked_range(pixel_range)
        for of in floats:
            check_within(of, pixel_range, "Scale them, or pass another pixel_range.")
            _warn_of_scale(of, pixel_range)
        return pixel_range
    return _common_range(floats, n_bytes > 0) if floats else None


def _common_range(sides: list[PixelValues], beside_bytes: bool) -> tuple[float, float]:
    together = reduce(PixelValues.joined, sides)
    if beside_bytes and together.smallest >= 0 and 1 < together.largest <= 255:
        return 0.0, 255.0
    found = inferred_range(together)
    for of in sides:
        if found[0] < 0 <= of.smallest:
            raise ValueError(
                f"{of.span}, but others are in [-1, 1]. Scale them alike, or say by "
                "pixel_range=(-1, 1) that they are."
            )
    return found


def _warn_of_scale(values: PixelValues, pixel_range: tuple[float, float]) -> None:
    """Warn if all values are light: images in [0, 1] spoil what is measured in [-1, 1]."""
    low, high = pixel_range
    if low < 0 <= values.smallest and values.largest > 0:
        warnings.warn(
            f"{values.name} has no value below 0 in the range ({low:g}, {high:g}). If it lies in "
            "[0, 1], leave pixel_range out or scale it with mixvi.datasets.prepare_images.",
            stacklevel=4,
        )


def _signed(x: np.ndarray, pixel_range: tuple[float, float]) -> np.ndarray:
    low, high = pixel_range
    if (low, high) == (-1.0, 1.0):
        return x.astype(np.float32, copy=False)
    # in single precision, so that floats of bytes become the same as the bytes
    return x.astype(np.float32) * np.float32(2.0 / (high - low)) - np.float32(
        1.0 + 2.0 * low / (high - low)
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
