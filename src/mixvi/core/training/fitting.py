"""``train``: settings checked, minibatches made, scvi-tools' runner started."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from mixvi.core import arguments
from mixvi.core.data.backed import row_sums
from mixvi.core.data.loading import DATA_ON, MinibatchModule
from mixvi.core.training.plan import StagedTrainingPlan, take_early_stopping
from mixvi.core.training.resuming import Checkpoints
from mixvi.core.training.running import NO_SETTINGS, RunnerMixin


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
            Whether cells are shuffled before the split.
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
            Passed to :class:`mixvi.core.training.StagedTrainingPlan`.
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
            Passed to :class:`scvi.train.Trainer`. ``gradient_clip_val`` is 100 by default.

        Raises
        ------
        ValueError
            If an argument is unusable, or ``checkpoint_dir`` holds another run or one that is not
            to be resumed; nothing has been trained then.
        FloatingPointError
            If a loss term stops being finite; the term is named.
        """
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        indices = self._training_indices()
        check_training(
            len(indices),
            max_epochs=max_epochs,
            stages=stages,
            lr=lr,
            batch_size=batch_size,
            early_stopping=early_stopping,
            train_size=train_size,
            validation_size=validation_size,
            data_on=data_on,
        )
        run = self._training_run(checkpoint_dir, resume, settings)
        self._fit(
            indices,
            max_epochs=max_epochs,
            stages=stages,
            lr=lr,
            weight_decay=weight_decay,
            batch_size=batch_size,
            early_stopping=early_stopping,
            train_size=train_size,
            validation_size=validation_size,
            shuffle_set_split=shuffle_set_split,
            accelerator=accelerator,
            devices=devices,
            data_on=data_on,
            plan_kwargs=plan_kwargs,
            datamodule=datamodule,
            checkpoints=run and run.phase("training"),
            **trainer_kwargs,
        )

    def _fit(
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
        accelerator: str,
        devices: int | list[int] | str,
        data_on: str,
        plan_kwargs: dict | None,
        loss_kwargs: dict | None = None,
        labelled: np.ndarray | None = None,
        labelled_fraction: float | None = None,
        extra: dict[str, np.ndarray] | None = None,
        checkpoints: Checkpoints | None = None,
        datamodule: LightningDataModule | None = None,
        **trainer_kwargs,
    ) -> None:
        """Run scvi-tools' runner with mixvi's plan and minibatches; settings are checked."""
        if stages is not None:
            max_epochs = sum(epochs for _, epochs in stages)
        if datamodule is not None:
            _check_datamodule(datamodule, max_epochs, train_size, validation_size)
        train_size = split_size(train_size, early_stopping)
        data = datamodule or MinibatchModule(
            self.adata_manager,
            indices,
            batch_size,
            train_size,
            validation_size,
            shuffle_set_split,
            labelled=labelled,
            labelled_fraction=labelled_fraction,
            extra=extra,
            data_on=data_on,
        )
        trainer_kwargs.setdefault("gradient_clip_val", 100.0)
        if early_stopping:
            stopping = take_early_stopping(trainer_kwargs)
            trainer_kwargs["callbacks"] = [*(trainer_kwargs.get("callbacks") or []), stopping]
        self._set_typical_row(indices)
        plan = StagedTrainingPlan(
            self.module,
            stages=stages,
            lr=lr,
            weight_decay=weight_decay,
            loss_kwargs=loss_kwargs,
            **(plan_kwargs or {}),
        )
        self._run(
            plan,
            data,
            max_epochs=max_epochs or _default_epochs(len(indices)),
            accelerator=accelerator,
            devices=devices,
            checkpoints=checkpoints,
            **trainer_kwargs,
        )
        if datamodule is not None:
            # numbers of rows elsewhere
            self.train_indices = self.validation_indices = self.test_indices = None
        sunk = self.module.likelihood.floored_share()
        if sunk:
            warnings.warn(
                f"The decoder's scale has sunk to its floor for {sunk:.0%} of the genes: they are "
                "constant or copied through, and latents may mean little. Drop constant genes or "
                "choose likelihood='gaussian'.",
                UserWarning,
                stacklevel=3,
            )

    def _set_typical_row(self, indices: np.ndarray) -> None:
        """Most frequent categories, mean numbers and median library size of the training cells."""
        module = self.module
        manager = self.adata_manager
        parts = [np.zeros(module.n_conditions)]
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
            if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry:
                library = np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY))
            else:
                x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
                library = row_sums(x)
            library = np.asarray(library).ravel()[indices]
            module.typical_library.fill_(float(np.median(library)))
        module.typical_batch.fill_(batch)
        module.typical_covariates.copy_(torch.as_tensor(np.concatenate(parts)))


def _check_datamodule(
    datamodule: object,
    max_epochs: int | None,
    train_size: float | None,
    validation_size: float | None,
) -> None:
    """Raise for what a data module makes impossible."""
    if not isinstance(datamodule, LightningDataModule):
        raise TypeError(
            f"datamodule must be a LightningDataModule, but is a {type(datamodule).__name__}."
        )
    if max_epochs is None:
        raise ValueError(
            "datamodule does not say how many cells there are: pass max_epochs or stages."
        )
    if train_size is not None or validation_size is not None:
        raise ValueError(
            "train_size and validation_size split the AnnData, but minibatches come from the "
            "datamodule. Split there."
        )


def _default_epochs(n_obs: int) -> int:
    """scvi-tools' rule: 400 epochs, fewer beyond 20,000 cells, so that the steps stay alike."""
    return max(1, min(400, round(400 * 20_000 / n_obs)))


def check_training(
    n_cells: int,
    *,
    max_epochs: int | None,
    stages: Sequence[tuple[float, int]] | None,
    lr: float,
    batch_size: int,
    early_stopping: bool,
    train_size: float | None,
    validation_size: float | None,
    data_on: str,
) -> None:
    """Raise ValueError for settings that cannot train ``n_cells`` cells."""
    if stages is not None:
        arguments.check_stages(stages)
        if max_epochs is not None:
            raise ValueError("Pass max_epochs or stages, not both: stages name their epochs.")
    elif max_epochs is not None:
        arguments.check_positive("max_epochs", max_epochs)
    arguments.check_positive("lr", lr, integer=False)
    arguments.check_choice("data_on", data_on, DATA_ON)
    arguments.check_positive("batch_size", batch_size)
    if batch_size < 2:
        raise ValueError("batch_size=1: batch norm needs at least two cells in a minibatch.")
    train_size = split_size(train_size, early_stopping)
    if not 0.0 < train_size <= 1.0:
        raise ValueError(f"train_size must lie in (0, 1], but is {train_size!r}.")
    rest = 1.0 - train_size
    if validation_size is not None and not 0.0 <= validation_size <= rest + 1e-9:
        raise ValueError(
            f"validation_size={validation_size!r} and train_size={train_size!r} exceed 1 together."
        )
    if train_size * n_cells < 2:
        raise ValueError(f"Of {n_cells} cells fewer than two are left to train on.")
    if early_stopping and int(n_cells * (rest if validation_size is None else validation_size)) < 1:
        raise ValueError(
            "early_stopping needs validation cells, but train_size and validation_size leave "
            "none. Lower train_size."
        )


def split_size(train_size: float | None, early_stopping: bool) -> float:
    """Share of the rows that train: all, unless some have to say when to stop."""
    return (0.9 if early_stopping else 1.0) if train_size is None else train_size
