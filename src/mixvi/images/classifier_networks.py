"""Networks that give an image its class."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mixvi.core.arguments import check_choice, check_options, check_positive

_SLOPE = 0.1


class ImageNetwork(nn.Module):
    """Features of an image, and logits of its class from them.

    Parameters
    ----------
    layers
        From images ``(B, C, H, W)`` to maps ``(B, F, h, w)``, whose mean over pixels is taken.
    n_features
        Channels F.
    n_classes
        Classes L.
    """

    def __init__(self, layers: nn.Module, n_features: int, n_classes: int):
        super().__init__()
        self.layers = layers
        self.n_features = n_features
        self.classes = nn.Linear(n_features, n_classes)
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                nn.init.normal_(module.weight, 0, sqrt(2.0 / fan_out))

    def features(self, x: Tensor) -> Tensor:
        """``(B, n_features)``."""
        return self.layers(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, n_classes)`` of images ``(B, C, H, W)`` in [-1, 1]."""
        return self.classes(self.features(x))


class _Residual(nn.Module):
    """Two convolutions after norm and activation, and the way around them."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm, activates_first: bool):
        super().__init__()
        self.first = nn.Sequential(norm(n_in), nn.LeakyReLU(_SLOPE))
        self.rest = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            norm(n_out),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
        )
        self.around = None
        if n_in != n_out or stride > 1:
            self.around = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
        self.activates_first = activates_first

    def forward(self, x: Tensor) -> Tensor:
        activated = self.first(x)
        kept = activated if self.activates_first else x
        return self.rest(activated) + (kept if self.around is None else self.around(kept))


def wide_resnet(
    n_channels: int, n_classes: int, depth: int = 28, widen: int = 2, momentum: float = 0.001
) -> ImageNetwork:
    """Wide residual network (Zagoruyko and Komodakis 2016), as Berthelot et al. 2019 take it.

    Parameters
    ----------
    n_channels
        Channels C of the images.
    n_classes
        Classes L.
    depth
        Layers, four more than a multiple of six.
    widen
        Factor of the widths 16, 32 and 64.
    momentum
        What batch norm takes of a minibatch; the little suits long training.

    Raises
    ------
    ValueError
        If the depth is no such number.
    """
    check_positive("depth", depth)
    check_positive("widen", widen)
    n_blocks, rest = divmod(depth - 4, 6)
    if rest or n_blocks < 1:
        raise ValueError(f"depth must be 10, 16, 22, 28 and so on, but is {depth}.")

    def norm(n: int) -> nn.Module:
        return nn.BatchNorm2d(n, momentum=momentum)

    layers: list[nn.Module] = [nn.Conv2d(n_channels, 16, 3, 1, 1, bias=False)]
    n_in = 16
    for group, n_out in enumerate((16 * widen, 32 * widen, 64 * widen)):
        for block in range(n_blocks):
            stride = 2 if group and not block else 1
            layers.append(_Residual(n_in, n_out, stride, norm, not group and not block))
            n_in = n_out
    layers += [norm(n_in), nn.LeakyReLU(_SLOPE)]
    return ImageNetwork(nn.Sequential(*layers), n_in, n_classes)


def conv(n_channels: int, n_classes: int, width: int = 32, n_levels: int = 3) -> ImageNetwork:
    """A light network for a CPU: one convolution a level, halved between levels.

    Parameters
    ----------
    n_channels
        Channels C of the images.
    n_classes
        Classes L.
    width
        Channels of the first level; each has twice those before.
    n_levels
        Convolutions.
    """
    check_positive("width", width)
    check_positive("n_levels", n_levels)
    layers: list[nn.Module] = []
    n_in = n_channels
    for level in range(n_levels):
        n_out = width * 2**level
        layers += [
            nn.Conv2d(n_in, n_out, 3, 2 if level else 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.LeakyReLU(_SLOPE),
        ]
        n_in = n_out
    return ImageNetwork(nn.Sequential(*layers), n_in, n_classes)


_MAKERS = {
    "wide_resnet": (wide_resnet, ("depth", "widen", "momentum")),
    "conv": (conv, ("width", "n_levels")),
}


def make_network(
    backbone: str, n_channels: int, n_classes: int, settings: dict | None
) -> ImageNetwork:
    """The network of a name.

    Raises
    ------
    ValueError
        If a name or setting is unknown or unusable.
    """
    check_choice("backbone", backbone, _MAKERS)
    maker, known = _MAKERS[backbone]
    check_options("backbone_kwargs", settings, known, f"backbone={backbone!r}")
    return maker(n_channels, n_classes, **(settings or {}))


def shifted(x: Tensor, shift: int, flip: bool) -> Tensor:
    """Images moved by up to ``shift`` pixels, edges mirrored, and half of them flipped at random.

    Parameters
    ----------
    x
        ``(B, C, H, W)``; sides are larger than ``shift``.
    shift
        Pixels along each axis.
    flip
        Whether left and right may change places.
    """
    n, _, height, width = x.shape
    device = x.device

    def seen(side: int) -> Tensor:
        moved = torch.randint(-shift, shift + 1, (n, 1), device=device)
        at = (torch.arange(side, device=device) + moved).abs()
        # beyond the last pixel it goes back from it
        return torch.minimum(at, 2 * (side - 1) - at)

    rows, columns = seen(height), seen(width)
    if flip:
        turned = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    each = torch.arange(n, device=device).view(n, 1, 1)
    # (B, H, W, C)
    picked = x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
