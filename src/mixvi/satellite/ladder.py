"""Networks of hierarchical models: which layer sees which, the decoder, and its mirrored encoder.

Latents are ``z_0 = (s, l)``, a segmentation and a global code, then maps ``z_1 ... z_{M-1}``; the
image is ``z_M``. Hruška 2023, section 3.2: the decoder is itself a U from the segmentation to the
bottleneck and on to the image, and the encoder mirrors its blocks and skips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core import arguments
from mixvi.core.maths.exponential_families import LOG_VAR_BOUNDS, Family, Gaussian

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "leaky_relu": lambda: nn.LeakyReLU(0.1)}
NORMS = ("none", "group")
# of the thesis's sigmoid networks (Xavier-normal weights)
_SIGMOID_GAIN = 3.6


@dataclass(frozen=True)
class Layer:
    """One row of the table of a hierarchy.

    Attributes
    ----------
    n_channels
        Channels of the map; the last layer is the image, whose bands the data decide (0).
    scale
        By how much height and width are smaller than those of the image.
    parents
        Numbers of the layers that it is generated from; 0 is segmentation and code.
    hidden
        Channels between the convolutions of its decoder block.
    mirrored
        The same for the encoder block that mirrors it; default ``hidden`` in reverse order.
    """

    n_channels: int
    scale: int
    parents: tuple[int, ...]
    hidden: tuple[int, ...]
    mirrored: tuple[int, ...] | None = None

    @property
    def encoder_hidden(self) -> tuple[int, ...]:
        """Channels between the convolutions of the encoder block."""
        return self.hidden[::-1] if self.mirrored is None else self.mirrored


LAYERS = {
    # for CPUs
    "light": (
        Layer(16, 1, (0,), (16,)),
        Layer(32, 2, (1,), (32,)),
        Layer(32, 2, (2,), (64,)),
        Layer(0, 1, (3, 2), (32, 16), (16, 32)),
    ),
    "series": (
        Layer(32, 1, (0,), (32, 32)),
        Layer(32, 2, (1,), (32, 32)),
        Layer(64, 4, (2,), (64, 64), (32, 32)),
        Layer(128, 8, (3,), (128, 128), (64, 64)),
        Layer(128, 8, (4,), (128, 128)),
        Layer(64, 4, (5, 4), (64, 64), (128, 128)),
        Layer(32, 2, (6, 3), (32, 32), (64, 64)),
        Layer(0, 1, (7, 2), (32, 32), (32, 32)),
    ),
    "thesis": (
        Layer(128, 1, (0,), (256, 256), (256, 128)),
        Layer(128, 2, (1,), (128, 128)),
        Layer(128, 4, (2,), (128, 128)),
        Layer(256, 8, (3,), (256, 256), (128, 128)),
        Layer(256, 8, (4,), (512,)),
        Layer(128, 4, (5, 4), (128, 128), (256, 256)),
        Layer(64, 2, (6, 3), (128, 64), (128, 128)),
        Layer(0, 1, (7, 2), (64, 64, 64)),
    ),
}


def resolve_layers(
    layers: str | Sequence[Mapping | Layer], width: float = 1.0
) -> tuple[Layer, ...]:
    """The table of a hierarchy, with all channels times ``width``.

    Parameters
    ----------
    layers
        Name of a table, or its rows as :class:`Layer` or dicts of its attributes, the image last.
    width
        Factor of the channels.

    Raises
    ------
    ValueError
        If the name is unknown, or layers do not fit each other.
    """
    arguments.check_positive("width", width, integer=False)
    if isinstance(layers, str):
        arguments.check_choice("layers", layers, LAYERS)
        table = LAYERS[layers]
    else:
        table = tuple(_layer(row, number) for number, row in enumerate(layers, start=1))
    _check_table(table)

    def scaled(channels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if channels is None else tuple(max(1, round(width * n)) for n in channels)

    return tuple(
        replace(
            layer,
            n_channels=layer.n_channels and scaled((layer.n_channels,))[0],
            hidden=scaled(layer.hidden),
            mirrored=scaled(layer.mirrored),
        )
        for layer in table
    )


def _layer(row: Mapping | Layer, number: int) -> Layer:
    if isinstance(row, Layer):
        return row
    names = [field.name for field in fields(Layer)]
    arguments.check_options("layers", row, names, f"row {number}")
    missing = [name for name in names[1:4] if name not in row]
    if missing:
        raise ValueError(f"layers: row {number} has no {' and no '.join(missing)}.")
    row = {k: tuple(v) if isinstance(v, Sequence) else v for k, v in row.items()}
    return Layer(**({"n_channels": 0} | row))


def _check_table(table: tuple[Layer, ...]) -> None:
    """Raise ValueError unless blocks and their mirror images fit each other."""
    if not table or table[-1].scale != 1:
        raise ValueError("layers: the last row is the image, of scale 1.")
    scales = [1, *(layer.scale for layer in table)]
    for t, layer in enumerate(table, start=1):
        if t < len(table):
            arguments.check_positive(f"layers: n_channels of row {t}", layer.n_channels)
        arguments.check_positive(f"layers: scale of row {t}", layer.scale)
        if t - 1 not in layer.parents or min(layer.parents) < 0 or max(layer.parents) >= t:
            raise ValueError(
                f"layers: row {t} has the parents {layer.parents}; one must be {t - 1}, and "
                "all must be numbers of rows before it."
            )
        if t > 1 and 0 in layer.parents:
            raise ValueError(
                f"layers: row {t} has the parent 0, but a skip from the segmentation has no mirror "
                "image in the encoder. Row 1 alone has it."
            )
        if any(scales[parent] != scales[t - 1] for parent in layer.parents):
            raise ValueError(
                f"layers: the parents {layer.parents} of row {t} are of several scales, "
                f"{[scales[parent] for parent in layer.parents]}; they are joined at one."
            )
        small, large = sorted((scales[t - 1], layer.scale))
        if large % small:
            raise ValueError(f"layers: rows {t - 1} and {t} have scales {small} and {large}.")


def children(table: tuple[Layer, ...], t: int) -> tuple[int, ...]:
    """Numbers of the layers that are generated from layer ``t``."""
    return tuple(j for j, layer in enumerate(table, start=1) if t in layer.parents)


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
        conv = nn.Conv3d(n_in, n_out, kernel, padding=tuple(k // 2 for k in kernel))
        if self.activation == "sigmoid":
            nn.init.xavier_normal_(conv.weight, gain=_SIGMOID_GAIN)
        return conv

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
        self.skip = nn.Conv3d(n_in, n_out, 1) if skip else None
        self._scales, self._first = scales, first

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, n_out, T, H', W')``."""
        if self._first:
            x = rescaled(x, *self._scales)
        out = self.body(x)
        if self.skip is not None:
            out = out + self.skip(x)
        return out if self._first else rescaled(out, *self._scales)


class Decoder(nn.Module):
    """Natural parameters of each layer from its parents, and the distribution of the image.

    Parameters
    ----------
    table
        Its layers.
    n_top
        Channels of segmentation, codes and dates together.
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
            self.blocks.append(
                Block(
                    convolutions,
                    sum(widths[parent] for parent in layer.parents),
                    layer.hidden,
                    n_image if is_image else n_parameters * layer.n_channels,
                    (scales[t - 1], layer.scale),
                    first=True,
                    skip=not is_image,
                )
            )

    def raw(self, t: int, maps: Sequence[Tensor]) -> Tensor:
        """Unconstrained parameters of layer ``t`` from the maps ``z_0, z_1, ...`` before it."""
        parents = self.table[t - 1].parents
        return self.blocks[t - 1](torch.cat([maps[parent] for parent in parents], dim=1))

    def image(self, maps: Sequence[Tensor]) -> Family:
        """Distribution of the image ``(B, C, T, H, W)``."""
        raw = self.raw(len(self.table), maps)
        if self.log_var is None:
            return self._image_family.from_raw(raw)
        variance = self.log_var.clamp(*LOG_VAR_BOUNDS).exp().view(-1, 1, 1, 1)
        return Gaussian.from_moments(raw, variance.expand_as(raw))


class Encoder(nn.Module):
    """Evidence of each layer, from the image down to segmentation and codes.

    Block ``i`` mirrors the decoder's and gives ``d_{i-1}``; it sees ``d_{j-1}`` of all children
    ``j`` of layer ``i``.

    Parameters
    ----------
    table
        Layers of the decoder.
    n_planes
        Channels of the input.
    n_classes
        Channels of the segmentation's head; 0 for none.
    n_codes
        Channels of the heads of the code of the series and of the codes of dates.
    n_parameters
        Numbers that a latent map has a channel, as evidence.
    n_seen
        Numbers that it has a channel for the next block.
    by_date
        Whether there is a segmentation a date, or one a series, for which dates are weighted.
    convolutions
        What blocks are made of.
    """

    def __init__(
        self,
        table: tuple[Layer, ...],
        n_planes: int,
        n_classes: int,
        n_codes: tuple[int, int],
        n_parameters: int,
        n_seen: int,
        by_date: bool,
        convolutions: Convolutions,
    ):
        super().__init__()
        self.table = table
        n_layers = len(table)
        self._children = [children(table, t) for t in range(n_layers)]
        scales = [1, *(layer.scale for layer in table)]

        def seen(i: int) -> int:
            if i == n_layers:
                return n_planes
            return sum(n_seen * table[j - 2].n_channels for j in self._children[i])

        # block i at index i - 2; block 1 ends in heads
        self.blocks = nn.ModuleList(
            Block(
                convolutions,
                seen(i),
                table[i - 1].encoder_hidden,
                n_parameters * table[i - 2].n_channels,
                (scales[i], scales[i - 1]),
                first=False,
            )
            for i in range(2, n_layers + 1)
        )
        hidden = table[0].encoder_hidden or (seen(1),)
        n_core = hidden[-1]
        core = convolutions.chain(seen(1), hidden[:-1], n_core)
        self.core = nn.Sequential(core, *convolutions.between(n_core))
        self._scales = (scales[1], 1)
        is_image = convolutions.kernel[0] == 1
        within = (1, *convolutions.kernel[1:])
        self.attention = self.segmentation = self.date_code = None
        if n_classes:
            kernel = convolutions.kernel if by_date else within
            self.segmentation = convolutions.conv(n_core, n_classes, kernel)
            if not (by_date or is_image):
                self.attention = nn.Conv3d(n_core, 1, 1)
        self.code = convolutions.conv(n_core, n_codes[0])
        if n_codes[1]:
            self.date_code = convolutions.conv(n_core, n_codes[1])

    def forward(
        self,
        planes: Tensor,
        frame: Tensor,
        draw: Callable[[int, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Unconstrained parameters by the names of latents.

        ``"segmentation"`` (B, L, 1 or T, H, W), ``"code"`` (B, n), ``"date_code"`` (B, n, T) and
        ``"z1"``, ``"z2"``, ... (B, n, T, H', W').

        Parameters
        ----------
        planes
            What is seen, ``(B, n_planes, T, H, W)``.
        frame
            Whether there was an acquisition, ``(B, T)``; one a row at least.
        draw
            Gives what the next blocks see of layer ``t`` from its parameters; default these.
        """
        raw, passed = {}, {len(self.table): planes}
        for i in range(len(self.table), 1, -1):
            evidence = self.blocks[i - 2](self._seen(i, passed))
            raw[f"z{i - 1}"] = evidence
            passed[i - 1] = evidence if draw is None else draw(i - 1, evidence)
        core = rescaled(self.core(self._seen(1, passed)), *self._scales)
        if self.segmentation is not None:
            pooled = core if self.attention is None else self._pooled(core, frame)
            raw["segmentation"] = self.segmentation(pooled)
        shares = frame.to(core.dtype) / frame.sum(1, keepdim=True)
        raw["code"] = torch.einsum("bnt,bt->bn", self.code(core).mean((3, 4)), shares)
        if self.date_code is not None:
            raw["date_code"] = self.date_code(core).mean((3, 4))
        return raw

    def _seen(self, i: int, passed: dict[int, Tensor]) -> Tensor:
        if i == len(self.table):
            return passed[i]
        return torch.cat([passed[j - 1] for j in self._children[i]], dim=1)

    def _pooled(self, core: Tensor, frame: Tensor) -> Tensor:
        """Features ``(B, n, 1, H, W)``, dates weighted by attention among those acquired."""
        scores = self.attention(core).masked_fill(~frame[:, None, :, None, None], -torch.inf)
        return (scores.softmax(2) * core).sum(2, keepdim=True)
