"""IKL-VAE and FKL-VAE (Astorga 2021, section 6.1)."""

from __future__ import annotations

from torch import Tensor

from mixvi.images.divergences import kl_from_prior, kl_to_prior
from mixvi.images.objectives.moments import MomentMatching


class IKLVAE(MomentMatching):
    """Reconstruction and the inverse KL of the codes' moments, KL(q(z) || p(z))."""

    name = "ikl_vae"

    def divergence(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """KL(N(m, V) || N(0, I)) (Astorga 2021, eq. 6.4)."""
        return kl_to_prior(mean, covariance)


class FKLVAE(MomentMatching):
    """Reconstruction and the forward KL of the codes' moments, KL(p(z) || q(z))."""

    name = "fkl_vae"

    def divergence(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """KL(N(0, I) || N(m, V))."""
        return kl_from_prior(mean, covariance)
