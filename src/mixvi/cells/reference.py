"""What an evaluation of predicted cells takes from training cells alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.decomposition import PCA

from mixvi.cells.baseline_checks import check_cells, finite_values
from mixvi.cells.shifting import FEWEST_CELLS
from mixvi.core.arguments import check_positive, near_matches, shown
from mixvi.core.data import checks
from mixvi.core.data.fields import name_of
from mixvi.metrics import de_table
from mixvi.metrics.pairs import of_counts

_COUNTS_PER_CELL = 1e4


@dataclass(frozen=True)
class TrainingReference:
    """What an evaluation takes from training cells, so that no cell that is scored chooses it."""

    mean_change: pd.Series
    """Mean of the changes of all groups, ``(G,)``: what perturbed cells have in common."""
    de_scores: pd.DataFrame
    """Size of the score of each gene within each group, ``(n_groups, G)``."""
    components: np.ndarray
    """Principal components of the cells, ``(n_pcs, G)``."""
    of_counts: bool = False
    """Whether the cells were counts, which are compared by their logs."""

    def scores(self, group: str) -> pd.Series:
        """Of the genes within a group; of one that was not seen, the mean over the others."""
        if group in self.de_scores.index:
            return self.de_scores.loc[group]
        return self.de_scores.mean()

    def top_genes(self, group: str, n_genes: int) -> list[str]:
        """The genes that differ most within a group, up or down."""
        return list(self.scores(group).nlargest(n_genes).index)


def training_reference(
    train: AnnData,
    *,
    groupby: str,
    condition_key: str,
    control: str,
    to: str | None = None,
    method: str = "t-test_overestim_var",
    n_pcs: int = 20,
    layer: str | None = None,
) -> TrainingReference:
    """Genes that differ, the change that groups share, and components, from training cells alone.

    Parameters
    ----------
    train
        Training cells.
    groupby
        Column of ``obs``: labels, each compared between its own cells of two conditions; or the
        ``condition_key``, and each condition is compared with the control.
    condition_key, control
        Column of the condition, and the condition before the change, as there or as text.
    to
        The target condition; ``None`` if conditions are the groups.
    method
        Of the test, see :func:`mixvi.metrics.de_table`.
    n_pcs
        Number of principal components, for distances.
    layer
        Layer of the cells; ``None``: ``X``. Counts are read as log1p of counts per 10,000.

    Returns
    -------
    :class:`TrainingReference` over the groups with 5 cells or more on both sides.

    Raises
    ------
    KeyError, ValueError
        If a column or layer is missing, a condition unknown or its own target, values are not
        finite, or no group has enough cells.
    """
    check_cells(train, "train")
    check_positive("n_pcs", n_pcs)
    checks.check_categories(train, groupby, "groupby")
    checks.check_categories(train, condition_key, "condition_key")
    # by name, as models take them: 1 and "1" are one condition
    conditions = train.obs[condition_key].map(name_of).astype(str).to_numpy()
    control, to = name_of(control), None if to is None else name_of(to)
    for name, value in (("control", control), ("to", to)):
        if value is not None and value not in conditions:
            raise ValueError(
                f"{name}={shown(value)} is no condition of the training cells. "
                f"{near_matches(value, np.unique(conditions))}"
            )
    if (to is None) != (groupby == condition_key):
        raise ValueError(
            "Name the target condition (to=...) where groups are labels, and none where each "
            "condition is a group (groupby=condition_key)."
        )
    if to == control:
        raise ValueError(f"control and to are both {shown(to)}; name two conditions.")
    groups = train.obs[groupby].map(name_of).astype(str).to_numpy()
    x = finite_values(train, layer, "train")
    counts = of_counts(train, x, layer)
    x = comparable(x, counts)
    changes, scores = {}, {}
    for group in np.unique(groups):
        before, after = conditions == control, groups == group
        if to is not None:
            before, after = before & after, after & (conditions == to)
        if group == control or min(before.sum(), after.sum()) < FEWEST_CELLS:
            continue
        table = de_table(x[after], x[before], method)
        changes[group], scores[group] = table["change"], table["score"].abs()
    if not changes:
        raise ValueError(
            f"No group of obs[{groupby!r}] has {FEWEST_CELLS} training cells or more before and "
            "after the change."
        )
    genes = train.var_names
    mean = pd.DataFrame(changes).mean(axis=1).set_axis(genes)
    scores = pd.DataFrame(scores).T.set_axis(genes, axis=1)
    return TrainingReference(mean, scores, _components(x, n_pcs), counts)


def comparable(x: np.ndarray, counts: bool) -> np.ndarray:
    """Counts and means of counts as log1p of counts per 10,000, else as it is, ``(n, G)``."""
    if not counts:
        return x
    # means by a Gaussian likelihood may lie below zero
    x = np.maximum(x, 0.0)
    total = x.sum(axis=1, keepdims=True)
    return np.log1p(x / np.where(total > 0, total, 1) * _COUNTS_PER_CELL)


def _components(x: np.ndarray, n: int) -> np.ndarray:
    """Principal components of cells ``(n, G)``, ``(<= n, G)``."""
    return PCA(min(n, *x.shape), random_state=0).fit(x).components_
