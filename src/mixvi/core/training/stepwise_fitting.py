"""``train`` of models that are trained by steps: arguments settled, then one part after another."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np

from mixvi.core.data.loading import MinibatchModule
from mixvi.core.data.splitting import Split
from mixvi.core.training.checks import (
    check_device,
    check_names,
    check_one_device,
    check_training,
    trainer_settings,
)
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.running import RunnerMixin
from mixvi.core.training.steps import Step, StepwiseModule
from mixvi.core.training.stepwise import StepwiseTrainingPlan, stepwise_settings


class StepwiseFittingMixin(RunnerMixin):
    """What the verb ``train`` of a room does with its arguments."""

    module: StepwiseModule
    _stopped_by = "validation_loss"
    # options of the plan unless told
    _plan: ClassVar[dict[str, Any]] = {}

    def _settled(
        self,
        *,
        max_epochs: int | None,
        lr: float | dict[str, float] | None,
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
        one_rate = 1.0 if lr is None or isinstance(lr, dict) else lr
        check_training(
            max_epochs=max_epochs, stages=None, lr=one_rate, batch_size=batch_size, data_on=data_on
        )
        check_one_device(devices)
        # what there is may be several
        devices = 1 if devices == "auto" else devices
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
        self._check_batch(batch_size)
        options = self._plan | (plan_kwargs or {})
        default_lr = self._default_lr() if own["lr"].default is None else own["lr"].default
        lr = default_lr if lr is None else lr
        plan = stepwise_settings(self.module.network_names, options, lr, default_lr)
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
        with self.module.part(fit.part):
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
        with self.module.part(part):
            return self.module.steps()

    def _default_lr(self) -> float | dict[str, float]:
        """Learning rates where ``train`` is given none."""
        return 1e-3

    def _default_epochs(self, n_minibatches: int) -> int:
        """Epochs of ``n_minibatches`` unless told."""
        return 100

    def _further_rows(self) -> dict[str, np.ndarray] | None:
        """Arrays ``(n_obs, ...)`` that the module reads in training beside the fields."""
        return None

    def _check_batch(self, batch_size: int) -> None:
        """Raise ValueError if minibatches are too small for the losses."""
