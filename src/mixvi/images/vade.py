"""VaDE: a VAE whose prior is a learned Gaussian mixture (Jiang et al. 2017; Astorga 2021, 7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.mixture import GaussianMixture
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.maths.clustering import check_leiden
from mixvi.core.maths.mixture import reparameterise
from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.core.model.evidence import ElboMixin
from mixvi.core.training.running import NO_SETTINGS
from mixvi.core.training.steps import Loss, Step
from mixvi.images.backbones import Backbone
from mixvi.images.features import Standardisation
from mixvi.images.likelihoods import LIKELIHOODS, encoder_loss, image_loss, log_normaliser
from mixvi.images.model import drawn_seed
from mixvi.images.teaching import TaughtModel, TaughtModule
from mixvi.images.views import Views

INITS = ("mixture", "leiden")
PAPER_BACKBONE = ("mlp", {"n_hidden": [500, 500, 2000]})
# arguments of train that other models have not
_OWN_SETTINGS = ("pretrain_epochs", "init", "n_init", "teach_epochs", "pretrain_lr")


class VaDEModule(TaughtModule):
    """Encoder, generator and prior, and the three parts of their training.

    An autoencoder of the first two; on demand all with clusters that are given; all as they are.

    Parameters
    ----------
    backbone
        Makes encoder and generator.
    n_clusters
        Components K of the prior.
    pixel_range, standardisation, consistency, views
        See :class:`mixvi.images.teaching.TaughtModule`.
    likelihood, recon_scale
        See :class:`VaDE`.
    """

    def __init__(
        self,
        backbone: Backbone,
        n_clusters: int,
        pixel_range: tuple[float, float],
        likelihood: str = "gaussian",
        recon_scale: float = 0.5,
        standardisation: Standardisation | None = None,
        consistency: float = 0.0,
        views: Views | None = None,
    ):
        networks = {
            "encoder": backbone.encoder(),
            "generator": backbone.generator(),
            "prior": GaussianMixturePrior(n_clusters, backbone.n_latent, learn_weights=True),
        }
        super().__init__(
            backbone.image_shape,
            pixel_range,
            backbone.n_latent,
            networks,
            standardisation=standardisation,
            consistency=consistency,
            views=views,
        )
        self.likelihood = likelihood
        self.recon_scale = recon_scale

    def steps(self) -> tuple[Step, ...]:
        """One step a minibatch: of the autoencoder in pre-training, of all networks later."""
        if self._part == "pretraining":
            return (Step("pretraining", ("encoder", "generator"), VaDEModule.pretraining_loss),)
        if self._part == "teaching":
            return (Step("teaching", self.network_names, VaDEModule.teaching_loss),)
        return (Step("vade", self.network_names, VaDEModule.vade_loss),)

    def draw_inputs(self, n: int, cluster: int | None = None) -> tuple[Tensor, ...]:
        """Codes of the mixture or of one component: the generator does not see which."""
        return (self.prior.draw(n, cluster)[0],)

    def draw_prior(self, n: int) -> Tensor:
        """Draws of the mixture, ``(n, n_latent)``."""
        return self.draw_inputs(n)[0]

    def pretraining_loss(self, x: Tensor) -> Loss:
        """Reconstruction of the codes' means."""
        loss = self.reconstruction(x, self.decode(self.encode(x)[0])).mean()
        return loss, {"pretraining_reconstruction": loss}

    def teaching_loss(self, x: Tensor, clusters: Tensor) -> Loss:
        """Minus the ELBO where y is known, and minus log q(y | z), as Kingma et al. 2014 add it."""
        # mu, log_var, z (B, J)  clusters (B,)
        mu, log_var = self.encode(x)
        z = reparameterise(mu, log_var)
        own = clusters[:, None]
        terms = {
            "reconstruction": self.reconstruction(x, self.decode(z)),
            "z_kl": self.prior.component_kls(mu, log_var).gather(1, own),
            "cluster_nll": -self.prior.log_membership(z).gather(1, own),
            "weight_nll": -self.prior.log_phi[clusters],
        }
        terms = {name: values.mean() for name, values in terms.items()}
        return sum(terms.values()), terms

    def vade_loss(self, x: Tensor) -> Loss:
        """Minus the ELBO (Astorga 2021, eq. 7.1; Jiang et al. 2017, eq. 9), means over images.

        With a weight of consistency, its term is added.
        """
        terms = {name: values.mean() for name, values in self.terms(x).items()}
        return self.with_consistency(sum(terms.values()), terms, x)

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """Terms of minus the ELBO, each ``(B,)`` in nats; z is sampled once for each image.

        ``reconstruction``; ``z_kl``, the KL of q(z | x) to each component weighted by
        gamma = q(y | z); ``y_kl``, the KL of gamma to phi.
        """
        # mu, log_var, z (B, J)  gamma (B, K)
        mu, log_var = self.encode(x)
        z = reparameterise(mu, log_var)
        log_gamma = self.prior.log_membership(z)
        gamma = log_gamma.exp()
        return {
            "reconstruction": self.reconstruction(x, self.decode(z)),
            "z_kl": (gamma * self.prior.component_kls(mu, log_var)).sum(-1),
            "y_kl": (gamma * (log_gamma - self.prior.log_phi)).sum(-1),
        }

    def reconstruction(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Minus log p(x | z), ``(B,)``."""
        return image_loss(x, x_hat, self.likelihood, self.recon_scale)


class VaDE(ElboMixin, TaughtModel):
    """Variational deep embedding: clusters of images, and new images of each.

    x comes from z alone, z from one of K Gaussians with learned weights, means and scales; the
    cluster of a code follows by Bayes' rule (Jiang et al. 2017; Astorga 2021, section 7.1).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_clusters
        Components K of the prior.
    n_latent
        Size J of z.
    backbone, backbone_kwargs
        As in :class:`mixvi.images.GenerativeInference`; of vectors ``"mlp"`` alone. ``None``: the
        paper's linear layers of 500, 500 and 2000 units.
    likelihood
        ``"gaussian"`` of unit variance, or ``"bernoulli"``, for which pixels are probabilities, as
        in the paper's runs on MNIST; of vectors the first alone.
    recon_scale
        What the Gaussian's sum of squares over pixels in [-1, 1], or over standardised features, is
        multiplied by.
    consistency
        Weight of the KL of an image's clusters to those of a view of it, an image that was shifted
        say; 0: none.
    view_kwargs
        Settings of views, see :class:`mixvi.images.views.Views`: ``shift`` in pixels, ``flip``,
        ``noise``. Default a shift of 2; of vectors noise of 0.3.

    Raises
    ------
    ValueError
        If a name or setting is unknown, or the images do not suit the backbone.
    """

    _plan: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "lr_decay": 0.9,
        "decay_epochs": 10,
    }

    def __init__(
        self,
        adata: AnnData | None = None,
        n_clusters: int = 10,
        n_latent: int = 10,
        backbone: str | None = None,
        backbone_kwargs: dict | None = None,
        likelihood: str = "gaussian",
        recon_scale: float = 0.5,
        consistency: float = 0.0,
        view_kwargs: dict | None = None,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        arguments.check_positive("n_clusters", n_clusters)
        arguments.check_positive("n_latent", n_latent)
        arguments.check_choice("likelihood", likelihood, LIKELIHOODS)
        arguments.check_positive("recon_scale", recon_scale, integer=False)
        if likelihood == "bernoulli" and self.features_key is not None:
            raise ValueError(
                "likelihood='bernoulli' is one of pixels that are probabilities, but the model "
                f"reads vectors (features_key={self.features_key!r}). Choose 'gaussian'."
            )
        if backbone is None:
            backbone, paper_kwargs = PAPER_BACKBONE
            backbone_kwargs = paper_kwargs | (backbone_kwargs or {})
        networks = self._backbone(backbone, n_latent, backbone_kwargs)
        module = VaDEModule(
            networks,
            n_clusters,
            likelihood=likelihood,
            recon_scale=recon_scale,
            **self._row_scale,
            **self._consistency(consistency, view_kwargs),
        )
        self._finish(module, locals(), f"VaDE with {n_clusters} clusters, backbone={backbone}")

    def _default_epochs(self, n_minibatches: int) -> int:
        return 300

    def train(
        self,
        max_epochs: int | None = None,
        *,
        pretrain_epochs: int = 50,
        init: str = "mixture",
        n_init: int = 5,
        teach_epochs: int = 10,
        lr: float | dict[str, float] = 2e-3,
        pretrain_lr: float = 1e-3,
        batch_size: int = 100,
        early_stopping: bool = False,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        datasplitter_kwargs: dict | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        data_on: str = "auto",
        plan_kwargs: dict | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **trainer_kwargs,
    ) -> None:
        """Train an autoencoder, start the prior at a mixture of its codes, then train all.

        What comes before the epochs that were asked for has records of its own,
        ``model.start_history``; callbacks and loggers do not see it. A model that is trained
        already goes on with the last part.

        Parameters
        ----------
        max_epochs
            Passes over the images, 300 by default.
        pretrain_epochs
            Passes of the autoencoder before them; 0: none, and the prior starts as it is.
        init
            Where the prior starts, of the codes that the autoencoder found: ``"mixture"``, as in
            the paper, at the Gaussian mixture with diagonal covariances that fits them best;
            ``"leiden"`` at Leiden clusters of them, which all networks then learn for
            ``teach_epochs``.
        n_init
            Fits of the mixture, of which the best is taken.
        teach_epochs
            Passes in which Leiden's clusters are given.
        lr, pretrain_lr
            Adam's learning rates; teaching has that of the autoencoder. That of the last part
            becomes 0.9 of it every 10 epochs, unless ``plan_kwargs`` say otherwise (``lr_decay``,
            ``decay_epochs``).
        plan_kwargs
            Options of :class:`mixvi.core.training.stepwise.StepwiseTrainingPlan`; Adam's ``betas``
            are 0.9 and 0.999 by default.
        checkpoint_dir, resume
            Directory for a checkpoint an epoch, those before the last part included, and whether to
            go on with the run in it.

        Raises
        ------
        ImportError
            If igraph is not installed for ``init="leiden"``.
        ValueError
            If an argument is unusable, or there are fewer different images than clusters.
        TypeError
            If an argument is unknown.
        FloatingPointError, KeyboardInterrupt
            See :meth:`mixvi.images.GenerativeInference.train`.
        """
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        if pretrain_epochs:
            arguments.check_positive("pretrain_epochs", pretrain_epochs)
        arguments.check_choice("init", init, INITS)
        if init == "leiden":
            check_leiden()
        arguments.check_positive("n_init", n_init)
        arguments.check_positive("teach_epochs", teach_epochs)
        arguments.check_positive("pretrain_lr", pretrain_lr, integer=False)
        shared = {k: v for k, v in settings.items() if k not in _OWN_SETTINGS}
        fit = self._settled(**shared)
        run = self._training_run(checkpoint_dir, resume, settings)
        if pretrain_epochs and not self.is_trained_:
            rates = {"lr": dict.fromkeys(self.module.network_names, pretrain_lr)}
            split = self._fit(fit.before("pretraining", pretrain_epochs, {}, rates), run)
            fit = replace(fit, split=split)
            if init == "mixture":
                self._start_prior(*self._fitted_mixture(split.train, n_init))
            else:
                codes = self._codes(None)
                with self._taught_clusters(codes) as clusters:
                    self._start_at_clusters(codes, clusters)
                    self._fit(fit.before("teaching", teach_epochs, {}, rates), run)
        self._fit(fit, run)

    def _start_prior(self, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> None:
        started = (weights, means, variances)
        self._prior.start_at(*(torch.as_tensor(v, dtype=torch.float32) for v in started))

    def _fitted_mixture(
        self, rows: np.ndarray, n_init: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, means and variances of the mixture that fits the codes' means best."""
        mixture = GaussianMixture(
            len(self.clusters), covariance_type="diag", n_init=n_init, random_state=drawn_seed()
        ).fit(self._codes(rows))
        return mixture.weights_, mixture.means_, mixture.covariances_

    def _start_at_clusters(self, codes: np.ndarray, clusters: np.ndarray) -> None:
        parts = [codes[clusters == k] for k in range(len(self.clusters))]
        self._start_prior(
            np.array([len(part) for part in parts]) / len(codes),
            np.stack([part.mean(axis=0) for part in parts]),
            np.stack([part.var(axis=0) for part in parts]),
        )

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        return_terms: bool = False,
        batch_size: int | None = None,
    ) -> float | torch.Tensor | pd.Series | pd.DataFrame:
        """The evidence lower bound in nats, constants included; higher is better.

        Parameters
        ----------
        return_mean
            The mean over images, or the value of each.
        return_terms
            Instead, the terms of minus the ELBO and their sum ``total`` (lower is better), by name:
            ``R``, the reconstruction loss at one sample of z; ``Z``, the KL of q(z | x) to the
            components, weighted by q(y | z); ``Y``, the KL of q(y | z) to the weights.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; of terms a Series, or a DataFrame by the images' names.
        """
        return self._elbo(
            self._elbo_terms,
            adata,
            indices,
            return_mean=return_mean,
            return_terms=return_terms,
            batch_size=batch_size,
        )

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_mc_samples: int = 100,
        return_mean: bool = True,
        batch_size: int | None = None,
    ) -> float | torch.Tensor:
        """Log p(x) in nats by importance sampling, clusters being summed out.

        Parameters
        ----------
        n_mc_samples
            Draws an image; more make the estimate less of an underestimate (Burda et al. 2016).
        return_mean
            The mean over images, or the value of each.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; higher is better.
        """
        return self._marginal_ll(
            lambda x: partial(self._log_weight, x, *self.module.encode(x)),
            adata,
            indices,
            n_mc_samples=n_mc_samples,
            return_mean=return_mean,
            batch_size=batch_size,
        )

    def _log_weight(self, x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        """Log p(x, z) - log q(z | x) at a draw of z, ``(B,)``."""
        z = reparameterise(mu, log_var)
        loss = self.module.reconstruction(x, self.module.reconstruct(z)) + self._constant(x)
        return self.module.prior.log_joint(z).logsumexp(-1) + encoder_loss(z, mu, log_var) - loss

    def _constant(self, x: Tensor) -> float:
        """What :meth:`VaDEModule.reconstruction` leaves out of minus log p(x | z)."""
        if self.module.likelihood == "gaussian":
            return log_normaliser(x, self.module.recon_scale)
        return 0.0

    def _check_has_elbo(self) -> None:
        """It always has."""

    def _elbo_terms(self, x: Tensor) -> dict[str, Tensor]:
        terms = dict(zip(("R", "Z", "Y"), self.module.terms(x).values(), strict=True))
        terms["R"] = terms["R"] + self._constant(x)
        return terms
