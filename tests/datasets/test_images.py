from __future__ import annotations

import numpy as np
import pytest

from mixvi import datasets


def test_mnist():
    if datasets.find(datasets.MNIST) is None:
        pytest.skip("mnist.npz is not on this machine")
    adata = datasets.mnist()
    assert adata.shape == (63_000, 784)
    assert adata.X.dtype == np.float32
    assert adata.X.min() == 0 and 0.99 < adata.X.max() <= 1
    sizes = adata.obs["split"].value_counts().to_dict()
    assert sizes == {"train": 50_000, "held_out": 10_000, "test": 3_000}
    assert list(adata.obs["digit"][:10]) == list("5041921314")
    assert np.array_equal(adata.obsm["image"][7, 0].ravel(), adata.X[7])
