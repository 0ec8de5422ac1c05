"""Backbones: what makes encoders, generators and critics for images of a shape.

``"resnet"`` is the thesis's (Astorga 2021, section 6.3), ``"burgess"`` the one that disentangling
VAEs are compared on, ``"conv"`` and ``"mlp"`` are light ones for a CPU. A backbone of your own is a
subclass of :class:`Backbone` with a name of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import signature
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core import arguments
from mixvi.core.maths.spectral import linear
from mixvi.images.blocks import (
    UPSAMPLING,
    DownBlock,
    LinearBlock,
    PlainBlock,
    UpBlock,
    conv3,
)

BACKBONES: dict[str, type[Backbone]] = {}


class Critic(nn.Module):
    """Features of an input and a score of the features.

    Parameters
    ----------
    body
        Network from the input to features ``(B, n_features)``; layers in a row if it has a middle.
    n_features
        Their number.
    n_middle
        How many layers of the body give the features of its middle, which for images still have
        places. ``None``: there is no such middle.
    """

    def __init__(self, body: nn.Module, n_features: int, n_middle: int | None = None):
        super().__init__()
        self.body = body
        self.head = linear(n_features, 1)
        self.n_features = n_features
        self.n_middle = n_middle

    def features(self, inputs: Tensor) -> Tensor:
        """Features ``(B, n_features)``."""
        return self.body(inputs)

    def middle_features(self, inputs: Tensor) -> Tensor:
        """Features of the middle of the body, flattened, ``(B, n)``."""
        return self.body[: self.n_middle](inputs).flatten(1)

    def score(self, features: Tensor) -> Tensor:
        """Scores ``(B,)`` of features."""
        return self.head(features).squeeze(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores ``(B,)``."""
        return self.score(self.features(inputs))


class Encoder(nn.Module):
    """Mean and log-variance of q(z | x) from features of the image."""

    def __init__(self, body: nn.Module, mean: nn.Module, log_var: nn.Module):
        super().__init__()
        self.body = body
        self.mean = mean
        self.log_var = log_var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` to mean and log-variance, each ``(B, n_latent)``."""
        h = self.body(x)
        return self.mean(h), self.log_var(h)


class Backbone(ABC):
    """Makes the networks of a model.

    Parameters
    ----------
    image_shape
        (C, H, W).
    n_latent
        Size J of z.

    Raises
    ------
    ValueError
        If the images cannot be halved as often as the networks do.
    """

    name: ClassVar[str]
    n_halvings: ClassVar[int] = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            arguments.check_new_name("backbone", cls, BACKBONES)
            BACKBONES[cls.name] = cls

    def __init__(self, image_shape: tuple[int, int, int], n_latent: int):
        self.image_shape = tuple(image_shape)
        self.n_latent = n_latent
        _, height, width = self.image_shape
        factor = 2**self.n_halvings
        if height % factor or width % factor:
            larger = " x ".join(str(-(-side // factor) * factor) for side in (height, width))
            raise ValueError(
                f"backbone={self.name!r} halves images {self.n_halvings} times: height and width "
                f"must be multiples of {factor}, but are {height} x {width}. Pad or resize the "
                f"images to {larger}, or choose backbone='mlp', which takes any size."
            )

    @abstractmethod
    def encoder(self) -> nn.Module:
        """Images to mean and log-variance of z, each ``(B, n_latent)``."""

    @abstractmethod
    def generator(self) -> nn.Module:
        """Codes ``(B, n_latent)`` to images ``(B, C, H, W)`` in [-1, 1]."""

    @abstractmethod
    def image_critic(self, n_channels: int | None = None) -> Critic:
        """D_x: scores images, of as many channels as the data unless told."""

    @abstractmethod
    def latent_critic(self) -> Critic:
        """D_z: scores codes."""

    @abstractmethod
    def pair_critic(self, image_critic: Critic, latent_critic: Critic) -> Critic:
        """D_xz: scores the joined features of an image and a code."""

    def pair_critics(self) -> dict[str, Critic]:
        """D_x, D_z and the D_xz on their features, by the names that objectives use."""
        image_critic, latent_critic = self.image_critic(), self.latent_critic()
        return {
            "image_critic": image_critic,
            "latent_critic": latent_critic,
            "pair_critic": self.pair_critic(image_critic, latent_critic),
        }


class ResNetBackbone(Backbone):
    """The thesis's networks, shared by all its two-variable models (Astorga 2021, section 6.3).

    Parameters
    ----------
    image_shape, n_latent
        See :class:`Backbone`; sides are multiples of 16.
    n_channels
        C; blocks have 4 C channels. 32 for MNIST, 96 for CIFAR-10.
    upsampling
        ``"bilinear"`` or ``"nearest"``.
    """

    name = "resnet"
    n_halvings = 4

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_latent: int,
        n_channels: int = 32,
        upsampling: str = "bilinear",
    ):
        super().__init__(image_shape, n_latent)
        arguments.check_positive("n_channels", n_channels)
        arguments.check_choice("upsampling", upsampling, UPSAMPLING)
        self.width = 4 * n_channels
        self.n_hidden = 8 * n_channels
        self.upsampling = upsampling

    def encoder(self) -> Encoder:
        """Five blocks without batch norm and two linear heads."""
        channels, height, width = self.image_shape
        w = self.width
        body = nn.Sequential(
            DownBlock(channels, w, first=True),
            DownBlock(w, w),
            PlainBlock(w),
            DownBlock(w, w),
            DownBlock(w, w),
            nn.Flatten(),
        )
        n_features = w * (height // 16) * (width // 16)
        return Encoder(body, linear(n_features, self.n_latent), linear(n_features, self.n_latent))

    def generator(self) -> ResNetGenerator:
        """Three blocks with batch norm conditional on the whole z."""
        return ResNetGenerator(self.image_shape, self.n_latent, self.width, self.upsampling)

    def image_critic(self, n_channels: int | None = None) -> Critic:
        """Four blocks and a sum over pixels."""
        w = self.width
        body = nn.Sequential(
            DownBlock(n_channels or self.image_shape[0], w, first=True),
            DownBlock(w, w),
            PlainBlock(w),
            PlainBlock(w),
            nn.ReLU(),
            SumPool(),
        )
        return Critic(body, w, n_middle=2)

    def latent_critic(self) -> Critic:
        """One residual block of two linear layers with 8 C units."""
        return Critic(LinearBlock(self.n_latent, self.n_hidden), self.n_hidden)

    def pair_critic(self, image_critic: Critic, latent_critic: Critic) -> Critic:
        """One residual block on the 12 C joined features."""
        n_in = image_critic.n_features + latent_critic.n_features
        return Critic(LinearBlock(n_in, self.n_hidden), self.n_hidden)


class ResNetGenerator(nn.Module):
    """Linear map to 1/8 of the size, three up-blocks, batch norm, convolution, tanh (table 6.1)."""

    def __init__(
        self, image_shape: tuple[int, int, int], n_latent: int, n_channels: int, upsampling: str
    ):
        super().__init__()
        channels, height, width = image_shape
        self.bottom = (n_channels, height // 8, width // 8)
        self.linear = linear(n_latent, prod(self.bottom))
        self.blocks = nn.ModuleList(
            UpBlock(n_channels, n_channels, n_latent, upsampling) for _ in range(3)
        )
        self.norm = nn.BatchNorm2d(n_channels, eps=1e-5)
        self.conv = conv3(n_channels, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Codes ``(B, n_latent)`` to images in [-1, 1]."""
        h = self.linear(z).unflatten(1, self.bottom)
        for block in self.blocks:
            h = block(h, z)
        return torch.tanh(self.conv(F.relu(self.norm(h))))


class SumPool(nn.Module):
    """Sum over height and width."""

    def forward(self, h: Tensor) -> Tensor:
        """``(B, n_channels, H, W)`` to ``(B, n_channels)``."""
        return h.sum((2, 3))


class ConvBackbone(Backbone):
    """A light backbone: two strided convolutions and their mirror image, for a CPU.

    Parameters
    ----------
    image_shape, n_latent
        See :class:`Backbone`; sides are multiples of 4.
    n_channels
        Channels at half the size; twice as many at a quarter.
    n_hidden
        Units of the critics' hidden layers.
    """

    name = "conv"
    n_halvings = 2

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_latent: int,
        n_channels: int = 16,
        n_hidden: int = 128,
    ):
        super().__init__(image_shape, n_latent)
        arguments.check_positive("n_channels", n_channels)
        arguments.check_positive("n_hidden", n_hidden)
        self.n_channels = n_channels
        self.n_hidden = n_hidden
        _, height, width = self.image_shape
        self.bottom = (2 * n_channels, height // 4, width // 4)

    def encoder(self) -> Encoder:
        """Two convolutions and two linear heads."""
        n = prod(self.bottom)
        body = self._down(self.image_shape[0], lambda layer: layer)
        return Encoder(body, nn.Linear(n, self.n_latent), nn.Linear(n, self.n_latent))

    def generator(self) -> nn.Module:
        """A linear map and two transposed convolutions."""
        c = self.n_channels
        return nn.Sequential(
            nn.Linear(self.n_latent, prod(self.bottom)),
            nn.Unflatten(1, self.bottom),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(c, self.image_shape[0], 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def image_critic(self, n_channels: int | None = None) -> Critic:
        """The encoder's body and a hidden layer, with spectral norm."""
        norm = nn.utils.parametrizations.spectral_norm
        body = self._down(n_channels or self.image_shape[0], norm)
        # without it the score is a sum over places, which sees no places together
        body.extend([norm(nn.Linear(prod(self.bottom), self.n_hidden)), nn.LeakyReLU(0.2)])
        return Critic(body, self.n_hidden, n_middle=4)

    def latent_critic(self) -> Critic:
        """One residual block of two linear layers."""
        return Critic(LinearBlock(self.n_latent, self.n_hidden), self.n_hidden)

    def pair_critic(self, image_critic: Critic, latent_critic: Critic) -> Critic:
        """One residual block on the joined features."""
        n_in = image_critic.n_features + latent_critic.n_features
        return Critic(LinearBlock(n_in, self.n_hidden), self.n_hidden)

    def _down(self, channels: int, wrap) -> nn.Module:
        c = self.n_channels
        return nn.Sequential(
            wrap(nn.Conv2d(channels, c, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            wrap(nn.Conv2d(c, 2 * c, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )


class MLPBackbone(Backbone):
    """A light backbone of linear layers, for images of any size and for vectors as 1 x 1 images.

    Parameters
    ----------
    image_shape, n_latent
        See :class:`Backbone`.
    n_hidden, n_layers
        Units and number of hidden layers of every network. Several ``n_hidden`` are the units of
        one layer each, from the image on (Jiang et al. 2017: 500, 500, 2000); generators have them
        in reverse.
    """

    name = "mlp"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_latent: int,
        n_hidden: int | Sequence[int] = 256,
        n_layers: int = 2,
    ):
        super().__init__(image_shape, n_latent)
        arguments.check_positive("n_layers", n_layers)
        self.sizes = list(n_hidden) if isinstance(n_hidden, Sequence) else [n_hidden] * n_layers
        if not self.sizes:
            raise ValueError("n_hidden names no layers. Pass one number of units at least.")
        for size in self.sizes:
            arguments.check_positive("n_hidden", size)

    def encoder(self) -> Encoder:
        """Hidden layers and two linear heads."""
        body = nn.Sequential(nn.Flatten(), *hidden(prod(self.image_shape), self.sizes))
        heads = [nn.Linear(self.sizes[-1], self.n_latent) for _ in range(2)]
        return Encoder(body, *heads)

    def generator(self) -> nn.Module:
        """Hidden layers, a linear map and the output."""
        return nn.Sequential(
            *hidden(self.n_latent, self.sizes[::-1]),
            nn.Linear(self.sizes[0], prod(self.image_shape)),
            *self.output(),
        )

    def output(self) -> list[nn.Module]:
        """What follows a generator's last linear map: tanh, and the form of an image."""
        return [nn.Tanh(), nn.Unflatten(1, self.image_shape)]

    def image_critic(self, n_channels: int | None = None) -> Critic:
        """Hidden layers with spectral norm."""
        _, height, width = self.image_shape
        n_in = (n_channels or self.image_shape[0]) * height * width
        layers = hidden(n_in, self.sizes, spectral=True)
        return Critic(nn.Sequential(nn.Flatten(), *layers), self.sizes[-1], n_middle=3)

    def latent_critic(self) -> Critic:
        """Hidden layers with spectral norm."""
        layers = hidden(self.n_latent, self.sizes, spectral=True)
        return Critic(nn.Sequential(*layers), self.sizes[-1])

    def pair_critic(self, image_critic: Critic, latent_critic: Critic) -> Critic:
        """Hidden layers with spectral norm on the joined features."""
        n_in = image_critic.n_features + latent_critic.n_features
        return Critic(nn.Sequential(*hidden(n_in, self.sizes, spectral=True)), self.sizes[-1])


def hidden(n_in: int, sizes: Sequence[int], spectral: bool = False) -> list[nn.Module]:
    """Linear layers of so many units with ReLU after each, with spectral norm on demand."""
    norm = nn.utils.parametrizations.spectral_norm if spectral else (lambda layer: layer)
    return [
        layer
        for a, b in zip([n_in, *sizes], sizes, strict=False)
        for layer in (norm(nn.Linear(a, b)), nn.ReLU())
    ]


def make_backbone(
    name: str, image_shape: tuple[int, int, int], n_latent: int, options: dict | None = None
) -> Backbone:
    """The backbone of a name.

    Raises
    ------
    ValueError
        If there is none of that name, an option is unknown, or the images do not suit it.
    """
    arguments.check_choice("backbone", name, BACKBONES)
    cls = BACKBONES[name]
    known = [key for key in signature(cls).parameters if key not in ("image_shape", "n_latent")]
    arguments.check_options("backbone_kwargs", options, known, f"backbone={name!r}")
    return cls(image_shape, n_latent, **(options or {}))
