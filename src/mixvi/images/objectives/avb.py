"""AVB, adversarial variational Bayes (Mescheder et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core.maths.mixture import reparameterise
from mixvi.images.adversarial import critic_loss
from mixvi.images.backbones import Backbone
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes
from mixvi.images.steps import Loss, Step


@dataclass(frozen=True, kw_only=True)
class AVB(Autoencoder):
    """Reconstruction and a critic T(x, z) that estimates log q(z | x) - log p(z).

    T tells (x, z from q(z | x)) from (x, z from the prior) by logistic regression; its mean over
    q is the KL of a VAE where it is at its optimum.

    Attributes
    ----------
    beta
        Weight of the critic's estimate.
    d_steps
        Critic steps, each on a minibatch of its own, for one of encoder and generator.
    """

    name = "avb"

    beta: float = 1.0
    d_steps: int = 1

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """T, from features of image and code."""
        return backbone.pair_critics()

    def steps(self) -> tuple[Step, ...]:
        """T, then encoder and generator."""
        critics = ("image_critic", "latent_critic", "pair_critic")
        return (
            Step("critic", critics, self.critic),
            Step("autoencoder", ("encoder", "generator"), self.autoencoder, every=self.d_steps),
        )

    def critic(self, nets: ImageModule, x: Tensor) -> Loss:
        """What T minimises: logistic loss, codes of the posterior being the real ones."""
        with torch.no_grad():
            z = reparameterise(*nets.encode(x))
        (posterior,) = nets.pair_scores(x, z)
        (prior,) = nets.pair_scores(x, nets.draw_prior(len(x)))
        loss = critic_loss(posterior, prior, "vanilla")
        return loss, {"critic_posterior": posterior.mean(), "critic_prior": prior.mean()}

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """T at the posterior's codes, mean over images."""
        (scores,) = nets.pair_scores(x, codes.z)
        return "kl_estimate", scores.mean()

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """T(x, mean of q(z | x))."""
        return nets.pair_scores(x, nets.encode(x)[0])[0]
