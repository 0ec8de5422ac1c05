"""How far a code lies from its class, beside what is usual for that class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mixvi.lightcurves.anomaly import class_gaussians

# of fewer curves the usual distance is that of all classes
_LEAST_CURVES = 5
_LEAST_SPREAD = 1e-3
# a quartile of a normal distribution in standard deviations
_QUARTILE = 0.6745


class ClassDistance(nn.Module):
    """Log Mahalanobis distance to a class, in spreads of its own curves about their median.

    A class whose curves scatter widely, or are far from normal, has no more strange ones for it.

    Parameters
    ----------
    n_classes, n_latent
        Classes K, and entries D of a code.
    """

    def __init__(self, n_classes: int, n_latent: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(n_classes, n_latent))
        self.register_buffer("whitening", torch.eye(n_latent).repeat(n_classes, 1, 1))
        self.register_buffer("middle", torch.zeros(n_classes))
        self.register_buffer("spread", torch.ones(n_classes))

    def fit(self, codes: np.ndarray, classes: np.ndarray) -> None:
        """Learn what is usual from training codes ``(n, D)`` and numbers of their classes."""
        there, means, covariances = class_gaussians(codes, classes)
        for k, mean, covariance in zip(there, means, covariances, strict=True):
            self.means[k] = torch.as_tensor(mean)
            white = np.linalg.inv(np.linalg.cholesky(covariance))
            self.whitening[k] = torch.as_tensor(white)
        of_codes = torch.as_tensor(codes).to(self.means)
        of_classes = torch.as_tensor(classes, device=self.means.device)
        distances = self._log_distance(of_codes, of_classes).double()
        self._take_usual(distances, slice(None))
        for k in there:
            own = distances[of_classes == int(k)]
            if len(own) >= _LEAST_CURVES:
                self._take_usual(own, int(k))

    def _take_usual(self, distances: Tensor, classes: int | slice) -> None:
        shares = torch.tensor([0.25, 0.5, 0.75], dtype=torch.double, device=distances.device)
        low, middle, high = distances.quantile(shares)
        self.middle[classes] = middle.float()
        spread = (high - low) / (2 * _QUARTILE)
        self.spread[classes] = spread.clamp_min(_LEAST_SPREAD).float()

    def forward(self, codes: Tensor, classes: Tensor) -> Tensor:
        """Of codes ``(B, D)`` and the numbers of their classes ``(B,)``; ``(B,)``."""
        off = self._log_distance(codes, classes) - self.middle[classes]
        return off / self.spread[classes]

    def _log_distance(self, codes: Tensor, classes: Tensor) -> Tensor:
        off = (codes - self.means[classes])[..., None]
        return (self.whitening[classes] @ off).square().sum((-2, -1)).clamp_min(1e-12).log()
