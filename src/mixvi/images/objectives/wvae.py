"""WVAE, the Wasserstein VAE (Astorga 2021, section 6.1)."""

from __future__ import annotations

from torch import Tensor

from mixvi.images.divergences import squared_w2
from mixvi.images.objectives.moments import MomentMatching


class WVAE(MomentMatching):
    """Reconstruction and the squared 2-Wasserstein distance of the codes' moments to the prior."""

    name = "wvae"

    def divergence(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Squared W2 (Astorga 2021, eq. 6.5)."""
        return squared_w2(mean, covariance)
