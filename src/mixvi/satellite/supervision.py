"""Learning from labelled pixels alone: targets, their loss, weights of classes, a watch."""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from mixvi.satellite.series import masked_mean

CLASS_WEIGHTS = ("none", "balanced")
# epochs in a row after which a constant map is no accident
_PATIENCE = 3
_FIRST_UPDATES = 500


def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor, class_weights: Tensor) -> Tensor:
    """Mean cross-entropy in nats of the pixels that a mask ``(B, ..., H, W)`` chooses.

    Parameters
    ----------
    logits, targets
        ``(B, ..., L, H, W)``.
    class_weights
        ``(L,)``.
    """
    weighted = class_weights.view(-1, 1, 1) * targets * logits.log_softmax(-3)
    return masked_mean(-weighted.sum(-3), mask)


def balanced_weights(counts: np.ndarray) -> Tensor:
    """Weights ``(L,)`` by which all classes that occur count alike, one on average of pixels.

    Of the number of pixels of each class, soft labels counting by their shares.
    """
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.as_tensor(weights, dtype=torch.float32)


class MajorityWatch(pl.Callback):
    """Warns once if a map is the most frequent class and nothing else, three epochs in a row.

    Many networks begin so: what counts is the end of training, and three epochs after the first 500
    updates. Reads the records ``accuracy_train`` and ``majority_share_train``.
    """

    def __init__(self):
        self._n_constant = 0
        self._seen = -1
        self._has_warned = False

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the epoch before, whose records are there only now."""
        is_late = trainer.global_step >= _FIRST_UPDATES
        self._look(trainer.callback_metrics, trainer.current_epoch, is_late)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the last epoch."""
        self._look(trainer.callback_metrics, trainer.current_epoch, is_late=True)

    def _look(self, metrics: dict[str, Tensor], n_epochs: int, is_late: bool) -> None:
        if "majority_share_train" not in metrics or n_epochs == self._seen:
            return
        self._seen = n_epochs
        accuracy = float(metrics["accuracy_train"])
        is_constant = abs(accuracy - float(metrics["majority_share_train"])) < 1e-6
        self._n_constant = self._n_constant + 1 if is_constant and accuracy < 1 else 0
        if is_late and self._n_constant >= _PATIENCE and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"For {_PATIENCE} epochs the model has given all labelled pixels their most "
                f"frequent class, which is right for {accuracy:.1%} of them: training has "
                "collapsed. Pass norm='batch' or 'group', lower lr, or take "
                "class_weights='balanced'.",
                UserWarning,
                stacklevel=2,
            )
