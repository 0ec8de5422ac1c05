"""MPCC: a GAN with a learned Gaussian-mixture prior, and an encoder that finds the clusters.

Astorga 2021, sections 7.2 and 8.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from torch import nn

from mixvi.core import arguments
from mixvi.core.maths.clustering import check_leiden
from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.core.training.running import NO_SETTINGS
from mixvi.images.backbones import Backbone, make_backbone
from mixvi.images.cluster_model import ClusterModel
from mixvi.images.cluster_networks import ProjectionCritic, cluster_networks
from mixvi.images.model import ImageModel
from mixvi.images.mpcc_module import MPCCModule
from mixvi.images.teaching import TaughtModel

SIGMA_FLOOR = 0.5
PRIOR_LR = 1.6e-3
INITS = ("random", "leiden")
# arguments of train that other models have not
_OWN_SETTINGS = ("init", "teach_epochs", "prior_lr")


class MPCCNetworks(ImageModel):
    """Base of the models with MPCC's networks: how they are made, and what the critic says."""

    module: MPCCModule

    def _networks(
        self,
        backbone: str,
        backbone_kwargs: dict | None,
        n_latent: int,
        *,
        n_seen: int = 0,
        n_classes: int = 0,
        **options,
    ) -> dict[str, nn.Module]:
        """Networks by name; the generator sees ``n_seen`` clusters, the critic ``n_classes``."""
        arguments.check_positive("n_latent", n_latent)
        made = self._backbone(backbone, n_latent, backbone_kwargs)
        return cluster_networks(made, n_seen, n_classes=n_classes, **options)

    def _backbone(self, name: str, n_latent: int, options: dict | None) -> Backbone:
        return make_backbone(name, self.image_shape, n_latent, options)

    def _default_epochs(self, n_minibatches: int) -> int:
        # 75,000 updates of the generator (Astorga 2021, section 8.2)
        return max(1, -(-75_000 * self.module.d_steps // n_minibatches))

    @torch.inference_mode()
    def get_discriminator_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The critic's score of each image, ``(n_obs,)``; higher is more like the data.

        A critic that sees classes sees the most probable one.
        """
        adata = self._validate_anndata(adata)
        scores = []
        for x in self._batches(adata, indices, batch_size):
            _, *clusters = self.module.generator_inputs(self.module.encode(x)[0])
            scores.append(self.module.score(x, *clusters).cpu())
        return torch.cat(scores).numpy()


class MixtureMPCC(ClusterModel, MPCCNetworks):
    """Base of MPCC with clusters: a rate of its own for the prior, and images of given codes."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] = 2e-4,
        prior_lr: float | None = None,
        batch_size: int = 50,
        **kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        Parameters
        ----------
        max_epochs
            Passes over the images. ``None``: what 75,000 updates of the generator take.
        lr
            Adam's learning rate of all networks but the prior; a dict has one for each network.
        prior_lr
            That of the prior, 1.6e-3 unless told. Above ``lr``, so that clusters part before the
            generator has learned all; the thesis has 1.6e-3 for images of one channel, 6e-4 for
            CIFAR.
        batch_size
            Images a minibatch; larger ones make worse clusters (Astorga 2021, section 8.1).
        **kwargs
            As for :meth:`mixvi.images.GenerativeInference.train`.

        Raises
        ------
        ValueError
            If an argument is unusable, or there are fewer different images than clusters.
        FloatingPointError, KeyboardInterrupt
            See :meth:`mixvi.images.GenerativeInference.train`.
        """
        super().train(max_epochs, lr=self._rates(lr, prior_lr), batch_size=batch_size, **kwargs)

    def _rates(self, lr: float | dict[str, float], prior_lr: float | None) -> dict[str, float]:
        """Learning rates by network."""
        if prior_lr is not None:
            arguments.check_positive("prior_lr", prior_lr, integer=False)
        if not isinstance(lr, dict):
            arguments.check_positive("lr", lr, integer=False)
            lr = dict.fromkeys((n for n in self.module.network_names if n != "prior"), lr)
        elif "prior" in lr and prior_lr not in (None, lr["prior"]):
            raise ValueError(
                f"prior_lr={prior_lr!r}, but lr has {lr['prior']!r} for 'prior'. Pass one of them."
            )
        return {"prior": PRIOR_LR if prior_lr is None else prior_lr} | lr

    def decode_latent(
        self, z: np.ndarray, *, cluster: object = None, batch_size: int | None = None
    ) -> np.ndarray:
        """Images of latent coordinates of your own, ``(n, C, H, W)``.

        On the scale of the registered images; batch norm as in :meth:`sample`. A line between two
        codes of one cluster, decoded with it, stays in the cluster.

        Parameters
        ----------
        z
            ``(n, n_latent)``.
        cluster
            The cluster that the generator is told; ``None``: the most probable one of each code.

        Raises
        ------
        ValueError
            If ``z`` has another shape, or there is no such cluster.
        """
        return self._decoded(z, batch_size, cluster=self._cluster_code(cluster))


class MPCC(TaughtModel, MixtureMPCC):
    """Matching priors and conditionals for clustering: clusters, and sharp images of each.

    A GAN whose prior is a learned mixture of K Gaussians with equal weights; an encoder, trained on
    generated images, gives codes of real ones, and their clusters follow by Bayes' rule on the
    prior (Astorga 2021, sections 7.2 and 8.1).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_clusters
        Components K of the prior.
    n_latent
        Size J of z.
    backbone, backbone_kwargs
        As in :class:`mixvi.images.GenerativeInference`; the thesis has ``"resnet"`` with
        ``n_channels`` from 12 (MNIST) to 96 (CIFAR-10). ``None``: ``"resnet"``, or ``"mlp"`` for
        vectors, which have no other.
    conditioning
        How z and y enter the generator: ``"class_norm"``, ``"split"`` or ``"copy"``, see
        :class:`mixvi.images.cluster_networks.Slots`. The thesis has the first for MNIST and
        Omniglot, the second for CIFAR, the third for Fashion-MNIST.
    share
        Whether encoder and critic share their first half, which both then train.
    own_plain_block
        See :class:`mixvi.images.cluster_networks.ResNetClusterNetworks`.
    d_steps, e_steps
        Critic steps, each on a minibatch of its own, and encoder steps for one of the generator.
    lambda_p
        Weight of the prior's entropy.
    sigma_floor
        Least standard deviation of a component.
    latent_ll_to_prior
        Whether L_q moves the prior, too, at the first encoder step, as in the author's code.
    legacy_sigma
        See :class:`mixvi.core.maths.mixture_prior.GaussianMixturePrior`.
    ema_decay, ema_start
        See :class:`mixvi.images.GenerativeInference`.
    consistency, view_kwargs
        See :class:`VaDE`; the encoder learns it, on images of the data.

    Raises
    ------
    ValueError
        If a name or setting is unknown, or the images do not suit the backbone.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        n_clusters: int = 10,
        n_latent: int = 24,
        backbone: str | None = None,
        backbone_kwargs: dict | None = None,
        conditioning: str = "class_norm",
        share: bool = True,
        own_plain_block: bool = True,
        d_steps: int = 4,
        e_steps: int = 4,
        lambda_p: float = 0.01,
        sigma_floor: float = SIGMA_FLOOR,
        latent_ll_to_prior: bool = False,
        legacy_sigma: bool = False,
        ema_decay: float | None = 0.9999,
        ema_start: int = 1000,
        consistency: float = 0.0,
        view_kwargs: dict | None = None,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        arguments.check_positive("n_clusters", n_clusters)
        if backbone is None:
            backbone = "resnet" if self.features_key is None else "mlp"
        networks = self._networks(
            backbone,
            backbone_kwargs,
            n_latent,
            n_seen=n_clusters,
            conditioning=conditioning,
            share=share,
            own_plain_block=own_plain_block,
        )
        module = MPCCModule(
            image_shape=self._row_shape,
            n_latent=n_latent,
            networks=networks,
            prior=GaussianMixturePrior(
                n_clusters, n_latent, sigma_floor, legacy_sigma=legacy_sigma
            ),
            ema_decay=ema_decay,
            ema_start=ema_start,
            d_steps=d_steps,
            e_steps=e_steps,
            lambda_p=lambda_p,
            latent_ll_to_prior=latent_ll_to_prior,
            **self._row_scale,
            **self._consistency(consistency, view_kwargs),
        )
        self._finish(module, locals(), f"MPCC with {n_clusters} clusters, backbone={backbone}")

    def train(
        self,
        max_epochs: int | None = None,
        *,
        init: str = "random",
        teach_epochs: int = 5,
        lr: float | dict[str, float] = 2e-4,
        prior_lr: float | None = None,
        batch_size: int = 50,
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
        """Train the model; callable repeatedly, each call goes on from the last.

        Parameters
        ----------
        init
            ``"random"``, as in the thesis; or ``"leiden"``: the critic of a new model first sees
            the Leiden cluster of each image (on the graph of 50 principal components) and the
            component of each generated one, as :class:`ConditionalMPCC`'s sees labels. Afterwards
            it sees neither. Clusters then part in a fraction of the updates.
        teach_epochs
            Passes in which Leiden's clusters are given. They come before ``max_epochs`` and have
            records of their own, ``model.start_history``; callbacks and loggers do not see them.
        checkpoint_dir, resume
            Directory for a checkpoint an epoch, those of teaching included, and whether to go on
            with the run in it.

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
        arguments.check_choice("init", init, INITS)
        arguments.check_positive("teach_epochs", teach_epochs)
        if init == "leiden":
            check_leiden()
        shared = {k: v for k, v in settings.items() if k not in _OWN_SETTINGS}
        rates = self._rates(lr, prior_lr)
        fit = self._settled(**shared | {"lr": rates})
        teaching = fit.before("teaching", teach_epochs, {}, {"lr": fit.plan["lr"]})
        is_taught = init == "leiden" and not self.is_trained_
        if is_taught:
            self._check_turns(teaching)

        run = self._training_run(checkpoint_dir, resume, settings)
        if is_taught:
            components = self._principal_components()
            with self._taught_clusters(components), self._critic_of_clusters():
                fit = replace(fit, split=self._fit(teaching, run))
        self._fit(fit, run)

    @contextmanager
    def _critic_of_clusters(self) -> Iterator[None]:
        """The critic sees the cluster, too, meanwhile."""
        critic = self.module.image_critic
        self.module.image_critic = ProjectionCritic.around(critic, len(self.clusters))
        try:
            yield
        finally:
            self.module.image_critic = critic
