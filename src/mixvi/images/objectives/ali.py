"""ALI, which is BiGAN (Dumoulin et al. 2016; Donahue et al. 2016; Astorga 2021, eq. 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import ADVERSARIAL, critic_loss, joint_loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objective import Objective


@dataclass(frozen=True, kw_only=True)
class ALI(Objective):
    """A critic of pairs: (x, code of x) against (image of z, z); no likelihood.

    Attributes
    ----------
    adversarial
        ``"hinge"`` or ``"vanilla"``.
    unary_scores
        Whether scores of image and code by themselves are added, as in BigBiGAN (Donahue &
        Simonyan 2019).
    d_steps
        Critic steps, each on a minibatch of its own, for one of encoder and generator.
    """

    name = "ali"

    adversarial: str = "hinge"
    unary_scores: bool = False
    d_steps: int = 4

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("adversarial", self.adversarial, ADVERSARIAL)

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """D_x, D_z and D_xz."""
        return backbone.pair_critics()

    def steps(self) -> tuple[Step, ...]:
        """Critics, then encoder and generator together."""
        critics = ("image_critic", "latent_critic", "pair_critic")
        return (
            Step("critic", critics, self.critic),
            Step("joint", ("encoder", "generator"), self.joint, every=self.d_steps),
        )

    def critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What D_x, D_z and D_xz minimise."""
        with torch.no_grad():
            code = reparameterise(*nets.encode(x))
            z = nets.draw_prior(len(x))
            generated = nets.decode(z)
        real = nets.pair_scores(x, code, self.unary_scores)
        fake = nets.pair_scores(generated, z, self.unary_scores)
        loss = sum(critic_loss(*pair, self.adversarial) for pair in zip(real, fake, strict=True))
        return loss, {"critic_real": real[0].mean(), "critic_fake": fake[0].mean()}

    def joint(self, nets: ImageModule, x: Tensor) -> Loss:
        """What encoder and generator minimise."""
        mu, log_var = nets.encode(x)
        code = reparameterise(mu, log_var)
        z = nets.draw_prior(len(x))
        generated = nets.decode(z)
        real = nets.pair_scores(x, code, self.unary_scores)
        fake = nets.pair_scores(generated, z, self.unary_scores)
        loss = sum(joint_loss(*pair, self.adversarial) for pair in zip(real, fake, strict=True))
        more, terms = self.likelihoods(nets, x, code, z, generated)
        return loss + more, {"adversarial": loss} | terms

    def likelihoods(
        self, nets: ImageModule, x: Tensor, code: Tensor, z: Tensor, generated: Tensor
    ) -> Loss:
        """Weighted likelihood terms beside the adversarial one; ALI has none."""
        return x.new_zeros(()), {}

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """D_xz(x, mean of q(z | x))."""
        return nets.pair_scores(x, nets.encode(x)[0])[0]
