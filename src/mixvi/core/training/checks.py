"""What ``train`` is given, checked and settled before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from scvi.model._utils import parse_device_args
from scvi.module.base import BaseModuleClass
from scvi.train import SaveCheckpoint, Trainer

from mixvi.core import arguments
from mixvi.core.arguments import shown
from mixvi.core.data.loading import DATA_ON
from mixvi.core.training.callbacks import EarlyStopping, for_our_files
from mixvi.core.training.plan import StagedTrainingPlan

_STOPPING = {
    "early_stopping_monitor": None,
    "early_stopping_min_delta": 0.0,
    "early_stopping_patience": 45,
    "early_stopping_warmup_epochs": 0,
    "early_stopping_mode": "min",
}
_KL_OPTIONS = ("n_epochs_kl_warmup", "n_steps_kl_warmup", "max_kl_weight", "min_kl_weight")
# train sets these itself
_NO_PLAN_OPTIONS = ("module", "stages", "loss_kwargs")


def check_training(
    *,
    max_epochs: int | None,
    stages: Sequence[tuple[float, int]] | None,
    lr: float,
    batch_size: int,
    data_on: str,
) -> None:
    """Raise ValueError for numbers that cannot train any rows."""
    if stages is not None:
        arguments.check_stages(stages)
        if max_epochs is not None:
            raise ValueError("Pass max_epochs or stages, not both: stages name their epochs.")
    elif max_epochs is not None:
        arguments.check_positive("max_epochs", max_epochs)
    arguments.check_positive("lr", lr, integer=False)
    arguments.check_choice("data_on", data_on, DATA_ON)
    arguments.check_positive("batch_size", batch_size)


def check_shares(train_size: float, validation_size: float | None) -> None:
    """Raise ValueError for shares of the cells that are none."""
    shares = {"train_size": train_size, "validation_size": validation_size or 0.0}
    for name, share in shares.items():
        if not isinstance(share, Real) or not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} must be a share between 0 and 1, but is {shown(share)}.")
    if sum(shares.values()) > 1.0 + 1e-9:
        raise ValueError(
            f"validation_size={shown(validation_size)} and train_size={shown(train_size)} exceed "
            "1 together."
        )


def check_datamodule(
    datamodule: object, max_epochs: int | None, splitting: Mapping[str, Any]
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
    for name, value in splitting.items():
        if value is not None:
            raise ValueError(
                f"{name} splits the AnnData, but minibatches come from the datamodule. Split there."
            )


def check_names(given: Iterable[str], own: Iterable[str]) -> None:
    """Raise TypeError for an argument that neither ``train`` nor the trainer has."""
    trainer = {*_parameters(Trainer), *_parameters(pl.Trainer), "ckpt_path"}
    for name in given:
        if name not in trainer:
            known = [*own, *sorted(trainer)]
            raise TypeError(
                f"train has no argument {name!r}. {arguments.near_matches(name, known)}"
            )


def check_device(accelerator: Any, devices: Any) -> None:
    """Raise ValueError for an accelerator that this machine has not."""
    try:
        parse_device_args(accelerator, devices, return_device="torch")
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise ValueError(
            f"accelerator={accelerator!r} with devices={devices!r} cannot be had here: "
            f"{str(error).splitlines()[0]} Pass accelerator='auto' for what there is."
        ) from None


def check_one_device(devices: int | list[int] | str) -> None:
    """Raise ValueError if more than one device is asked for by number or by name."""
    n_devices = len(devices) if isinstance(devices, list | tuple) else devices
    if n_devices not in (1, "1", -1, "-1", "auto"):
        raise ValueError(
            f"devices={devices!r}, but models that train by steps do so on one device. Pass "
            "devices=1, or a list with the number of one."
        )


def plan_settings(
    module: BaseModuleClass,
    plan_kwargs: Mapping[str, Any] | None,
    *,
    stages: Sequence[tuple[float, int]] | None,
    lr: float,
    weight_decay: float,
) -> dict[str, Any]:
    """Arguments of :class:`StagedTrainingPlan`: those of ``train``, and ``plan_kwargs`` over them.

    Raises
    ------
    ValueError
        If an option is unknown, without effect, or given in two places.
    """
    options = dict(plan_kwargs or {})
    defaults = inspect.signature(StagedTrainingPlan).parameters
    known = [name for name in defaults if name not in _NO_PLAN_OPTIONS]
    arguments.check_options("plan_kwargs", options, known, "the training plan")
    own = {"lr": lr, "weight_decay": weight_decay}
    for name, value in own.items():
        if name in options and value != defaults[name].default and value != options[name]:
            raise ValueError(
                f"{name}={shown(value)}, but plan_kwargs has {name}={shown(options[name])}. Pass "
                "one of them."
            )
    if stages is not None and "lr" in options:
        raise ValueError("stages name their learning rates: leave lr out of plan_kwargs.")
    settings = own | options | {"stages": stages}
    arguments.check_positive("lr", settings["lr"], integer=False)
    if not settings["weight_decay"] >= 0:
        raise ValueError(
            f"weight_decay must not be negative, but is {shown(settings['weight_decay'])}."
        )
    if settings["weight_decay"] and getattr(module, "is_frozen", False):
        raise ValueError(
            "weight_decay shrinks the weights of a frozen reference, too. Leave it out, or load "
            "the query by load_query_data(..., freeze=False)."
        )
    optimizers = ("Adam", "AdamW", "Custom")
    arguments.check_choice("optimizer", settings.get("optimizer", "Adam"), optimizers)
    _check_kl_weights(module, options)
    return settings


def _check_kl_weights(module: BaseModuleClass, options: Mapping[str, Any]) -> None:
    given = [name for name in _KL_OPTIONS if options.get(name) is not None]
    if not given:
        return
    if "kl_weight" not in inspect.signature(module.loss).parameters:
        raise ValueError(
            f"plan_kwargs: {given[0]} weighs the KL terms of the loss, but this model has none. "
            "Leave it out."
        )
    warmups = [name for name in _KL_OPTIONS[:2] if options.get(name) is not None]
    for name in warmups:
        arguments.check_positive(f"plan_kwargs: {name}", options[name])
    if len(warmups) == 2:
        raise ValueError(
            "plan_kwargs: n_epochs_kl_warmup and n_steps_kl_warmup are one warm-up in two units. "
            "Pass one of them."
        )
    if "min_kl_weight" in options and not warmups:
        raise ValueError(
            "plan_kwargs: min_kl_weight is where a warm-up begins. Pass n_epochs_kl_warmup or "
            "n_steps_kl_warmup, too, or max_kl_weight for a weight that stays."
        )
    low, high = options.get("min_kl_weight", 0.0), options.get("max_kl_weight", 1.0)
    if not 0.0 <= low <= high:
        raise ValueError(
            f"plan_kwargs: min_kl_weight={shown(low)} must lie between 0 and "
            f"max_kl_weight={shown(high)}."
        )


def trainer_settings(
    trainer_kwargs: Mapping[str, Any],
    *,
    early_stopping: bool,
    monitor: str,
    watched_by_plan: str | None = None,
    n_validation: int | None,
) -> dict[str, Any]:
    """Arguments of :class:`scvi.train.Trainer`, with callbacks of one's own list.

    Parameters
    ----------
    trainer_kwargs
        What ``train`` was given for the trainer.
    early_stopping
        Whether to stop early.
    monitor
        The record that says when, unless ``early_stopping_monitor`` names another.
    watched_by_plan
        A record that the plan reads.
    n_validation
        Number of validation rows; ``None`` if unknown.

    Raises
    ------
    ValueError
        If something would have no effect, or watches validation rows that are not there.
    """
    settings = dict(trainer_kwargs)
    callbacks = settings.get("callbacks") or []
    callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    stopping = {name: settings.pop(name) for name in _STOPPING if name in settings}
    if stopping and not early_stopping:
        raise ValueError(f"{next(iter(stopping))} has no effect without early_stopping=True.")
    watched = [(type(c).__name__, getattr(c, "monitor", None)) for c in callbacks]
    watched.append(("reduce_lr_on_plateau", watched_by_plan))
    if early_stopping:
        callbacks.append(_early_stopping(stopping, monitor))
        watched.append(("early_stopping", callbacks[-1].monitor))
    monitor = settings.pop("checkpointing_monitor", "validation_loss")
    if settings.get("enable_checkpointing") and not _has(callbacks, SaveCheckpoint):
        callbacks.append(SaveCheckpoint(monitor=monitor))
        watched.append(("enable_checkpointing", monitor))
    for name, record in watched:
        if n_validation == 0 and "validation" in (record or ""):
            raise ValueError(
                f"{name} watches {record!r}, but no rows are left to validate on. Pass "
                "train_size=0.9, or another share below 1."
            )
    return settings | {"callbacks": [for_our_files(callback) for callback in callbacks]}


def _early_stopping(options: Mapping[str, Any], monitor: str) -> EarlyStopping:
    settings = _STOPPING | {"early_stopping_monitor": monitor} | dict(options)
    return EarlyStopping(**{k.removeprefix("early_stopping_"): v for k, v in settings.items()})


def _has(callbacks: Iterable[pl.Callback], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _parameters(cls: type) -> list[str]:
    names = inspect.signature(cls.__init__).parameters
    return [name for name in names if name not in ("self", "kwargs")]
