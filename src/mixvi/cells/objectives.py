"""What :class:`mixvi.VAE` may minimise beside minus the ELBO, so that latent axes mean something.

Objectives have the names and settings of those of images (:mod:`mixvi.images.objectives`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.disentanglement import (
    ESTIMATORS,
    VARIANTS,
    CodeDiscriminator,
    check_dimensions,
    code_covariance,
    covariance_penalty,
    kl_terms,
    permute_codes,
)

Penalty = tuple[Tensor | float, dict[str, Tensor]]
"""A weighted penalty of the codes of a minibatch, and its terms before they are weighted."""


@dataclass(frozen=True, kw_only=True)
class VAEObjective:
    """Minus the ELBO, and the base of what adds to it."""

    name: ClassVar[str] = "vae"
    beta: ClassVar[float] = 1.0

    def __post_init__(self):
        arguments.check_settings(self)

    def make_networks(self, n_latent: int) -> dict[str, nn.Module]:
        """Networks beside encoder and decoder, by name."""
        return {}

    def penalty(self, module: nn.Module, z: Tensor, mu: Tensor, log_var: Tensor) -> Penalty:
        """Penalty of codes ``(B, D)``, given with the moments of their posteriors."""
        return 0.0, {}

    def options(self) -> dict[str, Any]:
        """Settings by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BetaVAE(VAEObjective):
    """A VAE whose KL has the weight ``beta`` (Higgins et al. 2017)."""

    name = "beta_vae"

    beta: float = 4.0


@dataclass(frozen=True, kw_only=True)
class FactorVAE(VAEObjective):
    """A VAE and the total correlation of its codes by a discriminator (Kim & Mnih 2018).

    The discriminator learns beside encoder and decoder, with their learning rate, from the codes of
    the same minibatch, permuted.

    Attributes
    ----------
    tc_weight
        Weight of the total correlation.
    n_hidden, n_layers
        Units and number of hidden layers of the discriminator.
    """

    name = "factor_vae"

    tc_weight: float = 10.0
    n_hidden: int = 256
    n_layers: int = 3

    def make_networks(self, n_latent: int) -> dict[str, nn.Module]:
        """The discriminator."""
        check_dimensions(self.name, n_latent)
        return {"discriminator": CodeDiscriminator(n_latent, self.n_hidden, self.n_layers)}

    def penalty(self, module: nn.Module, z: Tensor, mu: Tensor, log_var: Tensor) -> Penalty:
        """The discriminator's estimate, and what it learns by itself."""
        estimate = module.discriminator.total_correlation(z, frozen=True)
        own = z.detach()
        loss, accuracy = module.discriminator.loss(own, permute_codes(own))
        # its gradient, but no part of what the loss says
        learned = loss - loss.detach()
        terms = {"total_correlation": estimate, "discriminator_accuracy": accuracy}
        return self.tc_weight * estimate + learned, terms


@dataclass(frozen=True, kw_only=True)
class BetaTCVAE(VAEObjective):
    """A VAE and the total correlation of its codes by the minibatch (Chen et al. 2018).

    Attributes
    ----------
    tc_weight
        Weight beside the KL: beta - 1 for the beta of Chen et al. 2018.
    estimator
        ``"weighted"`` or ``"stratified"``.
    """

    name = "beta_tcvae"

    tc_weight: float = 1.0
    estimator: str = "weighted"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("estimator", self.estimator, ESTIMATORS)

    def make_networks(self, n_latent: int) -> dict[str, nn.Module]:
        """None."""
        check_dimensions(self.name, n_latent)
        return {}

    def penalty(self, module: nn.Module, z: Tensor, mu: Tensor, log_var: Tensor) -> Penalty:
        """The total correlation."""
        n_data = max(module.n_training_cells, len(z))
        terms = kl_terms(z, mu, log_var, n_data, self.estimator)
        return self.tc_weight * terms.total_correlation, terms._asdict()


@dataclass(frozen=True, kw_only=True)
class DIPVAE(VAEObjective):
    """A VAE and the distance of its codes' covariance from the identity (Kumar et al. 2018).

    Attributes
    ----------
    lambda_offdiag, lambda_diag
        Weights of the squares off and on the diagonal.
    variant
        Covariance of the posteriors' means, ``"i"``, or of q(z), ``"ii"``.
    """

    name = "dip_vae"

    lambda_offdiag: float = 1.0
    lambda_diag: float = 1.0
    variant: str = "ii"

    def __post_init__(self):
        super().__post_init__()
        arguments.check_choice("variant", self.variant, VARIANTS)

    def make_networks(self, n_latent: int) -> dict[str, nn.Module]:
        """None."""
        check_dimensions(self.name, n_latent)
        return {}

    def penalty(self, module: nn.Module, z: Tensor, mu: Tensor, log_var: Tensor) -> Penalty:
        """The distance from the identity."""
        covariance = code_covariance(mu, log_var, self.variant)
        loss = covariance_penalty(covariance, self.lambda_offdiag, self.lambda_diag)
        return loss, {"covariance_penalty": loss}


OBJECTIVES: dict[str, type[VAEObjective]] = {
    cls.name: cls for cls in (VAEObjective, BetaVAE, FactorVAE, BetaTCVAE, DIPVAE)
}
