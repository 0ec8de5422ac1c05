"""VAE, beta-VAE and annealed VAE (Kingma & Welling 2013; Astorga 2021, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.maths.disentanglement import annealed
from mixvi.core.maths.mixture import standard_gaussian_kl_per_dim
from mixvi.core.training.steps import Loss, Step
from mixvi.images.module import ImageModule
from mixvi.images.objectives.autoencoder import Autoencoder, Codes


@dataclass(frozen=True, kw_only=True)
class VAE(Autoencoder):
    """Minus the ELBO, KL in closed form (Astorga 2021, eq. 4.3)."""

    name = "vae"

    def restriction(self, nets: ImageModule, x: Tensor, codes: Codes) -> tuple[str, Tensor]:
        """KL(q(z | x) || N(0, I)), mean over images."""
        return "kl", standard_gaussian_kl_per_dim(codes.mu, codes.log_var).sum(-1).mean()


class CountingVAE(VAE):
    """A VAE whose loss changes with the number of updates, which is kept with the weights."""

    def buffers(self, n_latent: int) -> dict[str, Tensor]:
        """``n_updates``."""
        return {"n_updates": torch.zeros((), dtype=torch.long)}

    def after_step(self, nets: ImageModule, step: Step) -> None:
        """Count updates of the encoder."""
        if hasattr(nets, "n_updates") and "encoder" in step.updates:
            nets.n_updates += 1


@dataclass(frozen=True, kw_only=True)
class BetaVAE(CountingVAE):
    """A VAE whose KL is weighted (Higgins et al. 2017; Astorga 2021, section 4.2).

    Attributes
    ----------
    beta
        The weight; Astorga 2021 has 0.33, 1 and 30, Mushom 2020, who disentangles, 1, 3, 10, 30.
    kl_warmup
        Updates over which the weight rises from 0 to ``beta``; ``None``: it is ``beta`` from the
        first.
    """

    name = "beta_vae"

    beta: float = 0.33
    kl_warmup: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.kl_warmup is not None:
            arguments.check_positive("kl_warmup", self.kl_warmup)

    def buffers(self, n_latent: int) -> dict[str, Tensor]:
        """``n_updates``, if it matters."""
        return {} if self.kl_warmup is None else super().buffers(n_latent)

    def weight(self, nets: ImageModule) -> Tensor | float:
        """The KL's weight at the present update."""
        if self.kl_warmup is None:
            return self.beta
        return annealed(nets.n_updates, self.kl_warmup, self.beta)


@dataclass(frozen=True, kw_only=True)
class AnnealedVAE(CountingVAE):
    """A VAE whose KL is held at a capacity that rises: ``gamma |KL - C|`` (Burgess et al. 2018).

    Attributes
    ----------
    gamma
        Weight of the distance of the KL, mean over the minibatch, from the capacity C.
    capacity
        What C rises to, in nats.
    capacity_steps
        Updates over which it does, from 0.
    """

    name = "annealed_vae"

    gamma: float = 1000.0
    capacity: float = 25.0
    capacity_steps: int = 100_000

    def autoencoder(self, nets: ImageModule, x: Tensor) -> Loss:
        """Reconstruction and the distance of the KL from the present capacity."""
        codes = self.codes_of(nets, x)
        reconstruction = self.reconstruction(nets, x, codes)
        name, kl = self.restriction(nets, x, codes)
        capacity = annealed(nets.n_updates, self.capacity_steps, self.capacity)
        terms = {"reconstruction": reconstruction, name: kl, "capacity": capacity}
        return reconstruction + self.gamma * (kl - capacity).abs(), terms
