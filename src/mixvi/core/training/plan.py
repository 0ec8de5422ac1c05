"""The training plan: staged learning rates, epoch records, and the guard against lost runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.train import TrainingPlan
from torch import Tensor

from mixvi.core.data.resident import SPARSE_KEY

ADVICE = (
    "Lower the learning rate (lr or stages), clip gradients harder (gradient_clip_val) or check "
    "the scale of the data"
)


class StagedTrainingPlan(TrainingPlan):
    """scvi-tools' plan with staged learning rates and records once an epoch.

    Records are of the terms as they are, whatever weight the KL terms have in the loss.

    Parameters
    ----------
    module
        The module to train.
    stages
        List of (learning rate, epochs). The optimizer starts anew at every stage, moments reset, as
        in Kolb 2022, section 9. ``None``: ``lr`` throughout.
    lr, weight_decay, eps
        The optimizer's settings. ``eps`` is torch's default, not scvi-tools' 0.01.
    optimizer, optimizer_creator, fused_optimizer
        ``"Adam"``, ``"AdamW"``, or ``"Custom"`` with a function of the parameters; see
        :class:`scvi.train.TrainingPlan`.
    n_epochs_kl_warmup, n_steps_kl_warmup
        Epochs, or minibatches, over which the weight of the KL terms rises from ``min_kl_weight``
        to ``max_kl_weight``; ``None``, other than in scvi-tools: it is ``max_kl_weight`` from the
        first.
    max_kl_weight, min_kl_weight
        See above. What labels cost is not a KL term.
    reduce_lr_on_plateau, lr_factor, lr_patience, lr_threshold, lr_scheduler_metric, lr_min
        Lower the learning rate where a record stops falling; see :class:`scvi.train.TrainingPlan`.
    compile, compile_kwargs
        Whether :func:`torch.compile` is used, and what it is given.
    loss_kwargs
        Passed to the module's ``loss``.
    """

    def __init__(
        self,
        module: BaseModuleClass,
        *,
        stages: Sequence[tuple[float, int]] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        optimizer: str = "Adam",
        optimizer_creator: Callable | None = None,
        fused_optimizer: bool = True,
        n_epochs_kl_warmup: int | None = None,
        n_steps_kl_warmup: int | None = None,
        max_kl_weight: float = 1.0,
        min_kl_weight: float = 0.0,
        reduce_lr_on_plateau: bool = False,
        lr_factor: float = 0.6,
        lr_patience: int = 30,
        lr_threshold: float = 0.0,
        lr_scheduler_metric: str = "elbo_validation",
        lr_min: float = 0.0,
        compile: bool = False,
        compile_kwargs: dict | None = None,
        loss_kwargs: dict | None = None,
    ):
        super().__init__(
            module,
            lr=stages[0][0] if stages else lr,
            weight_decay=weight_decay,
            eps=eps,
            optimizer=optimizer,
            optimizer_creator=optimizer_creator,
            fused_optimizer=fused_optimizer,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            n_steps_kl_warmup=n_steps_kl_warmup,
            max_kl_weight=max_kl_weight,
            min_kl_weight=min_kl_weight,
            reduce_lr_on_plateau=reduce_lr_on_plateau,
            lr_factor=lr_factor,
            lr_patience=lr_patience,
            lr_threshold=lr_threshold,
            lr_scheduler_metric=lr_scheduler_metric,
            lr_min=lr_min,
            compile=compile,
            compile_kwargs=compile_kwargs,
        )
        self.loss_kwargs.update(loss_kwargs or {})
        self._is_compiled = compile
        self._stage_starts = {}
        epoch = 0
        for stage_lr, n_epochs in stages or ():
            self._stage_starts[epoch] = stage_lr
            epoch += n_epochs
        self._sums = {"train": _EpochSums(), "validation": _EpochSums()}

    def get_optimizer_creator(self) -> Callable:
        """scvi-tools' way to the optimizer, which updates all weights in one call if it can."""
        if self.trainer.precision_plugin.precision.endswith("-mixed"):
            # lightning does not clip gradients that an optimizer might unscale itself
            self.fused_optimizer = False
        return super().get_optimizer_creator()

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
        if self._is_compiled and SPARSE_KEY in batch:
            # for each number of entries it would be compiled anew
            batch = {REGISTRY_KEYS.X_KEY: batch.pop(SPARSE_KEY).dense()} | batch
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
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
        if stage == "train" and (self.n_epochs_kl_warmup or self.n_steps_kl_warmup):
            self.log("kl_weight", self.kl_weight)

    def _over_processes(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def on_train_end(self) -> None:
        """Give every process the same batch norm."""
        super().on_train_end()
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


def check_finite(means: dict[str, float], epoch: int, advice: str = ADVICE) -> None:
    """Raise FloatingPointError that names the terms which are no longer numbers."""
    lost = [name for name, value in means.items() if not abs(value) < float("inf")]
    if lost:
        kept = f"after epoch {epoch}" if epoch > 0 else "before this call of train"
        raise FloatingPointError(
            f"Training stopped in epoch {epoch + 1}, where {', '.join(lost)} became NaN or "
            f"infinite. The model is as it was {kept}. {advice}."
        )
