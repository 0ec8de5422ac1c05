"""Teaching: a first part of training in which images come with clusters that Leiden found.

Such clusters are of the data alone; once a model has learned them it trains without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.clustering import leiden_clusters
from mixvi.core.training.steps import Loss
from mixvi.images.cluster_model import ClusterModel
from mixvi.images.feature_model import FeatureModel, FeatureModule
from mixvi.images.features import Standardisation
from mixvi.images.model import drawn_seed
from mixvi.images.views import Views, made_views

CLUSTERS_KEY = "clusters"
_MAX_FITTED = 20_000
_N_PCS = 50


class TaughtModule(FeatureModule):
    """A module whose steps depend on the part of training, one of which may be ``"teaching"``.

    Parameters
    ----------
    image_shape, pixel_range, n_latent, networks, ema_decay, ema_start, standardisation
        See :class:`mixvi.images.feature_model.FeatureModule`; among the networks is ``prior``.
    consistency
        Weight of :meth:`consistency_term`.
    views
        Views that have the cluster of what they are of.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        pixel_range: tuple[float, float],
        n_latent: int,
        networks: dict[str, nn.Module],
        ema_decay: float | None = None,
        ema_start: int = 1000,
        standardisation: Standardisation | None = None,
        consistency: float = 0.0,
        views: Views | None = None,
    ):
        super().__init__(
            image_shape, pixel_range, n_latent, networks, ema_decay, ema_start, standardisation
        )
        arguments.check_weight("consistency", consistency)
        self.consistency = consistency
        self.views = views or Views()

    def consistency_term(self, x: Tensor) -> Tensor:
        """KL of q(y | x) to q(y | view of x), at means of codes, ``(B,)`` in nats.

        The image itself is the target and is not moved (Xie et al. 2019, eq. 1).
        """
        with torch.no_grad():
            target = self.prior.log_membership(self.encode(x)[0])
        seen = self.prior.log_membership(self.encode(self.views(x))[0])
        return (target.exp() * (target - seen)).sum(-1)

    def with_consistency(self, loss: Tensor, terms: dict[str, Tensor], x: Tensor) -> Loss:
        """A loss and its terms with the mean :meth:`consistency_term`, if it has a weight."""
        if not self.consistency:
            return loss, terms
        found = self.consistency_term(x).mean()
        return loss + self.consistency * found, terms | {"consistency": found}

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Images, and in teaching the cluster of each ``(B,)``."""
        if self._part != "teaching":
            return super().training_rows(tensors)
        return self.rows(tensors), tensors[CLUSTERS_KEY].long().ravel()


class TaughtModel(FeatureModel, ClusterModel):
    """Base of cluster models that are trained in parts, and can start at Leiden clusters."""

    module: TaughtModule
    _taught: np.ndarray | None = None

    def _consistency(self, weight: float, view_kwargs: dict | None) -> dict[str, Any]:
        """What a :class:`TaughtModule` is told of views."""
        views = None
        # images of a pixel have views only where they are asked for
        if weight or view_kwargs:
            views = made_views(view_kwargs, self._row_shape, self.features_key is not None)
        return {"consistency": weight, "views": views}

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
