"""The training plan: staged learning rates, epoch records, and the guard against lost runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.train import LoudEarlyStopping, TrainingPlan
from torch import Tensor

ADVICE = (
    "Lower the learning rate (lr or stages), clip gradients harder (gradient_clip_val) or check "
    "the scale of the data"
)


class StagedTrainingPlan(TrainingPlan):
    """scvi-tools' plan with staged learning rates, constant KL weights and records once an epoch.

    Parameters
    ----------
    module
        The module to train.
    stages
        List of (learning rate, epochs). Adam starts anew at every stage, moments reset, as in the
        thesis (Kolb 2022, section 9; spec 9.1). ``None``: ``lr`` throughout.
    lr, weight_decay, eps
        Adam's settings. ``eps`` is torch's default, not scvi-tools' 0.01.
    loss_kwargs
        Passed to the module's ``loss``.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        stages: Sequence[tuple[float, int]] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        loss_kwargs: dict | None = None,
        **kwargs,
    ):
        super().__init__(
            module,
            lr=stages[0][0] if stages else lr,
            weight_decay=weight_decay,
            eps=eps,
            n_epochs_kl_warmup=None,
            **kwargs,
        )
        self.loss_kwargs.update(loss_kwargs or {})
        self._stage_starts = {}
        epoch = 0
        for stage_lr, n_epochs in stages or ():
            self._stage_starts[epoch] = stage_lr
            epoch += n_epochs
        self._sums = {"train": _EpochSums(), "validation": _EpochSums()}

    def get_optimizer_creator(self):
        """Adam that updates all weights in one call, where device and precision allow it."""
        creator = super().get_optimizer_creator()
        if self.optimizer_name != "Adam" or self.device.type not in ("cpu", "cuda"):
            return creator
        # lightning does not clip gradients that an optimizer might unscale itself
        fused = not self.trainer.precision_plugin.precision.endswith("-mixed")
        return lambda params: torch.optim.Adam(
            params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=fused
        )

    def on_train_epoch_start(self) -> None:
        """Begin the next stage where one is due."""
        if self.current_epoch == 0 or self.current_epoch not in self._stage_starts:
            return
        optimizer = self.optimizers().optimizer
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] = self._stage_starts[self.current_epoch]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One minibatch's loss."""
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Record one minibatch of the validation set."""
        self._step(batch, "validation")

    def _step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        _, _, output = self.module(batch, loss_kwargs=self.loss_kwargs)
        self._sums[stage].add(output)
        return output.loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; stop if a term is no longer a number."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation set's means."""
        self._log_epoch("validation")

    def _log_epoch(self, stage: str) -> None:
        means, collected = self._sums[stage].take(self._over_processes)
        if not means:
            return
        check_finite(means, self.current_epoch)
        means.update(self.module.epoch_summary(collected))
        loss = means.pop("loss")
        self.log_dict(
            {f"{name}_{stage}": value for name, value in means.items()},
            sync_dist=self.use_sync_dist,
        )
        loss_name = "train_loss" if stage == "train" else "validation_loss"
        self.log(loss_name, loss, prog_bar=stage == "train", sync_dist=self.use_sync_dist)

    def _over_processes(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def on_train_end(self) -> None:
        """Give every process the same batch norm."""
        if self.trainer.world_size == 1:
            return
        # each has seen rows of its own since the first process's were last handed round
        for buffer in self.module.buffers():
            buffer.copy_(self.trainer.strategy.broadcast(buffer.cpu()))


class _EpochSums:
    """Sums over an epoch, kept on the device so that no step waits for a number."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        self._n = 0
        self._terms = defaultdict(float)
        self._collected = defaultdict(float)

    def add(self, output: LossOutput) -> None:
        n = output.n_obs_minibatch
        self._n += n
        self._terms["loss"] += output.loss.detach() * n
        terms = {**output.reconstruction_loss, **output.kl_local}
        for name, values in terms.items():
            self._terms[name] += values.detach().sum()
        for name, value in output.extra_metrics.items():
            self._collected[name] += value.detach()

    def take(
        self, over_processes: Callable[[Tensor], Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Means over rows of every term, and of what the module collects; then start anew.

        ``over_processes`` adds up what each process has; all have the same terms.
        """
        if self._n == 0:
            return {}, {}
        n = int(over_processes(torch.tensor(self._n, device=self._terms["loss"].device)))
        means = {name: float(over_processes(total)) / n for name, total in self._terms.items()}
        collected = {name: over_processes(total) / n for name, total in self._collected.items()}
        reconstruction = means.pop("reconstruction_loss")
        local = sum(value for name, value in means.items() if name != "loss")
        means |= {
            "reconstruction_loss": reconstruction,
            "kl_local": local,
            "elbo": reconstruction + local,
        }
        self._start()
        return means, collected


class EarlyStopping(LoudEarlyStopping):
    """scvi-tools' callback, which a checkpoint restores with the epochs it has waited."""

    def state_dict(self) -> dict:
        """State for a checkpoint."""
        return super().state_dict() | {"checks": self._current_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take back what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self._current_step = state_dict["checks"]


def take_early_stopping(trainer_kwargs: dict) -> EarlyStopping:
    """The callback by the ``early_stopping_*`` arguments of scvi-tools' trainer, taken out."""
    defaults = {
        "monitor": "elbo_validation",
        "min_delta": 0.0,
        "patience": 45,
        "warmup_epochs": 0,
        "mode": "min",
    }
    return EarlyStopping(
        **{k: trainer_kwargs.pop(f"early_stopping_{k}", value) for k, value in defaults.items()}
    )


def check_finite(means: dict[str, float], epoch: int, advice: str = ADVICE) -> None:
    """Raise FloatingPointError that names the terms which are no longer numbers."""
    lost = [name for name, value in means.items() if not abs(value) < float("inf")]
    if lost:
        raise FloatingPointError(
            f"Training stopped in epoch {epoch + 1}: {', '.join(lost)} is no longer finite. "
            f"{advice}. The model's weights are not usable: build it anew."
        )
