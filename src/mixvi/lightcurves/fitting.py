"""The verb ``train`` of models of light curves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scvi import REGISTRY_KEYS

from mixvi.core.arguments import check_count
from mixvi.core.training.fitting import Fit
from mixvi.core.training.label_shares import check_labelled_fraction
from mixvi.core.training.running import NO_SETTINGS
from mixvi.core.training.stepwise_fitting import StepwiseFittingMixin
from mixvi.lightcurves.module import CurveModule

# arguments of train that other models have not
_OWN_SETTINGS = ("balanced", "labelled_fraction", "pretrain_epochs")


class CurveFittingMixin(StepwiseFittingMixin):
    """``train`` of a model of light curves."""

    module: CurveModule
    _plan: ClassVar[dict[str, Any]] = {"clip_norm": 10.0}

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] = 1e-3,
        batch_size: int = 128,
        balanced: bool = True,
        labelled_fraction: float = 0.5,
        pretrain_epochs: int | None = None,
        early_stopping: bool = False,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        datasplitter_kwargs: dict | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        data_on: str = "auto",
        plan_kwargs: dict | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **trainer_kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        The history has each term by epoch, as ``model.history[<name>_train]``, and with labels
        ``classification_train`` and ``accuracy_train``.

        Parameters
        ----------
        max_epochs
            Passes over the curves. ``None``: 200, or so many that there are 2,000 updates.
        lr
            Adam's learning rate (Astorga 2021, section 9.4); a dict has one for each network by
            name. It falls to a third and to a ninth in the second and the last third of the epochs,
            unless ``plan_kwargs`` has an ``lr_decay``.
        batch_size
            Curves a minibatch. A shorter one at the end of an epoch is left out.
        balanced
            Draw labelled curves so that each class is seen alike, as p(y) has it.
        labelled_fraction
            Share of labelled curves in each minibatch, where some have no label.
        pretrain_epochs
            Passes of the autoencoder alone before the others. ``None``: 20 if components have no
            labels to start from, else none. What comes before the epochs that were asked for has
            records of its own, ``model.start_history``.
        early_stopping
            Stop when the validation loss no longer improves (patience and such as in
            :class:`scvi.train.Trainer`).
        train_size, validation_size
            Shares of the curves that train and that losses are also recorded for.
            ``train_size=None``: all of them, or 0.9 with early stopping.
        shuffle_set_split
            Whether curves are shuffled before the split, by ``scvi.settings.seed``.
        datasplitter_kwargs
            ``{"external_indexing": [training, validation, test]}``: numbers of the curves instead
            of shares.
        accelerator, devices
            As in lightning; one device.
        data_on
            Where curves lie while training: ``"host"``, ``"device"`` or ``"auto"``.
        plan_kwargs
            Options of :class:`mixvi.core.training.stepwise.StepwiseTrainingPlan`; gradients have a
            norm of 10 at most (``clip_norm``) unless told.
        checkpoint_dir, resume
            Directory for a checkpoint an epoch, and whether to go on with the run in it.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If an argument is unusable; nothing has been trained then.
        TypeError
            If an argument is unknown.
        FloatingPointError
            If a loss term or a weight stops being finite. It is named, and the model is that of the
            last complete epoch.
        KeyboardInterrupt
            If training is interrupted; the model is that of the last complete epoch.
        """
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        if pretrain_epochs is None:
            pretrain_epochs = self._default_pretraining()
        check_count("pretrain_epochs", pretrain_epochs)
        check_labelled_fraction(labelled_fraction)
        fit = self._settled(**{k: v for k, v in settings.items() if k not in _OWN_SETTINGS})
        fit = self._with_falling_rate(self._with_labels(fit, balanced, labelled_fraction), settings)
        if not self.is_trained_:
            self._check_start(fit.split.train)
        run = self._training_run(checkpoint_dir, resume, settings)
        if not self.is_trained_:
            if pretrain_epochs:
                rates = {"lr": fit.plan["lr"]}
                split = self._fit(fit.before("pretraining", pretrain_epochs, {}, rates), run)
                fit = replace(fit, split=split)
            self._start(fit.split.train)
        self._fit(fit, run)

    def _with_labels(self, fit: Fit, balanced: bool, fraction: float) -> Fit:
        """Minibatches by what labels there are."""
        codes = self._label_codes()
        labelled = codes >= 0
        shares: dict[str, Any] = {}
        if balanced and labelled[fit.split.train].any():
            shares["groups"] = codes
        if 0 < labelled[fit.split.train].sum() < len(fit.split.train):
            shares |= {"labelled": labelled, "labelled_fraction": fraction}
        return replace(fit, minibatches=fit.minibatches | shares)

    @staticmethod
    def _with_falling_rate(fit: Fit, settings: dict[str, Any]) -> Fit:
        if "lr_decay" in (settings["plan_kwargs"] or {}):
            return fit
        falling = {"lr_decay": 1 / 3, "decay_epochs": math.ceil(fit.max_epochs / 3)}
        return replace(fit, plan=falling | fit.plan)

    def _label_codes(self) -> np.ndarray:
        """Class of each registered curve, -1 without one, ``(n_obs,)``."""
        n = self.adata.n_obs
        if not self.module.n_classes:
            return np.full(n, -1)
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        return np.where(codes < self.module.n_classes, codes, -1)

    def _default_epochs(self, n_minibatches: int) -> int:
        # few curves are passed over more often than many
        return max(200, math.ceil(2_000 / n_minibatches))

    def _default_pretraining(self) -> int:
        """Epochs of the autoencoder alone unless told."""
        return 0

    def _check_start(self, rows: np.ndarray) -> None:
        """Raise if components cannot have a start by these curves; nothing has been trained."""

    def _start(self, rows: np.ndarray) -> None:
        """Give components a start, by training curves and what is known of them."""

    def _check_batch(self, batch_size: int) -> None:
        if batch_size < 2:
            raise ValueError(
                f"batch_size: minibatches have {batch_size} curve(s), but batch norm needs at "
                "least two. Raise batch_size."
            )
