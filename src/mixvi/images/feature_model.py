"""Models that read images, or vectors in their place."""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from torch import Tensor, nn

from mixvi.core.arguments import told_by_class
from mixvi.core.data.setup import LOADING, register
from mixvi.images.backbones import Backbone, make_backbone
from mixvi.images.features import (
    Standardisation,
    feature_backbone,
    features_field,
    resolve_features,
)
from mixvi.images.module import ImageModule
from mixvi.images.registered import RegisteredImages


class FeatureModule(ImageModule):
    """A module of images, or of vectors where it has a standardisation.

    Parameters
    ----------
    image_shape, pixel_range, n_latent, networks, ema_decay, ema_start
        See :class:`mixvi.images.module.ImageModule`; vectors have the shape (D, 1, 1), and -1 to 1
        for a range, which leaves them as they are.
    standardisation
        Of vectors; ``None``: images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        pixel_range: tuple[float, float],
        n_latent: int,
        networks: dict[str, nn.Module],
        ema_decay: float | None = None,
        ema_start: int = 1000,
        standardisation: Standardisation | None = None,
    ):
        super().__init__(image_shape, pixel_range, n_latent, networks, ema_decay, ema_start)
        self.standardisation = standardisation

    def rows(self, tensors: dict[str, Tensor]) -> Tensor:
        """Images in [-1, 1], or standardised vectors ``(B, D, 1, 1)``, of one minibatch."""
        x = super().rows(tensors)
        return x if self.standardisation is None else self.standardisation(x)

    def to_pixels(self, x: Tensor) -> Tensor:
        """Images on the scale of the registered ones, or vectors ``(B, D)``."""
        if self.standardisation is None:
            return super().to_pixels(x)
        return self.standardisation.undo(x)


class FeatureModel(RegisteredImages):
    """Base of models of images that also read vectors in ``obsm``."""

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
        features_key: str | None = None,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register the images of an AnnData, one a row, or vectors in their place.

        Parameters
        ----------
        features_key
            Key of ``obsm`` with vectors ``(n_obs, D)``, such as embeddings of images: an array, a
            sparse matrix or a DataFrame. Networks see each feature with mean 0 and standard
            deviation 1 over these rows, constant features as 0; vectors that a model returns are
            on the scale of the registered ones. ``None``: images are registered.

        Raises
        ------
        KeyError
            If a key is missing (near matches are named).
        TypeError
            If images or vectors are not numbers of a kind that is known.
        ValueError
            If shape or range of images are not what is said or cannot be told, values are not
            finite, or both images and vectors are named.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        cls._register(adata, cls._get_setup_method_args(**given), source_registry)

    @classmethod
    def _register(cls, adata: AnnData, method_args: dict, source_registry: dict | None) -> None:
        args = method_args["setup_args"]
        if args.get("features_key") is None:
            super()._register(adata, method_args, source_registry)
            return
        known = resolve_features(adata, args, source_registry)
        fields = [features_field(args, known)]
        cls.register_manager(register(adata, fields, method_args, source_registry))

    @staticmethod
    def _fields(args: dict, light_share: float | None = None) -> list[BaseAnnDataField]:
        if args.get("features_key") is None:
            return RegisteredImages._fields(args, light_share)
        return [features_field(args)]

    @property
    def features_key(self) -> str | None:
        """Key of ``obsm`` of the vectors that the model reads, None of a model of images."""
        # models of version 0.1.0 that were saved before have no such argument
        return self._setup_args.get("features_key")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the model reads.

        Raises
        ------
        ValueError
            If it reads vectors.
        """
        self._check_has_pixels()
        return super().image_shape

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Smallest and largest pixel value of the images that the model reads and returns.

        Raises
        ------
        ValueError
            If it reads vectors.
        """
        self._check_has_pixels()
        return super().pixel_range

    def _check_has_pixels(self) -> None:
        if self.features_key is not None:
            raise ValueError(
                f"This needs pixels, but the {type(self).__name__} reads vectors "
                f"(features_key={self.features_key!r}), which have none."
            )

    def _backbone(self, name: str | None, n_latent: int, options: dict | None) -> Backbone:
        """Networks for images, or dense ones for vectors."""
        if self.features_key is None:
            return make_backbone(name, self.image_shape, n_latent, options)
        return feature_backbone(name, self._row_shape, n_latent, options, self.features_key)

    @property
    def _row_shape(self) -> tuple[int, int, int]:
        """Shape of a row inside the module: that of an image, or (D, 1, 1)."""
        if self.features_key is None:
            return self.image_shape
        return len(self._state(REGISTRY_KEYS.X_KEY)["means"]), 1, 1

    @property
    def _row_scale(self) -> dict[str, Any]:
        """Range and standardisation, as a :class:`FeatureModule` is told them."""
        if self.features_key is None:
            return {"pixel_range": self.pixel_range}
        found = self._state(REGISTRY_KEYS.X_KEY)
        standardisation = Standardisation(found["means"], found["scales"])
        return {"pixel_range": (-1.0, 1.0), "standardisation": standardisation}

    def _matrix(self, adata: AnnData) -> Any:
        key = self.features_key
        return super()._matrix(adata) if key is None else adata.obsm[key]

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        if self.features_key is None:
            super()._check_registered(adata, is_known)
        else:
            resolve_features(adata, self._setup_args, self.registry)
