"""MPCC with labels: a component for each class, and a critic that sees it (Astorga 2021, 8.1)."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from torch import Tensor

from mixvi.core.arguments import told_by_class
from mixvi.core.data import checks
from mixvi.core.data.fields import QueryLabelsField
from mixvi.core.data.setup import LOADING
from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.images.mpcc import SIGMA_FLOOR, MixtureMPCC
from mixvi.images.mpcc_module import MPCCModule
from mixvi.images.setup import image_field

# images of a query may have no label; training images all have one
_UNLABELLED = "_unlabelled"


class ConditionalMPCCModule(MPCCModule):
    """MPCC whose critic sees the class of real images, and the component of generated ones."""

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Images and their classes ``(B,)``."""
        return self.rows(tensors), tensors[REGISTRY_KEYS.LABELS_KEY].long().squeeze(-1)


class ConditionalMPCC(MixtureMPCC):
    """MPCC that is given labels: images of each class, and the class of an image.

    Each label has a component of the prior; the critic has a projection of the class (Miyato and
    Koyama 2018). Clusters are called by their labels.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_latent, backbone, backbone_kwargs, conditioning, share, own_plain_block, d_steps, e_steps
        See :class:`mixvi.images.MPCC`.
    lambda_p, sigma_floor, latent_ll_to_prior, legacy_sigma, ema_decay, ema_start
        See :class:`mixvi.images.MPCC`.

    Raises
    ------
    ValueError
        If a name or setting is unknown, or the images do not suit the backbone.
    """

    _prefix = "conditional_mpcc"

    def __init__(
        self,
        adata: AnnData | None = None,
        n_latent: int = 128,
        backbone: str = "resnet",
        backbone_kwargs: dict | None = None,
        conditioning: str = "split",
        share: bool = True,
        own_plain_block: bool = True,
        d_steps: int = 4,
        e_steps: int = 4,
        lambda_p: float = 0.01,
        sigma_floor: float = SIGMA_FLOOR,
        latent_ll_to_prior: bool = False,
        legacy_sigma: bool = False,
        ema_decay: float | None = 0.9999,
        ema_start: int = 1000,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        n = len(self.clusters)
        networks = self._networks(
            backbone,
            backbone_kwargs,
            n_latent,
            n_seen=n,
            n_classes=n,
            conditioning=conditioning,
            share=share,
            own_plain_block=own_plain_block,
        )
        module = ConditionalMPCCModule(
            self.image_shape,
            self.pixel_range,
            n_latent,
            networks,
            GaussianMixturePrior(n, n_latent, sigma_floor, legacy_sigma=legacy_sigma),
            ema_decay=ema_decay,
            ema_start=ema_start,
            d_steps=d_steps,
            e_steps=e_steps,
            lambda_p=lambda_p,
            latent_ll_to_prior=latent_ll_to_prior,
        )
        self._finish(module, locals(), f"ConditionalMPCC of {n} labels, backbone={backbone}")

    @property
    def clusters(self) -> list:
        """The labels, in the order of the components."""
        return self._categories(REGISTRY_KEYS.LABELS_KEY)[:-1]

    @classmethod
    @told_by_class
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        labels_key: str,
        image_key: str | None = None,
        layer: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] | None = None,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register images and their labels.

        Parameters
        ----------
        labels_key
            Column of ``obs`` with the label of each image. Images on which a trained model is used
            may be without.
        adata, image_key, layer, image_shape, pixel_range, source_registry, extend_categories
            See :meth:`mixvi.images.GenerativeInference.setup_anndata`.

        Raises
        ------
        KeyError
            If a key is missing (near matches are named).
        TypeError
            If images are not numbers of a kind that is known.
        ValueError
            If labels are missing, or images are not what is said.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        if source_registry is None:
            checks.check_anndata(adata, cls.__name__)
            checks.check_categories(adata, labels_key, "labels_key", whole_floats=True)
            if adata.obs[labels_key].nunique() < 2:
                raise ValueError(
                    f"adata.obs[{labels_key!r}] (labels_key) has one label alone. Leave labels "
                    "out: mixvi.images.AIMMPCC has no clusters, mixvi.images.MPCC finds them."
                )
        cls._register(adata, cls._get_setup_method_args(**given), source_registry)

    @staticmethod
    def _fields(args: dict, light_share: float | None = None) -> list[BaseAnnDataField]:
        labels = QueryLabelsField(REGISTRY_KEYS.LABELS_KEY, args["labels_key"], _UNLABELLED)
        return [image_field(args, light_share), labels]

    def _training_indices(self) -> np.ndarray:
        indices = super()._training_indices()
        codes = self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)
        n_without = int((np.asarray(codes).ravel() >= len(self.clusters)).sum())
        if n_without:
            raise ValueError(
                f"{n_without} images have no label that the model knows, but it is trained on "
                "labels alone. Drop those images."
            )
        return indices
