"""Irregular observations at equally spaced times: the interpolation-prediction block.

Shukla & Marlin 2019, *Interpolation-prediction networks for irregularly sampled time series*.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.arguments import check_positive
from mixvi.lightcurves.gaussian_process import LEAST_EXPONENT

# of phases in [0, 1]: kernels about 1 / 32 wide. The paper's ln 2 is for hours of two days
INITIAL_RATE = 500.0
# how much narrower the kernels of transients are
TRANSIENT = 10.0
_OUTPUTS = 3
# log of an intensity that is none, among channels that have some
_NOTHING = -1e30


class InterpolationPrediction(nn.Module):
    """Smooth trend, intensity of the sampling and transients of channels, at reference times.

    Of channel d at reference time r, with weights ``exp(-alpha_d (r - t)^2)`` of its observations:
    the intensity ``lambda_d(r)`` is their sum, the smooth ``s_d(r)`` the weighted mean, and the
    transient the weighted mean by ``10 alpha_d``. The trend ``c_d`` adds what other channels say:
    ``mean_d + sum_e rho_de lambda_e (s_e - mean_e) / sum_e lambda_e``.

    Parameters
    ----------
    n_channels
        Channels D.
    n_references
        Reference times R, equally spaced from 0 to 1.
    periodic
        Take times on a circle: distances are ``min(|d|, 1 - |d|)``, and the last reference time is
        that before 1.
    intensity
        Whether intensities are among the outputs.
    """

    def __init__(
        self,
        n_channels: int,
        n_references: int = 64,
        periodic: bool = False,
        intensity: bool = True,
    ):
        super().__init__()
        check_positive("n_references", n_references)
        self.periodic, self.intensity = periodic, intensity
        self.n_outputs = (_OUTPUTS if intensity else _OUTPUTS - 1) * n_channels
        # softplus^-1
        raw = INITIAL_RATE + math.log(-math.expm1(-INITIAL_RATE))
        self.raw_rate = nn.Parameter(torch.full((n_channels,), raw))
        self.cross = nn.Parameter(torch.eye(n_channels))
        references = torch.linspace(0.0, 1.0, n_references + 1 if periodic else n_references)
        self.register_buffer("references", references[:n_references], persistent=False)

    @property
    def rate(self) -> Tensor:
        """Rates alpha ``(D,)`` of the weights' fall, positive."""
        return F.softplus(self.raw_rate)

    def forward(self, t: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        """What observations say at the reference times.

        There are gradients to values and parameters, and none to times.

        Parameters
        ----------
        t
            Times ``(B, G, L)``; the D channels are a multiple of G, and have these in turn.
        x
            Values ``(B, D, L)``.
        valid
            Bool ``(B, G, L)``, which of them are observations.

        Returns
        -------
        Tensor ``(B, 3 D, R)``: trends, intensities, transients less trends. Channels without any
        observation are zero.
        """
        n, n_groups = t.shape[:2]
        x = x.unflatten(1, (-1, n_groups))
        rate = self.rate.view(-1, n_groups)
        farther, nearest = self._distances(t, valid)
        weighed = torch.stack([valid[:, None].expand_as(x).to(x.dtype), x], dim=-1)
        weighed = torch.where(valid[:, None, ..., None], weighed, 0.0)
        # sums of weights and of weighted values (B, D / G, G, R, 2), over the weight of the nearest
        total, of_values = _KernelSums.apply(rate, farther, weighed).unbind(-1)
        sharp, of_sharp = _KernelSums.apply(TRANSIENT * rate, farther, weighed).unbind(-1)
        there = valid.any(-1)[:, None, :, None]
        smooth = of_values / total.clamp_min(1.0)
        log_intensity = total.clamp_min(1.0).log() - rate[..., None] * nearest[:, None]
        log_intensity = torch.where(there, log_intensity, -torch.inf).flatten(1, 2)
        mean = weighed[..., 1].sum(-1) / weighed[..., 0].sum(-1).clamp_min(1.0)
        # shares of channels at a reference time, without the underflow of their intensities
        share = log_intensity.clamp_min(_NOTHING).softmax(1)
        off = share * (smooth - mean[..., None]).flatten(1, 2)
        trend = mean.flatten(1)[..., None] + torch.einsum("de,ber->bdr", self.cross, off)
        there = there.expand_as(smooth).flatten(1, 2)
        trend = torch.where(there, trend, 0.0)
        transient = (of_sharp / sharp.clamp_min(1.0)).flatten(1, 2) - trend
        outputs = [trend, log_intensity.exp(), transient] if self.intensity else [trend, transient]
        return torch.cat(outputs, dim=1)

    @torch.no_grad()
    def _distances(self, t: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances ``(B, G, R, L)`` of references to times, less the least, and that."""
        distance = self.references[:, None] - t[..., None, :]
        if self.periodic:
            distance = distance.abs_()
            distance = torch.minimum(distance, 1.0 - distance)
        squared, hidden = distance.square_(), ~valid[..., None, :]
        nearest = squared.masked_fill(hidden, torch.inf).amin(-1, keepdim=True)
        nearest = nearest.masked_fill_(nearest.isinf(), 0.0)
        return (squared - nearest).masked_fill_(hidden, 0.0), nearest[..., 0]


class _KernelSums(torch.autograd.Function):
    """``exp(-rate d) @ columns``; its derivative keeps one large matrix where autograd keeps three.

    rate ``(M, G)``  d ``(B, G, R, L)``  columns ``(B, M, G, L, C)``  sums ``(B, M, G, R, C)``
    """

    @staticmethod
    def forward(ctx, rate: Tensor, distance: Tensor, columns: Tensor) -> Tensor:
        exponents = torch.mul(distance[:, None], -rate[..., None, None])
        weights = exponents.clamp_min_(LEAST_EXPONENT).exp_()
        ctx.save_for_backward(distance, columns, weights)
        return weights @ columns

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        distance, columns, weights = ctx.saved_tensors
        of_columns = weights.mT @ grad if ctx.needs_input_grad[2] else None
        falling = (weights * distance[:, None]) @ columns
        return -(grad * falling).sum((0, 3, 4)), None, of_columns
