"""One run of training: scvi-tools' runner with checkpoints, threads and processes."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from scvi.train import TrainRunner

from mixvi.core.data.loading import MinibatchModule
from mixvi.core.training.resuming import Checkpoints, TrainingRun, describe
from mixvi.core.training.threads import few_threads

# what of train's arguments does not say how a model is trained
NO_SETTINGS = ("self", "__class__", "checkpoint_dir", "resume")


class RunnerMixin:
    """What ``train`` of every model does after its settings are checked."""

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
        if self.adata is None:
            raise ValueError("The model was loaded without data. Load it with adata=... to train.")
        return np.arange(self.adata.n_obs)

    def _run(
        self,
        plan: pl.LightningModule,
        data: pl.LightningDataModule,
        *,
        max_epochs: int,
        accelerator: str,
        devices: int | list[int] | str,
        checkpoints: Checkpoints | None = None,
        **trainer_kwargs,
    ) -> None:
        """Run scvi-tools' runner with a plan and its minibatches; settings are checked."""
        # a foreign module tells lightning itself whether it has validation rows
        if not isinstance(data, MinibatchModule) or data.n_val:
            trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        # records are made once an epoch; lightning else warns of small data
        trainer_kwargs.setdefault("log_every_n_steps", 1)
        # the sampler knows the processes itself
        trainer_kwargs["use_distributed_sampler"] = False
        if checkpoints is not None:
            trainer_kwargs = checkpoints.joined(trainer_kwargs)
        _keep_freed_memory()
        # lightning keeps modules as it finds them, and inference has left them in eval mode
        self.module.train()
        with warnings.catch_warnings():
            # scvi-tools' own is; ours sees the sums over all processes
            warnings.filterwarnings("ignore", "early_stopping was automatically disabled")
            runner = TrainRunner(
                self,
                training_plan=plan,
                data_splitter=data,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                **trainer_kwargs,
            )
        strategy = runner.trainer.strategy
        if isinstance(strategy.launcher, _MultiProcessingLauncher):
            raise ValueError(
                "strategy: processes that are forked or spawned cannot give a trained model back. "
                "Pass strategy='ddp' in a script, which each process then runs; notebooks have one "
                "device."
            )
        self._run_and_record(runner)
        if runner.trainer.world_size > 1:
            # scvi-tools puts every process's model on the first device, the records in one alone
            self.to_device(strategy.root_device)
            self.history_ = strategy.broadcast(self.history_)

    def _run_and_record(self, runner: TrainRunner) -> None:
        """Train, and append the epochs' records to those of earlier calls."""
        before, was_trained = self.history_, self.is_trained_
        # else scvi-tools drops records that earlier calls lack, and numbers others by their count
        self.is_trained_ = False
        try:
            with few_threads():
                runner()
        finally:
            self.is_trained_ = self.is_trained_ or was_trained
            self.history_ = _joined_records(before, self.history_)


def _joined_records(before: dict | None, new: dict | None) -> dict | None:
    """Tables of epoch records in one, epochs counted on."""
    if not before or not isinstance(new, dict):
        return new or before
    n_epochs = max(
        (int(table.index.max()) + 1 for table in before.values() if len(table)), default=0
    )
    joined = dict(before)
    for name, table in new.items():
        table = table.set_axis(table.index + n_epochs).rename_axis(table.index.name)
        joined[name] = pd.concat([before[name], table]) if name in before else table
    return joined


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks of some megabytes for the next minibatch's matrices.

    Its threshold follows the largest block freed so far; below it, every minibatch gives its
    memory back to the system and faults it in anew, a fifth of the time with many components.
    """
    torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8)
