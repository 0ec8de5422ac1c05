"""Objectives of generative-inference models: which terms, which networks, who is updated when.

An objective is one class in one file: a subclass of :class:`Objective` with a ``name``, found by it
as soon as the class is defined. Files in :mod:`mixvi.images.objectives` are found by being there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.training.steps import Step
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule

OBJECTIVES: dict[str, type[Objective]] = {}


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Base of objectives; settings are dataclass fields.

    Every objective has the networks ``encoder`` and ``generator`` at hand, and what
    :meth:`make_networks` adds. Losses use them by the verbs of
    :class:`mixvi.images.module.ImageModule`: ``encode``, ``decode``, ``draw_prior``, and the added
    networks by their names.
    """

    name: ClassVar[str]
    """What users call it."""
    is_autoencoder: ClassVar[bool] = False
    """Whether it minimises a reconstruction loss and so has ELBO terms."""
    default_epochs: ClassVar[int | None] = None
    """Epochs unless told; ``None``: as many as ``default_iterations`` take."""
    default_iterations: ClassVar[int] = 75_000
    """Updates of the generator unless told (Astorga 2021, section 8.2)."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        arguments.check_new_name("objective", cls, OBJECTIVES)
        OBJECTIVES[cls.name] = cls

    def __post_init__(self):
        arguments.check_settings(self)

    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """Updates, in the order in which they are taken."""

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """Networks beside encoder and generator, by name."""
        return {}

    def buffers(self, n_latent: int) -> dict[str, Tensor]:
        """What is kept with the weights but not learned by gradients, by name."""
        return {}

    def training_rows(self, nets: ImageModule, x: Tensor) -> tuple[Tensor, ...]:
        """What steps are given of a minibatch, images ``(B, C, H, W)`` first."""
        return (x,)

    def after_step(self, nets: ImageModule, step: Step) -> None:  # noqa: B027
        """What follows an update."""

    def smallest_batch(self, n_latent: int) -> int:
        """Fewest images that a minibatch must have."""
        return 2

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """The critic's scores ``(B,)`` of images, with their codes where it sees pairs.

        Raises
        ------
        ValueError
            If the objective has no critic that sees images.
        """
        raise ValueError(
            f"objective={self.name!r} has no critic of images. Those of 'ali', 'alice', 'veegan', "
            "'aim', 'avb' and the like have."
        )

    def options(self) -> dict[str, Any]:
        """Settings by name, for files."""
        return asdict(self)


def make_objective(objective: str | Objective, options: dict | None = None) -> Objective:
    """An objective from its name and settings, or as it is given.

    Raises
    ------
    ValueError
        If there is none of that name, or it has no such setting.
    """
    if isinstance(objective, Objective):
        if options:
            raise ValueError(
                "objective_kwargs are settings of an objective that is named. Pass them to the "
                "objective itself."
            )
        return objective
    return arguments.made("objective", objective, OBJECTIVES, options)
