"""From one donor of the Kang part to the other: types known, or Leiden clusters in their place.

A donor's control and stimulated cells are trained on; half of the other donor's control cells are
converted, and the other half is what changes are from. Clusters are Leiden's of the principal
components of the training cells, from which each condition's mean was taken; cells of the other
donor take that of most of their 15 nearest training cells there. Figures are by true type.
"""

from __future__ import annotations

import pandas as pd
from anndata import AnnData
from benchmarks.cells import effects
from benchmarks.cells.kang import prepared
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from mixvi.cells import cluster_cells

CELLS = prepared()
CELLS.obs["donor"] = CELLS.obs["sample"].astype(str).str.extract("(101|107)", expand=False).array
CASES = [
    f"{a} to {b}, {types}"
    for a, b in (("101", "107"), ("107", "101"))
    for types in ("types", "clusters")
]
N_PCS, N_NEIGHBORS = 20, 15


def with_clusters(train: AnnData, *others: AnnData, seed: int) -> None:
    """Write ``obs["cluster"]`` of training cells and of cells of one condition each."""
    pca = PCA(N_PCS, random_state=0).fit(train.X)
    points = pd.DataFrame(pca.transform(train.X), index=train.obs_names)
    condition = train.obs["condition"].astype(str)
    train.obsm["X_centred"] = (points - points.groupby(condition).transform("mean")).to_numpy()
    train.obs["cluster"] = cluster_cells(train, basis="X_centred", seed=seed).astype(str)
    voters = KNeighborsClassifier(N_NEIGHBORS).fit(train.obsm["X_centred"], train.obs["cluster"])
    for cells in others:
        own = pca.transform(cells.X)
        cells.obs["cluster"] = voters.predict(own - own.mean(axis=0))
    del train.obsm["X_centred"]


def split(case: str, seed: int) -> effects.Task:
    """Of a case and a seed."""
    path, kind = case.split(", ")
    source, target = path.split(" to ")
    train = CELLS[CELLS.obs["donor"] == source].copy()
    other = CELLS[CELLS.obs["donor"] == target]
    stimulated = (other.obs["condition"] == "stim").to_numpy()
    first, second = effects.halves(other[~stimulated], seed)
    real = other[stimulated].copy()
    labels_key = "cell_type"
    if kind == "clusters":
        labels_key = "cluster"
        with_clusters(train, first, second, real, seed=seed)
    return effects.Task(train, first, real, second, ["stim"], labels_key, "condition", "cell_type")


def main() -> None:
    """Run all seeds and write the record."""
    settings = {
        "data": "kang both_1556, donors 101 and 107",
        "settings_chosen_on": "cells of donor 101, held out within it",
    }
    effects.main("cells/counterfactual_donors", __doc__, split, CASES, settings)


if __name__ == "__main__":
    main()
