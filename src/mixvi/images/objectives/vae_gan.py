"""VAE-GAN (Larsen et al. 2016; Astorga 2021, table 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixvi.core.maths.mixture import reparameterise, standard_gaussian_kl_per_dim
from mixvi.images.adversarial import generator_loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.gan import GAN
from mixvi.images.steps import Loss, Step


@dataclass(frozen=True, kw_only=True)
class VAEGAN(GAN):
    """A VAE whose reconstruction error is in the critic's features, and whose images look real.

    The critic sees images of codes and of draws of the prior.

    Attributes
    ----------
    gamma
        Weight of the reconstruction in the generator's loss.
    """

    name = "vae_gan"

    gamma: float = 1.0
    d_steps: int = 1

    def steps(self) -> tuple[Step, ...]:
        """Critic, encoder, generator."""
        return (
            Step("critic", ("image_critic",), self.critic),
            Step("encoder", ("encoder",), self.encoder, every=self.d_steps),
            Step("generator", ("generator",), self.generator, every=self.d_steps),
        )

    def fakes(self, nets: ImageModule, x: Tensor) -> Tensor:
        """Images of codes and of draws of the prior."""
        return self._both_kinds(nets, x)[1]

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
