"""The verb ``train`` of models of series."""

from __future__ import annotations

from pathlib import Path

from mixvi.core.training.running import NO_SETTINGS
from mixvi.core.training.stepwise_fitting import StepwiseFittingMixin
from mixvi.satellite.module import SeriesModule


class SeriesFittingMixin(StepwiseFittingMixin):
    """``train`` of a model of series."""

    module: SeriesModule

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] | None = None,
        batch_size: int = 8,
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
            Passes over the tiles. ``None``: so many that there are about 2,000 updates of U-Nets,
            and 1,000 of each network of other models.
        lr
            Adam's learning rate; a dict has one for each network by name. ``None``: 2e-3 of U-Nets,
            3e-3 of others, and of symmetric learning on series a tenth of it for the encoder.
            Except for U-Nets they fall to a third and to a ninth in the second and the last third
            of the epochs, unless ``plan_kwargs`` has an ``lr_decay``.
        batch_size
            Tiles a minibatch, from 1. A shorter one at the end of an epoch is left out.
        early_stopping
            Stop when the validation loss no longer improves (patience and such as in
            :class:`scvi.train.Trainer`).
        train_size, validation_size
            Shares of the tiles that train and that losses are also recorded for.
            ``train_size=None``: all of them, or 0.9 with early stopping. Neighbouring tiles are
            alike: name whole blocks by ``datasplitter_kwargs`` instead.
        shuffle_set_split
            Whether tiles are shuffled before the split, by ``scvi.settings.seed``.
        datasplitter_kwargs
            ``{"external_indexing": [training, validation, test]}``: numbers of the tiles instead
            of shares.
        accelerator, devices
            As in lightning; one device.
        data_on
            Where tiles lie while training: ``"host"``, ``"device"`` or ``"auto"``.
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
