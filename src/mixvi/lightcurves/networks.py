"""Networks of light curves: residual encoder of interpolated curves, decoder of induction points.

Astorga 2021, section 9.4 and tables 9.1 and 9.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.arguments import check_positive
from mixvi.core.maths.spectral import ConditionalBatchNorm, linear, normed
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.gaussian_process import KERNELS, GaussianProcessDecoder, induction_times
from mixvi.lightcurves.interpolation import InterpolationPrediction

LOG_VAR_BOUNDS = (-12.0, 6.0)
# blocks that double: 24 points grow from 3
_N_UP = 3
_N_DOWN = 4
_LARGEST_SCALE = 10.0
_LEAST_NOISE = 1e-3


def _conv(n_in: int, n_out: int, periodic: bool) -> nn.Module:
    """Convolution of three neighbours that keeps the length."""
    mode = "circular" if periodic else "zeros"
    return normed(nn.Conv1d(n_in, n_out, 3, padding=1, padding_mode=mode))


def _pool(h: Tensor, periodic: bool) -> Tensor:
    """Means of three neighbours at every other place."""
    if periodic:
        return F.avg_pool1d(F.pad(h, (1, 1), mode="circular"), 3, stride=2)
    return F.avg_pool1d(h, 3, stride=2, padding=1, count_include_pad=False)


def _double(h: Tensor, periodic: bool) -> Tensor:
    """Twice as many places, linear between neighbours."""
    if not periodic:
        return F.interpolate(h, scale_factor=2, mode="linear", align_corners=False)
    wrapped = F.pad(h, (1, 1), mode="circular")
    return F.interpolate(wrapped, scale_factor=2, mode="linear", align_corners=False)[..., 2:-2]


class DownBlock1d(nn.Module):
    """Residual block that halves the length; the first of a network sees its input itself."""

    def __init__(self, n_in: int, n_out: int, periodic: bool, first: bool = False):
        super().__init__()
        self.conv1 = _conv(n_in, n_out, periodic)
        self.conv2 = _conv(n_out, n_out, periodic)
        self.shortcut = normed(nn.Conv1d(n_in, n_out, 1))
        self.periodic, self.first = periodic, first

    def forward(self, h: Tensor) -> Tensor:
        """``(B, n_in, L)`` to ``(B, n_out, L / 2)``."""
        main = self.conv2(F.relu(self.conv1(h if self.first else F.relu(h))))
        # pooling and a 1 x 1 convolution commute: the cheaper order
        return _pool(main, self.periodic) + self.shortcut(_pool(h, self.periodic))


class UpBlock1d(nn.Module):
    """Residual block that doubles the length, its batch norms under a condition."""

    def __init__(self, n_channels: int, n_condition: int, periodic: bool):
        super().__init__()
        self.norm1 = ConditionalBatchNorm(n_channels, n_condition, n_axes=1)
        self.norm2 = ConditionalBatchNorm(n_channels, n_condition, n_axes=1)
        self.conv1 = _conv(n_channels, n_channels, periodic)
        self.conv2 = _conv(n_channels, n_channels, periodic)
        self.shortcut = normed(nn.Conv1d(n_channels, n_channels, 1))
        self.periodic = periodic

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """``(B, n_channels, L)`` to ``(B, n_channels, 2 L)``."""
        main = self.conv1(_double(F.relu(self.norm1(h, condition)), self.periodic))
        main = self.conv2(F.relu(self.norm2(main, condition)))
        # doubling and a 1 x 1 convolution commute: the cheaper order
        return main + _double(self.shortcut(h), self.periodic)


class CurveEncoder(nn.Module):
    """q(z | x, t): the interpolation-prediction block, four residual blocks, two linear heads.

    Parameters
    ----------
    n_bands
        Bands; magnitudes and errors of each are channels.
    n_latent
        Size of z.
    width
        Channels of the blocks; the thesis has 288.
    n_references
        Phases that curves are interpolated at, a multiple of 16.
    periodic
        Whether phases lie on a circle.
    """

    def __init__(
        self,
        n_bands: int,
        n_latent: int,
        width: int = 288,
        n_references: int = 64,
        periodic: bool = False,
    ):
        super().__init__()
        if n_references % 2**_N_DOWN:
            raise ValueError(f"n_references must be a multiple of {2**_N_DOWN}: {n_references}.")
        self.interpolation = InterpolationPrediction(2 * n_bands, n_references, periodic)
        widths = [self.interpolation.n_outputs] + [width] * _N_DOWN
        self.blocks = nn.Sequential(
            *(DownBlock1d(widths[i], widths[i + 1], periodic, first=i == 0) for i in range(_N_DOWN))
        )
        n_features = width * n_references // 2**_N_DOWN
        self.mean = linear(n_features, n_latent)
        self.log_var = linear(n_features, n_latent)

    def forward(self, curves: Curves) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, each ``(B, n_latent)``."""
        channels = torch.cat([curves.x, curves.error], dim=1)
        h = self.blocks(self.interpolation(curves.phase, channels, curves.valid)).flatten(1)
        return self.mean(h), self.log_var(h).clamp(*LOG_VAR_BOUNDS)


class InductionDecoder(nn.Module):
    """p(x | z, t): induction points and kernel parameters of a code, and the process they make.

    The first entries of z decide the points, the last the kernel.

    Parameters
    ----------
    n_bands
        Bands, each a process of its own by a common kernel.
    n_representation, n_kernel
        Entries of z for the points and for the kernel.
    width
        Channels; the thesis has 288.
    n_induction
        Points I a band, a multiple of 8.
    periodic
        Whether phases lie on a circle: kernel and convolutions are then periodic.
    """

    def __init__(
        self,
        n_bands: int,
        n_representation: int = 10,
        n_kernel: int = 2,
        width: int = 288,
        n_induction: int = 24,
        periodic: bool = False,
    ):
        super().__init__()
        check_positive("n_induction", n_induction)
        if n_induction % 2**_N_UP:
            raise ValueError(f"n_induction must be a multiple of {2**_N_UP}: {n_induction}.")
        self.n_representation, self.n_induction = n_representation, n_induction
        self.kernel = KERNELS["periodic" if periodic else "squared_exponential"]
        self.register_buffer("times", induction_times(n_induction, periodic), persistent=False)
        self.bottom = (width, n_induction // 2**_N_UP)
        self.linear = linear(n_representation, math.prod(self.bottom))
        self.blocks = nn.ModuleList(
            UpBlock1d(width, n_representation, periodic) for _ in range(_N_UP)
        )
        self.value, self.noise = (
            nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), _conv(width, n_bands, periodic))
            for _ in range(2)
        )
        n_hidden = 3 * width
        self.scale, self.length = (
            nn.Sequential(nn.Linear(n_kernel, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 1))
            for _ in range(2)
        )
        # curves have unit spread: the kernel starts there, not at half of the largest scale
        nn.init.constant_(self.scale[2].bias, -math.log(_LARGEST_SCALE - 1.0))

    def points(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and noise of the induction points of codes, each ``(B, n_bands, I)``."""
        condition = z[:, : self.n_representation]
        h = self.linear(condition).unflatten(1, self.bottom)
        for block in self.blocks:
            h = block(h, condition)
        return self.value(h), F.softplus(self.noise(h)) + _LEAST_NOISE

    def kernel_parameters(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scale below 10, and length below one spacing of the points, each ``(B,)``."""
        rest = z[:, self.n_representation :]
        scale = _LARGEST_SCALE * self.scale(rest)[:, 0].sigmoid()
        return scale, self.length(rest)[:, 0].sigmoid() / self.n_induction

    def forward(self, z: Tensor) -> GaussianProcessDecoder:
        """The process of each code ``(B, n_latent)``, to be asked for times ``(B, n_bands, T)``."""
        scale, length = self.kernel_parameters(z)
        # one kernel for all bands
        kernel = self.kernel(scale[:, None], length[:, None])
        return GaussianProcessDecoder(kernel, self.times, *self.points(z))
