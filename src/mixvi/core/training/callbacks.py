"""Callbacks of training: the last good weights, progress bar, long runs, early stopping, files."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import lightning.pytorch as pl
import torch
from scvi.train import LoudEarlyStopping, SaveCheckpoint
from scvi.train._progress import ProgressBar
from scvi.utils import track
from torch import nn

from mixvi.core.data.files import read_model
from mixvi.core.training.plan import check_finite
from mixvi.core.training.resuming import Checkpoints

# that of scvi.settings.verbosity
_LOGGER = logging.getLogger("scvi")
_N_TIMED = 10
_LONG = 600.0


class LastEpoch(pl.Callback):
    """Keeps the weights of the last complete epoch, and puts them back if training breaks off.

    Attributes
    ----------
    n_epochs
        How many epochs are complete.
    """

    def __init__(self):
        self.n_epochs = 0
        self._weights: dict[str, torch.Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep what was there before training."""
        self._keep(trainer, pl_module.module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the last epoch has left: its records and its validation are done."""
        if trainer.current_epoch > 0:
            _check_weights(pl_module.module, trainer.current_epoch)
        self._keep(trainer, pl_module.module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the last epoch of all has left."""
        _check_weights(pl_module.module, trainer.current_epoch)
        self._keep(trainer, pl_module.module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Put the weights back."""
        if self._weights:
            pl_module.module.load_state_dict(self._weights)

    def _keep(self, trainer: pl.Trainer, module: nn.Module) -> None:
        weights = {name: value.clone() for name, value in module.state_dict().items()}
        self.n_epochs, self._weights = trainer.current_epoch, weights


class LongTraining(pl.Callback):
    """Says soon after a part of training has begun that it takes more than ten minutes.

    Parameters
    ----------
    part
        Its name.
    advice
        What makes it shorter.
    """

    def __init__(self, part: str, advice: str):
        self._part, self._advice = part, advice
        self._begun: float | None = None
        self._n_timed = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Time some minibatches, but not the first, in which things are set up."""
        if self._n_timed == _N_TIMED or not trainer.is_global_zero:
            return
        if self._begun is None:
            self._begun = time.perf_counter()
            return
        self._n_timed += 1
        if self._n_timed < _N_TIMED:
            return
        n_epochs, n_batches = trainer.max_epochs, trainer.num_training_batches
        left = (n_epochs - trainer.current_epoch) * n_batches - batch_idx - 1
        seconds = (time.perf_counter() - self._begun) / _N_TIMED * left
        if seconds > _LONG:
            _LOGGER.info(
                f"This {self._part} takes about {seconds / 60:.0f} minutes: {n_epochs} epochs of "
                f"{n_batches} minibatches. {self._advice}"
            )


def _check_weights(module: nn.Module, n_epochs: int) -> None:
    """Raise FloatingPointError if the last minibatch's gradient has spoilt the weights."""
    # one number for all, so that a device is waited for once
    finite = torch.stack([weight.isfinite().all() for weight in module.parameters()]).all()
    check_finite({"weights": 0.0 if finite else math.nan}, n_epochs - 1)


class PartBar(ProgressBar):
    """scvi-tools' progress bar, named by the part of training; only that of the last one stays."""

    def __init__(self, part: str, refresh_rate: int = 1):
        super().__init__(refresh_rate)
        self._part = part
        # made when training starts
        self.main_progress_bar = None

    def init_train_tqdm(self, trainer: pl.Trainer) -> Any:
        """A bar of the epochs, of which a resumed run has some."""
        return track(
            None,
            total=trainer.max_epochs,
            initial=trainer.current_epoch,
            description=self._part,
            style="tqdm",
            disable=self.is_disabled,
            leave=self._part == "training",
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the part and the epoch, and show what the last one has logged."""
        if self.is_enabled:
            epoch = f"{self._part} {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.main_progress_bar.set_description(epoch, refresh=False)
            self.main_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move on; the plan logs the epoch after this."""
        if self.is_enabled:
            self.main_progress_bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the last epoch has logged, and close the bar."""
        if self.is_enabled:
            self.main_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))
            self.main_progress_bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the bar where it stood."""
        if self.is_enabled and self.main_progress_bar is not None:
            self.main_progress_bar.close()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        """The training loss; the logger's version says nothing here."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EarlyStopping(LoudEarlyStopping):
    """scvi-tools' callback, which a checkpoint restores with the epochs it has waited."""

    def state_dict(self) -> dict:
        """State for a checkpoint."""
        return super().state_dict() | {"checks": self._current_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take back what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self._current_step = state_dict["checks"]


class _SavedModels(SaveCheckpoint):
    """scvi-tools' callback for models in mixvi's files.

    Where scvi-tools' own reads ``model.pt`` to put the best weights back, there are other files.
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Save the model, but not each time that the run's own checkpoint is written."""
        if not any(isinstance(c, Checkpoints) and c.writing for c in trainer.callbacks):
            trainer._model._prepare_checkpoint(getattr(trainer.datamodule, "split", None))
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Nothing: terms are checked at the end of each epoch."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the best weights."""
        if self.load_best_on_end and self.best_model_path:
            self._load_best(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Load the best weights where training broke off by itself, and say so with the reason."""
        wanted = self.check_nan_gradients and not isinstance(exception, KeyboardInterrupt)
        if wanted and self.best_model_path:
            self._load_best(trainer)
            exception.add_note(
                f"SaveCheckpoint: the model has the best weights so far, those in "
                f"{self.best_model_path}."
            )

    def _load_best(self, trainer: pl.Trainer) -> None:
        model = trainer._model
        _, weights = read_model(self.best_model_path, type(model).__name__)
        model.module.load_state_dict(weights)


def for_our_files(callback: pl.Callback) -> pl.Callback:
    """The callback; scvi-tools' ``SaveCheckpoint``, with the same attributes, for mixvi's files."""
    if not isinstance(callback, SaveCheckpoint) or isinstance(callback, _SavedModels):
        return callback
    ours = object.__new__(type(type(callback).__name__, (_SavedModels, type(callback)), {}))
    # one state: the user reads best_model_path from the callback that was passed
    ours.__dict__ = callback.__dict__
    return ours
