"""Registering images: where they lie, their shape and range, and whether a model can read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField, LayerField, ObsmField

from mixvi.core.data import checks
from mixvi.core.data.images import SHAPE_KEY
from mixvi.core.data.pixel_range import (
    PixelValues,
    check_scale,
    check_within,
    checked_range,
    inferred_range,
    pixel_values,
)

# share of light images, in the registry
LIGHT_KEY = "light_share"
_CHUNK_ROWS = 1024
_ADVICE = "Scale them as the training images were, or register anew with another pixel_range."


def resolve_images(
    adata: AnnData, args: dict[str, Any], source_registry: dict | None = None
) -> tuple[dict[str, Any], float]:
    """The arguments of ``setup_anndata`` with key, shape and range of the images found.

    Beside them the share of light images, which says whether others are on the same range.

    Parameters
    ----------
    adata
        AnnData with images.
    args
        ``image_key``, ``layer``, ``image_shape`` and ``pixel_range`` as the user gave them.
    source_registry
        That of a trained model, whose arguments they are. Images are compared with those that it
        was set up with; see :class:`mixvi.core.data.pixel_range.PixelValues`.

    Raises
    ------
    KeyError
        If a key is missing (near matches are named).
    TypeError
        If images are not numbers of a kind that is known.
    ValueError
        If shape or range are not what the arguments say, or not to be inferred.
    """
    checks.check_anndata(adata)
    if adata.n_obs == 0:
        raise ValueError("adata has no rows: there are no images to train on.")
    checks.check_not_backed_view(adata)
    source = None
    if source_registry is not None:
        source = source_registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    key, layer, shape = args["image_key"], args["layer"], args["image_shape"]
    if key is not None and layer is not None:
        raise ValueError("Pass image_key or layer, not both.")
    if key is None and layer is None and shape is None and "image" in adata.obsm:
        key = "image"
    if shape is not None:
        shape = _checked_shape(shape, "image_shape")
    if key is not None:
        checks.check_key(adata, "obsm", key, "image_key")
        name, images = f"adata.obsm[{key!r}]", adata.obsm[key]
        checks.check_not_dask(images, name)
        found = _shape_of(images, name)
        if shape is not None and found != shape:
            raise ValueError(_other_shape(name, found, shape, source_registry is not None))
        shape = found
    else:
        checks.check_key(adata, "layers", layer, "layer")
        name, images = ("adata.X", adata.X) if layer is None else _layer(adata, layer)
        checks.check_not_dask(images, name)
        shape = shape or _flat_shape(adata, name)
        if images is None or images.shape[1] != prod(shape):
            raise ValueError(
                f"{name} has {adata.n_vars} columns, but images of shape {shape} (C, H, W) have "
                f"{prod(shape)} values each. Correct image_shape, or put images (n, C, H, W) into "
                "adata.obsm['image']."
            )
        if source is not None and "column_names" in source:
            _check_columns(adata.var_names, source["column_names"])
    values = _checked_values(images, name, args["pixel_range"])
    if args["pixel_range"] is None:
        pixel_range = inferred_range(values)
    else:
        pixel_range = checked_range(args["pixel_range"])
        check_within(values, pixel_range, _ADVICE)
    light_share = values.light_share
    if source is not None:
        light_share = source.get(LIGHT_KEY, 0.0)
        check_scale(values, pixel_range, light_share)
    found = {"image_key": key, "layer": layer, "image_shape": shape, "pixel_range": pixel_range}
    return args | found, light_share


class StackedField(ObsmField):
    """Images ``(n, C, H, W)`` in obsm; channels for scvi-tools' columns, and no message."""

    def __init__(self, key: str, light_share: float | None):
        super().__init__(REGISTRY_KEYS.X_KEY, key, correct_data_format=False)
        self._light_share = light_share

    def register_field(self, adata: AnnData) -> dict:
        """Number the channels, and keep what other images are compared with."""
        self.validate_field(adata)
        channels = np.arange(adata.obsm[self.attr_key].shape[1])
        return {self.COLUMN_NAMES_KEY: channels, LIGHT_KEY: self._light_share}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Keep what images are compared with."""
        light_share = state_registry.get(LIGHT_KEY, 0.0)
        return self.register_field(adata_target) | {LIGHT_KEY: light_share}


class FlatField(LayerField):
    """Images as rows of X or a layer."""

    def __init__(self, layer: str | None, light_share: float | None):
        super().__init__(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False)
        self._light_share = light_share

    def register_field(self, adata: AnnData) -> dict:
        """Keep what other images are compared with, too."""
        return super().register_field(adata) | {LIGHT_KEY: self._light_share}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Keep the names of the columns and what images are compared with."""
        kept = {
            self.COLUMN_NAMES_KEY: state_registry[self.COLUMN_NAMES_KEY],
            LIGHT_KEY: state_registry.get(LIGHT_KEY, 0.0),
        }
        return super().transfer_field(state_registry, adata_target, **kwargs) | kept


def image_field(args: dict[str, Any], light_share: float | None = None) -> BaseAnnDataField:
    """The field of images, by what :func:`resolve_images` found.

    A query's field takes the share of light images from the model's.
    """
    if args["image_key"] is not None:
        return StackedField(args["image_key"], light_share)
    return FlatField(args["layer"], light_share)


def _check_columns(found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise if columns of pixels have the names of training in another order.

    Columns with other names altogether are taken in their order.
    """
    found, expected = pd.Index(found).astype(str), pd.Index(expected).astype(str)
    if not found.equals(expected) and found.isin(expected).any():
        raise ValueError(
            "The columns of adata (adata.var_names) are pixels that the model was trained on, but "
            "in another order or among others. Put them in the order of the training images."
        )


def _layer(adata: AnnData, layer: str) -> tuple[str, Any]:
    return f"adata.layers[{layer!r}]", adata.layers[layer]


def _checked_shape(shape: Any, name: str) -> tuple[int, int, int]:
    try:
        sizes = tuple(int(size) for size in shape)
        whole = all(size == given for size, given in zip(sizes, shape, strict=True))
    except (TypeError, ValueError):
        sizes, whole = (), False
    if len(sizes) == 2:
        sizes = (1, *sizes)
    if not whole or len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"{name} must be (channels, height, width), or (height, width) of one channel, but is "
            f"{shape!r}."
        )
    return sizes


def _shape_of(images: Any, name: str) -> tuple[int, int, int]:
    shape = getattr(images, "shape", ())
    if not isinstance(images, np.ndarray):
        raise TypeError(
            f"{name} is a {type(images).__name__}; a NumPy array (n, channels, height, width) is "
            "needed."
        )
    if len(shape) == 3:
        raise ValueError(
            f"{name} has shape {shape}, but images are (n, channels, height, width). For one "
            f"channel add its axis: {name} = {name}[:, None]."
        )
    if len(shape) != 4 or min(shape[1:]) < 1:
        raise ValueError(
            f"{name} has shape {shape}, but images are (n, channels, height, width). Flattened "
            "images belong into X, with uns['image_shape'] = (channels, height, width)."
        )
    if shape[3] in (1, 3, 4) and shape[1] > 4:
        raise ValueError(
            f"{name} has shape {shape}: channels seem to come last, but images are (n, channels, "
            f"height, width). Move them: {name} = {name}.transpose(0, 3, 1, 2)."
        )
    return tuple(int(size) for size in shape[1:])


def _flat_shape(adata: AnnData, name: str) -> tuple[int, int, int]:
    if SHAPE_KEY not in adata.uns:
        raise ValueError(
            "There are no images: adata.obsm has no 'image', and adata.uns no 'image_shape' that "
            f"would say how rows of {name} are folded. Put images (n, C, H, W) into "
            "adata.obsm['image'], name their key by image_key, or pass image_shape=(C, H, W)."
        )
    return _checked_shape(adata.uns[SHAPE_KEY], f"adata.uns[{SHAPE_KEY!r}]")


def _other_shape(name: str, found: tuple, expected: tuple, is_query: bool) -> str:
    reader = "the model reads" if is_query else "image_shape says"
    text = f"{name} has images of shape {found} (C, H, W), but {reader} {expected}."
    if found[0] != expected[0] and found[1:] == expected[1:]:
        plural = "s" if expected[0] > 1 else ""
        text += f" They have {found[0]} channel(s), {expected[0]} channel{plural} are expected:"
        if found[0] == 1:
            return f"{text} repeat the channel, {name}.repeat({expected[0]}, axis=1)."
        return f"{text} average the channels, or train a model on images of {found[0]} channels."
    return f"{text} Resize or pad the images, or train a model on theirs."


def _blocks(images: Any) -> Iterator[np.ndarray]:
    for start in range(0, images.shape[0], _CHUNK_ROWS):
        block = images[start : start + _CHUNK_ROWS]
        yield block.toarray() if sparse.issparse(block) else np.asarray(block)


def _checked_values(images: Any, name: str, pixel_range: Any) -> PixelValues:
    kind = np.dtype(images.dtype)
    if kind.kind not in "uif" or (kind.kind != "f" and kind != np.uint8 and pixel_range is None):
        raise TypeError(
            f"{name} holds {kind}; images are floats in [-1, 1] or [0, 1], or uint8 from 0 to 255. "
            "Convert them, or pass pixel_range=(smallest, largest) for other numbers."
        )
    return pixel_values(_blocks(images), kind, name)
