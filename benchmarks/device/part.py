"""What a part of the GPU benchmark is given: sizes, a deadline, and where its rows go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part's run.

    Attributes
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    toy
        Whether sizes are small, to try the script.
    deadline
        When the part is to be done, in seconds of ``time.monotonic``, which all processes share.
    send
        Takes each row as soon as it is there.
    """

    device: str
    toy: bool
    deadline: float
    send: Callable[[Row], None]

    def left(self) -> float:
        """Seconds to the deadline."""
        return self.deadline - time.monotonic()


def reset_peak() -> None:
    """Begin anew to measure the GPU's memory."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak() -> dict[str, float]:
    """Peak of the GPU's memory that tensors took, in MB; nothing on a CPU."""
    if not torch.cuda.is_initialized():
        return {}
    return {"peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20}
