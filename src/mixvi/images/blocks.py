"""Residual blocks that double and halve images (Astorga 2021, section 6.3, tables 6.1-6.3).

Convolutions and linear maps have spectral norm (Miyato et al. 2018) and start from N(0, 0.02).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from mixvi.core.maths.spectral import ConditionalBatchNorm, linear, normed

UPSAMPLING = ("bilinear", "nearest")


def conv3(n_in: int, n_out: int) -> nn.Module:
    """3 x 3 convolution that keeps height and width."""
    return normed(nn.Conv2d(n_in, n_out, 3, padding=1))


def conv1(n_in: int, n_out: int) -> nn.Module:
    """1 x 1 convolution."""
    return normed(nn.Conv2d(n_in, n_out, 1))


class UpBlock(nn.Module):
    """Residual block that doubles height and width, with two conditional batch norms.

    Parameters
    ----------
    n_in, n_out
        Channels before and after.
    n_condition
        Size of the condition.
    upsampling
        ``"bilinear"`` or ``"nearest"``.
    spectral_norms
        Whether the maps of the batch norms have spectral norm.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_condition: int,
        upsampling: str = "bilinear",
        spectral_norms: bool = True,
    ):
        super().__init__()
        self.norm1 = ConditionalBatchNorm(n_in, n_condition, spectral_norms)
        self.norm2 = ConditionalBatchNorm(n_out, n_condition, spectral_norms)
        self.conv1 = conv3(n_in, n_out)
        self.conv2 = conv3(n_out, n_out)
        self.shortcut = conv1(n_in, n_out)
        self.upsampling = upsampling

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """``(B, n_in, H, W)`` to ``(B, n_out, 2 H, 2 W)``."""
        main = self.conv1(self._double(F.relu(self.norm1(h, condition))))
        main = self.conv2(F.relu(self.norm2(main, condition)))
        # doubling and a 1 x 1 convolution commute: the cheaper order
        return main + self._double(self.shortcut(h))

    def _double(self, h: Tensor) -> Tensor:
        smooth = {"align_corners": False} if self.upsampling == "bilinear" else {}
        return F.interpolate(h, scale_factor=2, mode=self.upsampling, **smooth)


class DownBlock(nn.Module):
    """Residual block that halves height and width; the first of a network sees the image itself."""

    def __init__(self, n_in: int, n_out: int, first: bool = False):
        super().__init__()
        self.conv1 = conv3(n_in, n_out)
        self.conv2 = conv3(n_out, n_out)
        self.shortcut = conv1(n_in, n_out)
        self.first = first

    def forward(self, h: Tensor) -> Tensor:
        """``(B, n_in, H, W)`` to ``(B, n_out, H / 2, W / 2)``."""
        main = self.conv2(F.relu(self.conv1(h if self.first else F.relu(h))))
        # pooling and a 1 x 1 convolution commute: the cheaper order
        return F.avg_pool2d(main, 2) + self.shortcut(F.avg_pool2d(h, 2))


class PlainBlock(nn.Module):
    """Residual block that keeps shape, with an identity as shortcut."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.conv1 = conv3(n_channels, n_channels)
        self.conv2 = conv3(n_channels, n_channels)

    def forward(self, h: Tensor) -> Tensor:
        """``(B, n_channels, H, W)`` to the same shape."""
        return h + self.conv2(F.relu(self.conv1(F.relu(h))))


class LinearBlock(nn.Module):
    """Residual block of two linear layers, for critics of codes (Astorga 2021, section 6.3)."""

    def __init__(self, n_in: int, n_hidden: int):
        super().__init__()
        self.linear1 = linear(n_in, n_hidden)
        self.linear2 = linear(n_hidden, n_hidden)
        self.shortcut = nn.Identity() if n_in == n_hidden else linear(n_in, n_hidden)

    def forward(self, h: Tensor) -> Tensor:
        """``(B, n_in)`` to ``(B, n_hidden)``, never negative."""
        return F.relu(self.shortcut(h) + self.linear2(F.relu(self.linear1(h))))


def renew_spectral_norms(network: nn.Module) -> None:
    """One power iteration of every spectral norm, after weights were set rather than trained."""
    for layer in network.modules():
        if is_parametrized(layer):
            # in training mode reading the weight iterates
            layer.parametrizations.train()
            _ = layer.weight


def without_spectral_norm(network: nn.Module) -> nn.Module:
    """The network with weights that may grow, from where its spectral norms had them."""
    for layer in network.modules():
        if is_parametrized(layer):
            remove_parametrizations(layer, "weight")
    return network


@contextmanager
def standing_statistics(
    generator: nn.Module, draw: Callable[[], tuple[Tensor, ...]], n_passes: int = 16
) -> Iterator[None]:
    """Batch norm by means and variances averaged over passes of ``generator(*draw())``.

    What the generator had collected while training is put back at the end (Astorga 2021, section
    6.3; Brock et al. 2019). Does nothing to a generator without batch norm.
    """
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        yield
        return
    kept = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            # None: the average of all passes
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for _ in range(n_passes):
                generator(*draw())
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm, state, momentum in zip(norms, kept, momenta, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
            norm.eval()
