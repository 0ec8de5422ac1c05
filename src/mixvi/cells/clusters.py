"""A clustering that guides training: which component each cell's cluster takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import shown
from mixvi.core.data import checks
from mixvi.core.data.alignment import in_order_of


def guiding_components(
    adata: AnnData, clusters: str | Sequence, n_components: int, owners: Sequence = ()
) -> np.ndarray:
    """Component of each cell's cluster, ``(n_obs,)``.

    Parameters
    ----------
    adata
        The model's cells.
    clusters
        A column of ``obs``, or the cluster of each cell ``(n_obs,)``; a Series by cell name. They
        take components in the order of their categories, or sorted where they have none.
    n_components
        How many the model has.
    owners
        Labels that own one component each, in order. Clusters that are all named as these take
        their components.

    Raises
    ------
    KeyError
        If the column is missing.
    ValueError
        If a cell has no cluster, or there is one alone, or more than components.
    """
    if isinstance(clusters, str):
        checks.check_categories(adata, clusters, "clusters")
        clusters = adata.obs[clusters]
    values = pd.Series(in_order_of(adata.obs_names, clusters, "clusters")).reset_index(drop=True)
    if len(values) != adata.n_obs:
        raise ValueError(
            f"clusters has {len(values)} entries, but the model has {adata.n_obs} cells."
        )
    if values.isna().any():
        raise ValueError(f"clusters has {int(values.isna().sum())} missing values (NaN).")
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.cat.remove_unused_categories()
        codes, names = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, names = pd.factorize(values, sort=True)
    owned = {str(label): i for i, label in enumerate(owners)}
    if all(str(name) in owned for name in names):
        return np.array([owned[str(name)] for name in names])[codes]
    if len(names) == 1:
        raise ValueError(
            f"clusters has one cluster alone ({shown(names[0])}): it can guide nothing. Raise the "
            "resolution of the clustering."
        )
    if len(names) > n_components:
        raise ValueError(
            f"clusters has {len(names)} clusters, but the model {n_components} components. "
            f"Build it with n_components={len(names)} or more."
        )
    return codes.astype(np.int64)
