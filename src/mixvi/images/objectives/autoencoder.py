"""What autoencoders share: a reconstruction loss and one restriction of the codes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mixvi.core import arguments
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.training.steps import Loss, Step
from mixvi.images.likelihoods import LIKELIHOODS, image_loss
from mixvi.images.module import ImageModule
from mixvi.images.objective import Objective


class Codes(NamedTuple):
    """Codes of one minibatch, each ``(B, n_latent)``."""

    mu: Tensor
    log_var: Tensor
    z: Tensor

    def of(self, kind: str) -> Tensor:
        """Posterior ``"means"`` or ``"samples"``."""
        return self.mu if kind == "means" else self.z


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Objective):
    """Reconstruction loss plus ``beta`` times a restriction (Astorga 2021, eq. 5.3).

    Attributes
    ----------
    recon_scale
        What the sum of squares over pixels is multiplied by.
    likelihood
        ``"gaussian"`` of unit variance, or ``"bernoulli"``: pixels as probabilities, for images
        that are black and white.
    """

    recon_scale: float = 0.5
    likelihood: str = "gaussian"

    is_autoencoder = True
    default_epochs = 100
    beta = 1.0

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("likelihood", self.likelihood, LIKELIHOODS)

    def steps(self) -> tuple[Step, ...]:
        """One step of encoder and generator a minibatch."""
        return (Step("autoencoder", ("encoder", "generator"), self.autoencoder),)

    def autoencoder(self, nets: ImageModule, x: Tensor) -> Loss:
        """Reconstruction and restriction, from one code an image."""
        codes = self.codes_of(nets, x)
        reconstruction = self.reconstruction(nets, x, codes)
        name, restriction = self.restriction(nets, x, codes)
        terms = {"reconstruction": reconstruction, name: restriction}
        return reconstruction + self.weight(nets) * restriction, terms

    def weight(self, nets: ImageModule) -> Tensor | float:
        """The restriction's weight."""
        return self.beta

    def reconstruction(self, nets: ImageModule, x: Tensor, codes: Codes) -> Tensor:
        """Minus log p(x | z), mean over images."""
        x_hat = nets.decode(codes.z)
        return image_loss(x, x_hat, self.likelihood, self.recon_scale).mean()

    def codes_of(self, nets: ImageModule, x: Tensor) -> Codes:
        """Draws of q(z | x), one an image, and its moments."""
        mu, log_var = nets.encode(x)
        return Codes(mu, log_var, reparameterise(mu, log_var))

    @abstractmethod
    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """Name and value of the restriction."""
