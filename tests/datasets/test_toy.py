from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from mixvi.datasets import toy_conditional_blobs


def centres(adata, condition):
    """Mean of each type under one condition, (n_types, n_genes)."""
    cells = adata[adata.obs["condition"] == condition]
    return cells.to_df().groupby(cells.obs["cell_type"], observed=True).mean().to_numpy()


def test_sizes():
    adata = toy_conditional_blobs()
    assert adata.shape == (3500, 16) and adata.X.dtype == np.float32
    assert (adata.obs.dtypes == "category").all()
    sizes = adata.obs.groupby(["cell_type", "condition"], observed=True).size()
    assert len(sizes) == 10 and (sizes == 350).all()
    assert adata.obs_names.is_unique
    other = toy_conditional_blobs(n_classes=3, n_conditions=1, n_genes=8, n_per_group=7)
    assert other.shape == (21, 8)


def test_the_seed_decides():
    adata = toy_conditional_blobs(n_per_group=30)
    np.testing.assert_array_equal(adata.X, toy_conditional_blobs(n_per_group=30).X)
    assert np.abs(adata.X - toy_conditional_blobs(n_per_group=30, seed=1).X).max() > 1


@pytest.mark.parametrize("seed", range(5))
def test_classes_lie_further_apart_than_conditions(seed):
    adata = toy_conditional_blobs(n_per_group=200, seed=seed)
    before, after = centres(adata, "condition 0"), centres(adata, "condition 1")
    assert pdist(before).min() > np.linalg.norm(after - before, axis=1).max()


def test_the_shift_has_the_size_of_the_effect():
    adata = toy_conditional_blobs(n_per_group=200, effect=1.2)
    shift = centres(adata, "condition 1") - centres(adata, "condition 0")
    # 80 draws of 1.2 + 0.5 N(0, 1): standard error 0.056
    assert shift.mean() == pytest.approx(1.2, abs=0.2)
    assert shift.std() == pytest.approx(0.5, abs=0.15)


def test_inseparable_classes_are_refused():
    with pytest.raises(ValueError, match="smaller effect"):
        toy_conditional_blobs(effect=8.0)
