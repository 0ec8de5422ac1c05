"""How far a cell is from every known type, by its expression."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from torch import Tensor, nn

from mixvi.core.model.module import Rows

MOST_CELLS = 5000
"""Training cells that distances are learnt of, at most."""
_N_AXES = 16
_N_NEIGHBOURS = 15
_N_AROUND = 30
_PRIOR_CELLS = 3.0
_CELLS_AT_A_TIME = 512
# silent genes would count most: what is added to variances for axes, and the least for deviations
_ADDED_VARIANCE = 0.05
_LEAST_VARIANCE = 0.02


class LabelDistance(nn.Module):
    """How far cells are from the nearest label, and their neighbours from theirs.

    It is measured on the expression itself, because training with labels takes from z what tells a
    type that it has never seen. A cell's distance is the product of two: Mahalanobis' among 16
    principal components, with the covariance within labels (Lee et al. 2018), and the mean over
    genes of deviations, cubed, in units of their spread within labels, which sees genes that the
    components lack. Of its logarithm, half is the cell's own, half the mean of the 15 nearest
    training cells, because types come in groups. Where fewer of the 30 nearest have a label than of
    all training cells, the logarithm of that ratio is added: a type without a label lies among
    unlabelled cells, however near a label is. What is usual in the cell's batch and condition, or
    around the labelled cells of the nearest label, which may be few, is no lack.

    Parameters
    ----------
    n_input, n_classes, n_batch, n_conditions
        Numbers of genes G, of labels L, of batches and of conditions.
    is_count
        Whether cells are counts, which are brought to one library size and logged here.
    """

    def __init__(
        self, n_input: int, n_classes: int, n_batch: int, n_conditions: int, is_count: bool
    ):
        super().__init__()
        self._is_count = is_count
        # without labels there is nothing to keep
        sizes = (n_input, _N_AXES, MOST_CELLS) if n_classes else (0, 0, 0)
        n_input, n_axes, n_cells = sizes
        groups = (n_batch, max(n_conditions, 1)) if n_classes else (0, 0)
        self.register_buffer("library", torch.ones(()))
        self.register_buffer("axes", torch.zeros(n_input, n_axes))
        self.register_buffer("means", torch.zeros(n_classes, n_input))
        self.register_buffer("spread", torch.ones(n_input))
        self.register_buffer("is_known", torch.zeros(n_classes, dtype=torch.bool))
        self.register_buffer("cells", torch.zeros(n_cells, n_axes))
        self.register_buffer("distances", torch.zeros(n_cells))
        self.register_buffer("is_labelled", torch.zeros(n_cells, dtype=torch.bool))
        self.register_buffer("usual_lack", torch.zeros(()))
        # of groups less that of all: one that was not trained on has none of its own
        self.register_buffer("usual_lack_of_group", torch.zeros(groups))
        self.register_buffer("usual_lack_of_label", torch.zeros(n_classes))
        self.register_buffer("n_cells", torch.zeros((), dtype=torch.long))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a label to be far from."""
        return bool(self.is_known.any())

    def forward(self, rows: Rows) -> Tensor:
        """Score of each cell, 0 for the median of the training cells' own distances, ``(B,)``."""
        x = self._logged(rows.dense_x)
        distances = self.distances[: self.n_cells]
        z = x @ self.axes
        nearest = self._nearest(z, _N_AROUND)
        own, around = self._log_distance(x), distances[nearest[:, :_N_NEIGHBOURS]].mean(-1)
        label = _distances(z, self.means @ self.axes).masked_fill(~self.is_known, math.inf)
        usual = torch.maximum(
            self.usual_lack + self.usual_lack_of_group[rows.batch, rows.condition],
            self.usual_lack_of_label[label.argmin(-1)],
        )
        lack = self._lack_of_labels(nearest) - usual
        return 0.5 * (own + around) - distances.median() + lack.clamp_min(0.0)

    def _nearest(self, z: Tensor, n: int) -> Tensor:
        """Training cells nearest to points ``z`` ``(B, A)``, the nearest first, ``(B, n)``."""
        cells = self.cells[: self.n_cells]
        return _distances(z, cells).topk(min(n, len(cells)), largest=False).indices

    def _lack_of_labels(self, nearest: Tensor) -> Tensor:
        """Log of how many of as many cells have a label, over how many of these, ``(B,)``."""
        labelled = self.is_labelled[: self.n_cells].float()
        # a few more of each: where hardly any cell has a label, to have none near tells nothing
        expected = labelled.mean() * nearest.shape[-1] + _PRIOR_CELLS
        return (expected / (labelled[nearest].sum(-1) + _PRIOR_CELLS)).log()

    def _log_distance(self, x: Tensor) -> Tensor:
        """Log of both distances' product, to the label where either is least, ``(B,)``."""
        # x (B, G)  means (L, G)  axes (G, A), along which cells of a label have unit covariance
        means = self.means[self.is_known]
        among_axes = (x @ self.axes).unsqueeze(1) - means @ self.axes
        of_axes = among_axes.square().mean(-1).amin(-1)
        of_genes = torch.stack(
            [((x - mean) / self.spread).abs().pow(3).mean(-1) for mean in means], dim=-1
        ).amin(-1)
        return of_axes.clamp_min(1e-12).log() + of_genes.clamp_min(1e-12).log()

    def _logged(self, x: Tensor) -> Tensor:
        if not self._is_count:
            return x
        return (x / x.sum(-1, keepdim=True).clamp_min(1e-9) * self.library).log1p()

    def fit(self, x: Tensor, codes: Tensor, groups: Tensor) -> None:
        """Find axes, means of the labels and the covariance within them.

        Parameters
        ----------
        x
            Training cells ``(n, G)``, at most 5,000; unlabelled ones count for the axes, so that
            what is particular to types among them is seen.
        codes
            Label code of each, -1 without a label, ``(n,)``.
        groups
            Codes of batch and condition of each, ``(n, 2)``.
        """
        self.forget()
        if self._is_count:
            self.library.fill_(x.sum(-1).median())
        x, known = self._logged(x), codes >= 0
        for code in codes[known].unique():
            self.means[code] = x[codes == code].mean(0)
            self.is_known[code] = True
        within = x[known] - self.means[codes[known]]
        # a few labelled cells have no spread: that of all cells, types included, is wide
        if len(within) - int(self.is_known.sum()) < _N_AXES:
            within = x - x.mean(0)
        self.spread.copy_(within.square().mean(0).clamp_min(_LEAST_VARIANCE).sqrt())
        scale = 1.0 / (x.var(0) + _ADDED_VARIANCE).sqrt()
        pca = PCA(min(_N_AXES, *x.shape), random_state=0).fit((x * scale).cpu().numpy())
        axes = scale.unsqueeze(1) * torch.as_tensor(pca.components_.T).to(x)
        covariance = ledoit_wolf((within @ axes).cpu().numpy(), assume_centered=True)[0]
        # the covariance is V diag(s) V': along V / sqrt(s) it is one
        size, turn = np.linalg.eigh(covariance)
        axes = axes @ torch.as_tensor(turn / np.sqrt(size.clip(1e-12))).to(x)
        self.axes[:, : axes.shape[1]] = axes
        self.cells[: len(x)] = x @ self.axes
        self.distances[: len(x)] = self._log_distance(x)
        self.is_labelled[: len(x)] = known
        self.n_cells.fill_(len(x))
        # a cell is the nearest to itself, and tells nothing of those around it
        lack = torch.cat(
            [
                self._lack_of_labels(self._nearest(z, _N_AROUND + 1)[:, 1:])
                for z in self.cells[: len(x)].split(_CELLS_AT_A_TIME)
            ]
        )
        self.usual_lack.copy_(lack.median())
        for group in groups.unique(dim=0):
            of_group = lack[(groups == group).all(1)].median()
            self.usual_lack_of_group[tuple(group)] = of_group - self.usual_lack
        for code in codes[known].unique():
            self.usual_lack_of_label[code] = lack[codes == code].median()

    def forget(self) -> None:
        """Be as before :meth:`fit`."""
        for buffer in self.buffers():
            buffer.zero_()
        self.library.fill_(1.0)
        self.spread.fill_(1.0)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # models of version 0.1.0 have none
        for name, value in self.named_buffers():
            state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Between points, ``(n, m)``; by differences, which hold wherever the origin is."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
