"""What objectives share that have a critic of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.training.steps import Loss
from mixvi.images.adversarial import ADVERSARIAL, critic_loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objective import Objective


@dataclass(frozen=True, kw_only=True)
class GAN(Objective):
    """D_x, which tells images of the data from generated ones.

    Attributes
    ----------
    adversarial
        ``"hinge"`` or ``"vanilla"``.
    d_steps
        Critic steps, each on a minibatch of its own, for one of the generator.
    """

    adversarial: str = "hinge"
    d_steps: int = 4

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("adversarial", self.adversarial, ADVERSARIAL)

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_x."""
        return {"image_critic": backbone.image_critic()}

    def critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What D_x minimises."""
        with torch.no_grad():
            generated = self.fakes(nets, x)
        real, fake = nets.image_critic(x), nets.image_critic(generated)
        loss = critic_loss(real, fake, self.adversarial)
        return loss, {"critic_real": real.mean(), "critic_fake": fake.mean()}

    def fakes(self, nets: ImageModule, x: Tensor) -> Tensor:
        """Generated images for the critic: of draws of the prior."""
        return nets.decode(nets.draw_prior(len(x)))

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """D_x(x)."""
        return nets.image_critic(x)
