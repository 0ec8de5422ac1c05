"""How well components fit known labels (Kolb 2022, section 9).

Two Series are compared by the names of their rows, everything else by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mixvi.core.arguments import check_choice
from mixvi.core.data.alignment import in_order_of, names_of


def component_table(components: Sequence, labels: Sequence) -> pd.DataFrame:
    """Count cells of each component (rows) with each label (columns), ``(K', n_labels)``.

    Components and labels that occur nowhere have no row and no column.

    Raises
    ------
    ValueError
        If the lengths differ, there are no cells, or a label is missing (NaN).
    """
    components, labels = _paired(components, labels)
    return pd.crosstab(
        pd.Series(components, name="component"), pd.Series(labels, name="label"), dropna=False
    )


def overlap_map(table: pd.DataFrame) -> dict[Any, Any]:
    """The most frequent label of each component."""
    return table.idxmax(axis=1).to_dict()


def hungarian_map(table: pd.DataFrame) -> dict[Any, Any]:
    """One component a label at most, so that the most cells agree.

    Components beyond the number of labels are left out.
    """
    rows, columns = linear_sum_assignment(-table.to_numpy())
    return {table.index[i]: table.columns[j] for i, j in zip(rows, columns, strict=True)}


def accuracy_by_overlap(
    components: Sequence, labels: Sequence, mapping: dict[Any, Any] | None = None
) -> float:
    """Share of cells whose component's label is their own.

    Parameters
    ----------
    components, labels
        Of each cell, ``(n_obs,)``.
    mapping
        Component to label. ``None``: the overlap map of these very cells (purity), as the thesis
        scores; optimistic for many components. A map fitted on other cells is honest on these;
        cells of components that it lacks count as wrong. Names are compared as text, since
        ``obs`` holds components as text and ``assign_components`` as numbers.

    Raises
    ------
    ValueError
        If the lengths differ, there are no cells, or a value is missing (NaN).
    """
    table = component_table(components, labels)
    mapping = overlap_map(table) if mapping is None else mapping
    label_of = {str(j): str(label) for j, label in mapping.items()}
    named = table.rename(index=str, columns=str)
    hits = sum(
        named.at[j, label_of[j]]
        for j in named.index
        if j in label_of and label_of[j] in named.columns
    )
    return float(hits / table.to_numpy().sum())


def hungarian_accuracy(components: Sequence, labels: Sequence) -> float:
    """Accuracy under the best one-to-one map; cells of surplus components count as wrong."""
    table = component_table(components, labels)
    return accuracy_by_overlap(components, labels, hungarian_map(table))


def clustering_accuracy(
    labels: Sequence, clusters: Sequence, mapping: Literal["majority", "hungarian"] = "majority"
) -> float:
    """Share of rows whose cluster stands for their label (Astorga 2021, eq. 8.1).

    Parameters
    ----------
    labels, clusters
        Of each row, ``(n_obs,)``; labels come first, as in scikit-learn.
    mapping
        ``"majority"``: each cluster stands for its most frequent label, so that several may share
        one, as in the thesis; never below ``"hungarian"``: one cluster a label at most, so that
        the most rows agree, as most clustering papers count.

    Raises
    ------
    ValueError
        If the mapping is unknown, lengths differ, there are no rows, or a value is missing (NaN).
    """
    check_choice("mapping", mapping, ("majority", "hungarian"))
    accuracy = accuracy_by_overlap if mapping == "majority" else hungarian_accuracy
    return accuracy(clusters, labels)


def nmi(labels: Sequence, clusters: Sequence) -> float:
    """Normalised mutual information of two labelings, arithmetic mean; 1 if they are the same.

    Raises
    ------
    ValueError
        If the lengths differ, there are no rows, or a value is missing (NaN).
    """
    clusters, labels = _paired(clusters, labels)
    return float(normalized_mutual_info_score(labels, clusters))


def ari(labels: Sequence, clusters: Sequence) -> float:
    """Adjusted Rand index of two labelings; 1 if they are the same, 0 on average by chance.

    Raises
    ------
    ValueError
        If the lengths differ, there are no rows, or a value is missing (NaN).
    """
    clusters, labels = _paired(clusters, labels)
    return float(adjusted_rand_score(labels, clusters))


def per_label_recall(predicted: Sequence, labels: Sequence) -> pd.Series:
    """Share of each label's cells that are predicted as such, ``(n_labels,)``."""
    predicted, labels = _paired(predicted, labels)
    hits = pd.Series(predicted == labels)
    return hits.groupby(labels).mean().rename("recall")


def used_components(probs: np.ndarray) -> int:
    """Components whose mean probability exceeds 0.5 / K, from ``(n_obs, K)``.

    Raises
    ------
    ValueError
        If ``probs`` is not a matrix with at least one cell.
    """
    probs = np.asarray(probs)
    if probs.ndim != 2 or probs.size == 0:
        raise ValueError(f"probs must be (n_obs, K), but has the shape {probs.shape}.")
    return int((probs.mean(axis=0) > 0.5 / probs.shape[1]).sum())


def active_units(mean: np.ndarray, variance: np.ndarray, threshold: float = 0.01) -> int:
    """Dimensions whose average KL to N(0, 1) exceeds ``threshold`` nats, from ``(n_obs, D)``.

    Raises
    ------
    ValueError
        If the shapes differ or a variance is not positive.
    """
    mean, variance = np.asarray(mean), np.asarray(variance)
    if mean.shape != variance.shape or mean.ndim != 2:
        raise ValueError(
            "mean and variance must both be (n_obs, D), but have the shapes "
            f"{mean.shape} and {variance.shape}."
        )
    if not (variance > 0).all():
        raise ValueError("variance must be positive everywhere; pass variances, not their logs.")
    kl = 0.5 * (np.square(mean) + variance - 1.0 - np.log(variance))
    return int((kl.mean(axis=0) > threshold).sum())


def clustering_report(components: Sequence, labels: Sequence) -> dict[str, Any]:
    """Accuracies, ARI, NMI and per-label recall of a clustering against labels.

    Returns
    -------
    ``accuracy_overlap``, ``accuracy_hungarian``, ``ari``, ``nmi``, ``n_clusters``,
    ``labels_with_component`` (labels that are the most frequent of some component), ``n_labels``
    and ``recall`` (label to recall under the overlap map).
    """
    components, labels = _paired(components, labels)
    table = component_table(components, labels)
    mapping = overlap_map(table)
    predicted = np.array([mapping[c] for c in components], dtype=object)
    return {
        "accuracy_overlap": accuracy_by_overlap(components, labels, mapping),
        "accuracy_hungarian": hungarian_accuracy(components, labels),
        "ari": ari(labels, components),
        "nmi": nmi(labels, components),
        "n_clusters": len(table),
        "labels_with_component": len(set(mapping.values())),
        "n_labels": table.shape[1],
        "recall": per_label_recall(predicted, labels).to_dict(),
    }


def _paired(left: Sequence, right: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays; two Series are brought together by the names of their rows."""
    if len(left) == len(right) and names_of(right) is not None:
        left = in_order_of(names_of(right), left, "One of the two Series")
    elif len(left) == len(right):
        right = in_order_of(names_of(left), right, "One of the two Series")
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(
            f"Components and labels must be of one length, but have shapes {left.shape} and "
            f"{right.shape}."
        )
    if left.size == 0:
        raise ValueError("There are no cells to score.")
    if pd.isna(right).any() or pd.isna(left).any():
        raise ValueError("Components or labels have missing values (NaN); drop those cells first.")
    return left, right
