"""What an update of a module of images is: which networks step, on which loss, how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mixvi.core import arguments

Loss = tuple[Tensor, dict[str, Tensor]]
"""What a step minimises, and its terms by name before they are weighted; all of them scalars."""


@dataclass(frozen=True)
class Step:
    """One kind of update.

    Attributes
    ----------
    name
        The history has its loss as ``<name>_loss_train``.
    updates
        Networks whose optimisers step; no other receives gradients.
    loss
        Gives the loss and its terms from the networks and images ``(B, C, H, W)`` in [-1, 1] (and
        what else the module's ``training_rows`` has).
    times
        How often in a row, with draws of its own each time.
    every
        Taken at each ``every``-th minibatch; critics that see ``d_steps`` minibatches a generator
        step leave ``every=d_steps`` to the generator.
    """

    name: str
    updates: tuple[str, ...]
    loss: Callable[..., Loss]
    times: int = 1
    every: int = 1

    def __post_init__(self):
        if isinstance(self.updates, str) or not self.updates:
            raise ValueError(
                f"The step {self.name!r} must name the networks it updates as a tuple, such as "
                f"('encoder',), but has {self.updates!r}."
            )
        arguments.check_positive(f"times of the step {self.name!r}", self.times)
        arguments.check_positive(f"every of the step {self.name!r}", self.every)
