"""Teaching: a first part of training in which images come with clusters that Leiden found.

Such clusters are of the data alone; once a model has learned them it trains without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from mixvi.core.maths.clustering import leiden_clusters
from mixvi.images.cluster_model import ClusterModel
from mixvi.images.feature_model import FeatureModel, FeatureModule
from mixvi.images.model import drawn_seed

CLUSTERS_KEY = "clusters"
_MAX_FITTED = 20_000
_N_PCS = 50


class TaughtModule(FeatureModule):
    """A module whose steps depend on the part of training, one of which may be ``"teaching"``."""

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Images, and in teaching the cluster of each ``(B,)``."""
        if self._part != "teaching":
            return super().training_rows(tensors)
        return self.rows(tensors), tensors[CLUSTERS_KEY].long().ravel()


class TaughtModel(FeatureModel, ClusterModel):
    """Base of cluster models that are trained in parts, and can start at Leiden clusters."""

    module: TaughtModule
    _taught: np.ndarray | None = None

    def _further_rows(self) -> dict[str, np.ndarray] | None:
        return None if self._taught is None else {CLUSTERS_KEY: self._taught[:, None]}

    @torch.inference_mode()
    def _codes(self, rows: np.ndarray | None) -> np.ndarray:
        """Means of q(z | x) of a model that may not be trained to its end, ``(n, n_latent)``."""
        means = [self.module.encode(x)[0].cpu() for x in self._inputs(self.adata, rows, None)]
        return torch.cat(means).numpy()

    @contextmanager
    def _taught_clusters(self, points: np.ndarray) -> Iterator[np.ndarray]:
        """Leiden clusters ``(n_obs,)`` of ``points`` ``(n_obs, D)``: teaching reads them."""
        self._taught = leiden_clusters(points, len(self.clusters), drawn_seed())
        try:
            yield self._taught
        finally:
            self._taught = None

    @torch.inference_mode()
    def _principal_components(self) -> np.ndarray:
        """At most 50 of all images, ``(n_obs, n)``; axes are of at most 20,000 images."""
        seed, rows = drawn_seed(), np.arange(self.adata.n_obs)
        if len(rows) > _MAX_FITTED:
            chosen = np.random.default_rng(seed).choice(rows, _MAX_FITTED, replace=False)
            rows = np.sort(chosen)
        fitted = np.concatenate(list(self._flat(rows)))
        pca = PCA(min(_N_PCS, *fitted.shape), random_state=seed).fit(fitted)
        return np.concatenate([pca.transform(x) for x in self._flat(None)])

    def _flat(self, rows: np.ndarray | None) -> Iterator[np.ndarray]:
        for x in self._inputs(self.adata, rows, None):
            yield x.flatten(1).cpu().numpy()
