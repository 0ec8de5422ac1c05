"""DIP-VAE I and II (Kumar et al. 2018; Mushom 2020, section 4.4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.maths.disentanglement import VARIANTS, code_covariance, covariance_penalty
from mixvi.core.training.steps import Loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Codes
from mixvi.images.objectives.regularised import RegularisedVAE


@dataclass(frozen=True, kw_only=True)
class DIPVAE(RegularisedVAE):
    """A VAE and the distance of its codes' covariance from the identity.

    Attributes
    ----------
    lambda_offdiag, lambda_diag
        Weights of the squares off and on the diagonal; Mushom 2020 has 1, 3, 10 and 30 for both.
        Kumar et al. 2018 have ten times the first for the second with variant ``"i"``.
    variant
        Covariance of the posteriors' means, ``"i"``, or of q(z), ``"ii"``.
    cov_momentum
        Share of the minibatches before in a moving average of the covariance, which lowers the
        penalty that few codes have by chance: (D + 1) D / B for B codes of N(0, I). 0: none.
    """

    name = "dip_vae"

    lambda_offdiag: float = 1.0
    lambda_diag: float = 1.0
    variant: str = "ii"
    cov_momentum: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("variant", self.variant, VARIANTS)
        arguments.check_rate("cov_momentum", self.cov_momentum)

    def buffers(self, n_latent: int) -> dict[str, Tensor]:
        """``code_covariance``, if there is a moving average."""
        return {"code_covariance": torch.eye(n_latent)} if self.cov_momentum else {}

    def penalty(self, nets: ImageModule, codes: Codes) -> Loss:
        """The distance from the identity."""
        covariance = code_covariance(codes.mu, codes.log_var, self.variant)
        if self.cov_momentum:
            covariance = torch.lerp(covariance, nets.code_covariance, self.cov_momentum)
            if nets.training:
                # in place would change what the gradient needs
                nets.code_covariance = covariance.detach()
        loss = covariance_penalty(covariance, self.lambda_offdiag, self.lambda_diag)
        return loss, {"covariance_penalty": loss}
