"""A U-Net that learns land cover from labelled pixels."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from mixvi.satellite.labelled import LabelledModule, LabelledSegmenter
from mixvi.satellite.views import make_augmentation


class UNetSegmenter(LabelledSegmenter):
    """Land cover by a U-Net that is taught by labelled pixels (Hruška 2023, section 4.1).

    Of images two-dimensional; of series of several dates each pixel's series is summed up first, or
    convolutions have three dimensions. Only tiles with labels train it; unlabelled and void pixels
    have no weight.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, with labels.
    width
        Channels of the first level; 64 of images, 32 of series, unless told. Small ones suit a CPU.
    n_levels
        How often tiles are halved, 3 times unless told: sides are multiples of ``2**n_levels``.
    norm
        ``"batch"``, unless told that of images; ``"group"``, that of series, which suits small
        minibatches and tiles that are mostly cloudy; ``"none"``, by which training may collapse.
    dates
        Of series: ``"pooled"``, each pixel's dates are summed up by weights, before a network of
        two dimensions; ``"convolved"``, a network of three, which a map a date needs and has unless
        told. See :class:`mixvi.satellite.unet.UNet`.
    class_weights
        ``"none"``: each pixel counts alike; ``"balanced"``: each class does.
    require_support
        Leave labelled pixels that were never observed out of the loss. By default they are learnt
        from what surrounds them.
    augmentation
        Settings of :class:`mixvi.satellite.Augmentation`; by default flips, quarter turns and
        shifts by up to 4 pixels, and of series each view lacks three in ten dates
        (``drop_dates=0.3``).
    architecture
        ``"hruska2023"``, the network of the thesis, or ``"ronneberger2015"``, the first U-Net, with
        max-pooling and transposed convolutions, whose ``width=64, n_levels=4, norm="none"`` it has
        unless told, of series, too. See :class:`mixvi.satellite.unet.UNet`.

    Raises
    ------
    ValueError
        If no labels are registered, a setting is unusable, or the network cannot halve the tiles.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        width: int | None = None,
        n_levels: int | None = None,
        norm: str | None = None,
        dates: str | None = None,
        class_weights: str = "none",
        require_support: bool = False,
        augmentation: dict | None = None,
        architecture: str = "hruska2023",
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        module = LabelledModule(
            self._unet(architecture, width, n_levels, norm, class_weights, dates),
            self.shape[1],
            len(self.classes),
            make_augmentation(augmentation, self.shape[0]),
            require_support,
        )
        self._finish(module, locals(), f"UNetSegmenter of {len(self.classes)} classes")
        self._standardise_by(adata)

    def _usable(self, rows: np.ndarray, labelled: np.ndarray) -> np.ndarray:
        return rows[labelled]
