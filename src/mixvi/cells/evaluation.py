"""Predicted cells against real ones: all figures in one table, with what is best and worst."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import pdist

from mixvi.cells.baseline_checks import check_cells
from mixvi.cells.reference import TrainingReference, comparable
from mixvi.core.arguments import check_count, check_positive
from mixvi.core.data import checks
from mixvi.core.data.fields import name_of
from mixvi.metrics import (
    centroid_accuracy,
    change_cosine,
    change_norm_ratio,
    change_pearson,
    change_r2,
    change_rmse,
    de_auprc,
    de_direction_match,
    de_overlap,
    de_table,
    de_weights,
    energy_distance,
    mean_expression_r2,
    mmd,
    normalised_score,
    permutation_test,
)
from mixvi.metrics.pairs import called, common_layer, dense, finite_pair, of_counts

_FEWEST_GROUPS = 5
# what messages call values, by whether they are counts
_KINDS = {True: "counts", False: "values that are no counts"}
# adjusted p-values below it are of genes that differ
_DIFFERS = 0.05
# figures that a prediction without any change has by chance
_CHANCE = {
    "pearson": 0.0,
    "pearson_perturbed": 0.0,
    "cosine": 0.0,
    "norm_ratio": 0.0,
    "direction_match": 0.5,
    "centroid_accuracy": 0.5,
}


def evaluate_counterfactual(
    predicted: AnnData | Mapping[str, AnnData],
    real: AnnData,
    control: AnnData,
    *,
    groupby: str | None = None,
    reference: TrainingReference | None = None,
    duplicate: AnnData | None = None,
    n_top: int = 100,
    k: int = 50,
    method: str = "wilcoxon",
    n_cells: int = 500,
    n_permutations: int = 100,
    n_splits: int = 3,
    layer: str | None = "auto",
    seed: int = 0,
) -> pd.DataFrame:
    """All figures of predicted cells, by group, with floor, ceiling and score between them.

    Parameters
    ----------
    predicted
        Predicted cells, or those of several methods by name.
    real
        Real cells under the target condition.
    control
        Real cells before the change, best other ones than those that were converted: what chance
        did to them is then in no prediction.
    groupby
        Column of ``obs``: figures are of each group that ``real`` has, such as a type or a
        perturbation. A group that control cells lack is held against all of them. ``None``: of all
        cells at once.
    reference
        Of :func:`training_reference`, of the same genes and the same matrix: without it there are
        no figures of top genes, of weighted genes, from the mean of perturbed cells, or on
        principal components.
    duplicate
        Other real cells under the target, such as training cells or those of another replicate:
        the ceiling is their figure, in groups that they have. ``None``: that of half of the real
        cells for the other half, which a good prediction may surpass where cells are few.
    n_top
        Training cells' top genes that ``r2_top`` is of.
    k, method
        Of :func:`mixvi.metrics.de_overlap` (at most as many as there are genes) and
        :func:`mixvi.metrics.de_table`.
    n_cells
        Cells a side at most in distances.
    n_permutations
        Of the permutation tests of distances; 0: none.
    n_splits
        How often real cells are split in halves for the ceiling.
    layer
        As in :func:`mixvi.metrics.mean_expression_r2`. Counts, and what predicted cells say are
        means of counts, are compared as log1p of counts per 10,000.
    seed
        Of subsets, splits and permutations.

    Returns
    -------
    DataFrame with a row a group, method and metric, and columns ``group``, ``method``, ``metric``,
    ``value``, ``floor``, ``ceiling``, ``score`` and ``p_value``. ``floor`` is the figure of control
    cells left as they are, or of chance where they have none (a change of zero has no correlation);
    from the mean of perturbed cells, that of this mean. For ``ceiling`` see ``duplicate``.
    ``score`` is 0 at the floor and 1 at the ceiling, of ``norm_ratio`` by its distance from 1.
    ``p_value`` is of distances: small where predicted and real cells can be told apart. Rows of the
    group ``"all"`` are means over groups, where there are several. Metrics that cannot be had of a
    group are NaN.

    Raises
    ------
    TypeError
        If a side is no AnnData.
    KeyError, ValueError
        If a column or layer is missing, genes or scales differ (counts on one side, other values
        on another), values are not finite, a prediction lacks a group that real cells have, a group
        has fewer than 4 real or 2 other cells, or one of several is called ``"all"``.

    Warns
    -----
    UserWarning
        If control cells have some of the groups, and others are held against all control cells.
    """
    for argument, number in {"n_splits": n_splits, "n_top": n_top, "k": k}.items():
        check_positive(argument, number)
    check_count("n_permutations", n_permutations)
    by_name = predicted if isinstance(predicted, Mapping) else {"predicted": predicted}
    if not by_name:
        raise ValueError("predicted is empty: pass cells, or those of one method or more by name.")
    others = {"real": real, "control": control}
    if duplicate is not None:
        others["duplicate"] = duplicate
    for side, cells in others.items():
        check_cells(cells, side)
    settings = _Settings(n_top, k, method, n_cells, n_permutations, seed)
    truths: dict[str | None, _Truth] = {}
    rows = []
    for name, cells in by_name.items():
        # a method may be called as a side is
        side = f"predicted[{name!r}]" if isinstance(predicted, Mapping) else name
        check_cells(cells, side)
        own = common_layer(layer, {side: cells} | others)
        for other in others:
            finite_pair(cells, others[other], (side, other), own)
        if own not in truths:
            truths[own] = _Truth(
                real, control, groupby, reference, settings, own, n_splits, duplicate
            )
        rows += truths[own].rows(name, cells, side)
    return _with_means(pd.DataFrame(rows))


@dataclass(frozen=True)
class _Settings:
    n_top: int
    k: int
    method: str
    n_cells: int
    n_permutations: int
    seed: int


class _Truth:
    """Real cells and controls of each group, with floors and ceilings, for all methods."""

    def __init__(
        self,
        real: AnnData,
        control: AnnData,
        groupby: str | None,
        reference: TrainingReference | None,
        settings: _Settings,
        layer: str | None,
        n_splits: int,
        duplicate: AnnData | None,
    ):
        self.groupby, self.layer = groupby, layer
        self.sides: dict[str, _Group] = {}
        self.counts = of_counts(real, dense(real, layer), layer)
        x, before = self._values(real, "real"), self._values(control, "control")
        if reference is not None:
            self._check_reference(reference, real)
        of_real, of_control = _groups(real, groupby, "real"), _groups(control, groupby, "control")
        _check_groups(of_real, of_control, groupby)
        for group in np.unique(of_real):
            own = before[of_control == group] if group in of_control else before
            self.sides[group] = _Group(group, x[of_real == group], own, reference, settings)
        best = {}
        if duplicate is not None:
            values = self._values(duplicate, "duplicate")
            of = _groups(duplicate, groupby, "duplicate")
            best = {g: values[of == g] for g in self.sides if (of == g).sum() > 1}
        self.deals = {
            group: [(best[group], side.x)] if group in best else side.halves(n_splits)
            for group, side in self.sides.items()
        }
        self.bounds = {group: side.bounds(self.deals[group]) for group, side in self.sides.items()}
        if len(self.sides) >= _FEWEST_GROUPS:
            self._add_centroid_bounds()

    def _values(self, cells: AnnData, name: str) -> np.ndarray:
        """Expression as it is compared, ``(n, G)``; an error if real cells have another scale."""
        x = dense(cells, self.layer, name)
        if of_counts(cells, x, self.layer) != self.counts:
            note = {"scale": "count"} | ({} if self.layer is None else {"layer": self.layer})
            means = f" Means of counts say so: {name}.uns['mixvi_prediction'] = {note}."
            raise ValueError(
                f"{name} has {_KINDS[not self.counts]} in {called(self.layer)}, but real has "
                f"{_KINDS[self.counts]}. Bring all sides to one scale, and name the matrix with "
                "layer='...' (None: X)." + (means if self.counts else "")
            )
        return comparable(x, self.counts)

    def _check_reference(self, reference: TrainingReference, real: AnnData) -> None:
        if not reference.mean_change.index.equals(real.var_names):
            raise ValueError(
                "reference and real name their genes differently or in another order. Take it of "
                "the same genes: training_reference(train[:, real.var_names], ...)."
            )
        if reference.of_counts != self.counts:
            raise ValueError(
                f"reference is of {_KINDS[reference.of_counts]}, but real has "
                f"{_KINDS[self.counts]} in {called(self.layer)}. Take it of the same matrix: "
                "training_reference(..., layer=...)."
            )

    def rows(self, method: str, cells: AnnData, side: str) -> list[dict]:
        """Of one method, which messages call ``side``."""
        x, groups = self._values(cells, side), _groups(cells, self.groupby, side)
        for group in self.sides:
            n = int((groups == group).sum())
            if not n:
                raise ValueError(f"{side} has no cells of {group!r}, which real cells have.")
            if n < 2:
                raise ValueError(
                    f"{side} has one cell of {group!r}; 2 are needed for tests. Predict more, or "
                    "leave the group out of real."
                )
        cells = {group: x[groups == group] for group in self.sides}
        accuracy = self._centroid_accuracy(cells, {g: side.x for g, side in self.sides.items()})
        out = []
        for group, side in self.sides.items():
            figures, p_values = side.figures(cells[group]), side.p_values(cells[group])
            if accuracy is not None:
                figures["centroid_accuracy"] = accuracy[group]
            for metric, value in figures.items():
                floor, ceiling = self.bounds[group][metric]
                row = {"group": group, "method": method, "metric": metric, "value": value}
                row |= {"floor": floor, "ceiling": ceiling}
                row["score"] = _score(metric, value, floor, ceiling)
                out.append(row | {"p_value": p_values.get(metric, np.nan)})
        return out

    def _centroid_accuracy(self, cells: dict, real: dict) -> pd.Series | None:
        """Of each group's change, because groups may have controls of their own."""
        if len(self.sides) < _FEWEST_GROUPS:
            return None
        before = np.stack([side.control.mean(axis=0) for side in self.sides.values()])
        ours, theirs = (
            np.stack([of[group].mean(axis=0) for group in self.sides]) - before
            for of in (cells, real)
        )
        return centroid_accuracy(ours, theirs, list(self.sides), list(self.sides))

    def _add_centroid_bounds(self) -> None:
        found = []
        for split in range(max(map(len, self.deals.values()))):
            dealt = {group: deals[split % len(deals)] for group, deals in self.deals.items()}
            first, second = ({g: both[i] for g, both in dealt.items()} for i in (0, 1))
            found.append(self._centroid_accuracy(first, second))
        ceiling = pd.DataFrame(found).mean()
        for group, bounds in self.bounds.items():
            bounds["centroid_accuracy"] = (_CHANCE["centroid_accuracy"], float(ceiling[group]))


class _Group:
    """Real cells of one group, and the control that changes are from."""

    def __init__(
        self,
        name: str,
        x: np.ndarray,
        control: np.ndarray,
        reference: TrainingReference | None,
        settings: _Settings,
    ):
        if len(x) < 4 or len(control) < 2:
            raise ValueError(
                f"{name!r} has {len(x)} real and {len(control)} control cells; 4 and 2 are needed, "
                "for halves and tests. Leave the group out."
            )
        self.x, self.control, self.settings = x, control, settings
        self.weights = self.perturbed = self.top = None
        # cells as distances see them, by suffix of the metric
        self.spaces: dict[str, np.ndarray | None] = {"": None}
        if reference is not None:
            scores = reference.scores(name).to_numpy()
            self.weights = de_weights(scores)
            self.top = np.argsort(-scores, kind="stable")[: settings.n_top]
            self.perturbed = control.mean(axis=0) + reference.mean_change.to_numpy()
            self.spaces["_pca"] = reference.components.T
        # the same for all methods: bandwidths of their own would not be comparable
        self.widths = {
            suffix: np.median(pdist(_within(x, space))) * np.array([0.5, 1.0, 2.0])
            for suffix, space in self.spaces.items()
        }
        self.differing = de_table(x, control, settings.method)

    def figures(self, cells: np.ndarray) -> dict[str, float]:
        """Of predicted cells ``(n, G)``."""
        return (
            self._of_means(cells, self.x)
            | self._of_genes(de_table(cells, self.control, self.settings.method), self.differing)
            | self._of_distances(cells, self.x)
        )

    def p_values(self, cells: np.ndarray) -> dict[str, float]:
        """Of each distance of predicted cells ``(n, G)``."""
        s = self.settings
        if not s.n_permutations:
            return {}
        found = {}
        for suffix, space in self.spaces.items():
            sides = _within(cells, space), _within(self.x, space)
            for name in ("energy", "mmd"):
                if name == "mmd" and not self.widths[suffix].all():
                    continue
                widths = {} if name == "energy" else {"bandwidths": self.widths[suffix]}
                test = permutation_test(*sides, name, s.n_permutations, s.n_cells, s.seed, **widths)
                found[name + suffix] = test.p_value
        return found

    def halves(self, n_splits: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Real cells dealt into two halves, several times."""
        seeds = ([self.settings.seed, split] for split in range(n_splits))
        orders = (np.random.default_rng(seed).permutation(len(self.x)) for seed in seeds)
        return [(self.x[order[::2]], self.x[order[1::2]]) for order in orders]

    def bounds(self, deals: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
        """Floor and ceiling of each metric; the latter that of the first sides for the second."""
        control, differ = self.control, self.differing["p_adjusted"] < _DIFFERS
        floor = self._of_means(control, self.x) | self._of_distances(control, self.x) | _CHANCE
        floor["de_overlap"] = self.k / len(differ)
        floor["de_auprc"] = float(differ.mean())
        if self.perturbed is not None:
            at = change_r2(self.perturbed, self.x, self.perturbed, self.weights)
            floor["weighted_r2_perturbed"] = at
        found = []
        for one, other in deals:
            tables = (de_table(half, control, self.settings.method) for half in (one, other))
            figures = self._of_means(one, other) | self._of_genes(*tables)
            found.append(figures | self._of_distances(one, other))
        ceiling = pd.DataFrame(found).mean()
        return {metric: (floor[metric], float(value)) for metric, value in ceiling.items()}

    def _of_means(self, cells: np.ndarray, real: np.ndarray) -> dict[str, float]:
        control = self.control
        found = {
            "r2": mean_expression_r2(cells, real),
            "pearson": change_pearson(cells, real, control),
            "rmse": change_rmse(cells, real),
            "cosine": change_cosine(cells, real, control),
            "norm_ratio": change_norm_ratio(cells, real, control),
        }
        if self.weights is None:
            return found
        return found | {
            "r2_top": mean_expression_r2(cells, real, self.top),
            "weighted_r2": change_r2(cells, real, control, self.weights),
            "pearson_perturbed": change_pearson(cells, real, self.perturbed),
            "weighted_r2_perturbed": change_r2(cells, real, self.perturbed, self.weights),
        }

    def _of_genes(self, ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float]:
        return {
            "de_overlap": de_overlap(ours, theirs, self.k),
            "direction_match": de_direction_match(ours, theirs, _DIFFERS),
            "de_auprc": de_auprc(ours, theirs, _DIFFERS),
        }

    def _of_distances(self, cells: np.ndarray, real: np.ndarray) -> dict[str, float]:
        found, options = {}, {"n_cells": self.settings.n_cells, "seed": self.settings.seed}
        for suffix, space in self.spaces.items():
            sides = _within(cells, space), _within(real, space)
            found[f"energy{suffix}"] = energy_distance(*sides, **options)
            # most real cells are equal: there is no width to see them by
            known = self.widths[suffix].all()
            found[f"mmd{suffix}"] = (
                mmd(*sides, self.widths[suffix], **options) if known else float("nan")
            )
        return found

    @property
    def k(self) -> int:
        """Length of the lists of genes."""
        return min(self.settings.k, self.x.shape[1])


def _score(metric: str, value: float, floor: float, ceiling: float) -> float:
    if metric == "norm_ratio":
        value, floor, ceiling = (-abs(1 - at) for at in (value, floor, ceiling))
    return normalised_score(value, floor, ceiling)


def _within(x: np.ndarray, space: np.ndarray | None) -> np.ndarray:
    """Cells ``(n, G)`` in coordinates of ``space`` ``(G, D)``; None: of the genes."""
    return x if space is None else x @ space


def _groups(cells: AnnData, groupby: str | None, name: str) -> np.ndarray:
    """Group of each cell as text, ``(n,)``."""
    if groupby is None:
        return np.full(cells.n_obs, "all")
    if groupby not in cells.obs and name == "control":
        return np.full(cells.n_obs, None)
    checks.check_categories(cells, groupby, f"groupby, of {name}")
    return cells.obs[groupby].map(name_of).astype(str).to_numpy()


def _check_groups(real: np.ndarray, control: np.ndarray, groupby: str | None) -> None:
    """Raise or warn of groups that rows of the table would say something else of."""
    names = set(real)
    if groupby is not None and "all" in names and len(names) > 1:
        raise ValueError(
            f"adata.obs[{groupby!r}] of real has a group that is called 'all', as the means over "
            "groups are. Give it another name."
        )
    missing = names - set(control)
    if missing and missing != names:
        warnings.warn(
            f"control has no cells of {', '.join(map(repr, sorted(missing)))} in "
            f"adata.obs[{groupby!r}], but some of other groups: the changes of those that it lacks "
            "are from the mean of all control cells. Add controls of theirs, or leave them out.",
            UserWarning,
            stacklevel=4,
        )


def _with_means(table: pd.DataFrame) -> pd.DataFrame:
    """The table, and rows of means over its groups if there are several."""
    if table["group"].nunique() < 2:
        return table
    keys, figures = ["method", "metric"], ["value", "floor", "ceiling", "score"]
    means = table.groupby(keys, sort=False)[figures].mean().reset_index()
    return pd.concat([table, means.assign(group="all")], ignore_index=True)[list(table.columns)]
