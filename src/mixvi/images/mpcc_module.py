"""What MPCC trains and by which losses (Astorga 2021, sections 7.2 and 8.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.core.training.steps import Loss, Step
from mixvi.images.adversarial import critic_loss, generator_loss
from mixvi.images.cluster_networks import ProjectionCritic
from mixvi.images.features import Standardisation
from mixvi.images.likelihoods import encoder_loss
from mixvi.images.teaching import TaughtModule
from mixvi.images.views import Views


class MPCCModule(TaughtModule):
    """Critic, generator, encoder and prior, and the four steps that train them.

    Parameters
    ----------
    image_shape, pixel_range, n_latent, ema_decay, ema_start, standardisation, consistency, views
        See :class:`mixvi.images.teaching.TaughtModule`.
    networks
        ``encoder``, ``generator`` of codes and clusters, and ``image_critic``.
    prior
        The mixture.
    d_steps, e_steps, lambda_p, latent_ll_to_prior
        See :class:`MPCC`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        pixel_range: tuple[float, float],
        n_latent: int,
        networks: dict[str, nn.Module],
        prior: GaussianMixturePrior,
        ema_decay: float | None = None,
        ema_start: int = 1000,
        d_steps: int = 4,
        e_steps: int = 4,
        lambda_p: float = 0.01,
        latent_ll_to_prior: bool = False,
        standardisation: Standardisation | None = None,
        consistency: float = 0.0,
        views: Views | None = None,
    ):
        networks = networks | {"prior": prior}
        super().__init__(
            image_shape,
            pixel_range,
            n_latent,
            networks,
            ema_decay,
            ema_start,
            standardisation,
            consistency,
            views,
        )
        arguments.check_positive("d_steps", d_steps)
        arguments.check_positive("e_steps", e_steps)
        arguments.check_weight("lambda_p", lambda_p)
        self.d_steps = d_steps
        self.e_steps = e_steps
        self.lambda_p = lambda_p
        self.latent_ll_to_prior = latent_ll_to_prior

    def steps(self) -> tuple[Step, ...]:
        """Critic at each minibatch; generator, prior and encoder at each ``d_steps``-th.

        Astorga 2021, algorithm 1, with an optimiser of its own for the prior.
        """
        cls, every = type(self), self.d_steps
        critic = Step("critic", ("image_critic",), cls.critic_step)
        generator = Step("generator", ("generator", "prior"), cls.generator_step, every=every)
        if not self.latent_ll_to_prior:
            prior = Step("prior", ("prior",), cls.prior_step, every=every)
            encoder = Step("encoder", ("encoder",), cls.encoder_step, self.e_steps, every)
            return critic, generator, prior, encoder
        both = Step("encoder_prior", ("encoder", "prior"), cls.encoder_prior_step, every=every)
        if self.e_steps == 1:
            return critic, generator, both
        encoder = Step("encoder", ("encoder",), cls.encoder_step, self.e_steps - 1, every)
        return critic, generator, both, encoder

    def draw_inputs(self, n: int, cluster: int | None = None) -> tuple[Tensor, ...]:
        """Codes and clusters of the prior, or codes of one cluster."""
        return self.prior.draw(n, cluster)

    def draw_prior(self, n: int) -> Tensor:
        """Draws of the mixture, ``(n, n_latent)``."""
        return self.draw_inputs(n)[0]

    def generator_inputs(self, z: Tensor, cluster: int | None = None) -> tuple[Tensor, ...]:
        """Codes with one cluster for all, or with the most probable one of each."""
        if cluster is None:
            return z, self.prior.assign(z)
        return z, torch.full((len(z),), cluster, dtype=torch.long, device=z.device)

    def score(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The critic's scores ``(B,)`` of images; clusters ``y`` are for critics that see them."""
        if isinstance(self.image_critic, ProjectionCritic):
            return self.image_critic(x, y)
        return self.image_critic(x)

    def critic_step(self, x: Tensor, y: Tensor | None = None) -> Loss:
        """Loss I of the critic: hinge on images ``x`` (of classes ``y``) and generated ones."""
        with torch.no_grad():
            inputs = self.draw_inputs(len(x))
            generated = self.generator(*inputs)
        real, fake = self.score(x, y), self.score(generated, *inputs[1:])
        return critic_loss(real, fake), {"critic_real": real.mean(), "critic_fake": fake.mean()}

    def generator_step(self, x: Tensor, y: Tensor | None = None) -> Loss:
        """Loss I of the generator, and through z of the prior's means and scales."""
        inputs = self.draw_inputs(len(x))
        loss = generator_loss(self.score(self.generator(*inputs), *inputs[1:]))
        return loss, {"adversarial": loss}

    def encoder_step(self, x: Tensor, y: Tensor | None = None) -> Loss:
        """Loss II of the encoder: L_q of generated images' codes, for each value of an image.

        With a weight of consistency, its term on images ``x`` is added.
        """
        with torch.no_grad():
            inputs = self.draw_inputs(len(x))
            generated = self.generator(*inputs)
        nll = encoder_loss(inputs[0], *self.encode(generated)).mean()
        return self.with_consistency(nll / self.n_values, {"latent_nll": nll}, x)

    def prior_step(self, x: Tensor, y: Tensor | None = None) -> Loss:
        """Losses II and III of the prior: clusters are to be told apart, and to stay wide."""
        return self._prior_loss(*self.prior.draw(len(x)))

    def encoder_prior_step(self, x: Tensor, y: Tensor | None = None) -> Loss:
        """The encoder's and the prior's losses on the same draws: L_q reaches the prior as well."""
        z, clusters = self.prior.draw(len(x))
        with torch.no_grad():
            generated = self.generator(z, clusters)
        nll = encoder_loss(z, *self.encode(generated)).mean()
        loss, terms = self._prior_loss(z, clusters)
        loss, terms = loss + nll / self.n_values, terms | {"latent_nll": nll}
        return self.with_consistency(loss, terms, x)

    def _prior_loss(self, z: Tensor, clusters: Tensor) -> Loss:
        membership = self.prior.log_membership(z)
        nll = -membership.gather(1, clusters[:, None]).mean()
        entropy = self.prior.negative_entropy()
        terms = {"cluster_nll": nll, "prior_negative_entropy": entropy}
        return nll + self.lambda_p * entropy, terms
