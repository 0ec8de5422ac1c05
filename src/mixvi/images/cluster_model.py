"""The verbs of image models with a mixture prior: clusters, their parameters, images of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from mixvi.core import arguments
from mixvi.core.arguments import shown
from mixvi.core.data.annotations import Annotations
from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.images.calibration import CalibrationMixin
from mixvi.images.model import ImageModel
from mixvi.metrics import used_components

_CHUNK_ROWS = 1024


class ClusterModel(CalibrationMixin, ImageModel):
    """Base of image models whose module has a :class:`GaussianMixturePrior` as ``prior``.

    The cluster of an image is the most probable component of the mean of q(z | x) (Astorga 2021,
    section 8.1).
    """

    @property
    def _prior(self) -> GaussianMixturePrior:
        return self.module.prior

    @property
    def clusters(self) -> list:
        """What clusters are called: numbers from 0, as text."""
        return [str(k) for k in range(self._prior.n_clusters)]

    def _training_indices(self) -> np.ndarray:
        indices = super()._training_indices()
        n = self._prior.n_clusters
        if len(indices) < n:
            raise ValueError(
                f"n_clusters={n}, but there are {len(indices)} images. Lower n_clusters, or train "
                "on more images."
            )
        found = self._n_different(n)
        if found < n:
            raise ValueError(
                f"n_clusters={n}, but there are only {found} different image(s). Lower n_clusters, "
                "or train on other images."
            )
        return indices

    def _n_different(self, enough: int) -> int:
        """How many different images there are; counting stops where there are ``enough``."""
        images = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        images = images.to_numpy() if isinstance(images, pd.DataFrame) else images
        seen: set[bytes] = set()
        for start in range(0, images.shape[0], _CHUNK_ROWS):
            block = images[start : start + _CHUNK_ROWS]
            block = block.toarray() if sparse.issparse(block) else np.asarray(block)
            seen.update(image.tobytes() for image in block)
            if len(seen) >= enough:
                break
        return len(seen)

    def _cluster_code(self, cluster: object) -> int | None:
        """Number of a cluster that the user names, None for None."""
        if cluster is None:
            return None
        names = [str(name) for name in self.clusters]
        if str(cluster) not in names:
            known = [*map(repr, self.clusters[:20]), *(["..."] if self.clusters[20:] else [])]
            raise ValueError(
                f"cluster={shown(cluster)} is not a cluster of the model: {', '.join(known)}."
            )
        return names.index(str(cluster))

    def _row_names(self, adata: AnnData, indices: Sequence[int] | None) -> pd.Index:
        return adata.obs_names[self._check_indices(adata, indices)]

    @torch.inference_mode()
    def get_cluster_probabilities(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """q(y | z) of each image by Bayes' rule on the prior, ``(n_obs, n_clusters)``.

        The largest is often surer than right, unless :meth:`calibrate` was called.

        Parameters
        ----------
        adata, indices, batch_size
            Images, and how many at a time.
        give_mean
            z at the mean of q(z | x), or at a sample of it.

        Returns
        -------
        DataFrame with the names of the images as index and those of the clusters as columns.
        """
        adata = self._validate_anndata(adata)
        parts = []
        for x in self._batches(adata, indices, batch_size):
            posterior = self.module.inference(x)
            z = posterior["mu_z" if give_mean else "z"]
            log_probs = self._calibrated(self._prior.log_membership(z))
            parts.append(log_probs.exp().cpu().numpy())
        names = self._row_names(adata, indices)
        return pd.DataFrame(np.concatenate(parts), index=names, columns=self.clusters)

    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> pd.Series:
        """The most probable cluster of each image as a category, ``(n_obs,)``.

        :func:`mixvi.metrics.clustering_report` compares it with labels.
        """
        probs = self.get_cluster_probabilities(adata, indices, batch_size=batch_size)
        return pd.Series(self._best(probs), index=probs.index, name="cluster")

    def _best(self, probs: pd.DataFrame) -> pd.Categorical:
        """The most probable cluster by :meth:`get_cluster_probabilities`."""
        return pd.Categorical.from_codes(probs.to_numpy().argmax(axis=1), self.clusters)

    @torch.inference_mode()
    def get_prior_parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights phi ``(K,)``, means mu and standard deviations sigma ``(K, J)`` of the prior."""
        self._check_if_trained()
        prior = self._prior
        return tuple(t.cpu().numpy() for t in (prior.log_phi.exp(), prior.mu.clone(), prior.sigma))

    @torch.inference_mode()
    def cluster_distance(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> pd.Series:
        """How far the code of each image lies from its cluster's mean, ``(n_obs,)``.

        Squared Mahalanobis distance divided by J: about 1 for codes like those of the prior, more
        for images that no cluster fits.
        """
        adata = self._validate_anndata(adata)
        parts = []
        for x in self._batches(adata, indices, batch_size):
            z = self.module.encode(x)[0]
            parts.append(self._prior.distance(z, self._prior.assign(z)).cpu().numpy())
        names = self._row_names(adata, indices)
        return pd.Series(np.concatenate(parts), index=names, name="cluster_distance")

    @torch.inference_mode()
    def sample(
        self, n: int, *, cluster: object = None, batch_size: int | None = None
    ) -> np.ndarray:
        """New images, of one cluster or of all by their weights, ``(n, C, H, W)``.

        On the scale of the registered images; batch norm and averages as in
        :meth:`mixvi.images.GenerativeInference.sample`.

        Parameters
        ----------
        n
            Number of images.
        cluster
            A cluster as in ``clusters`` and ``obs``, or its number; ``None``: drawn.
        batch_size
            How many at a time.

        Raises
        ------
        ValueError
            If there is no such cluster.
        """
        arguments.check_positive("n", n)
        code = self._cluster_code(cluster)
        made = self._generated(n, batch_size, cluster=code)
        return torch.cat([self.module.to_pixels(x).cpu() for _, x in made]).numpy()

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        reconstruction: bool = False,
        batch_size: int | None = None,
    ) -> None:
        """Write codes, clusters and errors into the AnnData.

        Beside the keys of :meth:`mixvi.images.GenerativeInference.annotate`:
        ``obsm["<key>_cluster_probs"]``, q(y | z) ``(n_obs, n_clusters)``;
        ``obs["<key>_cluster"]``, the most probable cluster as a category;
        ``obs["<key>_confidence"]``, its probability; ``obs["<key>_cluster_distance"]``, see
        :meth:`cluster_distance`; in ``uns["<key>"]`` also ``"phi"``, ``"mu"`` and ``"sigma"`` of
        the prior, ``"used_clusters"``, how many hold images, and the ``"temperature"`` of
        calibrated probabilities.
        """
        super().annotate(
            adata, key_added=key_added, reconstruction=reconstruction, batch_size=batch_size
        )

    def _annotations(
        self, adata: AnnData, key: str, reconstruction: bool, batch_size: int | None
    ) -> Annotations:
        found = super()._annotations(adata, key, reconstruction, batch_size)
        probs = self.get_cluster_probabilities(adata, batch_size=batch_size)
        values = probs.to_numpy()
        found.obsm[f"{key}_cluster_probs"] = values
        found.obs[f"{key}_cluster"] = self._best(probs)
        found.obs[f"{key}_confidence"] = values.max(axis=1)
        found.obs[f"{key}_cluster_distance"] = self.cluster_distance(adata, batch_size=batch_size)
        parameters = dict(zip(("phi", "mu", "sigma"), self.get_prior_parameters(), strict=True))
        found.notes |= parameters | {"used_clusters": used_components(values)}
        if self.calibration is not None:
            found.notes["temperature"] = self.calibration.temperature
        return found
