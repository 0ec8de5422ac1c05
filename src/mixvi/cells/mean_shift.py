"""Predictions of a treatment's effect by arithmetic on means, to hold a counterfactual against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from anndata import AnnData

from mixvi.cells.baseline_checks import (
    check_cells,
    check_columns,
    check_residual,
    check_same_support,
    finite_values,
    target_of,
    targets_of,
)
from mixvi.cells.label_means import LabelMeans
from mixvi.core.arguments import check_choice, check_positive, check_weight, shown
from mixvi.core.data import checks
from mixvi.core.data.combinations import Columns, called, names_of_cells, plain_columns
from mixvi.core.data.fields import found_categories
from mixvi.core.data.support import support_of
from mixvi.core.maths.residuals import Residuals
from mixvi.core.model.counterfactual import converted_cells, match_group_means
from mixvi.metrics import class_mean_baseline

WEIGHTS = ("own", "similar", "nearest", "mean")
_MOST_CELLS = 2000

# change of a label of the given name and mean, (G,)
_Change = Callable[[str, np.ndarray], np.ndarray]


def predict_mean_shift(
    train: AnnData,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: Columns,
    to: object,
    weights: str = "own",
    keep_residual: bool | str = True,
    layer: str | None = None,
    seed: int = 0,
) -> AnnData:
    """Every cell changes as the mean of its label (or of others) changes between the conditions.

    Parameters
    ----------
    train
        Cells to take means of.
    cells
        Cells to convert, with the same genes in the same order.
    labels_key, condition_key
        Columns of ``obs`` of both. The condition may be of several columns, a list; a combination
        that a label was not seen under has the mean that the columns' effects on this label add up
        to (least squares; of counts, of log1p of their share of 10,000).
    to
        The target condition, as in the column or as text. Of several columns a dict, such as
        ``{"stimulus": "LPS", "time": "6h"}``; cells keep their own of a column that it leaves out.
    weights
        Whose change it is. ``"own"``: the label's, and as ``"similar"`` where it was not seen under
        both conditions; ``"similar"``: the other labels', weighted by the inverse of the squared
        distance of their means before the change (Shepard 1968); ``"nearest"``: that of the other
        label whose mean is nearest; ``"mean"``: of all labels alike. A label is seen with 5 cells.
    keep_residual
        Add the change to the cell's own expression, within the support of the training cells
        (counts stay counts, values that are never negative stay so and zeros stay likely: which
        of them change is drawn), as :meth:`mixvi.CGMVAE.counterfactual` does. ``"centred"``: and
        the averages of each label's converted cells are those that were learned, free of the noise
        of few cells (not for counts). False: the mean.
    layer
        Layer of both; ``None``: ``X``. To hold against a model, the one it reads. Counts change by
        their proportions, at the cell's own library size.
    seed
        Of the draws.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        If a column, the layer or the target condition is missing, a side has no cells or values
        that are not finite, genes or scales differ, or no label was seen under both conditions.

    Warns
    -----
    UserWarning
        Of labels with so few cells on a side that others' changes stand in.
    """
    check_choice("weights", weights, WEIGHTS)

    def learned(means: LabelMeans, source: str, target: str) -> _Change:
        seen = means.seen(source, target)
        changes, before = means.changes(source, target, seen), means.of(source, seen)

        def change(label: str, mean: np.ndarray) -> np.ndarray:
            if weights == "own" and label in seen:
                return changes[seen.index(label)]
            others = np.array([name != label or weights == "mean" for name in seen])
            if not others.any():
                raise ValueError(
                    f"weights={weights!r} takes the change of other labels than {label!r}, and "
                    f"none was seen under {shown(source)} and {shown(target)}. Use weights='own'."
                )
            squared = ((before - mean) ** 2).sum(axis=1)
            return _mixed(weights, squared[others]) @ changes[others]

        return change

    return _by_means(
        train,
        cells,
        (labels_key, condition_key, to),
        learned,
        source=f"mean shift ({weights})",
        layer=layer,
        keep_residual=keep_residual,
        seed=seed,
    )


def predict_linear_shift(
    train: AnnData,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: Columns,
    to: object,
    n_pcs: int = 10,
    ridge: float = 0.1,
    keep_residual: bool | str = True,
    layer: str | None = None,
    seed: int = 0,
) -> AnnData:
    """The change of a label as a linear function of its mean before, by PCA and ridge regression.

    The linear model of Ahlmann-Eltze et al. 2025, with labels in the place of perturbations:
    changes ``Y = b + G W P'``, where the genes' ``G`` are principal components of the changes,
    the labels' ``P`` those of their means before, and ``W`` is the ridge solution on both sides.

    Parameters
    ----------
    train, cells, labels_key, condition_key, to, keep_residual, layer, seed
        As in :func:`predict_mean_shift`.
    n_pcs
        Principal components of genes and of labels at most.
    ridge
        Penalty of both sides; of counts, on their share of 10,000.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        As :func:`predict_mean_shift`.
    """
    check_positive("n_pcs", n_pcs)
    check_weight("ridge", ridge)

    def learned(means: LabelMeans, source: str, target: str) -> _Change:
        seen = means.seen(source, target)
        of = means.changes(source, target, seen), means.of(source, seen)
        changes, before = (means.unit * part for part in of)
        centre, average = before.mean(axis=0), changes.mean(axis=0)
        sizes, directions = _components(changes - average, n_pcs)
        genes, places = sizes[:, None] * directions, _components(before - centre, n_pcs)[1]
        scores = (before - centre) @ places.T
        left = _ridge_inverse(genes @ genes.T, ridge) @ genes
        w = left @ (changes - average).T @ scores @ _ridge_inverse(scores.T @ scores, ridge)

        def change(_: str, mean: np.ndarray) -> np.ndarray:
            away = w @ (places @ (means.unit * mean - centre))
            return (average + genes.T @ away) / means.unit

        return change

    return _by_means(
        train,
        cells,
        (labels_key, condition_key, to),
        learned,
        source="linear shift",
        layer=layer,
        keep_residual=keep_residual,
        seed=seed,
    )


def predict_no_change(
    cells: AnnData, *, condition_key: str, to: str, layer: str | None = None
) -> AnnData:
    """The cells as they are, said to be of the target condition.

    Parameters
    ----------
    cells
        Cells to convert.
    condition_key, to, layer
        As in :func:`predict_mean_shift`.

    Returns
    -------
    AnnData like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        If the column or the layer is missing, there are no cells, or values are not finite.
    """
    check_cells(cells, "cells")
    checks.check_categories(cells, condition_key, "condition_key")
    x = finite_values(cells, layer, "cells")
    return _converted(x, cells, condition_key, to, "no change", layer, support_of(x))


def predict_class_means(
    train: AnnData,
    cells: AnnData,
    *,
    labels_key: str,
    condition_key: str,
    to: str,
    layer: str | None = None,
) -> AnnData:
    """Every cell becomes the mean of its label under the target condition.

    A label that the training cells lack under the target gets the mean of all of them there. With
    each cell's residual, and for other labels with a change instead of a level, this is
    :func:`predict_mean_shift`.

    Parameters
    ----------
    train
        Cells to take means of.
    cells
        Cells to convert, with the same genes in the same order.
    labels_key, condition_key
        Columns of ``obs`` of both.
    to
        The target condition.
    layer
        Layer of the training cells; ``None``: ``X``. To hold against a model, the one it reads.

    Returns
    -------
    AnnData ``(cells.n_obs, n_vars)`` like that of :meth:`mixvi.CGMVAE.counterfactual`.

    Raises
    ------
    KeyError, ValueError
        If a column, the layer or the target condition is missing, a side has no cells, training
        values are not finite, or genes differ.
    """
    checks.check_key(train, "obs", condition_key, "condition_key")
    check_columns(train, cells, labels_key, condition_key)
    values, to = finite_values(train, layer, "train"), target_of(train, condition_key, to)
    labels, conditions = train.obs[labels_key].astype(str), train.obs[condition_key].astype(str)
    means = class_mean_baseline(values, labels, conditions, str(to))
    overall = class_mean_baseline(values, np.full(train.n_obs, "all"), conditions, str(to))["all"]
    x = np.stack([means.get(label, overall) for label in cells.obs[labels_key].astype(str)])
    return _converted(x, cells, condition_key, to, "class means", layer, support_of(values))


def _by_means(
    train: AnnData,
    cells: AnnData,
    columns: tuple[str, Columns, object],
    learned: Callable[[LabelMeans, str, str], _Change],
    *,
    source: str,
    layer: str | None,
    keep_residual: bool | str,
    seed: int,
) -> AnnData:
    """Cells moved by what ``learned`` says of a label from one condition to another."""
    labels_key, condition_key, to = columns
    condition_key = plain_columns(condition_key)
    check_columns(train, cells, labels_key, condition_key)
    x, trained = (
        finite_values(side, layer, name) for side, name in ((cells, "cells"), (train, "train"))
    )
    support = support_of(trained)
    check_residual(keep_residual, support)
    check_same_support(support, x, layer)
    labels = train.obs[labels_key].astype(str).to_numpy()
    conditions = names_of_cells(train.obs, condition_key)
    targets = targets_of(train, cells, condition_key, to)
    names = {name: called(target) for name, target in targets.items()}
    seen = LabelMeans.taken(trained, labels, conditions, support == "count")
    means = seen
    if isinstance(condition_key, list):
        means = seen.completed([found_categories(train.obs[key])[1] for key in condition_key])
    own = cells.obs[labels_key].astype(str).to_numpy()
    of = names_of_cells(cells.obs, condition_key)
    # quoted, so that no two pairs read alike
    pairs = np.array([f"{one!r} {other!r}" for one, other in zip(of, own, strict=True)])
    sizes = x.sum(axis=1, keepdims=True) if support == "count" else np.ones((len(x), 1))
    here, there = np.zeros_like(x), np.zeros_like(x)
    for condition in np.unique(of):
        to = names[condition]
        change = None if condition == to else learned(means, condition, to)
        for label in np.unique(own[of == condition]):
            rows = (of == condition) & (own == label)
            known = label in means.labels and means.enough(condition)[means.labels.index(label)]
            # of cells without any counts the proportions are zero
            size = max(float(sizes[rows].sum()), 1.0)
            mean = means.of(condition, [label])[0] if known else x[rows].sum(0) / size
            here[rows] = sizes[rows] * mean
            there[rows] = here[rows] + (0 if change is None else sizes[rows] * change(label, mean))
    if source.endswith("(own)"):
        means.warn_of_few(names, set(zip(own, of, strict=True)))
    if support != "real":
        there = np.maximum(there, 0.0)
    if keep_residual:
        expected = seen.values[
            np.searchsorted(seen.labels, labels), np.searchsorted(seen.conditions, conditions)
        ]
        if support == "count":
            expected = expected * trained.sum(axis=1, keepdims=True)
        means, training = there, (trained, expected)
        there = carried_over(x, here, there, training, support, seed)
        if keep_residual == "centred":
            there = match_group_means(there, means, pairs, support != "real")
    to_each = [targets[name] for name in of]
    return _converted(there, cells, condition_key, to_each, source, layer, support)


def carried_over(
    x: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    training: tuple[np.ndarray, np.ndarray],
    support: str,
    seed: int,
) -> np.ndarray:
    """Cells with what is expected of them replaced, see :meth:`Residuals.carry_over`.

    Parameters
    ----------
    x, here, there
        Cells ``(n, G)``, and what is expected of them before and after.
    training
        Training cells ``(m, G)``, and what is expected of them: how values spread.
    support
        Of the training cells.
    seed
        Of the draws, which leave torch's generator as it was.
    """
    step = -(-len(training[0]) // _MOST_CELLS)
    parts = [torch.as_tensor(part[::step], dtype=torch.float32) for part in training]
    moved = [torch.as_tensor(part, dtype=torch.float32) for part in (x, here, there)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Residuals.fit(*parts, support).carry_over(*moved).numpy()


def _mixed(weights: str, squared: np.ndarray) -> np.ndarray:
    """Weight of each label by its squared distance, ``(L,)``."""
    if weights == "mean":
        return np.full(len(squared), 1 / len(squared))
    if weights == "nearest":
        return np.eye(len(squared))[squared.argmin()]
    return likeness(squared)


def likeness(squared: np.ndarray) -> np.ndarray:
    """Inverse squared distances that sum to one, ``(L,)``; a distance of zero takes all."""
    inverse = 1.0 / np.maximum(squared, 1e-12 * max(float(squared.max()), 1e-12))
    return inverse / inverse.sum()


def _components(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nonzero singular values ``(<= n,)`` and directions ``(<= n, G)`` of ``x`` ``(m, G)``."""
    _, sizes, directions = np.linalg.svd(x, full_matrices=False)
    n = min(n, int((sizes > 1e-9 * max(sizes.max(), 1e-30)).sum()))
    return sizes[:n], directions[:n]


def _ridge_inverse(square: np.ndarray, ridge: float) -> np.ndarray:
    return np.linalg.pinv(square + ridge * np.eye(len(square)))


def _converted(
    x: np.ndarray,
    cells: AnnData,
    condition_key: Columns,
    to: object,
    source: str,
    layer: str | None,
    scale: str,
) -> AnnData:
    return converted_cells(
        x.astype(np.float32),
        cells,
        np.arange(cells.n_obs),
        condition_key,
        to,
        source=source,
        layer=layer,
        scale=scale,
    )
