"""The plan of models that train by steps: one optimiser a network, and steps in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.training.plan import check_finite
from mixvi.core.training.steps import StepwiseModule

# minibatches between looks at the sums, which wait for the device
GUARD_EVERY = 100
# Adam's own
BETAS = (0.9, 0.999)
ADVICE = "Lower the learning rate (lr), or the weights and steps of the objective"


class StepwiseTrainingPlan(pl.LightningModule):
    """Takes the module's steps at each minibatch, by manual optimisation.

    Records once an epoch: each step's loss as ``<step>_loss_train``, each term as
    ``<term>_train``, and ``train_loss``, the sum of the steps' losses.

    Parameters
    ----------
    module
        The module to train.
    lr
        Network name to Adam's learning rate, or one for all networks.
    betas, eps, weight_decay
        Adam's further settings; ``betas`` may be a dict that has them for some networks by name.
    decoupled
        Whether weight decay shrinks the weights by ``lr * weight_decay`` beside the gradient
        (AdamW), or is part of the gradient.
    lr_decay, decay_epochs
        Factor of the learning rates each time that so many epochs have passed.
    clip_norm
        Largest norm of the gradient of all networks that a step updates; ``None``: any.
    batch_size
        Rows a minibatch; a shorter one at the end of an epoch is left out of training.
    """

    def __init__(
        self,
        module: StepwiseModule,
        *,
        lr: float | dict[str, float],
        batch_size: int,
        betas: tuple[float, float] | dict[str, tuple[float, float]] = BETAS,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        lr_decay: float = 1.0,
        decay_epochs: int = 10,
        clip_norm: float | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.module = module
        if not isinstance(lr, dict):
            lr = dict.fromkeys(module.network_names, lr)
        self._lr = lr
        of = betas if isinstance(betas, Mapping) else dict.fromkeys(module.network_names, betas)
        self._betas = {name: tuple(of.get(name, BETAS)) for name in module.network_names}
        self._adam = {"eps": eps, "weight_decay": weight_decay}
        self._adam_class = torch.optim.AdamW if decoupled else torch.optim.Adam
        self._decay = (lr_decay, decay_epochs)
        self._clip_norm = clip_norm
        self._batch_size = batch_size
        self._steps = module.steps()
        self._parameters_of = {
            name: list(getattr(module, name).parameters()) for name in module.network_names
        }
        self._n_minibatches = 0
        self._sums = {"train": _Sums(), "validation": _Sums()}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the number of minibatches, on which the turn of steps depends."""
        checkpoint["n_minibatches"] = self._n_minibatches

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take back what :meth:`on_save_checkpoint` kept."""
        self._n_minibatches = checkpoint["n_minibatches"]

    def on_fit_start(self) -> None:
        """Refuse several processes, of which each would train by itself."""
        if self.trainer.world_size > 1:
            raise ValueError(
                "devices: models that train by steps do so on one device. Pass devices=1."
            )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One Adam a network, in the order of the module's names."""
        # one call for all weights, where the device has it
        fused = self.device.type in ("cpu", "cuda")
        return [
            self._adam_class(
                parameters, lr=self._lr[name], betas=self._betas[name], fused=fused, **self._adam
            )
            for name, parameters in self._parameters_of.items()
        ]

    def on_train_epoch_start(self) -> None:
        """Set the learning rates of the epoch, which are the same if a run is resumed in it."""
        self.module.before_epoch()
        factor, n_epochs = self._decay
        weight = factor ** (self.current_epoch // n_epochs)
        for name, optimizer in zip(self.module.network_names, self._optimizers(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = weight * self._lr[name]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take the steps that are due."""
        rows = self.module.training_rows(batch)
        if len(rows[0]) < self._batch_size and batch_idx > 0:
            # moments and critics of few rows would be far from those of the others
            return
        optimizers = dict(zip(self.module.network_names, self._optimizers(), strict=True))
        self._n_minibatches += 1
        for step in self._steps:
            if self._n_minibatches % step.every:
                continue
            inputs = [p for name in step.updates for p in self._parameters_of[name]]
            for _ in range(step.times):
                loss, terms = self.module.loss(step, *rows)
                for name in step.updates:
                    optimizers[name].zero_grad()
                # gradients of these networks alone, however the loss came about
                self.manual_backward(loss, inputs=inputs)
                if self._clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(inputs, self._clip_norm)
                for name in step.updates:
                    optimizers[name].step()
                self.module.after_step(step)
                self._sums["train"].add(step.name, loss, terms)
        if batch_idx == 0 or (batch_idx + 1) % GUARD_EVERY == 0:
            check_finite(self._sums["train"].means(), self.current_epoch, ADVICE)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Record each step's loss on one minibatch of the validation set."""
        rows = self.module.training_rows(batch)
        if len(rows[0]) < self._batch_size and batch_idx > 0:
            return
        for step in self._steps:
            self._sums["validation"].add(step.name, *self.module.loss(step, *rows))

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; stop if a term is no longer a number."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation set's means."""
        self._log_epoch("validation")

    def _log_epoch(self, stage: str) -> None:
        means = self._sums[stage].take()
        if not means:
            return
        check_finite(means, self.current_epoch, ADVICE)
        losses = [
            means[f"{step.name}_loss"] for step in self._steps if f"{step.name}_loss" in means
        ]
        self.log_dict({f"{name}_{stage}": value for name, value in means.items()})
        self.log(f"{stage}_loss", sum(losses), prog_bar=stage == "train")

    def _optimizers(self) -> list:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]


def stepwise_settings(
    names: Sequence[str],
    plan_kwargs: Mapping[str, Any] | None,
    lr: float | dict[str, float],
    default_lr: float | None,
) -> dict[str, Any]:
    """Arguments of :class:`StepwiseTrainingPlan`: rates of the networks, and ``plan_kwargs``.

    Parameters
    ----------
    names
        Of the networks.
    plan_kwargs
        Options; ``lr`` may be among them.
    lr
        Learning rate of ``train``, one for all networks or network name to rate.
    default_lr
        What it is unless told.

    Raises
    ------
    ValueError
        If an option is unknown, unusable or given in two places, or ``lr`` names a network that is
        not there or leaves one out.
    """
    options = dict(plan_kwargs or {})
    known = [
        name
        for name in signature(StepwiseTrainingPlan).parameters
        if name not in ("module", "batch_size")
    ]
    arguments.check_options("plan_kwargs", options, known, "the training plan")
    if "lr" in options:
        if lr not in (default_lr, options["lr"]):
            raise ValueError(
                f"lr={lr!r}, but plan_kwargs has lr={options['lr']!r}. Pass one of them."
            )
        lr = options["lr"]
    rates = dict(lr) if isinstance(lr, Mapping) else dict.fromkeys(names, lr)
    arguments.check_options("lr", rates, names, "the model")
    missing = [name for name in names if name not in rates]
    if missing:
        raise ValueError(
            f"lr has no learning rate for {', '.join(missing)}. Name every network: "
            f"{', '.join(names)}."
        )
    for name, value in rates.items():
        arguments.check_positive(f"lr of {name}", value, integer=False)
    if isinstance(options.get("betas"), Mapping):
        arguments.check_options("betas", options["betas"], names, "the model")
    for name, integer in (("eps", False), ("lr_decay", False), ("decay_epochs", True)):
        if name in options:
            arguments.check_positive(name, options[name], integer=integer)
    if options.get("clip_norm") is not None:
        arguments.check_positive("clip_norm", options["clip_norm"], integer=False)
    return options | {"lr": rates}


class _Sums:
    """Sums of scalars over an epoch, kept on the device so that no step waits for a number."""

    def __init__(self):
        self._sums: dict[str, Tensor | float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, step: str, loss: Tensor, terms: dict[str, Tensor]) -> None:
        for name, value in {f"{step}_loss": loss, **terms}.items():
            self._sums[name] += value.detach()
            self._counts[name] += 1

    def means(self) -> dict[str, float]:
        """Means so far, by name."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def take(self) -> dict[str, float]:
        """Means by name; then start anew."""
        means = self.means()
        self.__init__()
        return means
