"""Made-up cells: well separated classes under a smaller shift of condition."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import pdist


def toy_conditional_blobs(
    n_classes: int = 5,
    n_conditions: int = 2,
    n_genes: int = 16,
    n_per_group: int = 350,
    effect: float = 1.5,
    seed: int = 0,
) -> AnnData:
    """Gaussian blobs of classes by conditions (Kolb 2022, chapter 10).

    Class means are uniform in (0, 10), standard deviations in (0, 0.5); under each further
    condition a class moves by ``effect`` + 0.5 N(0, 1) in every gene and its standard deviations
    change by 0.01 N(0, 1). The thesis gives 5 classes, 2 conditions and 16 dimensions; the other
    numbers are from what its author published beside it.

    Parameters
    ----------
    n_classes, n_conditions, n_genes
        Sizes.
    n_per_group
        Cells of each class and condition.
    effect
        Mean shift of a condition, in units of expression.
    seed
        Of the random generator.

    Returns
    -------
    AnnData with ``X`` (n_classes * n_conditions * n_per_group, n_genes) float32 and the categories
    ``obs["cell_type"]`` and ``obs["condition"]``.

    Raises
    ------
    ValueError
        If two classes lie nearer to each other than the condition shifts them.
    """
    rng = np.random.default_rng(seed)
    means = rng.uniform(0.0, 10.0, (n_classes, n_genes))
    stds = rng.uniform(0.0, 0.5, (n_classes, n_genes))
    blocks, types, conditions = [], [], []
    longest = 0.0
    for condition in range(n_conditions):
        for label in range(n_classes):
            mean, std = means[label], stds[label]
            if condition:
                shift = condition * effect + 0.5 * rng.standard_normal(n_genes)
                longest = max(longest, float(np.linalg.norm(shift)))
                mean = mean + shift
                std = np.abs(std + 0.01 * rng.standard_normal(n_genes))
            blocks.append(rng.normal(mean, std, (n_per_group, n_genes)))
            types += [f"type {label}"] * n_per_group
            conditions += [f"condition {condition}"] * n_per_group
    if n_classes > 1 and (nearest := pdist(means).min()) <= longest:
        raise ValueError(
            f"Two classes are {nearest:.1f} apart, but the condition shifts cells by up to "
            f"{longest:.1f}: classes would not be separable. Use another seed or a smaller effect."
        )
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(types), "condition": pd.Categorical(conditions)},
        index=[f"cell_{i}" for i in range(len(types))],
    )
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)])
    return AnnData(np.vstack(blocks).astype(np.float32), obs=obs, var=var)
