"""The backbone that disentangling VAEs are compared on (Burgess et al. 2018; Mushom 2020)."""

from __future__ import annotations

from math import prod

from torch import nn

from mixvi.core import arguments
from mixvi.images.backbones import Backbone, Critic, Encoder, hidden
from mixvi.images.blocks import LinearBlock


class BurgessBackbone(Backbone):
    """Four strided convolutions, two linear layers and their mirror image (Burgess et al. 2018).

    Of 64 x 64 grey images with ten latents it has 502,005 weights, those of Mushom 2020, table 5.2.
    Weights start from normal draws of variance 2 / n_in (He et al. 2015), biases at zero.

    Parameters
    ----------
    image_shape, n_latent
        See :class:`Backbone`; sides are multiples of 16.
    n_channels
        Channels of every convolution.
    n_hidden
        Units of the linear layers, and of the critics' hidden layers.
    """

    name = "burgess"
    n_halvings = 4

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_latent: int,
        n_channels: int = 32,
        n_hidden: int = 256,
    ):
        super().__init__(image_shape, n_latent)
        arguments.check_positive("n_channels", n_channels)
        arguments.check_positive("n_hidden", n_hidden)
        self.n_channels = n_channels
        self.n_hidden = n_hidden
        _, height, width = self.image_shape
        self.bottom = (n_channels, height // 16, width // 16)

    def encoder(self) -> Encoder:
        """Four convolutions, two linear layers and two linear heads."""
        body = nn.Sequential(
            *self._down(self.image_shape[0]),
            *hidden(prod(self.bottom), [self.n_hidden] * 2),
        )
        heads = [nn.Linear(self.n_hidden, self.n_latent) for _ in range(2)]
        return Encoder(body, *heads).apply(_start)

    def generator(self) -> nn.Module:
        """Three linear layers and four transposed convolutions."""
        c = self.n_channels
        sizes = [self.n_hidden, self.n_hidden, prod(self.bottom)]
        layers = [*hidden(self.n_latent, sizes), nn.Unflatten(1, self.bottom)]
        for _ in range(3):
            layers += [nn.ConvTranspose2d(c, c, 4, stride=2, padding=1), nn.ReLU()]
        last = nn.ConvTranspose2d(c, self.image_shape[0], 4, stride=2, padding=1)
        return nn.Sequential(*layers, last, nn.Tanh()).apply(_start)

    def image_critic(self, n_channels: int | None = None) -> Critic:
        """The encoder's convolutions and a hidden layer, with spectral norm."""
        layers = [
            *self._down(n_channels or self.image_shape[0], spectral=True),
            *hidden(prod(self.bottom), [self.n_hidden], spectral=True),
        ]
        return Critic(nn.Sequential(*layers), self.n_hidden, n_middle=8)

    def latent_critic(self) -> Critic:
        """One residual block of two linear layers."""
        return Critic(LinearBlock(self.n_latent, self.n_hidden), self.n_hidden)

    def pair_critic(self, image_critic: Critic, latent_critic: Critic) -> Critic:
        """One residual block on the joined features."""
        n_in = image_critic.n_features + latent_critic.n_features
        return Critic(LinearBlock(n_in, self.n_hidden), self.n_hidden)

    def _down(self, channels: int, spectral: bool = False) -> list[nn.Module]:
        norm = nn.utils.parametrizations.spectral_norm if spectral else (lambda layer: layer)
        layers = []
        for _ in range(4):
            layers += [norm(nn.Conv2d(channels, self.n_channels, 4, stride=2, padding=1))]
            layers += [nn.ReLU()]
            channels = self.n_channels
        return [*layers, nn.Flatten()]


def _start(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        # a transposed convolution has its inputs on the first axis
        mode = "fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=mode)
        nn.init.zeros_(layer.bias)
