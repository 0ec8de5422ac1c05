"""``train`` of models of expression: arguments settled, then one part of training after another."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from mixvi.core.data.backed import row_sums
from mixvi.core.data.loading import MinibatchModule
from mixvi.core.data.splitting import Split
from mixvi.core.training.callbacks import LongTraining
from mixvi.core.training.checks import (
    check_datamodule,
    check_device,
    check_names,
    check_training,
    plan_settings,
    trainer_settings,
)
from mixvi.core.training.plan import StagedTrainingPlan
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.running import NO_SETTINGS, RunnerMixin

_SHORTER = (
    "Fewer genes (sc.pp.highly_variable_genes), fewer epochs (max_epochs) or early_stopping=True "
    "make it shorter."
)
# what of the plan and the trainer belongs to the epochs that were asked for, not to those before
_NOT_AT_START = {
    "callbacks",
    "ckpt_path",
    "decay_epochs",
    "enable_checkpointing",
    "log_save_dir",
    "logger",
    "learning_rate_monitor",
    "lr",
    "lr_decay",
    "max_steps",
    "min_epochs",
    "min_kl_weight",
    "min_steps",
    "n_epochs_kl_warmup",
    "n_steps_kl_warmup",
    "reduce_lr_on_plateau",
    "stages",
}


@dataclass(frozen=True)
class Fit:
    """One part of training, settled.

    Attributes
    ----------
    max_epochs
        Passes over the training rows.
    split
        Rows that train and rows that are validated.
    minibatches, plan, trainer
        Arguments of :class:`mixvi.core.data.loading.MinibatchModule`, of
        :class:`StagedTrainingPlan` and of :class:`scvi.train.Trainer`.
    datamodule
        Where minibatches come from, if not from the AnnData.
    part
        Its name: ``"training"`` is what was asked for.
    """

    max_epochs: int
    split: Split
    minibatches: dict[str, Any]
    plan: dict[str, Any]
    trainer: dict[str, Any]
    datamodule: LightningDataModule | None = None
    part: str = "training"

    def before(
        self, part: str, max_epochs: int, minibatches: dict[str, Any], plan: dict[str, Any]
    ) -> Fit:
        """A part before this one on the same rows: nothing is watched, validated or scheduled."""
        kept = {k: v for k, v in self.plan.items() if k not in _NOT_AT_START}
        trainer = {k: v for k, v in self.trainer.items() if k not in _NOT_AT_START}
        return replace(
            self,
            part=part,
            max_epochs=int(max_epochs),
            minibatches=self.minibatches | minibatches,
            plan=kept | plan,
            trainer=trainer | {"limit_val_batches": 0},
        )


class FittingMixin(RunnerMixin):
    """``train`` of a mixvi model."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        stages: Sequence[tuple[float, int]] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        early_stopping: bool = False,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        datasplitter_kwargs: dict | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        data_on: str = "auto",
        plan_kwargs: dict | None = None,
        datamodule: LightningDataModule | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **trainer_kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        Parameters
        ----------
        max_epochs
            Passes over the data. ``None``: scvi-tools' heuristic (at most 400).
        stages
            List of (learning rate, epochs) instead of ``max_epochs`` and ``lr``; Adam starts anew
            at every stage (Kolb 2022, section 9).
        lr, weight_decay
            Adam's learning rate and weight decay.
        batch_size
            Rows a minibatch; at least 2, because of batch norm.
        early_stopping
            Stop when the validation ELBO no longer improves (patience and such as in
            :class:`scvi.train.Trainer`).
        train_size, validation_size
            Shares of the cells. ``train_size=None``: all of them, or 0.9 with early stopping.
        shuffle_set_split
            Whether cells are shuffled before the split, by ``scvi.settings.seed``; validation cells
            come first, as in scvi-tools.
        datasplitter_kwargs
            ``{"external_indexing": [training, validation, test]}``: numbers of the cells instead of
            shares; the last may be left out, and cells in none of them are not used.
        accelerator, devices
            As in lightning: ``"cpu"``, ``"gpu"``, ``"mps"``, ``"auto"``. Several devices need
            ``strategy="ddp"`` (and ``num_nodes``) besides: each process takes minibatches of
            ``batch_size`` from rows of its own, and has batch norm of its own unless
            ``sync_batchnorm=True`` (GPUs alone). Every process runs the script and ends with the
            same model.
        data_on
            Where the registered data lie while training: ``"host"``, ``"device"`` (all of it on the
            accelerator, minibatches are made there), ``"disk"`` (data that are there stay there:
            :func:`mixvi.read_backed`) or ``"auto"``: on disk if they are there and exceed what
            ``mixvi.settings.backed_memory`` allows, else on the accelerator if they take at most
            40 % of the free memory there.
        plan_kwargs
            Options of :class:`mixvi.core.training.plan.StagedTrainingPlan`, as in scvi-tools:
            ``lr``, ``weight_decay``, ``optimizer``, ``n_epochs_kl_warmup``,
            ``reduce_lr_on_plateau`` and such. KL terms have the weight 1 by default, from the first
            epoch.
        datamodule
            Source of minibatches instead of the AnnData, such as those of ``scvi.dataloaders``:
            dicts of tensors under scvi-tools' registry keys, ``"X"`` as float32 and codes as in the
            AnnData that the model was built on (a sample with every category will do, and gives
            the typical library size). ``max_epochs`` or ``stages`` is needed; ``batch_size``,
            ``train_size`` and the like are the module's own.
        checkpoint_dir
            Directory for a checkpoint an epoch; ``None``: none are written.
        resume
            Go on with the run in ``checkpoint_dir`` after its last complete epoch; the other
            arguments and the data must be the same. Starts one if there is none, returns the
            trained model if it has ended.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`. ``gradient_clip_val`` is 100 by default. A line
            says soon after it has begun if training takes more than ten minutes. Lines of
            lightning are shown with ``scvi.settings.verbosity = logging.DEBUG``.

        Raises
        ------
        ValueError
            If an argument is unusable, or ``checkpoint_dir`` holds another run or one that is not
            to be resumed; nothing has been trained then.
        TypeError
            If an argument is unknown.
        FloatingPointError
            If a loss term or a weight stops being finite. It is named, and the model is that of the
            last complete epoch.
        KeyboardInterrupt
            If training is interrupted; the model is that of the last complete epoch.
        """
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        fit = self._settled(self._training_indices(), **settings)
        run = self._training_run(checkpoint_dir, resume, settings)
        self._fit(fit, run)

    def _settled(
        self,
        indices: np.ndarray,
        *,
        max_epochs: int | None,
        stages: Sequence[tuple[float, int]] | None,
        lr: float,
        weight_decay: float,
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
        datamodule: LightningDataModule | None,
        trainer_kwargs: dict,
    ) -> Fit:
        """The arguments of ``train``, checked, for the rows ``indices``."""
        check_names(trainer_kwargs, inspect.signature(self.train).parameters)
        check_training(
            max_epochs=max_epochs, stages=stages, lr=lr, batch_size=batch_size, data_on=data_on
        )
        if batch_size < 2:
            raise ValueError("batch_size=1: batch norm needs at least two cells in a minibatch.")
        check_device(accelerator, devices)
        if stages is not None:
            stages = [(float(stage_lr), int(n_epochs)) for stage_lr, n_epochs in stages]
            max_epochs = sum(n_epochs for _, n_epochs in stages)
        if datamodule is not None:
            splitting = {
                "train_size": train_size,
                "validation_size": validation_size,
                "datasplitter_kwargs": datasplitter_kwargs,
            }
            check_datamodule(datamodule, max_epochs, splitting)
        split = self._split(
            indices,
            train_size,
            validation_size,
            shuffle_set_split,
            datasplitter_kwargs,
            validated=early_stopping and datamodule is None,
        )
        plan = plan_settings(
            self.module, plan_kwargs, stages=stages, lr=lr, weight_decay=weight_decay
        )
        watched = plan.get("lr_scheduler_metric", "elbo_validation")
        trainer = trainer_settings(
            trainer_kwargs,
            early_stopping=early_stopping,
            monitor=self._stopped_by,
            watched_by_plan=watched if plan.get("reduce_lr_on_plateau") else None,
            n_validation=None if datamodule is not None else len(split.validation),
        )
        trainer.setdefault("gradient_clip_val", 100.0)
        return Fit(
            max_epochs=int(max_epochs or _default_epochs(len(indices))),
            split=split,
            minibatches={"batch_size": int(batch_size), "data_on": data_on},
            plan=plan,
            trainer=trainer | {"accelerator": accelerator, "devices": devices},
            datamodule=datamodule,
        )

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        """Train one part; the rows it was trained on, which a resumed run remembers."""
        data = fit.datamodule
        if data is None:
            data = MinibatchModule(self.adata_manager, fit.split, **fit.minibatches)
        self._set_typical_row(fit.split.train)
        plan = StagedTrainingPlan(self.module, **fit.plan)
        callbacks = [*(fit.trainer.get("callbacks") or ()), LongTraining(fit.part, _SHORTER)]
        self._run(
            plan,
            data,
            part=fit.part,
            max_epochs=fit.max_epochs,
            checkpoints=run and run.phase(fit.part),
            **fit.trainer | {"callbacks": callbacks},
        )
        sunk = self.module.likelihood.floored_share() if fit.part == "training" else 0.0
        if sunk:
            warnings.warn(
                f"The decoder's scale has sunk to its floor for {sunk:.0%} of the genes: they are "
                "constant or copied through, and latents may mean little. Drop constant genes or "
                "choose likelihood='gaussian'.",
                UserWarning,
                stacklevel=3,
            )
        return fit.split if fit.datamodule is not None else data.split

    def _set_typical_row(self, indices: np.ndarray) -> None:
        """Most frequent categories, mean numbers and library sizes of the training cells."""
        module = self.module
        manager = self.adata_manager
        parts = [np.zeros(module.n_condition_columns)]
        if module.n_cats_per_cov:
            codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.CAT_COVS_KEY))[indices]
            for i, n in enumerate(module.n_cats_per_cov):
                parts.append(np.eye(n)[np.bincount(codes[:, i]).argmax()])
        if REGISTRY_KEYS.CONT_COVS_KEY in manager.data_registry:
            values = np.asarray(manager.get_from_registry(REGISTRY_KEYS.CONT_COVS_KEY))
            parts.append(values[indices].mean(axis=0))
        batch_codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        batch = int(np.bincount(batch_codes[indices]).argmax())
        if module.n_batch > 1:
            parts.append(np.eye(module.n_batch)[batch])
        if module.likelihood.is_count:
            totals = library = row_sums(manager.get_from_registry(REGISTRY_KEYS.X_KEY))
            if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry:
                library = np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY))
            library = library.ravel()[indices]
            module.meet_libraries(library, totals[indices], batch_codes[indices])
        module.typical_batch.fill_(batch)
        module.typical_covariates.copy_(torch.as_tensor(np.concatenate(parts)))


def _default_epochs(n_obs: int) -> int:
    """scvi-tools' rule: 400 epochs, fewer beyond 20,000 cells, so that the steps stay alike."""
    return max(1, min(400, round(400 * 20_000 / n_obs)))
