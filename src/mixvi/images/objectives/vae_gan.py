"""VAE-GAN (Larsen et al. 2016; Astorga 2021, table 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core import checks
from mixvi.core.mixture import reparameterise, standard_gaussian_kl_per_dim
from mixvi.images.adversarial import ADVERSARIAL, critic_loss, generator_loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objective import Loss, Objective, Step


@dataclass(frozen=True, kw_only=True)
class VAEGAN(Objective):
    """A VAE whose reconstruction error is in the critic's features, and whose images look real.

    The critic sees images of codes and of draws of the prior.

    Attributes
    ----------
    adversarial
        ``"hinge"`` or ``"vanilla"``.
    gamma
        Weight of the reconstruction in the generator's loss.
    d_steps
        Critic steps, each on a minibatch of its own, for one of encoder and generator.
    """

    name = "vae_gan"

    adversarial: str = "hinge"
    gamma: float = 1.0
    d_steps: int = 1

    def __post_init__(self):
        super().__post_init__()
        checks.check_choice("adversarial", self.adversarial, ADVERSARIAL)

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_x."""
        return {"image_critic": backbone.image_critic()}

    def steps(self) -> tuple[Step, ...]:
        """Critic, encoder, generator."""
        return (
            Step("critic", ("image_critic",), self.critic),
            Step("encoder", ("encoder",), self.encoder, every=self.d_steps),
            Step("generator", ("generator",), self.generator, every=self.d_steps),
        )

    def critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What D_x minimises."""
        with torch.no_grad():
            fakes = self._both_kinds(nets, x)[1]
        real, fake = nets.image_critic(x), nets.image_critic(fakes)
        loss = critic_loss(real, fake, self.adversarial)
        return loss, {"critic_real": real.mean(), "critic_fake": fake.mean()}

    def encoder(self, nets: ImageModule, x: Tensor) -> Loss:
        """KL in closed form and the error in the critic's features."""
        mu, log_var = nets.encode(x)
        x_hat = nets.decode(reparameterise(mu, log_var))
        kl = standard_gaussian_kl_per_dim(mu, log_var).sum(-1).mean()
        error = self._feature_error(nets, x, x_hat)
        return kl + error, {"kl": kl, "feature_error": error}

    def generator(self, nets: ImageModule, x: Tensor) -> Loss:
        """The error in the critic's features, and what makes both kinds of images look real."""
        x_hat, fakes = self._both_kinds(nets, x)
        adversarial = generator_loss(nets.image_critic(fakes), self.adversarial)
        error = self._feature_error(nets, x, x_hat)
        return self.gamma * error + adversarial, {"adversarial": adversarial}

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """D_x(x)."""
        return nets.image_critic(x)

    @staticmethod
    def _both_kinds(nets: ImageModule, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and these with images of the prior below them."""
        z = reparameterise(*nets.encode(x))
        images = nets.decode(torch.cat([z, nets.draw_prior(len(x))]))
        return images[: len(x)], images

    @staticmethod
    def _feature_error(nets: ImageModule, x: Tensor, x_hat: Tensor) -> Tensor:
        features = nets.image_critic.features
        return 0.5 * (features(x) - features(x_hat)).square().sum(1).mean()
