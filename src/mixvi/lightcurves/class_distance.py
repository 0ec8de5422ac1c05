"""How far a code lies from the nearest class, beside what is usual for that class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mixvi.lightcurves.anomaly import class_gaussians

# of fewer curves the usual distance is that of all classes
_LEAST_CURVES = 5
_LEAST_SPREAD = 1e-3
# from quartile to quartile of a normal distribution, in standard deviations
_BETWEEN_QUARTILES = 1.349


def median_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Over the first axis; the spread is the standard deviation if values are normal."""
    shares = torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype, device=values.device)
    low, middle, high = values.quantile(shares, dim=0)
    return middle, ((high - low) / _BETWEEN_QUARTILES).clamp_min(_LEAST_SPREAD)


class ClassDistance(nn.Module):
    """Log Mahalanobis distance to classes, in spreads of each one's own curves about their median.

    A class whose curves scatter widely, or are far from normal, has no more strange ones for it.

    Parameters
    ----------
    n_classes, n_entries
        Classes K, and entries D of a code.
    """

    def __init__(self, n_classes: int, n_entries: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(n_classes, n_entries))
        self.register_buffer("whitening", torch.eye(n_entries).repeat(n_classes, 1, 1))
        self.register_buffer("there", torch.ones(n_classes, dtype=torch.bool))
        self.register_buffer("middle", torch.zeros(n_classes))
        self.register_buffer("spread", torch.ones(n_classes))

    def fit(self, codes: np.ndarray, classes: np.ndarray) -> None:
        """Learn what is usual from training codes ``(n, D)`` and numbers of their classes."""
        there, means, covariances = class_gaussians(codes, classes)
        self.there[:] = False
        for k, mean, covariance in zip(there, means, covariances, strict=True):
            self.there[k] = True
            self.means[k] = torch.as_tensor(mean)
            white = np.linalg.inv(np.linalg.cholesky(covariance))
            self.whitening[k] = torch.as_tensor(white)
        found = self._log_distances(torch.as_tensor(codes).to(self.means)).double()
        own = found.gather(1, torch.as_tensor(classes, device=found.device)[:, None])[:, 0]
        self._take_usual(own, slice(None))
        for k in there:
            of_class = own[torch.as_tensor(classes == k, device=found.device)]
            if len(of_class) >= _LEAST_CURVES:
                self._take_usual(of_class, int(k))

    def _take_usual(self, distances: Tensor, classes: int | slice) -> None:
        middle, spread = median_and_spread(distances)
        self.middle[classes], self.spread[classes] = middle.float(), spread.float()

    def forward(self, codes: Tensor) -> Tensor:
        """Of codes ``(B, D)`` to the nearest of the classes that training had, ``(B,)``."""
        off = (self._log_distances(codes) - self.middle) / self.spread
        return torch.where(self.there, off, torch.inf).amin(1)

    def _log_distances(self, codes: Tensor) -> Tensor:
        off = (codes[:, None] - self.means)[..., None]
        return (self.whitening @ off).square().sum((-2, -1)).clamp_min(1e-12).log()
