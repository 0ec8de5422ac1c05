"""AAE, which is WAE-GAN (Makhzani et al. 2015; Tolstikhin et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import ADVERSARIAL, critic_loss, generator_loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


@dataclass(frozen=True, kw_only=True)
class AAE(Autoencoder):
    """Reconstruction and a critic D_z that takes draws of the prior for real, codes for fake.

    Attributes
    ----------
    beta
        Weight of the adversarial term.
    adversarial
        ``"hinge"`` or ``"vanilla"``.
    d_steps
        Critic steps, each on a minibatch of its own, for one of encoder and generator.
    """

    name = "aae"

    beta: float = 1.0
    adversarial: str = "hinge"
    d_steps: int = 1

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("adversarial", self.adversarial, ADVERSARIAL)

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_z."""
        return {"latent_critic": backbone.latent_critic()}

    def steps(self) -> tuple[Step, ...]:
        """D_z, then encoder and generator."""
        return (
            Step("critic", ("latent_critic",), self.critic),
            Step("autoencoder", ("encoder", "generator"), self.autoencoder, every=self.d_steps),
        )

    def critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What D_z minimises."""
        with torch.no_grad():
            z = reparameterise(*nets.encode(x))
        real = nets.latent_critic(nets.draw_prior(len(x)))
        fake = nets.latent_critic(z)
        loss = critic_loss(real, fake, self.adversarial)
        return loss, {"critic_real": real.mean(), "critic_fake": fake.mean()}

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """What makes codes look like draws of the prior to D_z."""
        return "adversarial", generator_loss(nets.latent_critic(codes.z), self.adversarial)
