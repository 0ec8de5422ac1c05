"""The verb ``train`` of models of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mixvi.core.training.running import NO_SETTINGS
from mixvi.core.training.stepwise_fitting import StepwiseFittingMixin
from mixvi.images.module import ImageModule


class ImageFittingMixin(StepwiseFittingMixin):
    """``train`` of a model of images."""

    module: ImageModule
    # Adam's settings of Astorga 2021, section 6.3
    _plan: ClassVar[dict[str, Any]] = {"betas": (0.0, 0.999)}

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] = 2e-4,
        batch_size: int = 64,
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

        The history has each term and each step's loss by epoch, as ``model.history[<name>_train]``
        (see :class:`mixvi.core.training.stepwise.StepwiseTrainingPlan`).

        Parameters
        ----------
        max_epochs
            Passes over the images. ``None``: 100 for autoencoders; for others what 75,000 updates
            of the generator take (Astorga 2021, section 8.2).
        lr
            Adam's learning rate; a dict has one for each network by name.
        batch_size
            Images a minibatch. A shorter one at the end of an epoch is left out.
        early_stopping
            Stop when the validation loss no longer improves (patience and such as in
            :class:`scvi.train.Trainer`). Losses of critics and of what they judge tell no progress:
            models with critics need the name of a record that does, as
            ``early_stopping_monitor``.
        train_size, validation_size
            Shares of the images that train and that losses are also recorded for.
            ``train_size=None``: all of them, or 0.9 with early stopping.
        shuffle_set_split
            Whether images are shuffled before the split, by ``scvi.settings.seed``; validation
            images come first, as in scvi-tools.
        datasplitter_kwargs
            ``{"external_indexing": [training, validation, test]}``: numbers of the images instead
            of shares; the last may be left out, and images in none of them are not used.
        accelerator, devices
            As in lightning; one device.
        data_on
            Where images lie while training: ``"host"``, ``"device"``, ``"disk"`` or ``"auto"``, as
            for models of expression. Images as uint8 take a quarter of the memory.
        plan_kwargs
            Options of :class:`mixvi.core.training.stepwise.StepwiseTrainingPlan`.
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
        fit = self._settled(**settings)
        self._fit(fit, self._training_run(checkpoint_dir, resume, settings))

    def _check_batch(self, batch_size: int) -> None:
        if batch_size < self._smallest_batch():
            needed = self._smallest_batch()
            why = "for batch norm" if needed == 2 else "more than n_latent"
            raise ValueError(
                f"batch_size={batch_size}: this model needs at least {needed}, {why}. Raise it."
            )

    def _smallest_batch(self) -> int:
        """Fewest images that a minibatch must have."""
        return 2
