"""AVB, adversarial variational Bayes (Mescheder et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixvi.core.maths.mixture import gaussian_log_prob
from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import critic_loss
from mixvi.images.backbones import Backbone
from mixvi.images.blocks import without_spectral_norm
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


@dataclass(frozen=True, kw_only=True)
class AVB(Autoencoder):
    """Reconstruction and an estimate of KL(q(z | x) || p(z)) that a critic T(x, z) learns.

    T tells draws of q(z | x) from others by logistic regression, and has no spectral norm: at its
    optimum it is a difference of log densities, which may be tens of nats. With
    ``adaptive_contrast`` the others come from a Gaussian r with the moments of q(z | x), T is a
    function of the standardised code, and the estimate is ``E_q [T + log r - log p]`` (Mescheder et
    al. 2017, section 3.3); else they come from the prior, and the estimate is ``E_q T``.

    The encoders of this package are Gaussian: r is then q itself, nothing is left for T to find,
    and the estimate is that of a VAE. A subclass that draws codes otherwise overrides
    ``codes_of``.

    Attributes
    ----------
    beta
        Weight of the estimate.
    adaptive_contrast
        Whether T contrasts q with a Gaussian of its moments; else with the prior, from which q may
        be too far to be told by how much.
    d_steps
        Critic steps, each on a minibatch of its own, for one of encoder and generator.
    """

    name = "avb"

    beta: float = 1.0
    adaptive_contrast: bool = True
    d_steps: int = 1

    def make_networks(self, backbone: Backbone) -> dict[str, nn.Module]:
        """T, from features of image and code."""
        critics = backbone.pair_critics()
        return {name: without_spectral_norm(critic) for name, critic in critics.items()}

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
            codes = self.codes_of(nets, x)
        (posterior,) = nets.pair_scores(x, self._seen(codes))
        # the contrast, standardised, is the prior
        (contrast,) = nets.pair_scores(x, nets.draw_prior(len(x)))
        loss = critic_loss(posterior, contrast, "vanilla")
        return loss, {"critic_posterior": posterior.mean(), "critic_contrast": contrast.mean()}

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """The estimate of the KL, mean over images in nats."""
        (estimate,) = nets.pair_scores(x, self._seen(codes))
        if self.adaptive_contrast:
            mu, log_var, z = codes
            of_prior = gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))
            estimate = estimate + gaussian_log_prob(z, mu, log_var) - of_prior
        return "kl_estimate", estimate.mean()

    def score(self, nets: ImageModule, x: Tensor) -> Tensor:
        """T(x, mean of q(z | x))."""
        mu, log_var = nets.encode(x)
        return nets.pair_scores(x, self._seen(Codes(mu, log_var, mu)))[0]

    def _seen(self, codes: Codes) -> Tensor:
        """Codes as T sees them."""
        if not self.adaptive_contrast:
            return codes.z
        return (codes.z - codes.mu) * (-0.5 * codes.log_var).exp()
