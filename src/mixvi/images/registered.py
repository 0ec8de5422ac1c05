"""Models of images that are registered with an AnnData, whatever they make of them."""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from scvi.data.fields import BaseAnnDataField

from mixvi.core.arguments import told_by_class
from mixvi.core.data.backed import is_backed
from mixvi.core.data.setup import LOADING, register
from mixvi.core.model.anndata_model import AnnDataModel
from mixvi.images.setup import image_field, resolve_images


class RegisteredImages(AnnDataModel):
    """Base of all models of images: how they are registered, their shape and range."""

    @classmethod
    @told_by_class
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        image_key: str | None = None,
        layer: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] | None = None,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register the images of an AnnData, one a row.

        Parameters
        ----------
        adata
            AnnData with images in ``obsm`` as an array ``(n_obs, C, H, W)``, or flattened in ``X``
            or a layer (dense or sparse), channels before rows before columns. Only ``_scvi_*`` keys
            are added to it.
        image_key
            Key of ``obsm`` with images. ``None``: ``"image"`` if it is there and nothing else is
            said, otherwise images are flattened.
        layer
            Layer with flattened images; ``None`` for ``X``.
        image_shape
            (C, H, W), or (H, W) of one channel; for flattened images, which it says there are.
            ``None``: as in ``obsm``, or ``uns["image_shape"]``.
        pixel_range
            Smallest and largest value that a pixel may have; networks see it as [-1, 1], and
            images that a model returns are on this scale. ``None``: (0, 255) for uint8, (-1, 1)
            for floats in [-1, 1] of which some are below -0.5, (0, 1) for floats in [0, 1]. Images
            given to the model later have to be on the same scale.
        source_registry, extend_categories
            The registry of a trained model, given when a model is loaded.

        Raises
        ------
        KeyError
            If a key is missing (near matches are named).
        TypeError
            If images are not numbers of a kind that is known.
        ValueError
            If shape or range are not what is said or cannot be told, or values are not finite.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        cls._register(adata, cls._get_setup_method_args(**given), source_registry)

    @classmethod
    def _register(cls, adata: AnnData, method_args: dict, source_registry: dict | None) -> None:
        """Register images by the arguments of ``setup_anndata``."""
        # what was found is kept, so that a loaded model reads the same
        args, light_share = resolve_images(adata, method_args["setup_args"], source_registry)
        method_args["setup_args"] = args
        fields = cls._fields(args, light_share)
        cls.register_manager(register(adata, fields, method_args, source_registry))

    @staticmethod
    def _fields(args: dict, light_share: float | None = None) -> list[BaseAnnDataField]:
        return [image_field(args, light_share)]

    def _matrix(self, adata: AnnData) -> Any:
        key, layer = self._setup_args["image_key"], self._setup_args["layer"]
        if key is not None:
            return adata.obsm[key]
        return adata.X if layer is None else adata.layers[layer]

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        if not (is_known and is_backed(self._matrix(adata))):
            resolve_images(adata, self._setup_args, self.registry)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the model reads."""
        return tuple(self._setup_args["image_shape"])

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Smallest and largest pixel value of the images that the model reads and returns."""
        return tuple(self._setup_args["pixel_range"])
