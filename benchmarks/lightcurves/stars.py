"""Data of the benchmarks of light curves: classes with enough stars, and who is kept apart."""

from __future__ import annotations

from functools import cache

from anndata import AnnData

from mixvi.datasets import asas_variables, debosscher_variables, synthetic_light_curves
from mixvi.lightcurves import HeldOut, find_epochs, leave_class_out

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


def hold_out(data: str, outlier: str, seed: int) -> HeldOut:
    """Stars of one class as strange ones, by the protocol of Astorga 2021."""
    return leave_class_out(stars(data), outlier, seed=seed)
