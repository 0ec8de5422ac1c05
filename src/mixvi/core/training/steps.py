"""Modules that are trained by steps: which networks an update moves, on which loss, how often."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scvi.module.base import BaseModuleClass
from torch import Tensor, nn

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
        Gives the loss and its terms from the module and what its ``training_rows`` has.
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


class StepwiseModule(BaseModuleClass):
    """Networks by name, and steps that train them.

    Parameters
    ----------
    networks
        Name to network; each is an attribute of the module and has an optimiser of its own.
    """

    def __init__(self, networks: dict[str, nn.Module]):
        super().__init__()
        self.network_names = tuple(networks)
        for name, network in networks.items():
            self.add_module(name, network)

    # the part of training whose steps are taken
    _part = "training"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Steps are those of a part of training such as ``"pretraining"`` meanwhile."""
        self._part = name
        try:
            yield
        finally:
            self._part = "training"

    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """Updates in the order in which they are taken."""

    @abstractmethod
    def training_rows(self, tensors: dict[str, Tensor]) -> tuple:
        """What losses take of one minibatch (registry key to tensor); the first has a length."""

    def before_epoch(self) -> None:
        """What precedes the minibatches of an epoch."""

    def after_step(self, step: Step) -> None:
        """What follows an update, such as a moving average."""

    def loss(self, step: Step, *rows) -> Loss:
        """Loss and terms of one step on what :meth:`training_rows` gives."""
        if not isinstance(step, Step):
            raise TypeError(
                "The module has no single loss, but one of each of its steps(). Pass "
                "compute_loss=False, or call loss(step, *training_rows(tensors))."
            )
        result = step.loss(self, *rows)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise ValueError(
                f"The loss of the step {step.name!r} must return the loss and its terms by name, "
                f"such as (loss, {{'error': error}}), but returned a {type(result).__name__}."
            )
        return result
