"""U-Nets that give each pixel of a series its class: in two dimensions, or three with time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixvi.core.arguments import check_choice, check_positive

ARCHITECTURES = ("hruska2023", "ronneberger2015")
NORMS = ("batch", "group", "none")
DATES = ("pooled", "convolved")
# channels in a group that is normalised together
_GROUP = 8


class UNet(nn.Module):
    """Contracting and expanding blocks with skips between equal resolutions.

    Ronneberger et al. 2015 and, with time, Çiçek et al. 2016: convolutions 3 x 3, in all with zero
    padding, by which maps are as large as tiles. Time is never halved. A series of one date is an
    image.

    Parameters
    ----------
    n_planes
        Planes P of the input.
    n_classes
        Classes L.
    n_dates
        Dates T of a series; 1: an image.
    by_date
        A map of classes for each date, else one a series: features of the dates are then averaged
        by weights that each pixel gives them, dates without an acquisition having none.
    width
        Channels of the first level; each level has twice those of the one above.
    n_levels
        How often images are halved.
    norm
        ``"batch"``, ``"group"`` (each tile by itself) or ``"none"``.
    dates
        ``"convolved"``: convolutions have three dimensions. ``"pooled"``: each pixel's series is
        first summed up (:class:`DatePooling`), the U-Net has two dimensions, and what a pixel's own
        series says of its class is added to the logits, without a norm. One map a series alone.
    architecture
        ``"hruska2023"``: means of 2 x 2 pixels, bilinear doubling; blocks of two convolutions on
        the way down, and of three at the bottom and on the way up but for the last.
        ``"ronneberger2015"``: maxima of 2 x 2 pixels, doubling by transposed convolutions 2 x 2
        that halve the channels, blocks of two convolutions, initial weights of He et al. 2015; with
        ``width=64, n_levels=4, norm="none"`` that network, but for its cropped borders and its
        dropout.

    Raises
    ------
    ValueError
        If a setting is unusable.
    """

    def __init__(
        self,
        n_planes: int,
        n_classes: int,
        n_dates: int = 1,
        by_date: bool = False,
        width: int = 64,
        n_levels: int = 3,
        norm: str = "batch",
        dates: str = "convolved",
        architecture: str = "hruska2023",
    ):
        super().__init__()
        check_positive("width", width)
        check_positive("n_levels", n_levels)
        check_choice("norm", norm, NORMS)
        check_choice("dates", dates, DATES)
        check_choice("architecture", architecture, ARCHITECTURES)
        self.pooling = self.of_pixels = None
        if dates == "pooled" and n_dates > 1:
            if by_date:
                raise ValueError(
                    "dates='pooled' makes one map of all dates, but there is a map of classes for "
                    "each. Pass dates='convolved'."
                )
            self.pooling = DatePooling(n_planes, 2 * width)
            n_planes, n_dates = self.pooling.n_planes, 1
            self.of_pixels = nn.Conv2d(n_planes, n_classes, 1)
        self.is_spatial = n_dates == 1
        self.by_date = by_date
        self.factor = 2**n_levels
        widths = [width * 2**level for level in range(n_levels)]
        deepest = widths[-1]
        is_original = architecture == "ronneberger2015"
        self.n_features = 2 * deepest if is_original else deepest
        dims = 2 if self.is_spatial else 3

        def block(*channels: int) -> nn.Sequential:
            return _block(dims, norm, channels)

        self.down = nn.ModuleList(
            block(before, after, after)
            for before, after in zip([n_planes, *widths], widths, strict=False)
        )
        back = () if is_original else (deepest,)
        self.bottleneck = block(deepest, 2 * deepest, 2 * deepest, *back)
        # from the deepest level to the first; the thesis's halve channels, but for the last
        self.up = nn.ModuleList(
            block(2 * w, w, w, w // 2) if level and not is_original else block(2 * w, w, w)
            for level, w in reversed(list(enumerate(widths)))
        )
        convolution = _CONVOLUTIONS[dims]
        self.classes = convolution(width, n_classes, 1)
        self.attention = None if self.is_spatial or by_date else convolution(width, 1, 1)
        self.shrink = _POOLINGS[architecture][dims](_WINDOWS[dims])
        enlarge = _transposed if is_original else _interpolation
        self.enlarge = nn.ModuleList(enlarge(dims, 2 * w, w) for w in reversed(widths))
        if is_original:
            nn.init.kaiming_normal_(self.classes.weight, nonlinearity="relu")

    def forward(self, planes: Tensor, frame: Tensor) -> Tensor:
        """Logits ``(B, L, H, W)``, or ``(B, T, L, H, W)`` of a map a date.

        Parameters
        ----------
        planes
            ``(B, P, T, H, W)``, see :meth:`mixvi.satellite.series.Series.planes`.
        frame
            Whether there was an acquisition, ``(B, T)`` bool, one a series at least.

        Raises
        ------
        ValueError
            If the network cannot halve H or W, or is one of single images and there are several
            dates.
        """
        planes = self._summed_up(planes, frame)
        skips, x = self._contract(planes)
        x = self.bottleneck(x)
        for enlarge, block, skip in zip(self.enlarge, self.up, reversed(skips), strict=True):
            x = block(torch.cat([enlarge(x), skip], dim=1))
        if self.is_spatial:
            logits = self.classes(x)
            if self.of_pixels is not None:
                logits = logits + self.of_pixels(planes.squeeze(2))
            return logits[:, None] if self.by_date else logits
        if self.by_date:
            return self.classes(x).transpose(1, 2)
        # x (B, F, T, H, W)  scores (B, 1, T, H, W)
        absent = ~frame[:, None, :, None, None]
        weights = self.attention(x).masked_fill(absent, -torch.inf).softmax(2)
        return self.classes((weights * x).sum(2, keepdim=True)).squeeze(2)

    def encode(self, planes: Tensor, frame: Tensor) -> Tensor:
        """The bottleneck's features, mean over pixels and acquired dates, ``(B, n_features)``."""
        x = self.bottleneck(self._contract(self._summed_up(planes, frame))[1])
        if self.is_spatial:
            return x.mean((2, 3))
        weights = frame.to(x.dtype) / frame.sum(1, keepdim=True)
        return (x.mean((3, 4)) * weights[:, None]).sum(2)

    def _summed_up(self, planes: Tensor, frame: Tensor) -> Tensor:
        """What the U sees: the planes, or features of pooled dates as one date."""
        return planes if self.pooling is None else self.pooling(planes, frame)

    def _contract(self, planes: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each level saw, and what is left for the bottleneck."""
        check_sides(*planes.shape[-2:], self.factor)
        if self.is_spatial:
            if planes.shape[2] != 1:
                raise ValueError(
                    f"Series have {planes.shape[2]} dates, but the model was built on images of "
                    "one date. Build one on series."
                )
            planes = planes.squeeze(2)
        x, skips = planes, []
        for block in self.down:
            skips.append(block(x))
            x = self.shrink(skips[-1])
        return skips, x


class DatePooling(nn.Module):
    """Each pixel's series as weighted means of its dates, with several sets of weights.

    Two convolutions along time give features of the dates; weights are of the dates that the pixel
    was observed on, of all acquired ones where it never was. In the manner of Garnot and Landrieu
    2020, without their encoder of positions: dates are among the planes.

    Parameters
    ----------
    n_planes
        Planes of the input, see :meth:`mixvi.satellite.series.Series.planes`.
    n_features
        Features F of a date.
    n_heads
        Sets of weights K.

    Attributes
    ----------
    n_planes
        Planes K F of the output.
    """

    def __init__(self, n_planes: int, n_features: int, n_heads: int = 4):
        super().__init__()
        self.observed = slice((n_planes - 3) // 2, n_planes - 3)
        self.n_planes = n_heads * n_features
        self.first = _along_time(n_planes, n_features)
        self.second = _along_time(n_features, n_features)
        self.scores = nn.Conv2d(n_features, n_heads, 1)

    def features(self, planes: Tensor, frame: Tensor) -> Tensor:
        """Features of dates ``(B, F, T, pixels)`` of planes ``(B, P, T, pixels)``."""
        acquired = frame[:, None, :, None].to(planes.dtype)
        # absent dates are what convolutions pad with, so that more of them at an end change nothing
        x = self.first(planes * acquired).relu() * acquired
        return self.second(x).relu()

    def forward(self, planes: Tensor, frame: Tensor) -> Tensor:
        """Features ``(B, K F, 1, H, W)`` of planes ``(B, P, T, H, W)``."""
        size = planes.shape[-2:]
        # pixels in a row and channels last, by which this is three times as fast on a CPU
        planes = planes.flatten(3).contiguous(memory_format=torch.channels_last)
        seen = planes[:, self.observed].any(1, keepdim=True)
        seen = torch.where(seen.any(2, keepdim=True), seen, frame[:, None, :, None])
        x = self.features(planes, frame)
        weights = self.scores(x).masked_fill(~seen, -torch.inf).softmax(2)
        # (B, H W, K, T) by (B, H W, T, F)
        pooled = weights.permute(0, 3, 1, 2) @ x.permute(0, 3, 2, 1)
        return pooled.flatten(2).transpose(1, 2).unflatten(2, size).unsqueeze(2)


def _along_time(before: int, after: int) -> nn.Conv2d:
    """A convolution over three dates of planes ``(B, P, T, pixels)``."""
    convolution = nn.Conv2d(before, after, (3, 1), padding=(1, 0))
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution


def check_sides(height: int, width: int, factor: int) -> None:
    """Raise ValueError unless both sides are multiples of ``factor``, a power of two."""
    if height % factor or width % factor:
        halvings = factor.bit_length() - 1
        larger = [-(-side // factor) * factor for side in (height, width)]
        raise ValueError(
            f"Tiles have {height} x {width} pixels, but a network of n_levels={halvings} halves "
            f"them {halvings} times: sides must be multiples of {factor}. Cut tiles of such a size "
            f"(mixvi.satellite.tile(size=...)), pad them to {larger[0]} x {larger[1]} with invalid "
            "pixels, or lower n_levels."
        )


_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLINGS = {
    "hruska2023": {2: nn.AvgPool2d, 3: nn.AvgPool3d},
    "ronneberger2015": {2: nn.MaxPool2d, 3: nn.MaxPool3d},
}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
# pixels that become one; dates never do
_WINDOWS = {2: (2, 2), 3: (1, 2, 2)}
_BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _interpolation(dims: int, before: int, after: int) -> nn.Module:
    """Doubling that leaves channels as they are."""
    mode = "bilinear" if dims == 2 else "trilinear"
    return nn.Upsample(scale_factor=_WINDOWS[dims], mode=mode, align_corners=False)


def _transposed(dims: int, before: int, after: int) -> nn.Module:
    """Doubling by a transposed convolution from each number of channels to the next."""
    convolution = _TRANSPOSED[dims](before, after, _WINDOWS[dims], stride=_WINDOWS[dims])
    # windows do not overlap: a value comes of one pixel
    nn.init.normal_(convolution.weight, std=(2 / before) ** 0.5)
    return convolution


def _block(dims: int, norm: str, channels: tuple[int, ...]) -> nn.Sequential:
    """Convolutions from each number of channels to the next, each with norm and ReLU."""
    layers: list[nn.Module] = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        convolution = _CONVOLUTIONS[dims](before, after, 3, padding=1, bias=norm != "batch")
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers.append(convolution)
        if norm == "batch":
            layers.append(_BATCH_NORMS[dims](after))
        elif norm == "group":
            layers.append(nn.GroupNorm(1 if after % _GROUP else after // _GROUP, after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
