"""Irregular observations at equally spaced times: the interpolation-prediction block.

Shukla & Marlin 2019, *Interpolation-prediction networks for irregularly sampled time series*.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.arguments import check_positive

# of phases in [0, 1]: kernels about 1 / 32 wide. The paper's ln 2 is for hours of two days
INITIAL_RATE = 500.0
# how much narrower the kernels of transients are
TRANSIENT = 10.0
_OUTPUTS = 3


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

        Parameters
        ----------
        t
            Times ``(B, D, L)``, or ``(B, 1, L)`` of all channels.
        x
            Values ``(B, D, L)``.
        valid
            Bool, which of them are observations, ``(B, D, L)`` or ``(B, 1, L)``.

        Returns
        -------
        Tensor ``(B, 3 D, R)``: trends, intensities, transients less trends. Channels without any
        observation are zero.
        """
        # squared (B, D or 1, R, L)
        x = torch.where(valid, x, 0.0)
        squared = self._distance(t).square()
        hidden = ~valid[..., None, :]
        rate = self.rate[:, None, None]
        log_intensity, smooth = _weighted_mean(-rate * squared, x, hidden)
        _, transient = _weighted_mean(-TRANSIENT * rate * squared, x, hidden)
        intensity = log_intensity.exp()
        n_valid = valid.sum(-1, keepdim=True).clamp_min(1)
        mean = x.sum(-1, keepdim=True) / n_valid
        # shares of channels at a reference time, without the underflow of their intensities
        share = log_intensity.softmax(1)
        others = torch.einsum("de,ber->bdr", self.cross, share * (smooth - mean))
        there = valid.any(-1, keepdim=True)
        trend = torch.where(there, mean + others, 0.0)
        transient = torch.where(there, transient - trend, 0.0)
        outputs = [trend, intensity, transient] if self.intensity else [trend, transient]
        return torch.cat(outputs, dim=1)

    def _distance(self, t: Tensor) -> Tensor:
        distance = self.references[:, None] - t[..., None, :]
        if not self.periodic:
            return distance
        distance = distance.abs()
        return torch.minimum(distance, 1.0 - distance)


def _weighted_mean(log_weights: Tensor, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the sum of weights, and the weighted mean of ``x`` ``(B, D, L)``, each ``(B, D, R)``.

    ``log_weights`` and ``hidden`` are broadcast to ``(B, D, R, L)``; hidden ones weigh nothing.
    """
    # finite: a channel without observations would be 0 / 0
    log_weights = log_weights.masked_fill(hidden, -1e30)
    total = log_weights.logsumexp(-1)
    weights = (log_weights - total[..., None]).exp()
    return total, (weights @ x[..., None]).squeeze(-1)
