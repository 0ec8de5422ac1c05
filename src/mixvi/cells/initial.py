"""Where components start without labels: k-means on principal components."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from mixvi.core.module import CONDITION_KEY

_MAX_CELLS = 20_000
_N_PCS = 30


def kmeans_components(
    manager: AnnDataManager, indices: np.ndarray, n_components: int, is_count: bool
) -> np.ndarray:
    """Cluster the cells into ``n_components`` groups without looking at labels.

    Counts are normalised to the median library and logged; every gene is centred within each
    condition and batch, so that groups are not the conditions. Beyond 20,000 cells, components and
    centres are fitted on a random part.

    Parameters
    ----------
    manager
        The model's AnnData manager.
    indices
        Rows to cluster.
    n_components
        Number of groups K.
    is_count
        Whether the matrix holds counts.

    Returns
    -------
    Codes from 0 to K - 1, ``(len(indices),)``.
    """
    # drawn from numpy's global state, which scvi.settings.seed sets
    seed = int(np.random.randint(2**31 - 1))
    rng = np.random.default_rng(seed)
    fitted = indices
    if len(indices) > _MAX_CELLS:
        fitted = np.sort(rng.choice(indices, _MAX_CELLS, replace=False))
    matrix = _Matrix(manager, is_count, fitted)
    n_pcs = min(_N_PCS, matrix.sample.shape[1], len(fitted) - 1)
    pca = PCA(n_pcs, random_state=seed).fit(matrix.sample)
    kmeans = KMeans(n_components, n_init=10, random_state=seed).fit(pca.transform(matrix.sample))
    if len(fitted) == len(indices):
        return kmeans.labels_
    parts = np.array_split(indices, -(-len(indices) // _MAX_CELLS))
    return np.concatenate([kmeans.predict(pca.transform(matrix.rows(part))) for part in parts])


class _Matrix:
    """Rows of the registered matrix, log-normalised if counts and centred within groups."""

    def __init__(self, manager: AnnDataManager, is_count: bool, fitted: np.ndarray):
        self._x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        self._is_count = is_count
        condition = np.asarray(manager.get_from_registry(CONDITION_KEY)).ravel()
        batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        self._groups = condition.astype(np.int64) * (int(batch.max()) + 1) + batch
        raw = self._dense(fitted)
        self._target = np.median(raw.sum(axis=1)) if is_count else 1.0
        values = self._logged(raw)
        groups = self._groups[fitted]
        self._centres = {g: values[groups == g].mean(axis=0) for g in np.unique(groups)}
        self._overall = values.mean(axis=0)
        self.sample = self._centred(values, groups)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return self._centred(self._logged(self._dense(indices)), self._groups[indices])

    def _dense(self, indices: np.ndarray) -> np.ndarray:
        block = self._x[indices]
        block = block.toarray() if sparse.issparse(block) else np.asarray(block)
        return block.astype(np.float32)

    def _logged(self, raw: np.ndarray) -> np.ndarray:
        if not self._is_count:
            return raw
        return np.log1p(raw / raw.sum(axis=1, keepdims=True).clip(1e-9) * self._target)

    def _centred(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        centres = np.stack([self._centres.get(g, self._overall) for g in groups])
        return values - centres
