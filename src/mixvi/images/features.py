"""Vectors in the place of images: registering them, their standardisation, networks for them.

Vectors are embeddings, such as those of a trained network. Inside a model they are images of one
pixel with a channel for each feature, ``(B, D, 1, 1)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.data.fields import ArrayField
from mixvi.images.backbones import MLPBackbone

_CHUNK_ROWS = 4096
# single precision holds no smaller spread beside the values themselves
_LEAST_SPREAD = 1e-6
_OF_IMAGES = ("image_key", "layer", "image_shape", "pixel_range")


class Standardisation(nn.Module):
    """Vectors to mean 0 and standard deviation 1 of each feature, and back.

    Parameters
    ----------
    means, scales
        Of the features, ``(D,)``. A scale of 0 is that of a constant feature: it is 0 inside the
        model, and its mean outside.
    """

    def __init__(self, means: np.ndarray, scales: np.ndarray):
        super().__init__()
        for name, values in (("means", means), ("scales", scales)):
            column = torch.as_tensor(np.asarray(values), dtype=torch.float32)
            self.register_buffer(name, column[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(B, D, 1, 1)`` as they are registered to standardised ones."""
        varies = self.scales > 0
        return (x - self.means) * varies / torch.where(varies, self.scales, 1.0)

    def undo(self, x: Tensor) -> Tensor:
        """Standardised vectors ``(B, D, 1, 1)`` to the scale of the registered ones, ``(B, D)``."""
        return (x * self.scales + self.means).flatten(1)


class FeatureMLP(MLPBackbone):
    """Linear layers for standardised vectors, which have no bounds."""

    def output(self) -> list[nn.Module]:
        """No tanh."""
        return [nn.Unflatten(1, self.image_shape)]


def feature_backbone(
    name: str, shape: tuple[int, int, int], n_latent: int, options: dict | None, key: str
) -> FeatureMLP:
    """The dense networks for vectors.

    Parameters
    ----------
    name, options
        ``backbone`` and ``backbone_kwargs`` of a model.
    shape, n_latent
        (D, 1, 1), and J.
    key
        The ``features_key`` that messages name.

    Raises
    ------
    ValueError
        If the backbone reads images, or has no such option.
    """
    if name != MLPBackbone.name:
        raise ValueError(
            f"backbone={name!r} reads images, but features_key={key!r} holds vectors. Choose "
            f"backbone={MLPBackbone.name!r}, or leave backbone out."
        )
    known = ("n_hidden", "n_layers")
    arguments.check_options("backbone_kwargs", options, known, f"backbone={MLPBackbone.name!r}")
    return FeatureMLP(shape, n_latent, **(options or {}))


def resolve_features(
    adata: AnnData, args: dict[str, Any], source_registry: dict | None = None
) -> dict[str, Any]:
    """What a model remembers of vectors in obsm: ``means`` and ``scales`` ``(D,)``, and ``names``.

    Names are those of the columns of a DataFrame, or None. A trained model's are returned as they
    are, once the vectors are found to be like those that it was set up with.

    Parameters
    ----------
    adata
        AnnData with vectors.
    args
        Arguments of ``setup_anndata``.
    source_registry
        That of a trained model, whose arguments they are.

    Raises
    ------
    KeyError
        If the key is missing (near matches are named).
    TypeError
        If vectors are not real numbers in an array, a sparse matrix or a DataFrame.
    ValueError
        If arguments say where images are, too; if vectors are not ``(n_obs, D)``, have NaN or
        infinite values, or other columns than those of a trained model; if all rows are the same.
    """
    checks.check_anndata(adata)
    if adata.n_obs == 0:
        raise ValueError("adata has no rows: there are no vectors to train on.")
    key = args["features_key"]
    others = [name for name in _OF_IMAGES if args.get(name) is not None]
    if others:
        raise ValueError(
            f"features_key={key!r} says that vectors are read, {others[0]} says where images are "
            "or how they look. Pass one of them."
        )
    checks.check_key(adata, "obsm", key, "features_key")
    name, values = f"adata.obsm[{key!r}]", adata.obsm[key]
    _check_form(values, name)
    names = [str(c) for c in values.columns] if isinstance(values, pd.DataFrame) else None
    known = None
    if source_registry is not None:
        known = source_registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
        _check_columns(values.shape[1], names, known, name)
    return _checked_moments(values, name, adata.obs_names, known) | {"names": names}


def features_field(args: dict[str, Any], known: dict[str, Any] | None = None) -> ArrayField:
    """The field of vectors; a query's takes from the model's what is known of them."""
    return ArrayField(REGISTRY_KEYS.X_KEY, args["features_key"], known)


def _check_form(values: Any, name: str) -> None:
    checks.check_not_dask(values, name)
    if not (sparse.issparse(values) or isinstance(values, np.ndarray | pd.DataFrame)):
        raise TypeError(
            f"{name} is a {type(values).__name__}; an array, a sparse matrix or a DataFrame "
            "(n, features) is needed."
        )
    if values.ndim != 2 or values.shape[1] == 0:
        hint = " Images are registered by image_key." if values.ndim == 4 else ""
        raise ValueError(
            f"{name} has shape {values.shape}, but vectors are (n, features), with one feature at "
            f"least.{hint}"
        )
    dtypes = list(values.dtypes) if isinstance(values, pd.DataFrame) else [values.dtype]
    for dtype in dtypes:
        if getattr(dtype, "kind", "O") not in "biuf":
            raise TypeError(f"{name} holds {dtype}, not real numbers.")


def _check_columns(n: int, names: list[str] | None, known: dict[str, Any], name: str) -> None:
    expected = len(known["means"])
    if n != expected:
        raise ValueError(
            f"{name} has {n} features, but the model reads {expected}. Pass vectors that were made "
            "in the same way."
        )
    if names is not None and known["names"] is not None and names != list(known["names"]):
        raise ValueError(
            f"{name} has columns of other names than the model was trained on, or in another "
            f"order: the first are {names[:3]}, expected are {list(known['names'])[:3]}."
        )


def _blocks(values: Any) -> Iterator[np.ndarray]:
    """Rows ``(b, D)`` in double precision."""
    for start in range(0, values.shape[0], _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        block = values.iloc[rows] if isinstance(values, pd.DataFrame) else values[rows]
        block = block.toarray() if sparse.issparse(block) else np.asarray(block)
        yield block.astype(np.float64)


def _checked_moments(
    values: Any, name: str, rows: pd.Index, known: dict[str, Any] | None
) -> dict[str, np.ndarray]:
    """Means and standard deviations by feature; those that are known, if values are finite."""
    if sparse.issparse(values):
        # other forms have no rows to cut
        values = values.tocsr()
    sums = np.zeros(values.shape[1])
    start = 0
    for block in _blocks(values):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            first = rows[start + int(np.argmin(finite))]
            raise ValueError(
                f"{name} has NaN or infinite values, first in the row {first!r}. Remove such rows "
                "or columns first."
            )
        sums += block.sum(axis=0)
        start += len(block)
    if known is not None:
        return {"means": known["means"], "scales": known["scales"]}
    means = sums / len(rows)
    squares, largest = np.zeros_like(means), np.zeros_like(means)
    for block in _blocks(values):
        squares += ((block - means) ** 2).sum(axis=0)
        largest = np.maximum(largest, np.abs(block).max(axis=0))
    scales = np.sqrt(squares / len(rows))
    scales[scales <= _LEAST_SPREAD * largest] = 0.0
    if not scales.any():
        raise ValueError(
            f"{name}: all rows are the same, so that there is nothing to learn from them."
        )
    return {"means": means, "scales": scales}
