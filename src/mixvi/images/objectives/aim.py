"""AIM, the forward direction with a critic of images (Astorga 2021, eq. 4.9 without I_p)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import generator_loss
from mixvi.images.likelihoods import encoder_loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.gan import GAN


@dataclass(frozen=True, kw_only=True)
class AIM(GAN):
    """A GAN of images, and an encoder that learns the codes of generated images.

    The encoder sees no data while it is trained, and the generator no gradient of L_q.

    Attributes
    ----------
    e_steps
        Encoder steps for one of the generator.
    """

    name = "aim"

    e_steps: int = 1

    def steps(self) -> tuple[Step, ...]:
        """Critic, generator, encoder."""
        return (
            Step("critic", ("image_critic",), self.critic),
            Step("generator", ("generator",), self.generator, every=self.d_steps),
            Step("encoder", ("encoder",), self.encoder, self.e_steps, every=self.d_steps),
        )

    def generator(self, nets: ImageModule, x: Tensor) -> Loss:
        """What makes generated images look real to D_x."""
        loss = generator_loss(nets.image_critic(self.fakes(nets, x)), self.adversarial)
        return loss, {"adversarial": loss}

    def encoder(self, nets: ImageModule, x: Tensor) -> Loss:
        """L_q of the codes of generated images."""
        z = nets.draw_prior(len(x))
        with torch.no_grad():
            generated = nets.decode(z)
        loss = encoder_loss(z, *nets.encode(generated)).mean()
        return loss, {"latent_nll": loss}
