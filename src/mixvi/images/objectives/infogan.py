"""InfoGAN (Chen et al. 2016; Astorga 2021, table 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import generator_loss
from mixvi.images.likelihoods import encoder_loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.gan import GAN


@dataclass(frozen=True, kw_only=True)
class InfoGAN(GAN):
    """A GAN of images of which some latents, the code, can be read from the image.

    Unlike AIM's, the likelihood is of the first ``n_code`` latents alone, and its gradient reaches
    the generator. The encoder's other latents mean nothing.

    Attributes
    ----------
    n_code
        Latents of the code; the rest are noise. ``None``: all.
    lambda_z
        Weight of the code's likelihood.
    per_value
        Whether the likelihood is divided by the number of values of an image.
    """

    name = "infogan"

    n_code: int | None = None
    lambda_z: float = 1.0
    per_value: bool = True

    def steps(self) -> tuple[Step, ...]:
        """Critic, then generator and encoder together."""
        critic = Step("critic", ("image_critic",), self.critic)
        joint = Step("joint", ("generator", "encoder"), self.joint, every=self.d_steps)
        return critic, joint

    def joint(self, nets: ImageModule, x: Tensor) -> Loss:
        """What generator and encoder minimise."""
        z = nets.draw_prior(len(x))
        generated = nets.decode(z)
        adversarial = generator_loss(nets.image_critic(generated), self.adversarial)
        mu, log_var = nets.encode(generated)
        code = slice(self.n_code)
        latent = encoder_loss(z[:, code], mu[:, code], log_var[:, code]).mean()
        weight = self.lambda_z / (nets.n_values if self.per_value else 1)
        return adversarial + weight * latent, {"adversarial": adversarial, "latent_nll": latent}
