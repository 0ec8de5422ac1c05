"""Networks of MPCC: generators that see clusters, encoders and critics with a half in common.

``"resnet"`` is the thesis's (Astorga 2021, tables 8.1-8.3), ``"conv"`` and ``"mlp"`` are light ones
for a CPU; sizes are those of :mod:`mixvi.images.backbones`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mixvi.core import arguments
from mixvi.core.maths.spectral import INIT_STD, ConditionalBatchNorm, linear
from mixvi.images.backbones import (
    Backbone,
    ConvBackbone,
    Critic,
    Encoder,
    MLPBackbone,
    ResNetBackbone,
    SumPool,
    hidden,
)
from mixvi.images.blocks import (
    DownBlock,
    PlainBlock,
    UpBlock,
    conv3,
)
from mixvi.images.features import FeatureMLP

CONDITIONING = ("split", "copy", "class_norm")


@dataclass(frozen=True)
class Slots:
    """What of z and y enters the first layer of a generator, and the norms of each block.

    Attributes
    ----------
    kind
        ``"split"``: z is cut in equal parts, one for the first layer and each block, and norms see
        their part and an embedding of y; ``"copy"``: all of z everywhere; ``"class_norm"``: z in
        the first layer, y alone in norms (Astorga 2021, section 8.1, methods 1 to 3).
    n_latent
        Size J of z, and of the embedding of y.
    n_clusters
        Values of y; 0: there is no y.
    n_blocks
        Blocks of the generator.
    """

    kind: str
    n_latent: int
    n_clusters: int
    n_blocks: int

    def __post_init__(self):
        arguments.check_choice("conditioning", self.kind, CONDITIONING)
        parts = self.n_blocks + 1
        if self.kind == "split" and self.n_latent % parts:
            more = -(-self.n_latent // parts) * parts
            raise ValueError(
                f"conditioning='split' cuts z in {parts} equal parts, but n_latent is "
                f"{self.n_latent}. Choose a multiple of {parts}, such as {more}."
            )
        if self.kind == "class_norm" and not self.n_clusters:
            raise ValueError(
                "conditioning='class_norm' needs clusters, and this model has none. Choose 'split' "
                "or 'copy'."
            )

    @property
    def n_first(self) -> int:
        """Size of what the first layer sees."""
        return self.n_latent // (self.n_blocks + 1) if self.kind == "split" else self.n_latent

    @property
    def n_condition(self) -> int:
        """Size of what each norm sees."""
        if self.kind == "class_norm":
            return self.n_clusters
        return self.n_first + (self.n_latent if self.n_clusters else 0)

    @property
    def is_spectral(self) -> bool:
        """Whether the maps of norms have spectral norm: embeddings of y have none."""
        return self.kind != "class_norm"


class ClusterGenerator(nn.Module):
    """Codes and their clusters to images.

    Parameters
    ----------
    slots
        What enters where.
    first
        Layer from z to features.
    blocks
        Blocks, each of features and a condition.
    last
        From features to the image.
    """

    def __init__(self, slots: Slots, first: nn.Module, blocks: list[nn.Module], last: nn.Module):
        super().__init__()
        self.slots = slots
        self.first = first
        self.blocks = nn.ModuleList(blocks)
        self.last = last
        self.embedding = None
        if slots.n_clusters and slots.kind != "class_norm":
            self.embedding = nn.Embedding(slots.n_clusters, slots.n_latent)
            nn.init.normal_(self.embedding.weight, std=INIT_STD)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes ``(B, J)`` and clusters ``(B,)`` to images ``(B, C, H, W)`` in [-1, 1]."""
        n_blocks = self.slots.n_blocks
        if self.slots.kind == "split":
            first, *conditions = z.chunk(n_blocks + 1, dim=1)
        else:
            first, conditions = z, [z] * n_blocks
        if self.slots.kind == "class_norm":
            conditions = [F.one_hot(y, self.slots.n_clusters).to(z.dtype)] * n_blocks
        elif self.embedding is not None:
            of_y = self.embedding(y)
            conditions = [torch.cat([of_y, part], dim=1) for part in conditions]
        h = self.first(first)
        for block, condition in zip(self.blocks, conditions, strict=True):
            h = block(h, condition)
        return self.last(h)


class NormedLayer(nn.Module):
    """Conditional batch norm, ReLU, and a layer: a block of the light generators."""

    def __init__(self, n_channels: int, slots: Slots, layer: nn.Module):
        super().__init__()
        self.norm = ConditionalBatchNorm(n_channels, slots.n_condition, slots.is_spectral)
        self.layer = layer

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Features ``(B, n_channels, ...)`` to what the layer makes of them."""
        # vectors are images of one pixel
        images = h if h.ndim == 4 else h[:, :, None, None]
        return self.layer(F.relu(self.norm(images, condition)).view_as(h))


class ProjectionCritic(Critic):
    """A critic that sees the class: its embedding times the features is added to the score.

    Source: Miyato and Koyama 2018; Astorga 2021, section 8.1.
    """

    def __init__(self, body: nn.Module, n_features: int, n_classes: int):
        super().__init__(body, n_features)
        self.n_classes = n_classes
        # an embedding, as a map of one-hot rows, so that it has spectral norm
        self.embedding = linear(n_classes, n_features, bias=False)

    @classmethod
    def around(cls, critic: Critic, n_classes: int) -> ProjectionCritic:
        """A critic with the layers of another, which it trains."""
        made = cls(critic.body, critic.n_features, n_classes)
        made.head = critic.head
        return made

    def forward(self, inputs: Tensor, y: Tensor) -> Tensor:
        """Scores ``(B,)`` of inputs with classes ``(B,)``."""
        features = self.features(inputs)
        of_y = self.embedding(F.one_hot(y, self.n_classes).to(features.dtype))
        return self.score(features) + (of_y * features).sum(1)


class ClusterNetworks(ABC):
    """Parts of the networks, in the sizes of a backbone."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    @abstractmethod
    def trunk(self) -> nn.Module:
        """First half of critic and encoder."""

    @abstractmethod
    def critic_rest(self) -> tuple[nn.Module, int]:
        """Second half of the critic, and the number of its features."""

    @abstractmethod
    def encoder_rest(self) -> tuple[nn.Module, int]:
        """Second half of the encoder, and the number of its features."""

    @abstractmethod
    def head(self, n_features: int) -> nn.Module:
        """Features to mean or log-variance."""

    @abstractmethod
    def generator(self, conditioning: str, n_clusters: int) -> ClusterGenerator:
        """Codes and clusters to images."""


class ResNetClusterNetworks(ClusterNetworks):
    """The thesis's (Astorga 2021, tables 8.1-8.3).

    Parameters
    ----------
    backbone
        Of chapter 6.
    own_plain_block
        Whether the encoder has a plain block after the shared ones, as its author's code has and
        table 8.3 has not.
    """

    def __init__(self, backbone: ResNetBackbone, own_plain_block: bool = True):
        super().__init__(backbone)
        self.own_plain_block = own_plain_block

    def trunk(self) -> nn.Module:
        """Three blocks: to half, to a quarter, and a plain one."""
        w = self.backbone.width
        channels = self.backbone.image_shape[0]
        return nn.Sequential(DownBlock(channels, w, first=True), DownBlock(w, w), PlainBlock(w))

    def critic_rest(self) -> tuple[nn.Module, int]:
        """A plain block and a sum over pixels."""
        w = self.backbone.width
        return nn.Sequential(PlainBlock(w), nn.ReLU(), SumPool()), w

    def encoder_rest(self) -> tuple[nn.Module, int]:
        """[A plain block,] two halvings."""
        w = self.backbone.width
        _, height, width = self.backbone.image_shape
        own = [PlainBlock(w)] if self.own_plain_block else []
        rest = nn.Sequential(*own, DownBlock(w, w), DownBlock(w, w), nn.Flatten())
        return rest, w * (height // 16) * (width // 16)

    def head(self, n_features: int) -> nn.Module:
        """Two linear layers."""
        n_hidden = 2 * self.backbone.width
        return nn.Sequential(
            linear(n_features, n_hidden), nn.ReLU(), linear(n_hidden, self.backbone.n_latent)
        )

    def generator(self, conditioning: str, n_clusters: int) -> ClusterGenerator:
        """Three blocks that double."""
        channels, height, width = self.backbone.image_shape
        w = self.backbone.width
        bottom = (w, height // 8, width // 8)
        slots = Slots(conditioning, self.backbone.n_latent, n_clusters, n_blocks=3)
        first = nn.Sequential(linear(slots.n_first, prod(bottom)), nn.Unflatten(1, bottom))
        blocks = [
            UpBlock(w, w, slots.n_condition, self.backbone.upsampling, slots.is_spectral)
            for _ in range(3)
        ]
        norm = nn.BatchNorm2d(w, eps=1e-5)
        last = nn.Sequential(norm, nn.ReLU(), conv3(w, channels), nn.Tanh())
        return ClusterGenerator(slots, first, blocks, last)


class ConvClusterNetworks(ClusterNetworks):
    """Two strided convolutions and their mirror image."""

    def trunk(self) -> nn.Module:
        """Two convolutions with spectral norm."""
        c = self.backbone.n_channels
        channels = self.backbone.image_shape[0]
        return nn.Sequential(
            spectral_norm(nn.Conv2d(channels, c, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(c, 2 * c, 4, stride=2, padding=1)),
        )

    def critic_rest(self) -> tuple[nn.Module, int]:
        """A linear layer with spectral norm."""
        n_hidden = self.backbone.n_hidden
        layer = spectral_norm(nn.Linear(prod(self.backbone.bottom), n_hidden))
        rest = nn.Sequential(nn.LeakyReLU(0.2), nn.Flatten(), layer, nn.LeakyReLU(0.2))
        return rest, n_hidden

    def encoder_rest(self) -> tuple[nn.Module, int]:
        """A linear layer."""
        n_hidden = self.backbone.n_hidden
        layers = hidden(prod(self.backbone.bottom), [n_hidden])
        return nn.Sequential(nn.LeakyReLU(0.2), nn.Flatten(), *layers), n_hidden

    def head(self, n_features: int) -> nn.Module:
        """A linear layer."""
        return nn.Linear(n_features, self.backbone.n_latent)

    def generator(self, conditioning: str, n_clusters: int) -> ClusterGenerator:
        """A linear layer and two transposed convolutions."""
        c, bottom = self.backbone.n_channels, self.backbone.bottom
        slots = Slots(conditioning, self.backbone.n_latent, n_clusters, n_blocks=2)
        first = nn.Sequential(nn.Linear(slots.n_first, prod(bottom)), nn.Unflatten(1, bottom))
        sizes = (2 * c, c, self.backbone.image_shape[0])
        blocks = [
            NormedLayer(a, slots, nn.ConvTranspose2d(a, b, 4, stride=2, padding=1))
            for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        return ClusterGenerator(slots, first, blocks, nn.Tanh())


class MLPClusterNetworks(ClusterNetworks):
    """Linear layers; critic and encoder share the first."""

    def trunk(self) -> nn.Module:
        """The first layer, with spectral norm."""
        n_in, sizes = prod(self.backbone.image_shape), self.backbone.sizes
        return nn.Sequential(nn.Flatten(), *hidden(n_in, sizes[:1], spectral=True))

    def critic_rest(self) -> tuple[nn.Module, int]:
        """Further layers with spectral norm."""
        first, *rest = self.backbone.sizes
        return nn.Sequential(*hidden(first, rest, spectral=True)), self.backbone.sizes[-1]

    def encoder_rest(self) -> tuple[nn.Module, int]:
        """Further layers."""
        first, *rest = self.backbone.sizes
        return nn.Sequential(*hidden(first, rest)), self.backbone.sizes[-1]

    def head(self, n_features: int) -> nn.Module:
        """A linear layer."""
        return nn.Linear(n_features, self.backbone.n_latent)

    def generator(self, conditioning: str, n_clusters: int) -> ClusterGenerator:
        """The layers in reverse."""
        shape, sizes = self.backbone.image_shape, self.backbone.sizes[::-1]
        slots = Slots(conditioning, self.backbone.n_latent, n_clusters, n_blocks=len(sizes))
        blocks = [
            NormedLayer(a, slots, nn.Linear(a, b))
            for a, b in zip(sizes, [*sizes[1:], prod(shape)], strict=True)
        ]
        last = nn.Sequential(*self.backbone.output())
        return ClusterGenerator(slots, nn.Linear(slots.n_first, sizes[0]), blocks, last)


CLUSTER_NETWORKS: dict[type[Backbone], type[ClusterNetworks]] = {
    ResNetBackbone: ResNetClusterNetworks,
    ConvBackbone: ConvClusterNetworks,
    MLPBackbone: MLPClusterNetworks,
    FeatureMLP: MLPClusterNetworks,
}


def cluster_networks(
    backbone: Backbone,
    n_clusters: int,
    conditioning: str,
    share: bool = True,
    n_classes: int = 0,
    own_plain_block: bool = True,
) -> dict[str, nn.Module]:
    """Encoder, generator and image critic by name.

    Parameters
    ----------
    backbone
        Says which and how large.
    n_clusters
        Clusters that the generator sees; 0: none.
    conditioning
        See :class:`Slots`.
    share
        Whether encoder and critic share their first half, which each then trains with its own loss.
    n_classes
        Classes that the critic sees; 0: none.
    own_plain_block
        See :class:`ResNetClusterNetworks`.

    Raises
    ------
    ValueError
        If there are no such networks for the backbone, or sizes do not fit.
    """
    made = CLUSTER_NETWORKS.get(type(backbone))
    if made is None:
        known = dict.fromkeys(cls.name for cls in CLUSTER_NETWORKS)
        raise ValueError(
            f"backbone={backbone.name!r} has no generator that sees clusters. "
            f"{arguments.near_matches(backbone.name, known)}"
        )
    options = {"own_plain_block": own_plain_block} if made is ResNetClusterNetworks else {}
    parts = made(backbone, **options)
    trunk = parts.trunk()
    rest, n_features = parts.critic_rest()
    body = nn.Sequential(trunk, rest)
    critic = (
        ProjectionCritic(body, n_features, n_classes) if n_classes else Critic(body, n_features)
    )
    rest, n_features = parts.encoder_rest()
    heads = [parts.head(n_features) for _ in range(2)]
    encoder = Encoder(nn.Sequential(trunk if share else parts.trunk(), rest), *heads)
    return {
        "encoder": encoder,
        "generator": parts.generator(conditioning, n_clusters),
        "image_critic": critic,
    }
