"""VAE and beta-VAE (Kingma & Welling 2013; Higgins et al. 2017; Astorga 2021, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixvi.core.maths.mixture import standard_gaussian_kl_per_dim
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


@dataclass(frozen=True, kw_only=True)
class VAE(Autoencoder):
    """Minus the ELBO, KL in closed form (Astorga 2021, eq. 4.3)."""

    name = "vae"

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """KL(q(z | x) || N(0, I)), mean over images."""
        return "kl", standard_gaussian_kl_per_dim(codes.mu, codes.log_var).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class BetaVAE(VAE):
    """A VAE whose KL is weighted.

    Attributes
    ----------
    beta
        The weight; the thesis has 0.33, 1 and 30.
    """

    name = "beta_vae"

    beta: float = 0.33
