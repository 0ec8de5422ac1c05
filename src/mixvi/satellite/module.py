"""The base of modules of series: bands standardised, gaps kept, steps that train networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from mixvi.core.training.steps import StepwiseModule
from mixvi.satellite.series import Series
from mixvi.satellite.setup import FRAME_KEY, OBSERVED_KEY, SOFT_LABELS_KEY, TIME_KEY
from mixvi.satellite.views import Augmentation, fixed_views


class SeriesModule(StepwiseModule):
    """Networks that read :class:`mixvi.satellite.series.Series`.

    Parameters
    ----------
    networks
        Name to network; each is an attribute of the module and has an optimiser of its own.
    n_bands
        Bands C.
    n_classes
        Classes L; 0 without labels.
    """

    def __init__(self, networks: dict[str, nn.Module], n_bands: int, n_classes: int):
        super().__init__(networks)
        self.n_bands = n_bands
        self.n_classes = n_classes
        # set from the training tiles; part of the saved weights
        self.register_buffer("band_mean", torch.zeros(n_bands))
        self.register_buffer("band_sd", torch.ones(n_bands))

    def rows(self, tensors: dict[str, Tensor]) -> Series:
        """The series of one minibatch (registry key to tensor)."""
        x = tensors[REGISTRY_KEYS.X_KEY]
        if x.ndim == 4:
            x = x[:, None]
        # of one layout, whether bands share a mask or not: sums are taken in the same order
        observed = (tensors[OBSERVED_KEY] > 0.5).expand_as(x).contiguous()
        labels = tensors.get(REGISTRY_KEYS.LABELS_KEY)
        shape = (-1, 1, 1)
        standard = (x - self.band_mean.view(shape)) / self.band_sd.view(shape)
        return Series(
            # values that are not observed may be NaN, which no product would remove
            torch.where(observed, standard, 0.0),
            observed,
            tensors[FRAME_KEY] > 0.5,
            tensors[TIME_KEY],
            None if labels is None else labels.long(),
            tensors.get(SOFT_LABELS_KEY),
        )

    def to_units(self, x: Tensor) -> Tensor:
        """Standardised values ``(..., C, H, W)`` on the scale of the registered series."""
        shape = (-1, 1, 1)
        return x * self.band_sd.view(shape) + self.band_mean.view(shape)

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Series]:
        """The series alone."""
        return (self.rows(tensors),)


class SegmentingModule(SeriesModule):
    """A module whose networks give each pixel the probabilities of its class.

    Parameters
    ----------
    networks, n_bands, n_classes
        See :class:`SeriesModule`.
    augmentation
        How series are changed that teach their labels.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        n_bands: int,
        n_classes: int,
        augmentation: Augmentation,
    ):
        super().__init__(networks, n_bands, n_classes)
        self.augmentation = augmentation
        # what logits are divided by for users; training knows none
        self.register_buffer("temperature", torch.ones(()))

    def augmented(self, series: Series) -> Series:
        """The series in a view and light drawn at random."""
        return self.augmentation.change(series, self.dark)

    @property
    def dark(self) -> Tensor:
        """Standardised value of zero reflectance of each band, ``(C,)``."""
        return -self.band_mean / self.band_sd

    def probabilities(self, logits: Tensor) -> Tensor:
        """What users see of logits ``(..., L, H, W)``."""
        return (logits / self.temperature).softmax(-3)

    def view_probabilities(
        self, series: Series, n_views: int, logits: Callable[[Series], Tensor] | None = None
    ) -> Tensor:
        """Probabilities of exact views, laid upon each other, ``(n_views, B, ..., L, H, W)``.

        As users see them, or of what else gives ``logits`` of a series, uncalibrated.
        """
        size, maps = tuple(series.x.shape[-2:]), []
        for view in fixed_views(len(series), n_views, size, series.x.device):
            seen = view.see(series)
            if logits is None:
                p = self.probabilities(self.class_logits(seen))
            else:
                p = logits(seen).softmax(-3)
            maps.append(view.inverse.maps(p))
        return torch.stack(maps)

    @abstractmethod
    def class_logits(self, series: Series) -> Tensor:
        """Logits ``(B, L, H, W)`` or, of a map a date, ``(B, T, L, H, W)``."""

    @abstractmethod
    def encode(self, series: Series) -> Tensor:
        """What :meth:`get_latent_representation` of the model returns, ``(B, n_latent)``."""

    def inference(self, series: Series) -> dict[str, Tensor]:
        """``z`` of :meth:`encode`."""
        return {"z": self.encode(series)}

    def generative(self, series: Series) -> dict[str, Tensor]:
        """``logits`` of :meth:`class_logits`, if there are classes."""
        return {"logits": self.class_logits(series)} if self.n_classes else {}

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"series": self.rows(tensors)}

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **kwargs) -> dict:
        return {"series": self.rows(tensors)}
