"""How z moves from one condition to another, learned from the training cells of each component."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

_FEWEST_CELLS = 5


class ConditionMeans(NamedTuple):
    """Mean z of each component's training cells under each of C conditions, as sums."""

    cells: Tensor
    """Sums of the cells' component weights, ``(C, K)``."""
    total: Tensor
    """Sums of z by those weights, ``(C, K, Dz)``."""

    @classmethod
    def of(cls, z: Tensor, weights: Tensor, condition: Tensor, n_conditions: int) -> ConditionMeans:
        """Sums over cells ``z`` ``(n, Dz)`` by ``weights`` ``(n, K)`` and codes ``(n,)``."""
        members = one_hot(condition, n_conditions).to(z.dtype)
        return cls(members.T @ weights, torch.einsum("nc,nk,nd->ckd", members, weights, z))

    def shifts(self, target: int) -> Tensor:
        """How the target's mean z differs from each condition's, ``(C, K, Dz)``.

        A component with a handful of cells on either side has no mean: it moves as the others of
        that condition do on average.

        Raises
        ------
        ValueError
            If no component was seen under the target.
        """
        enough = self.cells >= _FEWEST_CELLS
        if not enough[target].any():
            raise ValueError(
                f"route='shift' needs {_FEWEST_CELLS} training cells of a component under the "
                "target condition or more, and there are none. Use route='w' or 'z'."
            )
        means = self.total / self.cells.clamp_min(1.0).unsqueeze(-1)
        shifts = means[target] - means
        both = (enough & enough[target]).unsqueeze(-1)
        average = (shifts * both).sum(1, keepdim=True) / both.sum(1, keepdim=True).clamp_min(1)
        return torch.where(both, shifts, average)
