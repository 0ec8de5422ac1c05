"""Which clusters are populations of their own: what either half of the genes says of them.

A cloud that is cut anywhere looks like two clusters on the values that it was cut by. Genes have
noise of their own, so that two halves of them agree on a cell's side only where there are sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from mixvi.cells.initial import PrincipalAxes
from mixvi.core.arguments import check_positive, shown

# where Landis and Koch 1977 begin "almost perfect"; on Kang's stimulated cells 0.85 does as well
MIN_AGREEMENT = 0.8
_N_PCS = 20
_N_SPLITS = 5
_N_FOLDS = 3
_FEWEST = 10
_MAX_CELLS = 10_000
_SHRINKAGE = 0.1


@dataclass(frozen=True)
class Merge:
    """One step: of all groups the two that were least told apart became one.

    Attributes
    ----------
    first, second
        The groups, each by its lowest cluster; the result keeps the name of the first.
    agreement
        Cohen's kappa of the two halves of the genes on whose cells are whose, at most 1; 0 for a
        group that is too small to say.
    """

    first: int
    second: int
    agreement: float


@dataclass(frozen=True)
class ComponentTree:
    """Clusters or components that become one, step by step.

    Attributes
    ----------
    components
        Those with cells.
    merges
        The steps, always the pair that is least told apart.
    """

    components: tuple[int, ...]
    merges: tuple[Merge, ...]

    @property
    def levels(self) -> np.ndarray:
        """The level of each merge: the least agreement from there on, ``(n_merges,)``.

        Of two groups that are told apart one may be made that is not told from a third: levels
        never fall.
        """
        agreements = np.array([merge.agreement for merge in self.merges])
        return np.minimum.accumulate(agreements[::-1])[::-1]

    @property
    def table(self) -> pd.DataFrame:
        """``first``, ``second``, ``agreement``, ``level`` and ``n_groups`` left, a row a merge."""
        table = pd.DataFrame([asdict(merge) for merge in self.merges])
        table["level"] = self.levels
        table["n_groups"] = np.arange(len(self.merges), 0, -1)
        return table

    def cut(self, n_groups: int | None = None, min_agreement: float = MIN_AGREEMENT) -> dict:
        """Group of each component: 0, 1, ... in the order of their lowest components.

        Parameters
        ----------
        n_groups
            How many groups to leave.
        min_agreement
            Where ``n_groups`` is None: merge what is told apart less than this.

        Raises
        ------
        ValueError
            If there are not as many components, or ``min_agreement`` is above 1.
        """
        n_merges = int((self.levels < min_agreement).sum())
        if n_groups is not None:
            check_positive("n_groups", n_groups)
            if n_groups > len(self.components):
                raise ValueError(
                    f"n_groups={n_groups}, but there are {len(self.components)} components with "
                    "cells."
                )
            n_merges = len(self.components) - int(n_groups)
        elif not min_agreement <= 1:
            raise ValueError(f"min_agreement must be at most 1, but is {shown(min_agreement)}.")
        of = {component: component for component in self.components}
        for merge in self.merges[:n_merges]:
            of = {c: merge.first if group == merge.second else group for c, group in of.items()}
        numbers = {group: i for i, group in enumerate(sorted(set(of.values())))}
        return {component: numbers[group] for component, group in of.items()}

    def linkage(self) -> np.ndarray:
        """The tree as scipy has it, ``(n_merges, 4)``; heights are levels, not below 0."""
        node = {component: i for i, component in enumerate(self.components)}
        size = dict.fromkeys(self.components, 1)
        rows = []
        for i, (merge, level) in enumerate(zip(self.merges, self.levels, strict=True)):
            size[merge.first] += size[merge.second]
            pair = sorted((node[merge.first], node[merge.second]))
            rows.append([*pair, max(level, 0.0), size[merge.first]])
            node[merge.first] = len(self.components) + i
        return np.array(rows, dtype=float).reshape(-1, 4)


def component_tree(
    x,
    codes: np.ndarray,
    *,
    is_count: bool,
    seed: int,
    batches: np.ndarray | None = None,
    indices: np.ndarray | None = None,
) -> ComponentTree:
    """Merge clusters, always the pair that is least told apart, until one is left.

    For each pair and either half of the genes, a linear discriminant of the principal components
    of that half is fitted to the clusters and calls the cells that it was not fitted to. The
    agreement of the two halves' calls beyond chance is Cohen's kappa, both clusters weighing alike.

    Parameters
    ----------
    x
        Matrix ``(n_obs, G)`` in memory or on disk, as for :func:`principal_components`.
    codes
        Cluster of each of the rows ``indices``, ``(n,)``.
    is_count
        Whether ``x`` holds counts.
    seed
        Of the halves, the folds and, beyond 10,000 cells, the part of the large clusters that is
        looked at.
    batches
        Group of each row of ``x`` ``(n_obs,)`` within which genes are centred.
    indices
        Rows of ``x``; ``None``: all.

    Returns
    -------
    :class:`ComponentTree`.

    Raises
    ------
    ValueError
        If there is one gene alone.

    Notes
    -----
    Clusters of fewer than 10 cells first join the nearest other.
    """
    if x.shape[1] < 2:
        raise ValueError("There is one gene alone: it has no halves.")
    rng = np.random.default_rng(seed)
    indices = np.arange(x.shape[0]) if indices is None else indices
    names, codes = np.unique(codes, return_inverse=True)
    components = tuple(names.tolist())
    if len(names) == 1:
        return ComponentTree(components, ())
    # clusters weigh alike: of large ones a part will do, and of rare ones all cells stay
    parts = [rng.permutation(np.flatnonzero(codes == i)) for i in range(len(names))]
    if len(codes) > _MAX_CELLS:
        parts = [rows[: _MAX_CELLS // len(names)] for rows in parts]
    part = np.concatenate(parts)
    folds = np.concatenate([np.arange(len(rows)) % _N_FOLDS for rows in parts])
    codes, indices = codes[part], indices[part]
    halves = []
    for _ in range(_N_SPLITS):
        half = rng.permutation(x.shape[1]) % 2
        for side in range(2):
            axes = PrincipalAxes(
                x,
                is_count=is_count,
                seed=seed,
                groups=batches,
                indices=indices,
                genes=np.flatnonzero(half == side),
            )
            points = axes.coordinates(indices)[:, :_N_PCS]
            halves.append(_Half(points.astype(np.float64), codes, folds, len(names)))
    return ComponentTree(components, tuple(_merged(halves, codes, names)))


class _Half:
    """Coordinates by half of the genes, and what discriminants are made of, by fold and group."""

    def __init__(self, points: np.ndarray, codes: np.ndarray, folds: np.ndarray, n_groups: int):
        # points (n, D)  counts (F, K)  sums (F, K, D)  squares (F, K, D, D), each outside the fold
        self.points, self._folds = points, folds
        width = points.shape[1]
        self.counts = np.zeros((_N_FOLDS, n_groups))
        self.sums = np.zeros((_N_FOLDS, n_groups, width))
        self.squares = np.zeros((_N_FOLDS, n_groups, width, width))
        for group in range(n_groups):
            for fold in range(_N_FOLDS):
                rows = points[(codes == group) & (folds != fold)]
                self.counts[fold, group] = len(rows)
                self.sums[fold, group] = rows.sum(axis=0)
                self.squares[fold, group] = rows.T @ rows

    def join(self, first: int, second: int) -> None:
        for of in (self.counts, self.sums, self.squares):
            of[:, first] += of[:, second]
            of[:, second] = 0

    def calls(self, first: int, second: int, rows: np.ndarray) -> np.ndarray:
        """Whether the discriminant, fitted without a row's fold, puts it into ``first``."""
        called = np.zeros(len(rows), dtype=bool)
        for fold in range(_N_FOLDS):
            means, scatter = [], 0.0
            for group in (first, second):
                n, total = self.counts[fold, group], self.sums[fold, group]
                means.append(total / n)
                scatter = scatter + self.squares[fold, group] - np.outer(total, total) / n
            scale = np.trace(scatter) / len(scatter) + 1e-12
            shrunk = (1 - _SHRINKAGE) * scatter + _SHRINKAGE * scale * np.eye(len(scatter))
            axis = np.linalg.solve(shrunk, means[0] - means[1])
            here = self._folds[rows] == fold
            called[here] = (self.points[rows[here]] - (means[0] + means[1]) / 2) @ axis > 0
        return called


def _merged(halves: list[_Half], codes: np.ndarray, names: np.ndarray) -> list[Merge]:
    codes = codes.copy()
    groups = list(range(len(names)))
    told = np.full((len(names), len(names)), np.inf)
    merges = []

    def join(first: int, second: int, agreement: float) -> None:
        codes[codes == second] = first
        groups.remove(second)
        for half in halves:
            half.join(first, second)
        merges.append(Merge(int(names[first]), int(names[second]), agreement))

    small = sorted(groups, key=lambda g: np.sum(codes == g))
    for group in small:
        if len(groups) > 1 and group in groups and np.sum(codes == group) < _FEWEST:
            join(*sorted((group, _nearest(halves, codes, groups, group))), 0.0)
    for i in groups:
        for j in groups:
            if i < j:
                told[i, j] = _agreement(halves, codes, i, j)
    while len(groups) > 1:
        first, second = np.unravel_index(told.argmin(), told.shape)
        join(int(first), int(second), float(told[first, second]))
        told[second], told[:, second] = np.inf, np.inf
        for other in groups:
            if other != first:
                i, j = sorted((int(first), other))
                told[i, j] = _agreement(halves, codes, i, j)
    return merges


def _nearest(halves: list[_Half], codes: np.ndarray, groups: list[int], group: int) -> int:
    others = [other for other in groups if other != group]
    distances = [
        sum(
            np.square(
                half.points[codes == group].mean(axis=0) - half.points[codes == other].mean(axis=0)
            ).sum()
            for half in halves
        )
        for other in others
    ]
    return others[int(np.argmin(distances))]


def _agreement(halves: list[_Half], codes: np.ndarray, first: int, second: int) -> float:
    """Cohen's kappa of the calls of either half of the genes, averaged over the splits."""
    rows = np.flatnonzero((codes == first) | (codes == second))
    of_first = codes[rows] == first
    weights = np.where(of_first, 0.5 / of_first.sum(), 0.5 / (~of_first).sum())
    kappas = []
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        calls = [half.calls(first, second, rows) for half in (one, other)]
        shares = [weights @ called for called in calls]
        chance = shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
        same = weights @ (calls[0] == calls[1])
        kappas.append((same - chance) / max(1 - chance, 1e-9))
    return float(np.mean(kappas))
