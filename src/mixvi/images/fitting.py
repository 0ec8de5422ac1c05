"""``train`` of models of images: arguments settled, then one part of training after another."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np

from mixvi.core.data.loading import MinibatchModule
from mixvi.core.data.splitting import Split
from mixvi.core.training.checks import (
    check_device,
    check_names,
    check_training,
    trainer_settings,
)
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.running import NO_SETTINGS, RunnerMixin
from mixvi.images.module import ImageModule
from mixvi.images.steps import Step
from mixvi.images.training import StepwiseTrainingPlan, plan_settings


class ImageFittingMixin(RunnerMixin):
    """``train`` of a model of images, and what its parts are made of."""

    module: ImageModule
    _stopped_by = "validation_loss"

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
        (see :class:`mixvi.images.training.StepwiseTrainingPlan`).

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
            Options of :class:`mixvi.images.training.StepwiseTrainingPlan`.
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

    def _settled(
        self,
        *,
        max_epochs: int | None,
        lr: float | dict[str, float],
        batch_size: int,
        early_stopping: bool,
        train_size: float | None,
        validation_size: float | None,
        shuffle_set_split: bool,
        datasplitter_kwargs: dict | None,
        accelerator: str,
        devices: int | list[int] | str,
        data_on: str,
        plan_kwargs: dict | None,
        trainer_kwargs: dict,
    ) -> Fit:
        """The arguments of ``train``, checked."""
        own = inspect.signature(self.train).parameters
        check_names(trainer_kwargs, own)
        # rates of single networks are the plan's to check
        one_rate = 1.0 if isinstance(lr, dict) else lr
        check_training(
            max_epochs=max_epochs, stages=None, lr=one_rate, batch_size=batch_size, data_on=data_on
        )
        check_device(accelerator, devices)
        if early_stopping and "early_stopping_monitor" not in trainer_kwargs:
            self._check_loss_tells()
        split = self._split(
            self._training_indices(),
            train_size,
            validation_size,
            shuffle_set_split,
            datasplitter_kwargs,
            validated=early_stopping,
        )
        batch_size = int(min(batch_size, len(split.train)))
        if batch_size < self._smallest_batch():
            raise ValueError(
                f"batch_size: minibatches have {batch_size} images, but this objective needs at "
                f"least {self._smallest_batch()}, more than n_latent. Raise batch_size, or lower "
                "n_latent."
            )
        plan = plan_settings(self.module.network_names, plan_kwargs, lr, own["lr"].default)
        trainer = trainer_settings(
            trainer_kwargs,
            early_stopping=early_stopping,
            monitor=self._stopped_by,
            n_validation=len(split.validation),
        )
        n_minibatches = len(split.train) // batch_size
        fit = Fit(
            max_epochs=int(max_epochs or self._default_epochs(n_minibatches)),
            split=split,
            minibatches={"batch_size": batch_size, "data_on": data_on},
            plan=plan | {"batch_size": batch_size},
            trainer=trainer | {"accelerator": accelerator, "devices": devices},
        )
        self._check_turns(fit)
        return fit

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        """Train one part; the images it was trained on, which a resumed run remembers."""
        data = MinibatchModule(
            self.adata_manager, fit.split, **fit.minibatches, extra=self._further_rows()
        )
        self._run(
            StepwiseTrainingPlan(self.module, **fit.plan),
            data,
            part=fit.part,
            max_epochs=fit.max_epochs,
            checkpoints=run and run.phase(fit.part),
            **fit.trainer,
        )
        return data.split

    def _check_loss_tells(self) -> None:
        """Raise ValueError if there are several losses, as in a game of networks."""
        steps = self._steps("training")
        if len(steps) > 1:
            names = ", ".join(f"'{step.name}_loss'" for step in steps)
            raise ValueError(
                f"early_stopping: this model has several losses ({names}), and a network's gain is "
                "another's loss, so that their sum does not say when to stop. Leave early_stopping "
                "out, or name a record that falls, such as "
                "early_stopping_monitor='reconstruction_validation'."
            )

    def _check_turns(self, fit: Fit) -> None:
        """Raise ValueError if a step's turn would not come while a part is trained."""
        batch_size = fit.minibatches["batch_size"]
        n_minibatches = len(fit.split.train) // batch_size
        for step in self._steps(fit.part):
            if step.every > fit.max_epochs * n_minibatches:
                needed = -(-step.every // n_minibatches)
                raise ValueError(
                    f"max_epochs: {fit.max_epochs} epoch(s) of {n_minibatches} minibatch(es) are "
                    f"too few. The step {step.name!r} is taken once in {step.every} minibatches: "
                    f"{' and '.join(step.updates)} would not be trained. Pass {needed} epochs or "
                    "more, a smaller batch_size, or fewer critic steps (d_steps)."
                )

    def _steps(self, part: str) -> tuple[Step, ...]:
        """What is done at a minibatch of a part of training."""
        return self.module.steps()

    def _default_epochs(self, n_minibatches: int) -> int:
        """Epochs of ``n_minibatches`` unless told."""
        return 100

    def _further_rows(self) -> dict[str, np.ndarray] | None:
        """Arrays ``(n_obs, ...)`` that the module reads in training beside the fields."""
        return None

    def _smallest_batch(self) -> int:
        """Fewest images that a minibatch must have."""
        return 2
