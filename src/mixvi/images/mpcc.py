"""MPCC: a GAN with a learned Gaussian-mixture prior, and an encoder that finds the clusters.

Astorga 2021, sections 7.2 and 8.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.clustering import check_leiden
from mixvi.images.adversarial import critic_loss, generator_loss
from mixvi.images.backbones import make_backbone
from mixvi.images.cluster_networks import ProjectionCritic, cluster_networks
from mixvi.images.likelihoods import encoder_loss
from mixvi.images.mixture_prior import GaussianMixturePrior
from mixvi.images.model import ImageModel
from mixvi.images.steps import Loss, Step
from mixvi.images.teaching import TaughtModel, TaughtModule

SIGMA_FLOOR = 0.5
ITERATIONS = 75_000


class MPCCModule(TaughtModule):
    """Critic, generator, encoder and prior, and the four steps that train them.

    Parameters
    ----------
    image_shape, pixel_range, n_latent, ema_decay, ema_start
        See :class:`mixvi.images.module.ImageModule`.
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
    ):
        networks = networks | {"prior": prior}
        super().__init__(image_shape, pixel_range, n_latent, networks, ema_decay, ema_start)
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
        """Loss II of the encoder: L_q of generated images' codes, for each value of an image."""
        with torch.no_grad():
            inputs = self.draw_inputs(len(x))
            generated = self.generator(*inputs)
        nll = encoder_loss(inputs[0], *self.encode(generated)).mean()
        return nll / self.n_values, {"latent_nll": nll}

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
        return loss + nll / self.n_values, terms | {"latent_nll": nll}

    def _prior_loss(self, z: Tensor, clusters: Tensor) -> Loss:
        membership = self.prior.log_membership(z)
        nll = -membership.gather(1, clusters[:, None]).mean()
        entropy = self.prior.negative_entropy()
        terms = {"cluster_nll": nll, "prior_negative_entropy": entropy}
        return nll + self.lambda_p * entropy, terms


class MPCCBase(ImageModel):
    """What the models of MPCC's networks share: how they are built and trained."""

    module: MPCCModule
    _module_class = MPCCModule

    def _build(
        self, given: dict, prior: GaussianMixturePrior, n_seen: int, n_classes: int = 0
    ) -> None:
        """Make the module by the arguments ``given`` to the model.

        The generator sees ``n_seen`` clusters, the critic ``n_classes``.
        """
        _check_settings(given)
        name, n_latent = given["backbone"], given["n_latent"]
        backbone = make_backbone(name, self.image_shape, n_latent, given["backbone_kwargs"])
        networks = cluster_networks(
            backbone,
            n_seen,
            given["conditioning"],
            given["share"],
            n_classes,
            given["own_plain_block"],
        )
        module = self._module_class(
            self.image_shape,
            self.pixel_range,
            n_latent,
            networks,
            prior,
            **{key: given[key] for key in _MODULE_SETTINGS if key in given},
        )
        summary = f"{type(self).__name__} with {prior.n_clusters} components, backbone={name}"
        self._finish(module, given, summary)

    def _default_epochs(self, n_minibatches: int) -> int:
        return max(1, -(-ITERATIONS * self.module.d_steps // n_minibatches))

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


class MPCC(TaughtModel, MPCCBase):
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
        ``n_channels`` from 12 (MNIST) to 96 (CIFAR-10).
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
        See :class:`mixvi.images.mixture_prior.GaussianMixturePrior`.
    ema_decay, ema_start
        See :class:`mixvi.images.GenerativeInference`.

    Raises
    ------
    ValueError
        If a name or setting is unknown, or the images do not suit the backbone.
    """

    _inits = ("random", "leiden")

    def __init__(
        self,
        adata: AnnData | None = None,
        n_clusters: int = 10,
        n_latent: int = 24,
        backbone: str = "resnet",
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
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        arguments.check_positive("n_clusters", n_clusters)
        arguments.check_positive("n_latent", n_latent)
        prior = GaussianMixturePrior(n_clusters, n_latent, sigma_floor, legacy_sigma=legacy_sigma)
        self._build(locals(), prior, n_clusters)

    def train(
        self,
        max_epochs: int | None = None,
        *,
        init: str = "random",
        teach_epochs: int = 5,
        lr: float | dict[str, float] = 2e-4,
        prior_lr: float = 1.6e-3,
        batch_size: int = 50,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        Parameters
        ----------
        max_epochs
            Passes over the images. ``None``: what 75,000 updates of the generator take.
        init
            ``"random"``, as in the thesis; or ``"leiden"``: the critic of a new model first sees
            the Leiden cluster of each image (on the graph of 50 principal components) and the
            component of each generated one, as :class:`ConditionalMPCC`'s sees labels. Afterwards
            it sees neither. Clusters then part in a fraction of the updates.
        teach_epochs
            Passes in which Leiden's clusters are given; they come before ``max_epochs``.
        lr
            Adam's learning rate of all networks but the prior; a dict has one for each network.
        prior_lr
            That of the prior. Above ``lr``, so that clusters part before the generator has learned
            all; the thesis has 1.6e-3 for images of one channel, 6e-4 for CIFAR.
        batch_size
            Images a minibatch; larger ones make worse clusters (Astorga 2021, section 8.1).
        checkpoint_dir, resume
            Directory for checkpoints, and whether to go on with the run in it; each part has a
            directory of its own there.
        **kwargs
            As for :meth:`mixvi.images.GenerativeInference.train`.

        Raises
        ------
        ImportError
            If igraph is not installed for ``init="leiden"``.
        ValueError
            If an argument is unusable, or there are fewer images than clusters.
        FloatingPointError
            If a loss term stops being finite; the term is named.
        """
        arguments.check_choice("init", init, self._inits)
        arguments.check_positive("teach_epochs", teach_epochs)
        if max_epochs is not None:
            arguments.check_positive("max_epochs", max_epochs)
        if not isinstance(lr, dict):
            lr = dict.fromkeys(self.module.network_names, lr) | {"prior": prior_lr}
        kwargs |= {
            "lr": lr,
            "batch_size": batch_size,
            "checkpoint_dir": checkpoint_dir,
            "resume": resume,
        }
        if init == "leiden" and not self.is_trained_:
            check_leiden()
            self._training_indices()
            components = self._principal_components()
            with self._taught_clusters(components), self._critic_of_clusters():
                self._train_part("teaching", teach_epochs, **kwargs)
        self._train_part("training", max_epochs, **kwargs)

    @contextmanager
    def _critic_of_clusters(self) -> Iterator[None]:
        """The critic sees the cluster, too, meanwhile."""
        critic = self.module.image_critic
        self.module.image_critic = ProjectionCritic.around(critic, len(self.clusters))
        try:
            yield
        finally:
            self.module.image_critic = critic

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


@dataclass(frozen=True)
class MPCCRecipe:
    """Settings of one run of the thesis (Astorga 2021, section 8.1).

    Attributes
    ----------
    data
        What it was run on: images of 32 x 32 pixels.
    model_kwargs, train_kwargs
        Of :class:`MPCC` and its ``train``; epochs are the thesis's updates on as many images.
    """

    data: str
    model_kwargs: dict[str, Any]
    train_kwargs: dict[str, Any]


def _recipe(
    data: str, n_images: int, k: int, j: int, c: int, conditioning: str, eta_p: float, updates: int
) -> MPCCRecipe:
    batch_size, d_steps = 50, 4
    model = {
        "n_clusters": k,
        "n_latent": j,
        "backbone": "resnet",
        "backbone_kwargs": {"n_channels": c},
        "conditioning": conditioning,
        "d_steps": d_steps,
    }
    epochs = -(-updates * d_steps // (n_images // batch_size))
    train = {"max_epochs": epochs, "lr": 2e-4, "prior_lr": eta_p, "batch_size": batch_size}
    return MPCCRecipe(data, model, train)


RECIPES: dict[str, MPCCRecipe] = {
    "mnist": _recipe("MNIST, 70,000 images", 70_000, 10, 24, 12, "class_norm", 1.6e-3, 125_000),
    "omniglot": _recipe(
        "Omniglot, 40,000 images of 100 characters",
        40_000,
        100,
        24,
        16,
        "class_norm",
        1.6e-3,
        125_000,
    ),
    "fashion_mnist": _recipe(
        "Fashion-MNIST, 70,000 images", 70_000, 10, 16, 24, "copy", 1.6e-3, ITERATIONS
    ),
    "cifar10": _recipe("CIFAR-10, 60,000 images", 60_000, 10, 128, 96, "split", 6e-4, ITERATIONS),
    "cifar20": _recipe(
        "CIFAR-100, 60,000 images of 20 superclasses",
        60_000,
        20,
        128,
        96,
        "split",
        6e-4,
        ITERATIONS,
    ),
}


def mpcc_recipe(name: str) -> MPCCRecipe:
    """The thesis's settings for a data set.

    Parameters
    ----------
    name
        ``"mnist"``, ``"omniglot"``, ``"fashion_mnist"``, ``"cifar10"`` or ``"cifar20"``.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    arguments.check_choice("name", name, RECIPES)
    return RECIPES[name]


_MODULE_SETTINGS = (
    "d_steps",
    "e_steps",
    "lambda_p",
    "latent_ll_to_prior",
    "ema_decay",
    "ema_start",
)


def _check_settings(given: dict[str, Any]) -> None:
    """Raise ValueError for unusable numbers."""
    for name in ("n_latent", "d_steps", "e_steps", "ema_start"):
        arguments.check_positive(name, given[name])
    for name in ("lambda_p", "sigma_floor"):
        value = given.get(name, 0.0)
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number of at least 0, but is {value!r}.")
    if given["ema_decay"] is not None:
        arguments.check_rate("ema_decay", given["ema_decay"])
