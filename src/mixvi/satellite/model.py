"""The bases of models of series: registering them, and the verbs of what segments."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from torch import Tensor

from mixvi.core.arguments import check_choice
from mixvi.core.data.annotations import Annotations, check_key_added
from mixvi.core.data.setup import LOADING, register
from mixvi.core.data.splitting import Split
from mixvi.core.maths.calibration import fit_temperature
from mixvi.core.model.anndata_model import AnnDataModel
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.satellite.fitting import SeriesFittingMixin
from mixvi.satellite.module import SegmentingModule, SeriesModule
from mixvi.satellite.setup import observed_values, read_series, resolve_series, series_fields

# dates times pixels that verbs hand to a network at once: some hundred MB of maps
_PLACES_AT_A_TIME = 2**20
# tiles, and pixels of their sides, by which the unit of values is told, and how far these are apart
_SEEN_OF_SCALE = 16
_OTHER_UNIT = 100.0
# views of mutual information unless told
_N_VIEWS = 4
# warnings name the line outside that called
_PACKAGE = str(Path(__file__).parents[1])


class SeriesModel(SeriesFittingMixin, AnnDataModel):
    """Base of the models of series. Subclasses build ``self.module`` and add their own verbs."""

    module: SeriesModule

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        series_key: str = "series",
        valid_key: str | None = None,
        frame_key: str | None = None,
        time_key: str | None = None,
        labels_key: str | None = None,
        soft_labels_key: str | None = None,
        classes: Sequence[str] | None = None,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register the series of an AnnData, one tile a row.

        Parameters
        ----------
        adata
            AnnData with arrays in ``obsm``. Only ``_scvi_*`` keys are added to it.
        series_key
            Series ``(n, T, C, H, W)`` of T dates and C bands, or images ``(n, C, H, W)``. Values
            that are NaN are invalid.
        valid_key
            Where values are to be trusted (no cloud, shadow, snow, nothing missing), ``(n, T, C, H,
            W)``, or one for all bands ``(n, T, 1, H, W)`` or ``(n, T, H, W)``. ``None``:
            ``"valid"`` if it is there, else everything.
        frame_key
            Whether there was an acquisition at all, ``(n, T)``. ``None``: ``"frame"`` if it is
            there, else the dates on which anything is valid.
        time_key
            Days since 1970-01-01, or ``datetime64``, ``(n, T)``, in order. ``None``: ``"time"`` if
            it is there, else the model knows no dates.
        labels_key
            Classes from 0, -1 where a pixel is unlabelled, -2 where it is void (never a target,
            never scored): ``(n, H, W)``, a map a series, or ``(n, T, H, W)``, a map a date.
            ``None``: ``"labels"`` if it is there.
        soft_labels_key
            Probabilities of the classes where annotators disagree or a product gives shares, ``(n,
            L, H, W)`` or ``(n, T, L, H, W)``: they sum to 1, and go before ``labels_key``, or are 0
            for all classes of a pixel, whose label counts then. Losses are those of the
            distribution; where one class is needed it is the most probable.
        classes
            Names of the classes by number. ``None``: ``uns["classes"]``, else their numbers.
        source_registry, extend_categories
            The registry of a trained model, given when a model is loaded.

        Raises
        ------
        KeyError
            If a key is missing (near matches are named).
        TypeError
            If arrays are not numbers, masks not boolean, labels not whole numbers, or soft labels
            not floating point numbers.
        ValueError
            If shapes do not fit each other, a tile has no valid pixel, dates repeat or are not in
            order, no pixel is labelled, labels lie outside the classes, or soft labels sum to
            neither 1 nor 0.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        method_args = cls._get_setup_method_args(**given)
        args, known = resolve_series(adata, method_args["setup_args"], source_registry)
        method_args["setup_args"] = args
        fields = series_fields(args, known)
        cls.register_manager(register(adata, fields, method_args, source_registry))

    def _fields(self, args: dict) -> list[BaseAnnDataField]:
        return series_fields(args, self._state(REGISTRY_KEYS.X_KEY))

    def _matrix(self, adata: AnnData) -> Any:
        return adata.obsm[self._setup_args["series_key"]]

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        if not is_known:
            resolve_series(adata, self._setup_args, self.registry)
        # a loaded model's own tiles may be others than those of training
        self._check_scale(adata)

    def _check_scale(self, adata: AnnData) -> None:
        """Warn of values of another unit than those of training, by their size in all bands."""
        args, series = self._setup_args, read_series(adata, self._setup_args)
        # some pixels of some tiles: series may be large
        steps = (slice(None, None, max(1, side // _SEEN_OF_SCALE)) for side in series.shape[3:])
        some = (slice(_SEEN_OF_SCALE), slice(None), slice(None), *steps)
        series, observed = series[some], observed_values(adata, args)[some]
        observed, axes = np.broadcast_to(observed, series.shape), (0, 1, 3, 4)
        sizes = np.where(observed, np.abs(series.astype(np.float64)), 0.0).sum(axes)
        sizes = sizes / np.maximum(observed.sum(axes), 1)
        usual = torch.hypot(self.module.band_mean, self.module.band_sd).cpu().numpy()
        ratio = sizes[sizes > 0] / usual[sizes > 0]
        if len(ratio) and (ratio.min() > _OTHER_UNIT or ratio.max() < 1 / _OTHER_UNIT):
            warnings.warn(
                f"adata.obsm[{args['series_key']!r}] (series_key) has values "
                f"{np.median(ratio):.2g} times as large as those that the model was trained on: "
                "are they in another unit? Bring them to that of training (digital numbers of "
                "Sentinel-2 and reflectance differ by 10,000); what is said of them is wrong "
                "otherwise.",
                UserWarning,
                skip_file_prefixes=(_PACKAGE,),
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Dates, bands, height and width (T, C, H, W) of the training tiles."""
        return tuple(self._state(REGISTRY_KEYS.X_KEY)["shape"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes by number; empty without labels."""
        return list(self._setup_args["classes"] or [])

    @property
    def label_mode(self) -> str | None:
        """``"map"``, a map of classes a series, ``"date"``, one a date, or None without labels."""
        return self._state(REGISTRY_KEYS.X_KEY)["label_mode"]

    def _standardise_by(self, adata: AnnData | None) -> None:
        """Have the module standardise bands by their valid values; a loaded one knows already."""
        if adata is None:
            return
        args = self._setup_args
        series = read_series(adata, args)
        observed = np.broadcast_to(observed_values(adata, args), series.shape)
        for band in range(series.shape[2]):
            values = series[:, :, band][observed[:, :, band]].astype(np.float64)
            if values.size:
                mean, sd = values.mean(), values.std()
                self.module.band_mean[band] = mean
                # of a band that is constant but for rounding nothing is to be told
                is_constant = sd <= np.finfo(np.float32).eps * abs(mean)
                self.module.band_sd[band] = 1.0 if is_constant else sd

    def _default_batch_size(self, adata: AnnData) -> int:
        # networks of series keep many maps of each pixel and date
        _, n_dates, _, height, width = read_series(adata, self._setup_args).shape
        at_most = _PLACES_AT_A_TIME // (n_dates * height * width)
        return min(super()._default_batch_size(adata), max(1, at_most))


def _entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats of probabilities ``(..., L, H, W)``, ``(..., H, W)``."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-3)


class Segmenter(SeriesModel):
    """Base of the models that give each pixel a class."""

    module: SegmentingModule
    # names of tiles that training set aside; a loaded model may have other tiles
    _set_aside: Sequence[str] | None = None

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        self.module.temperature.fill_(1.0)
        # a training that is broken off may have seen what an earlier one set aside
        self._set_aside = None
        split = super()._fit(fit, run)
        self._set_aside = self.adata.obs_names[split.validation].tolist()
        return split

    @torch.inference_mode()
    def _over_views(
        self,
        adata: AnnData,
        indices: Sequence[int] | None,
        batch_size: int | None,
        n_views: int,
    ) -> Iterator[Tensor]:
        """Probabilities of views of a minibatch, ``(n_views, B, ..., L, H, W)``."""
        for series in self._batches(adata, indices, batch_size):
            yield self.module.view_probabilities(series, n_views).cpu()

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        soft: bool = False,
        tta: int = 1,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The class of each pixel, or the probabilities of all.

        Parameters
        ----------
        soft
            Return probabilities.
        tta
            Flips and turns of each tile whose probabilities are averaged; up to 8 of squares, 4 of
            other tiles. 1: the tile as it is.

        Returns
        -------
        Numbers of classes ``(n_obs, H, W)``, or ``(n_obs, T, H, W)`` of a map a date; with
        ``soft`` probabilities ``(n_obs, L, H, W)`` or ``(n_obs, T, L, H, W)``.

        Raises
        ------
        ValueError
            If there are not so many views.
        """
        adata = self._validate_anndata(adata)
        parts = [p.mean(0) for p in self._over_views(adata, indices, batch_size, tta)]
        probabilities = torch.cat(parts).numpy()
        return probabilities if soft else probabilities.argmax(-3)

    def get_uncertainty(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        kind: str = "entropy",
        n_views: int | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """How unsure the class of each pixel is, in nats, in the shape of :meth:`predict`.

        Parameters
        ----------
        kind
            ``"entropy"`` of the probabilities: 0 is sure, log L is to know nothing;
            ``"mutual_information"`` of class and view: how much of that is that views disagree.
        n_views
            Flips and turns whose probabilities are averaged (see :meth:`predict`); by default one
            for the entropy and four for the mutual information.

        Raises
        ------
        ValueError
            If ``kind`` is unknown, or there are not so many views.
        """
        check_choice("kind", kind, ("entropy", "mutual_information"))
        is_entropy = kind == "entropy"
        if n_views is None:
            n_views = 1 if is_entropy else _N_VIEWS
        elif n_views == 1 and not is_entropy:
            raise ValueError("n_views: one view cannot disagree. Pass two or more.")
        adata = self._validate_anndata(adata)
        found = []
        for p in self._over_views(adata, indices, batch_size, n_views):
            total = _entropy(p.mean(0))
            found.append(total if is_entropy else (total - _entropy(p).mean(0)).clamp_min(0))
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def calibrate(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> float:
        """Fit the temperature of the probabilities to labelled pixels that did not train.

        From then on ``predict``, ``get_uncertainty`` and ``annotate`` divide logits by it, which
        leaves the most probable classes of a tile as they are; it is saved with the model, fitted
        anew by each call, and 1 again when training goes on. Above 1 the model was too sure (Guo et
        al. 2017).

        Parameters
        ----------
        adata, indices
            Tiles with labels; by default those that training set aside (``train_size`` below 1, or
            ``datasplitter_kwargs``), which a loaded model does not know.

        Returns
        -------
        The temperature, between 0.05 and 20.

        Raises
        ------
        ValueError
            If training set none aside and none are given, or they have no labelled pixel.
        """
        self._check_if_trained()
        if adata is None and indices is None:
            indices = self._set_aside
            if indices is None or not len(indices):
                raise ValueError(
                    "No tiles are known that training set aside to calibrate on. Pass adata or "
                    "indices of tiles with labels that did not train, or train with train_size=0.8."
                )
        adata = self._validate_anndata(adata)
        logits, targets = [], []
        for series in self._batches(adata, indices, batch_size):
            if series.labels is not None and (known := series.labelled).any():
                logits.append(self.module.class_logits(series).movedim(-3, -1)[known])
                targets.append(series.targets(len(self.classes)).movedim(-3, -1)[known])
        if not targets:
            raise ValueError(
                "The tiles to calibrate on have no labelled pixel. Name others, by indices or "
                "datasplitter_kwargs."
            )
        self.module.temperature.fill_(fit_temperature(torch.cat(logits), torch.cat(targets)))
        return float(self.module.temperature)

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """What the innermost layer says of each tile, mean over it, ``(n_obs, n_latent)``."""
        adata = self._validate_anndata(adata)
        parts = [
            self.module.encode(series).cpu() for series in self._batches(adata, indices, batch_size)
        ]
        return torch.cat(parts).numpy()

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Write maps, probabilities and uncertainties into the AnnData.

        Keys, with ``key_added`` or the name of the model in small letters for ``<model>``:
        ``obsm["<model>_labels"]``, ``obsm["<model>_probabilities"]`` and
        ``obsm["<model>_entropy"]``, in the shapes of :meth:`predict` and :meth:`get_uncertainty`;
        ``uns["<model>"]`` with the settings and the names of the classes.

        Parameters
        ----------
        key_added
            What keys are named for.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or type(self).__name__.lower()
        self._annotations(adata, key, batch_size).write(adata)

    def _annotations(self, adata: AnnData, key: str, batch_size: int | None) -> Annotations:
        """What :meth:`annotate` writes; subclasses add to it."""
        p = self.predict(adata, soft=True, batch_size=batch_size)
        found = Annotations(key, self._description() | {"classes": self.classes})
        found.obsm[f"{key}_labels"] = p.argmax(-3)
        found.obsm[f"{key}_probabilities"] = p
        found.obsm[f"{key}_entropy"] = _entropy(torch.as_tensor(p)).numpy()
        return found
