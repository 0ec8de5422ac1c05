"""ALICE (Li et al. 2017; Astorga 2021, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import critic_loss, joint_loss
from mixvi.images.backbones import Backbone
from mixvi.images.likelihoods import reconstruction_loss
from mixvi.images.module import ImageModule
from mixvi.images.objectives.veegan import VEEGAN


@dataclass(frozen=True, kw_only=True)
class ALICE(VEEGAN):
    """ALI and the likelihoods of decoder and encoder.

    Attributes
    ----------
    lambda_x
        Weight of the reconstruction.
    recon_scale
        What the sum of squares over pixels is multiplied by.
    rec
        ``"gaussian"``: the reconstruction loss; ``"adversarial"``: a critic of pairs of images
        tells (x, x) from (x, reconstruction).
    """

    name = "alice"

    lambda_x: float = 1.0
    recon_scale: float = 0.5
    rec: str = "gaussian"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("rec", self.rec, ("gaussian", "adversarial"))

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_x, D_z and D_xz, and the critic of pairs of images where there is one."""
        networks = super().make_networks(backbone)
        if self.rec == "adversarial":
            n_channels = 2 * backbone.image_shape[0]
            networks["reconstruction_critic"] = backbone.image_critic(n_channels)
        return networks

    def steps(self) -> tuple[Step, ...]:
        """ALI's, and the critic of pairs of images."""
        steps = super().steps()
        if self.rec == "gaussian":
            return steps
        ours = Step("reconstruction", ("reconstruction_critic",), self.reconstruction_critic)
        return (ours, *steps)

    def reconstruction_critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What the critic of pairs of images minimises."""
        with torch.no_grad():
            x_hat = nets.decode(reparameterise(*nets.encode(x)))
        real, fake = self._image_pairs(nets, x, x_hat)
        return critic_loss(real, fake, self.adversarial), {}

    def likelihoods(
        self, nets: ImageModule, x: Tensor, code: Tensor, z: Tensor, generated: Tensor
    ) -> Loss:
        """Both likelihoods; the reconstruction reaches encoder and generator."""
        loss, terms = super().likelihoods(nets, x, code, z, generated)
        x_hat = nets.decode(code)
        reconstruction = reconstruction_loss(x, x_hat, self.recon_scale).mean()
        if self.rec == "gaussian":
            weighted = reconstruction / self._divisor(nets)
        else:
            weighted = joint_loss(*self._image_pairs(nets, x, x_hat), self.adversarial)
        return loss + self.lambda_x * weighted, terms | {"reconstruction": reconstruction}

    @staticmethod
    def _image_pairs(nets: ImageModule, x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
        critic = nets.reconstruction_critic
        return critic(torch.cat([x, x], dim=1)), critic(torch.cat([x, x_hat], dim=1))
