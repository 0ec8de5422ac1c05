"""What models share whose U-Net learns from labelled pixels: networks, losses of labels, verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from mixvi.core.arguments import check_choice, check_positive
from mixvi.core.data.keys import UNLABELLED
from mixvi.core.data.splitting import Split
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.steps import Loss, Step
from mixvi.satellite.model import Segmenter
from mixvi.satellite.module import SegmentingModule
from mixvi.satellite.series import Series, masked_mean
from mixvi.satellite.setup import SOFT_LABELS_KEY
from mixvi.satellite.supervision import (
    CLASS_WEIGHTS,
    MajorityWatch,
    balanced_weights,
    cross_entropy,
)
from mixvi.satellite.unet import ARCHITECTURES, UNet, check_sides
from mixvi.satellite.views import Augmentation

# of training unless told: few tiles are passed over more often than many
_UPDATES = 2000


class LabelledModule(SegmentingModule):
    """A U-Net and the cross-entropy of labelled pixels.

    Parameters
    ----------
    unet
        The network.
    n_bands, n_classes
        See :class:`mixvi.satellite.module.SeriesModule`.
    augmentation
        See :class:`mixvi.satellite.module.SegmentingModule`.
    require_support
        Whether pixels that were never observed are left out of the loss.
    """

    def __init__(
        self,
        unet: UNet,
        n_bands: int,
        n_classes: int,
        augmentation: Augmentation,
        require_support: bool = False,
    ):
        super().__init__({"unet": unet}, n_bands, n_classes, augmentation)
        self.require_support = require_support
        # of the training tiles
        self.register_buffer("class_weights", torch.ones(n_classes))
        self.register_buffer("majority", torch.zeros((), dtype=torch.long))

    @property
    def shown_unet(self) -> UNet:
        """The network that users see maps of."""
        return self.unet

    def class_logits(self, series: Series) -> Tensor:
        """Logits ``(B, L, H, W)`` or, of a map a date, ``(B, T, L, H, W)``."""
        return self.shown_unet(series.planes(), series.frame)

    def encode(self, series: Series) -> Tensor:
        """Mean of the bottleneck's features, ``(B, n_latent)``."""
        return self.shown_unet.encode(series.planes(), series.frame)

    def steps(self) -> tuple[Step, ...]:
        """One step a minibatch."""
        return (Step("segmentation", ("unet",), LabelledModule.segmentation),)

    def segmentation(self, series: Series) -> Loss:
        """Cross-entropy of the labelled pixels, of changed series while training."""
        if self.training:
            series = self.augmented(series)
        return self.supervised(series, self.class_logits(series))

    def supervised(self, series: Series, logits: Tensor) -> Loss:
        """Cross-entropy of labelled pixels, and the shares by which collapse is seen."""
        mask, targets = self.target_mask(series), series.targets(self.n_classes)
        loss = cross_entropy(logits, targets, mask, self.class_weights)
        return loss, self.shares(logits, series.labels, mask)

    def shares(self, logits: Tensor, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Share of the pixels that are right, and of those of the most frequent class."""
        return {
            "accuracy": masked_mean(logits.detach().argmax(-3) == labels, mask),
            "majority_share": masked_mean(labels == self.majority, mask),
        }

    def target_mask(self, series: Series) -> Tensor:
        """Pixels that labels teach, in the shape of the labels."""
        return series.labelled & series.support if self.require_support else series.labelled


class LabelledSegmenter(Segmenter):
    """Base of the models that teach a U-Net by labels; subclasses build ``self.module``."""

    module: LabelledModule

    def _unet(
        self,
        architecture: str,
        width: int | None,
        n_levels: int | None,
        norm: str | None,
        class_weights: str,
        dates: str | None,
    ) -> UNet:
        """A network for the registered series.

        Raises
        ------
        ValueError
            If there are no labels, weights of classes or the architecture are unknown, or the
            network cannot halve the tiles.
        """
        check_choice("class_weights", class_weights, CLASS_WEIGHTS)
        check_choice("architecture", architecture, ARCHITECTURES)
        if self.label_mode is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} learns from labels, but none are registered. Put a map of classes into "
                f"obsm['labels'], or name its key: {name}.setup_anndata(adata, labels_key=...)."
            )
        n_dates, n_bands, *sides = self.shape
        is_original = architecture == "ronneberger2015"
        if n_levels is None:
            n_levels = 4 if is_original else 3
        # before networks of many levels are built
        check_positive("n_levels", n_levels)
        check_sides(*sides, 2**n_levels)
        if width is None:
            width = 64 if n_dates == 1 or is_original else 32
        if norm is None and is_original:
            norm = "none"
        elif norm is None:
            norm = "batch" if n_dates == 1 else "group"
        if dates is None:
            dates = "convolved" if self.label_mode == "date" else "pooled"
        # values, whether they are observed, and three planes of the date
        unet = UNet(
            2 * n_bands + 3,
            len(self.classes),
            n_dates,
            by_date=self.label_mode == "date",
            width=width,
            n_levels=n_levels,
            norm=norm,
            dates=dates,
            architecture=architecture,
        )
        return unet

    def _default_lr(self) -> float:
        return 2e-3

    def _default_epochs(self, n_minibatches: int) -> int:
        return ceil(_UPDATES / n_minibatches)

    def _labels(self) -> np.ndarray:
        """Labels of the tiles that the model was built on, ``(n_obs, ..., H, W)``."""
        return np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY))

    def _counts(self, rows: np.ndarray) -> np.ndarray:
        """Labelled pixels of each class in some tiles ``(L,)``, soft labels by their shares."""
        labels, of_soft = self._labels()[rows], 0.0
        if self._setup_args["soft_labels_key"] is not None:
            soft = np.asarray(self.adata_manager.get_from_registry(SOFT_LABELS_KEY))[rows]
            labels = np.where(soft.any(-3), UNLABELLED, labels)
            of_soft = np.moveaxis(soft, -3, 0).reshape(soft.shape[-3], -1).sum(1, dtype=np.float64)
        return np.bincount(labels[labels >= 0].ravel(), minlength=len(self.classes)) + of_soft

    def _labelled_tiles(self) -> np.ndarray:
        """Whether a tile has a labelled pixel, ``(n_obs,)``."""
        labels = self._labels()
        return (labels >= 0).any(tuple(range(1, labels.ndim)))

    def _training_indices(self) -> np.ndarray:
        rows = super()._training_indices()
        labelled = self._labelled_tiles()
        if not labelled.any():
            raise ValueError(
                f"None of the {len(rows)} tiles has a labelled pixel, and {type(self).__name__} "
                "learns from nothing else. Register tiles with labels (labels_key)."
            )
        return self._usable(rows, labelled)

    def _usable(self, rows: np.ndarray, labelled: np.ndarray) -> np.ndarray:
        """Of all rows those that train; ``labelled`` says which have labels."""
        return rows

    def _given_split(self, parts: Sequence, indices: np.ndarray) -> Split:
        split = super()._given_split(parts, indices)
        if not self._labelled_tiles()[split.train].any():
            raise ValueError(
                "datasplitter_kwargs: none of the tiles that are to train has a labelled pixel. "
                "Name tiles with labels among them."
            )
        return split

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        counts = self._counts(fit.split.train)
        self.module.majority.fill_(int(counts.argmax()))
        if self.init_params_["class_weights"] == "balanced":
            self.module.class_weights.copy_(balanced_weights(counts))
        callbacks = [*(fit.trainer.get("callbacks") or []), MajorityWatch()]
        return super()._fit(replace(fit, trainer=fit.trainer | {"callbacks": callbacks}), run)
