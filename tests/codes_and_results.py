"""A model whose codes are known, and a table of trained models, for tests of metrics and plots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData


class Decoder:
    """Codes are what they are, and images are painted with them."""

    image_shape = (1, 4, 4)
    pixel_range = (-1.0, 1.0)
    registry = {"setup_args": {"image_key": "image", "layer": None}}

    def __init__(self, n: int = 40):
        rng = np.random.default_rng(0)
        self.means = rng.normal(size=(n, 3)) * [0.01, 2.0, 1.0]
        images = rng.uniform(-1, 1, (n, 1, 4, 4)).astype(np.float32)
        obs = pd.DataFrame({"kind": list("ab") * (n // 2)}, index=[str(i) for i in range(n)])
        self.adata = AnnData(obs=obs, obsm={"image": images})

    def get_latent_representation(self, adata=None, indices=None, return_dist=False):
        mean = self.means if indices is None else self.means[indices]
        return (mean, np.full_like(mean, 0.5) + [0.499, 0, 0]) if return_dist else mean

    def decode_latent(self, z):
        self.decoded = z
        return np.tanh(z[:, :1, None, None] * np.ones((1, 1, 4, 4)) + z[:, 1:2, None, None])

    def get_reconstruction(self, adata):
        return adata.obsm["image"]


RESULTS = pd.DataFrame(
    {
        "method": ["a"] * 4 + ["b"] * 4,
        "strength": [1, 1, 2, 2] * 2,
        "seed": [0, 1] * 4,
        "score": [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9],
        "reconstruction": [8.0, 7, 6, 5, 4, 3, 2, 1],
        "constant": [1.0] * 8,
    }
)
