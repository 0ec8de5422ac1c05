"""Two-variable generative-inference models, one class for all objectives (Astorga 2021, chapter 6).

``p(x, z) = p(z) p(x | z)`` with a standard normal prior and ``q(x, z) = q(x) q(z | x)`` with a
Gaussian encoder; objectives differ in how they make the two alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from mixvi.core import arguments
from mixvi.core.data.splitting import Split
from mixvi.core.maths.mixture import (
    gaussian_log_prob,
    reparameterise,
    standard_gaussian_kl_per_dim,
)
from mixvi.core.model.evidence import ElboMixin
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.steps import Step
from mixvi.images import objectives  # noqa: F401  # brings the objectives of the package
from mixvi.images.backbones import Backbone, make_backbone
from mixvi.images.likelihoods import encoder_loss, image_loss, log_normaliser
from mixvi.images.model import ImageModel
from mixvi.images.module import ImageModule
from mixvi.images.objective import Objective, make_objective


class GenerativeInferenceModule(ImageModule):
    """Encoder, generator and the networks of an objective, which trains them.

    Parameters
    ----------
    backbone
        Makes the networks.
    objective
        Says which there are, and what they minimise.
    pixel_range, ema_decay, ema_start
        See :class:`mixvi.images.module.ImageModule`.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        pixel_range: tuple[float, float],
        ema_decay: float | None = None,
        ema_start: int = 1000,
    ):
        networks = {"encoder": backbone.encoder(), "generator": backbone.generator()}
        networks |= objective.make_networks(backbone)
        super().__init__(
            backbone.image_shape, pixel_range, backbone.n_latent, networks, ema_decay, ema_start
        )
        self.objective = objective
        for name, values in objective.buffers(backbone.n_latent).items():
            self.register_buffer(name, values)
        # what objectives see of training beside a minibatch
        self.n_training_images = 0
        self.last_images: torch.Tensor | None = None
        self._check_steps()

    def _check_steps(self) -> None:
        """Raise ValueError if a step of the objective updates a network that is not there."""
        steps = self.steps()
        for step in steps:
            for name in step.updates:
                if name not in self.network_names:
                    raise ValueError(
                        f"objective={self.objective.name!r}: the step {step.name!r} updates "
                        f"{name!r}, which is no network of it. "
                        f"{arguments.near_matches(name, self.network_names)}"
                    )
        if len({step.name for step in steps}) < len(steps):
            raise ValueError(
                f"objective={self.objective.name!r}: two of its steps have one name. Each needs "
                "its own, by which the history has it."
            )

    def steps(self) -> tuple[Step, ...]:
        """The objective's."""
        return self.objective.steps()

    def training_rows(self, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Images, and what else the objective's steps see."""
        return self.objective.training_rows(self, self.rows(tensors))

    def before_epoch(self) -> None:
        """Forget the last minibatch, so that a resumed run is as one that was not stopped."""
        self.last_images = None

    def after_step(self, step: Step) -> None:
        """Move the average, and do what the objective wants."""
        super().after_step(step)
        self.objective.after_step(self, step)

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """The critic's scores ``(B,)`` of images in [-1, 1]."""
        return self.objective.score(self, x)


class GenerativeInference(ElboMixin, ImageModel):
    """An encoder and a generator of images, trained by an objective of choice.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    objective
        ``"vae"``, ``"beta_vae"``, ``"annealed_vae"``, ``"factor_vae"``, ``"beta_tcvae"``,
        ``"dip_vae"`` (which disentangle), ``"wvae"``, ``"js_vae"``, ``"ikl_vae"``, ``"fkl_vae"``,
        ``"mmd"``, ``"aae"``, ``"avb"`` (autoencoders), ``"ali"``, ``"alice"``, ``"veegan"``,
        ``"aim"``, ``"infogan"`` or ``"vae_gan"`` (see :mod:`mixvi.images.objectives`), or an
        :class:`mixvi.images.Objective` of your own.
    n_latent
        Size J of z; the thesis has 10 and 20 for MNIST, 128 for CIFAR-10.
    backbone
        ``"resnet"``, the thesis's, for images with sides that are multiples of 16; ``"burgess"``,
        that of studies of disentanglement; ``"conv"`` and ``"mlp"``, light ones for a CPU.
    objective_kwargs
        Settings of the objective, such as ``{"beta": 30}``.
    backbone_kwargs
        Settings of the backbone, such as ``{"n_channels": 96}``.
    ema_decay, ema_start
        Decay of a moving average of the generator, of which all images are that the model returns,
        and after how many updates it starts; ``None``: no average. The decay is warmed up,
        ``min(ema_decay, (1 + n) / (10 + n))`` at the n-th update of the average.

    Raises
    ------
    ValueError
        If a name or setting is unknown, or the images do not suit the backbone.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        objective: str | Objective = "vae",
        n_latent: int = 10,
        backbone: str = "resnet",
        objective_kwargs: dict | None = None,
        backbone_kwargs: dict | None = None,
        ema_decay: float | None = None,
        ema_start: int = 1000,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        arguments.check_positive("n_latent", n_latent)
        chosen = make_objective(objective, objective_kwargs)
        # an objective of one's own is kept by its name and settings
        objective, objective_kwargs = chosen.name, chosen.options()
        networks = make_backbone(backbone, self.image_shape, n_latent, backbone_kwargs)
        module = GenerativeInferenceModule(networks, chosen, self.pixel_range, ema_decay, ema_start)
        summary = f"GenerativeInference with objective={objective}, backbone={backbone}"
        self._finish(module, locals(), summary)

    @property
    def objective(self) -> Objective:
        """What the model is trained by, with its settings."""
        return self.module.objective

    @property
    def _prefix(self) -> str:
        return self.objective.name

    def _smallest_batch(self) -> int:
        return self.objective.smallest_batch(self.module.n_latent)

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        self.module.n_training_images = len(fit.split.train)
        return super()._fit(fit, run)

    def _default_epochs(self, n_minibatches: int) -> int:
        objective = self.objective
        if objective.default_epochs is not None:
            return objective.default_epochs
        every = min(step.every for step in objective.steps() if "generator" in step.updates)
        return max(1, -(-objective.default_iterations * every // n_minibatches))

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        return_terms: bool = False,
        batch_size: int | None = None,
    ) -> float | torch.Tensor | pd.Series | pd.DataFrame:
        """The evidence lower bound of an autoencoder in nats, constants included; higher is better.

        Parameters
        ----------
        return_mean
            The mean over images, or the value of each.
        return_terms
            Instead, the terms of minus the ELBO and their sum ``total`` (lower is better), by name:
            ``R``, the reconstruction loss at one sample of z; ``Z``, the KL of q(z | x) to the
            prior in closed form, whatever restriction trained the model.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; of terms a Series, or a DataFrame by the images' names.

        Raises
        ------
        ValueError
            If the objective minimises no reconstruction loss.
        """
        return self._elbo(
            self._elbo_terms,
            adata,
            indices,
            return_mean=return_mean,
            return_terms=return_terms,
            batch_size=batch_size,
        )

    def _check_has_elbo(self) -> None:
        if not self.objective.is_autoencoder:
            raise ValueError(
                f"objective={self.objective.name!r} trains no autoencoder: it has no ELBO. "
                "get_reconstruction_error and get_latent_mse say how far codes and images agree."
            )

    def _elbo_terms(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        posterior = self.module.inference(x)
        kl = standard_gaussian_kl_per_dim(posterior["mu_z"], posterior["lv_z"]).sum(-1)
        return {"R": self._minus_log_likelihood(x, posterior["z"]), "Z": kl}

    def _minus_log_likelihood(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Minus log p(x | z) with its constant, ``(B,)``."""
        likelihood, scale = self.objective.likelihood, self.objective.recon_scale
        loss = image_loss(x, self.module.reconstruct(z), likelihood, scale)
        return loss + log_normaliser(x, scale) if likelihood == "gaussian" else loss

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_mc_samples: int = 100,
        return_mean: bool = True,
        batch_size: int | None = None,
    ) -> float | torch.Tensor:
        """Log p(x) of an autoencoder in nats, by importance sampling (Burda et al. 2016).

        Of images in [-1, 1], with the likelihood of :meth:`get_elbo` and the prior N(0, I); codes
        are drawn from q(z | x).

        Parameters
        ----------
        n_mc_samples
            Draws an image; more make the estimate less of an underestimate.
        return_mean
            The mean over images, or the value of each.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; higher is better.

        Raises
        ------
        ValueError
            If the objective minimises no reconstruction loss.
        """
        return self._marginal_ll(
            lambda x: partial(self._log_weight, x, *self.module.encode(x)),
            adata,
            indices,
            n_mc_samples=n_mc_samples,
            return_mean=return_mean,
            batch_size=batch_size,
        )

    def _log_weight(self, x: torch.Tensor, mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
        """Log p(x, z) - log q(z | x) at a draw of z, ``(B,)``."""
        z = reparameterise(mu, log_var)
        prior = gaussian_log_prob(z, torch.zeros_like(mu), torch.zeros_like(mu))
        return prior + encoder_loss(z, mu, log_var) - self._minus_log_likelihood(x, z)

    @torch.inference_mode()
    def get_discriminator_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The critic's score of each image, ``(n_obs,)``; higher is more like the data.

        Critics of pairs see the image with the mean of its q(z | x).

        Raises
        ------
        ValueError
            If the objective has no critic that sees images.
        """
        adata = self._validate_anndata(adata)
        scores = [self.module.score(x).cpu() for x in self._batches(adata, indices, batch_size)]
        return torch.cat(scores).numpy()
