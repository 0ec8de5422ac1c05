"""Data of the benchmarks of light curves: classes with enough stars, and who is kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from anndata import AnnData

from mixvi.datasets import asas_variables, debosscher_variables, synthetic_light_curves
from mixvi.lightcurves import find_epochs

# observations a curve that are read: those of a minibatch, several times over
MAX_POINTS = 400
# smallest class that is used
FEWEST = {"asas": 80, "debosscher": 30, "synthetic": 1}


@cache
def stars(data: str) -> AnnData:
    """All stars of the classes with enough of them, with an epoch of faintest light."""
    if data == "asas":
        adata = asas_variables(max_points=MAX_POINTS)
    elif data == "debosscher":
        adata = debosscher_variables(max_points=MAX_POINTS)
    else:
        adata = synthetic_light_curves(150, n_points=(60, 150), seed=100)
    sizes = adata.obs["label"].value_counts()
    enough = sizes.index[sizes >= FEWEST[data]]
    usable = adata.obs["label"].isin(enough) & (adata.obs["period"] > 0)
    adata = adata[usable.to_numpy()].copy()
    adata.obs["label"] = adata.obs["label"].astype(str)
    # made-up curves have the true ones
    adata.obs = adata.obs.drop(columns="epoch", errors="ignore")
    find_epochs(adata)
    return adata


def classes(data: str) -> list[str]:
    """Names of the classes, the smallest first."""
    return stars(data).obs["label"].value_counts(ascending=True).index.tolist()


@dataclass(frozen=True)
class Held:
    """Leave one class out: stars to train on, and as many strange as known ones to be told apart.

    Attributes
    ----------
    train
        Known classes alone.
    test
        Known ones in proportion to their classes, and strange ones.
    strange
        Bool over ``test``.
    """

    train: AnnData
    test: AnnData
    strange: np.ndarray


def hold_out(data: str, outlier: str, seed: int) -> Held:
    """The protocol of Astorga 2021, section 9.2, with the size of the smallest class."""
    adata, rng = stars(data), np.random.default_rng(seed)
    labels = adata.obs["label"].to_numpy()
    n = int(adata.obs["label"].value_counts().min())
    outside = rng.choice(np.flatnonzero(labels == outlier), n, replace=False)
    inside = np.flatnonzero(labels != outlier)
    names, sizes = np.unique(labels[inside], return_counts=True)
    # whole numbers that keep the proportions and sum to n
    share = n * sizes / sizes.sum()
    counts = np.floor(share).astype(int)
    counts[np.argsort(counts - share)[: n - counts.sum()]] += 1
    kept = [
        rng.choice(np.flatnonzero(labels == name), count, replace=False)
        for name, count in zip(names, counts, strict=True)
    ]
    known = np.concatenate(kept)
    test = np.concatenate([known, outside])
    train = np.setdiff1d(inside, known)
    return Held(adata[train].copy(), adata[test].copy(), np.arange(len(test)) >= len(known))
