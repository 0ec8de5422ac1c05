"""How z moves from one condition to another, learned from the training cells of each component."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mixvi.core.maths.additive import FEWEST_CELLS

_SMALLEST_VARIANCE = 1e-4


class ConditionMeans(NamedTuple):
    """Mean z of each component's training cells under each of C conditions, as sums."""

    cells: Tensor
    """Sums of the cells' component weights, ``(C, K)``."""
    total: Tensor
    """Sums of z by those weights, ``(C, K, Dz)``."""
    squares: Tensor | None = None
    """Sums of squares of z, ``(C, K, Dz)``; None of models saved before they were kept."""

    @classmethod
    def of(cls, z: Tensor, weights: Tensor, condition: Tensor, n_conditions: int) -> ConditionMeans:
        """Sums over cells ``z`` ``(n, Dz)`` by ``weights`` ``(n, K)`` and codes ``(n,)``."""
        members = one_hot(condition, n_conditions).to(z.dtype)
        total, squares = (
            torch.einsum("nc,nk,nd->ckd", members, weights, of) for of in (z, z.square())
        )
        return cls(members.T @ weights, total, squares)

    @property
    def enough(self) -> Tensor:
        """Whether a component has cells enough under a condition for a mean, ``(C, K)``."""
        return self.cells >= FEWEST_CELLS

    @property
    def z(self) -> Tensor:
        """Mean z, ``(C, K, Dz)``."""
        return self.total / self.cells.clamp_min(1.0).unsqueeze(-1)

    def shifts(self, target: int) -> Tensor:
        """How the target's mean z differs from each condition's, ``(C, K, Dz)``.

        A component with a handful of cells on either side has no mean: it moves as the others of
        that condition do on average.

        Raises
        ------
        ValueError
            If no component was seen under the target.
        """
        enough = self.enough
        if not enough[target].any():
            raise ValueError(
                f"route='shift' needs {FEWEST_CELLS} training cells of a component under the "
                "target condition or more, and there are none. Use route='w' or 'z'."
            )
        means = self.z
        shifts = means[target] - means
        both = (enough & enough[target]).unsqueeze(-1)
        average = (shifts * both).sum(1, keepdim=True) / both.sum(1, keepdim=True).clamp_min(1)
        return torch.where(both, shifts, average)

    def shifts_without_own(self, source: int, target: int) -> Tensor:
        """What each component would move by, had it not been seen under the target, ``(K, Dz)``.

        Where no other was seen, its own shift.
        """
        shifts = self.z[target] - self.z[source]
        seen = (self.enough[source] & self.enough[target]).to(shifts.dtype).unsqueeze(-1)
        others = seen.sum(0) - seen
        average = ((shifts * seen).sum(0) - shifts * seen) / others.clamp_min(1)
        return torch.where(others > 0, average, shifts)

    def log_density(self, z: Tensor, target: int) -> Tensor:
        """Log density of ``z`` ``(B, Dz)`` under Gaussians of the target's components, ``(B,)``.

        Raises
        ------
        ValueError
            If squares were not kept.
        """
        if self.squares is None:
            raise ValueError("Squares of z were not kept: the model is of an earlier version.")
        n = self.cells[target].clamp_min(1.0).unsqueeze(-1)
        mean = self.total[target] / n
        variance = (self.squares[target] / n - mean.square()).clamp_min(_SMALLEST_VARIANCE)
        log_share = (self.cells[target] / self.cells[target].sum().clamp_min(1.0)).log()
        log_share = torch.where(self.enough[target], log_share, -torch.inf)
        places = torch.distributions.Normal(mean, variance.sqrt())
        return torch.logsumexp(log_share + places.log_prob(z.unsqueeze(1)).sum(-1), dim=-1)
