"""Where components start without labels: clusters of the data's principal components."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestCentroid

from mixvi.core.data.backed import BackedMatrix, is_backed, row_sums
from mixvi.core.maths.sparse import distinct_entries

_MAX_FITTED = 20_000
_MIN_FITTED = 1_000
_MAX_SAMPLE = 50_000
FEWEST_CENTRED = 10
_N_PCS = 30


def principal_components(
    x,
    *,
    is_count: bool,
    seed: int,
    groups: np.ndarray | None = None,
    indices: np.ndarray | None = None,
) -> np.ndarray:
    """At most 30 principal components of a matrix of cells, no label looked at.

    Counts are normalised to the median library and logged; every gene is centred within each
    group of at least 10 cells, so that clusters are not the groups. Beyond 20,000 cells, axes and
    centres are fitted on a random part, which is smaller where ``mixvi.settings.backed_memory``
    asks for it.

    Parameters
    ----------
    x
        Dense or sparse matrix ``(n_obs, G)``, in memory or on disk.
    is_count
        Whether it holds counts.
    seed
        Of the random part and the solver.
    groups
        Group of each cell, ``(n_obs,)``, such as condition and batch; ``None``: one group.
    indices
        Rows to project; ``None``: all.

    Returns
    -------
    Coordinates ``(len(indices), n_pcs)``.
    """
    axes = PrincipalAxes(x, is_count=is_count, seed=seed, groups=groups, indices=indices)
    return axes.coordinates(axes.indices)


def initial_clusters(
    axes: PrincipalAxes, cluster: Callable[[np.ndarray], np.ndarray], seed: int
) -> np.ndarray:
    """Clusters of all cells, or on disk of a sample, whose cluster means the others join.

    Parameters
    ----------
    axes
        Of the matrix.
    cluster
        Coordinates ``(n, n_pcs)`` to codes ``(n,)``.
    seed
        Of the sample of at most 50,000 rows.

    Returns
    -------
    Codes ``(n,)`` of the rows of ``axes``.
    """
    rows = axes.indices[axes.sample(np.arange(len(axes.indices)), seed)]
    points = axes.coordinates(rows)
    codes = cluster(points)
    if len(rows) == len(axes.indices):
        return codes
    nearest = NearestCentroid().fit(points, codes)
    return np.concatenate([nearest.predict(part) for part in axes.parts()])


class PrincipalAxes:
    """Axes fitted on a part of the cells, and the coordinates of all; see the function above."""

    def __init__(
        self,
        x,
        *,
        is_count: bool,
        seed: int,
        groups: np.ndarray | None = None,
        indices: np.ndarray | None = None,
        genes: np.ndarray | None = None,
    ):
        self._x = _readable(x)
        self._is_count = is_count
        # of all genes, those that are looked at
        self._genes = genes
        self._groups = np.zeros(x.shape[0], dtype=int) if groups is None else groups
        self.indices = np.arange(x.shape[0]) if indices is None else indices
        fitted, most = self.indices, _MAX_FITTED
        if isinstance(self._x, BackedMatrix):
            most = min(most, max(_MIN_FITTED, self._x.window_bytes // self._row_bytes))
        if len(fitted) > most:
            fitted = np.sort(np.random.default_rng(seed).choice(fitted, most, replace=False))
        raw = self._dense(fitted)
        self._target = np.median(row_sums(raw)) if is_count else 1.0
        values = self._logged(raw)
        groups = self._groups[fitted]
        # the mean of a few cells is little else than these cells
        found, sizes = np.unique(groups, return_counts=True)
        large = found[sizes >= FEWEST_CENTRED]
        self._centres = {g: values[groups == g].mean(axis=0) for g in large}
        self._overall = values.mean(axis=0)
        sample = self._centred(values, groups)
        n_pcs = min(_N_PCS, sample.shape[1], len(fitted) - 1)
        # the sample is ours: the solver may centre it where it is
        self._pca = PCA(n_pcs, copy=False, random_state=seed).fit(sample)

    @property
    def groups(self) -> np.ndarray:
        """Group of each row that the axes are for, ``(n,)``."""
        return self._groups[self.indices]

    def centres(self) -> np.ndarray:
        """Where each group's centre lies, groups in order, ``(n_groups, n_pcs)``.

        A group of few cells is centred on all of them, and has zeros.
        """
        groups = np.unique(self.groups)
        away = [self._centres.get(group, self._overall) - self._overall for group in groups]
        return np.stack(away) @ self._pca.components_.T

    @property
    def _row_bytes(self) -> int:
        # float32, and twice more while it is being changed
        return 12 * self._x.shape[1]

    def sample(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """All of them, or a random part where the matrix is on disk and they are many."""
        if not isinstance(self._x, BackedMatrix) or len(rows) <= _MAX_SAMPLE:
            return rows
        return np.sort(np.random.default_rng(seed).choice(rows, _MAX_SAMPLE, replace=False))

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        """Coordinates of the rows in their order, ``(n, n_pcs)``."""
        return np.concatenate(list(self.parts(rows)))

    def parts(self, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Coordinates of the rows (all the axes are for) in their order, in parts."""
        rows = self.indices if rows is None else rows
        if isinstance(self._x, BackedMatrix):
            parts = self._x.parts(rows, self._row_bytes)
        else:
            parts = np.array_split(rows, max(1, -(-len(rows) // _MAX_FITTED)))
        for part in parts:
            values = self._centred(self._logged(self._dense(part)), self._groups[part])
            yield self._pca.transform(values)

    def _dense(self, rows: np.ndarray) -> np.ndarray:
        if isinstance(self._x, BackedMatrix):
            # each once and in order, as the file has them
            rows, back = np.unique(rows, return_inverse=True)
            block = self._x.read(rows)
            if len(back) > len(rows) or (np.diff(back) < 0).any():
                block = block[back]
        else:
            block = self._x[rows]
        if self._genes is not None:
            block = block[:, self._genes]
        if sparse.issparse(block):
            return block.toarray().astype(np.float32, copy=False)
        return np.array(block, dtype=np.float32)

    def _logged(self, raw: np.ndarray) -> np.ndarray:
        """In place: the array is our own."""
        if not self._is_count:
            return raw
        raw /= raw.sum(axis=1, keepdims=True).clip(1e-9)
        raw *= self._target
        return np.log1p(raw, out=raw)

    def _centred(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """In place, too."""
        for group in np.unique(groups):
            values[groups == group] -= self._centres.get(group, self._overall)
        return values


def _readable(x):
    """What gives rows of the matrix: a reader if it is on disk, CSR if it is sparse."""
    if is_backed(x):
        return BackedMatrix(x)
    return distinct_entries(x).tocsr() if sparse.issparse(x) else x
