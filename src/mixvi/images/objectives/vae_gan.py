"""VAE-GAN (Larsen et al. 2016; Astorga 2021, table 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core.maths.mixture import reparameterise, standard_gaussian_kl_per_dim
from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import generator_loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objectives.gan import GAN

# of features, where all images of a minibatch are the same
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True, kw_only=True)
class VAEGAN(GAN):
    """A VAE whose reconstruction error is in the critic's features, and whose images look real.

    The features are those of the middle of D_x, which still have places: later ones say how real an
    image is, but not which image. They are brought to a variance of 1 over the minibatch and its
    features, as batch norm does in the paper's critic; with spectral norm alone they are so small
    that the KL wins and codes stay empty. D_x sees images of codes and of draws of the prior.

    Attributes
    ----------
    recon_scale
        What the sum of squares over features is multiplied by; 0.5 for a Gaussian of unit variance.
    gamma
        Weight of the reconstruction against the adversarial term in the generator's loss.
    """

    name = "vae_gan"

    recon_scale: float = 0.5
    gamma: float = 1.0
    d_steps: int = 1

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_x.

        Raises
        ------
        ValueError
            If the backbone's critic has no middle.
        """
        networks = super().make_networks(backbone)
        if networks["image_critic"].n_middle is None:
            raise ValueError(
                f"objective={self.name!r} reconstructs features of the middle of the image critic, "
                f"but that of backbone={backbone.name!r} says not where it is. Give its Critic "
                "n_middle."
            )
        return networks

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
        error = self.feature_error(nets, x, x_hat)
        return kl + error, {"kl": kl, "feature_error": error}

    def generator(self, nets: ImageModule, x: Tensor) -> Loss:
        """The error in the critic's features, and what makes both kinds of images look real."""
        x_hat, fakes = self._both_kinds(nets, x)
        adversarial = generator_loss(nets.image_critic(fakes), self.adversarial)
        error = self.feature_error(nets, x, x_hat)
        return self.gamma * error + adversarial, {"adversarial": adversarial}

    def feature_error(self, nets: ImageModule, x: Tensor, x_hat: Tensor) -> Tensor:
        """Scaled sum of squares over features of the middle of D_x, mean over images."""
        real, made = (nets.image_critic.middle_features(images) for images in (x, x_hat))
        variance = real.detach().var(0).mean().clamp_min(_LEAST_VARIANCE)
        return self.recon_scale * (real - made).square().sum(1).mean() / variance

    @staticmethod
    def _both_kinds(nets: ImageModule, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and these with images of the prior below them."""
        z = reparameterise(*nets.encode(x))
        images = nets.decode(torch.cat([z, nets.draw_prior(len(x))]))
        return images[: len(x)], images
