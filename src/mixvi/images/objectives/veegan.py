"""VEEGAN (Srivastava et al. 2017; Astorga 2021, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixvi.core.training.steps import Loss
from mixvi.images.likelihoods import encoder_loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.ali import ALI


@dataclass(frozen=True, kw_only=True)
class VEEGAN(ALI):
    """ALI and the encoder's likelihood of the codes of generated images.

    Attributes
    ----------
    lambda_z
        Weight of L_q.
    per_value
        Whether likelihoods are divided by the number of values of an image, which balances them
        with the adversarial term.
    latent_ll_to_generator
        Whether the gradient of L_q reaches the generator.
    """

    name = "veegan"

    lambda_z: float = 1.0
    per_value: bool = True
    latent_ll_to_generator: bool = False

    def likelihoods(
        self, nets: ImageModule, x: Tensor, code: Tensor, z: Tensor, generated: Tensor
    ) -> Loss:
        """L_q, of the images that the critic sees."""
        seen = generated if self.latent_ll_to_generator else generated.detach()
        latent = encoder_loss(z, *nets.encode(seen)).mean()
        return self.lambda_z * latent / self._divisor(nets), {"latent_nll": latent}

    def _divisor(self, nets: ImageModule) -> int:
        return nets.n_values if self.per_value else 1
