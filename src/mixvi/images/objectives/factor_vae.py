"""FactorVAE (Kim & Mnih 2018; Mushom 2020, section 4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core.maths.disentanglement import CodeDiscriminator, permute_codes
from mixvi.core.training.steps import Loss, Step
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Codes
from mixvi.images.objectives.regularised import RegularisedVAE


@dataclass(frozen=True, kw_only=True)
class FactorVAE(RegularisedVAE):
    """A VAE and the total correlation of its codes, which a discriminator estimates.

    The discriminator tells codes from those of another minibatch, the one before, whose dimensions
    are permuted. ``discriminator_accuracy`` is 0.5 where codes are independent, and where it has
    learned nothing: the record ``total_correlation`` is to be read with it.

    Attributes
    ----------
    tc_weight
        Weight of the total correlation; Mushom 2020 has 5, 10, 25, 50 and 100.
    n_hidden, n_layers
        Units and number of hidden layers of the discriminator.
    """

    name = "factor_vae"

    tc_weight: float = 10.0
    n_hidden: int = 1000
    n_layers: int = 5

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """The discriminator."""
        super().make_networks(backbone)
        made = CodeDiscriminator(backbone.n_latent, self.n_hidden, self.n_layers)
        return {"discriminator": made}

    def steps(self) -> tuple[Step, ...]:
        """Encoder and generator, then the discriminator."""
        discriminator = Step("discriminator", ("discriminator",), self.discriminator)
        return (*super().steps(), discriminator)

    def training_rows(self, nets: ImageModule, x: Tensor) -> tuple[Tensor, ...]:
        """Images, and those of the minibatch before; of the first in an epoch, themselves."""
        other = x if nets.last_images is None else nets.last_images
        if nets.training:
            nets.last_images = x
        return x, other

    def autoencoder(self, nets: ImageModule, x: Tensor, other: Tensor | None = None) -> Loss:
        """Reconstruction, KL and the total correlation of the images' own codes."""
        return super().autoencoder(nets, x)

    def penalty(self, nets: ImageModule, codes: Codes) -> Loss:
        """The discriminator's estimate."""
        estimate = nets.discriminator.total_correlation(codes.z)
        return self.tc_weight * estimate, {"total_correlation": estimate}

    def discriminator(self, nets: ImageModule, x: Tensor, other: Tensor | None = None) -> Loss:
        """What the discriminator minimises."""
        with torch.no_grad():
            z = self.codes_of(nets, x).z
            permuted = permute_codes(self.codes_of(nets, x if other is None else other).z)
        loss, accuracy = nets.discriminator.loss(z, permuted)
        return loss, {"discriminator_accuracy": accuracy}
