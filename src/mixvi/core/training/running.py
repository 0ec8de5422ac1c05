"""One part of training: scvi-tools' runner with checkpoints, threads and processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from scvi import settings as scvi_settings
from scvi.model.base import BaseModelClass
from scvi.train import TrainRunner

from mixvi.core import arguments
from mixvi.core.data.splitting import Split, given_split, split_rows
from mixvi.core.training.callbacks import LastEpoch, PartBar
from mixvi.core.training.checks import check_shares
from mixvi.core.training.quiet import quiet
from mixvi.core.training.records import History, joined, keep_records, records
from mixvi.core.training.resuming import Checkpoints, TrainingRun, describe
from mixvi.core.training.threads import few_threads

# what of train's arguments does not say how a model is trained
NO_SETTINGS = ("self", "__class__", "checkpoint_dir", "resume")


class RunnerMixin:
    """What ``train`` of every model does after its settings are checked."""

    # the record that early stopping watches
    _stopped_by: ClassVar[str] = "elbo_validation"
    start_history_: History | None = None

    @property
    def start_history(self) -> History | None:
        """Records of the epochs before those that ``train`` was asked for, as ``history``."""
        return self.start_history_

    def _saved_state(self) -> dict:
        return super()._saved_state() | {"start_history": self.start_history_}

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        self.start_history_ = state.get("start_history")

    def _prepare_checkpoint(self, split: Split | None) -> None:
        """Have what else a trained model has, to be saved in the middle of training."""
        self.is_trained_ = True
        self._set_rows(split)

    def _set_rows(self, split: Split | None) -> None:
        # numbers of rows elsewhere would say nothing
        rows = (None, None, None) if split is None else split
        self.train_indices, self.validation_indices, self.test_indices = rows

    def _training_run(
        self, checkpoint_dir: str | Path | None, resume: bool, settings: dict
    ) -> TrainingRun | None:
        """The run in ``checkpoint_dir``; the model's state is then that from before it."""
        if checkpoint_dir is None:
            if resume:
                raise ValueError(
                    "resume=True needs checkpoint_dir: the directory that the stopped call of "
                    "train was given."
                )
            return None
        if settings["trainer_kwargs"].get("ckpt_path") is not None:
            raise ValueError("Pass checkpoint_dir or ckpt_path, not both.")
        settings = {"model": type(self).__name__} | self.init_params_ | settings
        described = describe(self.adata_manager, settings)
        run = TrainingRun(checkpoint_dir, resume, described, self._saved_state())
        self._restore_state(run.before)
        return run

    def _training_indices(self) -> np.ndarray:
        """Numbers of all rows, which are checked, and encoded as they are now."""
        if self.adata is None:
            raise ValueError("The model was loaded without data. Load it with adata=... to train.")
        # a verb compares a sample of the values with those it knows; training looks at them all
        self._mark_of_checked = None
        rows = np.arange(self._validate_anndata().n_obs)
        self._check_trainable()
        return rows

    def _split(
        self,
        indices: np.ndarray,
        train_size: float | None,
        validation_size: float | None,
        shuffle: bool,
        datasplitter_kwargs: dict | None = None,
        *,
        validated: bool = False,
    ) -> Split:
        """Which of the rows train; by default all, or 0.9 of them if others are ``validated``."""
        options = dict(datasplitter_kwargs or {})
        arguments.check_options(
            "datasplitter_kwargs", options, ["external_indexing"], "mixvi's splitter"
        )
        given = options.get("external_indexing")
        if given is None:
            train_size = (0.9 if validated else 1.0) if train_size is None else train_size
            check_shares(train_size, validation_size)
            split = split_rows(indices, train_size, validation_size, shuffle)
        elif train_size is None and validation_size is None:
            split = self._given_split(given, indices)
        else:
            raise ValueError(
                "train_size and validation_size are shares, external_indexing names the rows. "
                "Pass one of them."
            )
        if len(split.train) < 2:
            raise ValueError(f"Of {len(indices)} rows fewer than two are left to train on.")
        return split

    def _given_split(self, parts: Sequence[Sequence | None], indices: np.ndarray) -> Split:
        """Of ``indices``, what ``external_indexing`` names for each part; the last may lack."""
        if isinstance(parts, np.ndarray | str) or not 1 <= len(parts) <= 3:
            raise ValueError(
                "external_indexing must be a list of up to three arrays: the training, validation "
                "and test rows."
            )
        given = [[] if part is None else part for part in parts] + [[]] * (3 - len(parts))
        rows = [self._check_indices(self.adata, part) for part in given]
        return given_split([part[np.isin(part, indices)] for part in rows])

    def _run(
        self,
        plan: pl.LightningModule,
        data: pl.LightningDataModule,
        *,
        max_epochs: int,
        accelerator: str,
        devices: int | list[int] | str,
        part: str = "training",
        checkpoints: Checkpoints | None = None,
        **trainer_kwargs,
    ) -> None:
        """Run one part of training; settings are checked.

        Whatever ends it, the model is then that of the part's last complete epoch, or as before.

        Raises
        ------
        KeyboardInterrupt
            If the user interrupts it; the message says what the model is then.
        """
        trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        if getattr(data, "n_val", None) == 0:
            trainer_kwargs["limit_val_batches"] = 0
        # records are made once an epoch; lightning else warns of small data
        trainer_kwargs.setdefault("log_every_n_steps", 1)
        # the sampler knows the processes itself
        trainer_kwargs["use_distributed_sampler"] = False
        trainer_kwargs = _with_bar(trainer_kwargs, part)
        if checkpoints is not None:
            trainer_kwargs = checkpoints.joined(trainer_kwargs)
        _keep_freed_memory()
        # lightning keeps modules as it finds them, and inference has left them in eval mode
        self.module.train()
        with quiet(), few_threads():
            runner = PartRunner(
                self,
                part=part,
                training_plan=plan,
                data_splitter=data,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                **trainer_kwargs,
            )
            if isinstance(runner.trainer.strategy.launcher, _MultiProcessingLauncher):
                raise ValueError(
                    "strategy: processes that are forked or spawned cannot give a trained model "
                    "back. Pass strategy='ddp' in a script, which each process then runs; "
                    "notebooks have one device."
                )
            try:
                runner()
            except KeyboardInterrupt as interrupt:
                # where training stood says nothing to the user who has stopped it
                raise interrupt.with_traceback(None) from None


class PartRunner(TrainRunner):
    """scvi-tools' runner of one part of training, which leaves a usable model however it ends."""

    def __init__(
        self, model: BaseModelClass, *, part: str, callbacks: list[pl.Callback], **runner_kwargs
    ):
        self._part = part
        self._last = LastEpoch()
        super().__init__(model, callbacks=[self._last, *callbacks], **runner_kwargs)
        keep_records(self.trainer)

    def __call__(self) -> None:
        """Run, tracked by mlflow if scvi-tools' settings ask for it."""
        if self._part == "training":
            super().__call__()
        else:
            self._run_training_core()

    def _run_training_core(self) -> None:
        try:
            self.trainer.fit(self.training_plan, self.data_splitter, ckpt_path=self.ckpt_path)
        except SystemExit as stop:
            # lightning ends the program where the user interrupts it
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt(self._interrupted()) from None
        finally:
            self._leave()
        if scvi_settings.mlflow_set_tracking_uri and self._part == "training":
            self._describe_to_mlflow()

    def _interrupted(self) -> str:
        n_epochs, asked = self._last.n_epochs, self.trainer.max_epochs
        kept = f"after epoch {n_epochs} of {asked}" if n_epochs else "before"
        if self._part != "training":
            kept += f" of its {self._part}, and not trained yet"
        return f"Training was interrupted. The model is as it was {kept}."

    def _leave(self) -> None:
        """Give the model what the complete epochs have found, as scvi-tools does after all."""
        model, trainer, strategy = self.model, self.trainer, self.trainer.strategy
        model.module.eval()
        model.to_device(strategy.root_device)
        model.trainer = trainer
        n_epochs = self._last.n_epochs if trainer.interrupted else trainer.current_epoch
        if n_epochs == 0:
            return
        new = records(trainer, n_epochs)
        if trainer.world_size > 1 and not trainer.interrupted:
            # the first process alone has records
            new = strategy.broadcast(new)
        if self._part != "training":
            model.start_history_ = joined(model.start_history_, new)
            return
        model.history_ = joined(model.history_, new)
        model.is_trained_ = True
        model._set_rows(getattr(self.data_splitter, "split", None))

    def _describe_to_mlflow(self) -> None:
        """Give scvi-tools' tracking what it asks of its own models, plans and splitters."""
        import mlflow

        mlflow.log_params(self.model.init_params_)
        self.training_plan = _OrNone(self.training_plan)
        self.data_splitter = _OrNone(self.data_splitter)


class _OrNone:
    """An object's attributes, and None for those it has not."""

    def __init__(self, inner: Any):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name, {} if name.endswith("kwargs") else None)


def _with_bar(trainer_kwargs: dict, part: str) -> dict:
    """The trainer's arguments with a progress bar of the part, unless another is asked for."""
    callbacks = list(trainer_kwargs.get("callbacks") or [])
    rate = trainer_kwargs.pop("progress_bar_refresh_rate", 1)
    simple = trainer_kwargs.pop("simple_progress_bar", True)
    shown = trainer_kwargs.get("enable_progress_bar", True)
    if simple and shown and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(PartBar(part, rate))
    return trainer_kwargs | {"callbacks": callbacks, "simple_progress_bar": False}


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks of some megabytes for the next minibatch's matrices.

    Its threshold follows the largest block freed so far; below it, every minibatch gives its
    memory back to the system and faults it in anew, a fifth of the time with many components.
    """
    torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8)
