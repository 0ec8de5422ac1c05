"""AIM, the forward direction with a critic of images (Astorga 2021, eq. 4.9 without I_p)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core import checks
from mixvi.images.adversarial import ADVERSARIAL, critic_loss, generator_loss
from mixvi.images.backbones import Backbone
from mixvi.images.likelihoods import encoder_loss
from mixvi.images.module import ImageModule
from mixvi.images.objective import Loss, Objective, Step


@dataclass(frozen=True, kw_only=True)
class AIM(Objective):
    """A GAN of images, and an encoder that learns the codes of generated images.

    The encoder sees no data while it is trained, and the generator no gradient of L_q.

    Attributes
    ----------
    adversarial
        ``"hinge"`` or ``"vanilla"``.
    d_steps
        Critic steps, each on a minibatch of its own, for one of the generator.
    e_steps
        Encoder steps for one of the generator.
    """

    name = "aim"

    adversarial: str = "hinge"
    d_steps: int = 4
    e_steps: int = 1

    def __post_init__(self):
        super().__post_init__()
        checks.check_choice("adversarial", self.adversarial, ADVERSARIAL)

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_x."""
        return {"image_critic": backbone.image_critic()}

    def steps(self) -> tuple[Step, ...]:
        """Critic, generator, encoder."""
        return (
            Step("critic", ("image_critic",), self.critic),
            Step("generator", ("generator",), self.generator, every=self.d_steps),
            Step("encoder", ("encoder",), self.encoder, self.e_steps, every=self.d_steps),
        )

    def critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What D_x minimises."""
        with torch.no_grad():
            generated = nets.decode(nets.draw_prior(len(x)))
        real, fake = nets.image_critic(x), nets.image_critic(generated)
        loss = critic_loss(real, fake, self.adversarial)
        return loss, {"critic_real": real.mean(), "critic_fake": fake.mean()}

    def generator(self, nets: ImageModule, x: Tensor) -> Loss:
        """What makes generated images look real to D_x."""
        generated = nets.decode(nets.draw_prior(len(x)))
        loss = generator_loss(nets.image_critic(generated), self.adversarial)
        return loss, {"adversarial": loss}

    def encoder(self, nets: ImageModule, x: Tensor) -> Loss:
        """L_q of the codes of generated images."""
        z = nets.draw_prior(len(x))
        with torch.no_grad():
            generated = nets.decode(z)
        loss = encoder_loss(z, *nets.encode(generated)).mean()
        return loss, {"latent_nll": loss}

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """D_x(x)."""
        return nets.image_critic(x)
