"""Leave one class out: known objects to train on, and known and strange ones to be told apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_positive, near_matches
from mixvi.core.data.checks import check_key
from mixvi.core.data.fields import name_of


@dataclass(frozen=True)
class HeldOut:
    """Objects of :func:`leave_class_out`.

    Attributes
    ----------
    train
        Known classes alone.
    test
        Known classes in proportion to their sizes, and as many strange objects.
    strange
        Bool over ``test``: which are of the class that was left out.
    """

    train: AnnData
    test: AnnData
    strange: np.ndarray


def leave_class_out(
    adata: AnnData,
    outlier: object,
    *,
    labels_key: str = "label",
    n: int | None = None,
    seed: int = 0,
) -> HeldOut:
    """Split off a class as strange, with as many known objects to tell it from.

    Known objects are drawn so that they keep the proportions of their classes; all others of them
    train, and further strange ones are dropped (Astorga 2021, section 9.2).

    Parameters
    ----------
    adata
        Objects with a class; not changed.
    outlier
        The class that training is not to see.
    labels_key
        Column of ``obs``.
    n
        Strange objects to test, and as many known ones. ``None``: the size of the smallest class.
    seed
        Of the draws.

    Returns
    -------
    :class:`HeldOut`, its AnnData copies.

    Raises
    ------
    KeyError
        If there is no such column or class.
    ValueError
        If objects have no class, or there are fewer than ``n`` of a kind.
    """
    labels = _labels(adata, labels_key)
    names, sizes = np.unique(labels, return_counts=True)
    if name_of(outlier) not in names:
        raise KeyError(
            f"outlier={outlier!r} is no class of adata.obs[{labels_key!r}]. "
            f"{near_matches(name_of(outlier), names.tolist())}"
        )
    is_strange = labels == name_of(outlier)
    n = int(sizes.min()) if n is None else n
    check_positive("n", n)
    if n > is_strange.sum() or n >= (~is_strange).sum():
        raise ValueError(
            f"n={n}, but {int(is_strange.sum())} objects are of {outlier!r} and "
            f"{int((~is_strange).sum())} of other classes, of which some must train. Lower n."
        )
    rng = np.random.default_rng(seed)
    strange = rng.choice(np.flatnonzero(is_strange), n, replace=False)
    known = _in_proportion(labels, np.flatnonzero(~is_strange), n, rng)
    train = np.setdiff1d(np.flatnonzero(~is_strange), known)
    test = np.concatenate([known, strange])
    # a class that is not there must not become one of the model's
    parts = [adata[rows].copy() for rows in (train, test)]
    if isinstance(parts[0].obs[labels_key].dtype, pd.CategoricalDtype):
        parts[0].obs[labels_key] = parts[0].obs[labels_key].cat.remove_unused_categories()
    return HeldOut(*parts, np.arange(len(test)) >= n)


def _labels(adata: AnnData, labels_key: str) -> np.ndarray:
    """Classes as text, after all checks."""
    check_key(adata, "obs", labels_key, "labels_key")
    labels = adata.obs[labels_key]
    if labels.isna().any():
        raise ValueError(
            f"{int(labels.isna().sum())} objects have no class in adata.obs[{labels_key!r}]. Leave "
            "them out: nobody knows whether they are strange."
        )
    return np.array([name_of(label) for label in labels])


def _in_proportion(
    labels: np.ndarray, rows: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """``n`` of the rows, of each class as many as its share."""
    names, sizes = np.unique(labels[rows], return_counts=True)
    # whole numbers that keep the proportions and sum to n
    share = n * sizes / sizes.sum()
    counts = np.floor(share).astype(int)
    counts[np.argsort(counts - share)[: n - counts.sum()]] += 1
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == name), count, replace=False)
            for name, count in zip(names, counts, strict=True)
        ]
    )
