"""What VAEs share that penalise the codes of a minibatch beside the KL."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from mixvi.core.maths.disentanglement import check_dimensions
from mixvi.core.maths.mixture import standard_gaussian_kl_per_dim
from mixvi.core.training.steps import Loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


class RegularisedVAE(Autoencoder):
    """Minus the ELBO, KL of weight 1, and a penalty (Mushom 2020, section 4.4)."""

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """None beside encoder and generator.

        Raises
        ------
        ValueError
            If codes have one dimension, of which nothing can depend on others.
        """
        check_dimensions(self.name, backbone.n_latent)
        return {}

    def autoencoder(self, nets: ImageModule, x: Tensor) -> Loss:
        """Reconstruction, KL in closed form and the weighted penalty."""
        codes = self.codes_of(nets, x)
        reconstruction = self.reconstruction(nets, x, codes)
        kl = self.restriction(nets, x, codes)[1]
        penalty, terms = self.penalty(nets, codes)
        terms = {"reconstruction": reconstruction, "kl": kl} | terms
        return reconstruction + kl + penalty, terms

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """KL(q(z | x) || N(0, I)), mean over images."""
        return "kl", standard_gaussian_kl_per_dim(codes.mu, codes.log_var).sum(-1).mean()

    @abstractmethod
    def penalty(self, nets: ImageModule, codes: Codes) -> Loss:
        """The penalty with its weight, and its terms without, by name."""
