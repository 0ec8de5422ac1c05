"""Networks of hierarchical models: blocks of convolutions, and the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core import arguments
from mixvi.core.maths.exponential_families import LOG_VAR_BOUNDS, Family, Gaussian
from mixvi.satellite.ladder import Layer

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "leaky_relu": lambda: nn.LeakyReLU(0.1)}
NORMS = ("none", "group")
# of the thesis's sigmoid networks (Xavier-normal weights)
_SIGMOID_GAIN = 3.6


@dataclass(frozen=True)
class Convolutions:
    """What all blocks of a network share.

    Attributes
    ----------
    kernel
        Dates, rows and columns that a convolution sees; one date for images.
    activation
        ``"relu"``, ``"leaky_relu"`` or ``"sigmoid"``.
    norm
        ``"none"`` or ``"group"``. Batch norm was found unsuitable (Hruška 2023, section 4.3).
    """

    kernel: tuple[int, int, int]
    activation: str = "relu"
    norm: str = "none"

    def __post_init__(self):
        arguments.check_choice("activation", self.activation, ACTIVATIONS)
        arguments.check_choice("norm", self.norm, NORMS)

    def conv(self, n_in: int, n_out: int, kernel: tuple[int, int, int] | None = None) -> nn.Conv3d:
        """A convolution that keeps the size."""
        kernel = kernel or self.kernel
        kind = Pointwise if max(kernel) == 1 else nn.Conv3d
        conv = kind(n_in, n_out, kernel, padding=tuple(k // 2 for k in kernel))
        if self.activation == "sigmoid":
            nn.init.xavier_normal_(conv.weight, gain=_SIGMOID_GAIN)
        return conv

    def of_layer(self, layer: Layer) -> Convolutions:
        """Those of one layer, as wide as it says."""
        return replace(self, kernel=(1, 1, 1)) if layer.kernel == 1 else self

    @property
    def of_places(self) -> Convolutions:
        """The same of maps that all dates share."""
        return replace(self, kernel=(1, 3, 3))

    def chain(self, n_in: int, hidden: Sequence[int], n_out: int) -> nn.Sequential:
        """Convolutions with activations between them, and none after the last."""
        parts, last = [], n_in
        for n in hidden:
            parts += [self.conv(last, n), *self.between(n)]
            last = n
        return nn.Sequential(*parts, self.conv(last, n_out))

    def between(self, n: int) -> list[nn.Module]:
        """What follows a convolution."""
        norm = [nn.GroupNorm(_groups(n), n)] if self.norm == "group" else []
        return [*norm, ACTIVATIONS[self.activation]()]


class Pointwise(nn.Conv3d):
    """A convolution that sees a single pixel, as a product of matrices."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, n_out, T, H, W)``."""
        out = F.conv1d(x.flatten(2), self.weight.flatten(2), self.bias)
        return out.view(len(x), -1, *x.shape[2:])


def _groups(n: int) -> int:
    return next(groups for groups in (8, 4, 2, 1) if n % groups == 0)


def rescaled(x: Tensor, scale: int, to: int) -> Tensor:
    """Maps ``(B, n, T, H, W)`` of one scale at another; dates are never pooled."""
    if to > scale:
        return F.avg_pool3d(x, (1, to // scale, to // scale))
    if to < scale:
        factor = (1.0, float(scale // to), float(scale // to))
        return F.interpolate(x, scale_factor=factor, mode="trilinear", align_corners=False)
    return x


class Block(nn.Module):
    """Convolutions and a change of scale, with a local skip by a 1 x 1 convolution.

    Parameters
    ----------
    convolutions
        What they are like.
    n_in, hidden, n_out
        Channels.
    scales
        Of input and output.
    first
        Whether the scale is changed before the convolutions, as in the decoder, or after them.
    skip
        Whether there is a local skip; without, deep hierarchies gave constant noise in the thesis.
    """

    def __init__(
        self,
        convolutions: Convolutions,
        n_in: int,
        hidden: Sequence[int],
        n_out: int,
        scales: tuple[int, int],
        first: bool,
        skip: bool = True,
    ):
        super().__init__()
        self.body = convolutions.chain(n_in, hidden, n_out)
        self.skip = Pointwise(n_in, n_out, 1) if skip else None
        self._scales, self._first = scales, first

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, n_out, T, H', W')``."""
        if self._first:
            x = rescaled(x, *self._scales)
        out = self.body(x)
        if self.skip is not None:
            out = out + self.skip(x)
        return out if self._first else rescaled(out, *self._scales)


class DatedBlock(nn.Module):
    """Maps of each date from maps that all share, which codes and days of dates modulate.

    A convolution sees the shared maps once; each date scales and shifts its result by numbers of
    its own (Perez et al. 2018, FiLM).

    Parameters
    ----------
    convolutions
        What those of maps of dates are like.
    n_shared, n_dated, n_planes
        Channels of the shared maps, of maps that dates already have, and numbers of a date.
    hidden, n_out
        Channels.
    scales
        Of input and output.
    """

    def __init__(
        self,
        convolutions: Convolutions,
        n_shared: int,
        n_dated: int,
        n_planes: int,
        hidden: Sequence[int],
        n_out: int,
        scales: tuple[int, int],
    ):
        super().__init__()
        n_first = (*hidden, n_out)[0]
        self.shared = convolutions.of_places.chain(n_shared, (n_first,), n_first)
        self.dated = convolutions.conv(n_dated, n_first) if n_dated else None
        # linear in days: what is learnt of the dates at hand is no guide to those between
        self.dates = nn.Conv1d(n_planes, 2 * n_first, 1)
        rest = [convolutions.chain(n_first, hidden[1:], n_out)] if hidden else []
        self.rest = nn.Sequential(*(convolutions.between(n_first) if rest else []), *rest)
        self._scales = scales

    def forward(self, shared: Tensor, planes: Tensor, dated: Tensor | None = None) -> Tensor:
        """Maps ``(B, n_out, T, H', W')``.

        Parameters
        ----------
        shared
            ``(B, n_shared, 1, H, W)``.
        planes
            ``(B, n_planes, T)``.
        dated
            ``(B, n_dated, T, H, W)``, if there are any.
        """
        gain, shift = self.dates(planes)[..., None, None].chunk(2, dim=1)
        out = self.shared(rescaled(shared, *self._scales)) * (1 + gain) + shift
        if self.dated is not None:
            out = out + self.dated(rescaled(dated, *self._scales))
        return self.rest(out)


@dataclass(frozen=True)
class Top:
    """What is generated first, and the dates.

    Attributes
    ----------
    shared
        What all dates share, ``(B, n, 1, H, W)``: codes of the tile and its pixels, and its
        segmentation if there is one.
    planes
        Codes and days of dates ``(B, n, T)``; none of single images.
    dated
        Segmentations of dates ``(B, L, T, H, W)``, if the model has these.
    """

    shared: Tensor
    planes: Tensor
    dated: Tensor | None = None


class Decoder(nn.Module):
    """Natural parameters of each layer from its parents, and the distribution of the image.

    Parameters
    ----------
    table
        Its layers.
    n_top
        Channels that all dates share: segmentation and codes.
    n_bands
        Bands of the image.
    family
        Of the latent maps; None if they are deterministic.
    image_family
        Of the image.
    convolutions
        What blocks are made of.
    variance
        Of Gaussian images: ``"band"``, one a band, or ``"pixel"``.
    n_dated, n_planes
        Channels of segmentations of dates, and numbers of a date; 0 of single images.
    """

    def __init__(
        self,
        table: tuple[Layer, ...],
        n_top: int,
        n_bands: int,
        family: type[Family] | None,
        image_family: type[Family],
        convolutions: Convolutions,
        variance: str = "band",
        n_dated: int = 0,
        n_planes: int = 0,
    ):
        super().__init__()
        widths = [n_top, *(layer.n_channels for layer in table)]
        scales = [1, *(layer.scale for layer in table)]
        n_parameters = family.n_parameters if family else 1
        by_band = image_family is Gaussian and variance == "band"
        n_image = n_bands * (1 if by_band else image_family.n_parameters)
        self.table = table
        self._image_family = image_family
        self.log_var = nn.Parameter(torch.zeros(n_bands)) if by_band else None
        self.blocks = nn.ModuleList()
        for t, layer in enumerate(table, start=1):
            is_image = t == len(table)
            n_out = n_image if is_image else n_parameters * layer.n_channels
            of_layer, between = convolutions.of_layer(layer), (scales[t - 1], layer.scale)
            if t == 1 and n_planes:
                sizes = (n_top, n_dated, n_planes, layer.hidden, n_out)
                self.blocks.append(DatedBlock(of_layer, *sizes, between))
                continue
            n_in = sum(widths[parent] for parent in layer.parents)
            block = Block(
                of_layer, n_in, layer.hidden, n_out, between, first=True, skip=not is_image
            )
            self.blocks.append(block)

    def add_prior(self, name: str, n: int, learned: bool) -> None:
        """Parameters ``(1, n)`` of the prior of a code, which are trained if ``learned``."""
        # zeros are the standard member of every family
        prior = torch.zeros(1, n)
        if learned:
            self.register_parameter(name, nn.Parameter(prior))
        else:
            self.register_buffer(name, prior)

    def raw(self, t: int, top: Top, maps: Sequence[Tensor]) -> Tensor:
        """Unconstrained parameters of layer ``t``, from ``maps``, those of the layers before it."""
        block = self.blocks[t - 1]
        if isinstance(block, DatedBlock):
            return block(top.shared, top.planes, top.dated)
        if t == 1:
            return block(top.shared)
        parents = self.table[t - 1].parents
        return block(torch.cat([maps[parent - 1] for parent in parents], dim=1))

    def image(self, top: Top, maps: Sequence[Tensor]) -> Family:
        """Distribution of the image ``(B, C, T, H, W)``."""
        raw = self.raw(len(self.table), top, maps)
        if self.log_var is None:
            return self._image_family.from_raw(raw)
        variance = self.log_var.clamp(*LOG_VAR_BOUNDS).exp().view(-1, 1, 1, 1)
        return Gaussian.from_moments(raw, variance.expand_as(raw))
