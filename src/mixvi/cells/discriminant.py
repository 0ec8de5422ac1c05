"""Where components start with some labels: discriminants, each batch centred on its types."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf

from mixvi.cells.initial import FEWEST_CENTRED, PrincipalAxes

_ROUNDS = 10
_SWEEPS = 20
_STEPS = 10
_RIDGE = 1e-6


def discriminant_codes(axes: PrincipalAxes, codes: np.ndarray, seed: int) -> np.ndarray:
    """Label codes for every row by linear discriminants of the labelled ones, ``(n,)``.

    A group that has other shares of the types than another, such as a study of sorted cells, is
    shifted against it where both are centred on their cells. Groups are therefore centred on the
    types that the discriminants call, and called anew, until calls stay: once from where cells
    lie by themselves, once from groups centred on their cells. The unlabelled cells tell which
    end is the likelier.

    Parameters
    ----------
    axes
        Of the matrix; their groups are those that are centred.
    codes
        Label code of each row of ``axes``, -1 where it has none; labelled rows keep theirs.
    seed
        Of the samples of at most 50,000 labelled and as many other rows to learn from, if data are
        on disk.
    """
    known = axes.sample(np.flatnonzero(codes >= 0), seed)
    types, taught = np.unique(codes[known], return_inverse=True)
    if len(types) == 1:
        return np.full(len(codes), types[0])
    others = axes.sample(np.flatnonzero(codes < 0), seed)
    rows = np.concatenate([known, others])
    _, groups = np.unique(axes.groups, return_inverse=True)
    points = axes.coordinates(axes.indices[rows])
    centres = axes.centres()
    starts = (-centres, np.zeros_like(centres)) if len(centres) > 1 else (-centres,)
    ends = [CentredOnTypes(points, groups[rows], taught, start) for start in starts]
    centred = max(ends, key=lambda end: end.log_density)
    parts, first = [], 0
    for points in axes.parts():
        parts.append(centred.predict(points, groups[first : first + len(points)]))
        first += len(points)
    return np.where(codes >= 0, codes, types[np.concatenate(parts)])


class CentredOnTypes:
    """Linear discriminants of labelled points, and each group's shift and shares of the types.

    Parameters
    ----------
    points
        ``(n, D)``, the labelled ones first.
    groups
        Group of each, ``(n,)``, from 0. One of fewer than 10 points stays where it is.
    taught
        Type of each labelled one, ``(n_labelled,)``, from 0; there are two at least, of each a
        point.
    offsets
        What the points of each group are shifted by, to begin with, ``(n_groups, D)``.

    Attributes
    ----------
    offsets
        The same at the end.
    log_density
        Mean over the unlabelled points, beside a constant.
    """

    def __init__(
        self, points: np.ndarray, groups: np.ndarray, taught: np.ndarray, offsets: np.ndarray
    ):
        points, n = points.astype(np.float64), len(taught)
        small = np.bincount(groups, minlength=len(offsets)) < FEWEST_CENTRED
        self.offsets = offsets
        self._fit(points[:n] - offsets[groups[:n]], taught)
        self._shares = np.tile(np.bincount(taught) / n, (len(offsets), 1))
        called = None
        for _ in range(_ROUNDS if len(offsets) > 1 else 0):
            self._meet(points[n:], groups[n:])
            before, called = called, self.predict(points[n:], groups[n:])
            if before is not None and np.array_equal(before, called):
                break
            counts, means = _means(points, groups, np.concatenate([taught, called]), len(offsets))
            # the mean of a few cells is little else than these cells
            counts[small] = 0
            self.offsets = _offsets(counts, means, self.offsets)
            self._fit(points[:n] - self.offsets[groups[:n]], taught)
        self.log_density = self._log_density(points[n:] - self.offsets[groups[n:]])

    def predict(self, points: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Type of each point, ``(n,)``."""
        scores = self._scores(points - self.offsets[groups])
        return (scores + np.log(self._shares[groups])).argmax(axis=1)

    def _fit(self, points: np.ndarray, types: np.ndarray) -> None:
        """Discriminants with one covariance, shrunk as by Ledoit and Wolf (2004)."""
        # scikit-learn's shrink each type by itself, and of one cell there is nothing to shrink
        (means,) = _means(points, np.zeros_like(types), types, 1)[1]
        within = ledoit_wolf(points - means[types], assume_centered=True)[0]
        # types of one cell each have no spread
        within += _RIDGE * (points.var() or 1.0) * np.eye(len(within))
        self._within = within
        self._slopes = np.linalg.solve(within, means.T)
        self._norms = 0.5 * (means.T * self._slopes).sum(axis=0)

    def _scores(self, points: np.ndarray) -> np.ndarray:
        """Log density of each type, beside what is the same for all, ``(n, T)``."""
        return points @ self._slopes - self._norms

    def _meet(self, points: np.ndarray, groups: np.ndarray) -> None:
        """Learn each group's shares of the types (Saerens et al. 2002)."""
        # with those of the labelled ones, nearby types of other shares push their group away
        scores = self._scores(points - self.offsets[groups])
        n_groups, n_types = self._shares.shape
        of_group = csr_matrix(
            (np.ones(len(points)), (groups, np.arange(len(points)))), (n_groups, len(points))
        )
        # as many cells as there are types have the shares that were known before
        known = n_types * self._shares
        for _ in range(_STEPS):
            found = of_group @ softmax(scores + np.log(self._shares[groups]), axis=1) + known
            self._shares = found / found.sum(axis=1, keepdims=True)

    def _log_density(self, points: np.ndarray) -> float:
        """Where all types are as frequent: the shares of the labelled are not those of others."""
        if not len(points):
            return 0.0
        distances = (points * np.linalg.solve(self._within, points.T).T).sum(axis=1)
        of_points = logsumexp(self._scores(points), axis=1) - 0.5 * distances
        return float(of_points.mean() - 0.5 * np.linalg.slogdet(self._within)[1])


def _means(
    points: np.ndarray, groups: np.ndarray, types: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Number ``(n_groups, T)`` and mean ``(n_groups, T, D)`` of each group's points of a type."""
    n, n_types = len(points), types.max() + 1
    pairs = groups * n_types + types
    chosen = csr_matrix((np.ones(n), (pairs, np.arange(n))), shape=(n_groups * n_types, n))
    counts = np.bincount(pairs, minlength=n_groups * n_types).astype(float)
    means = chosen @ points / counts.clip(1)[:, None]
    return counts.reshape(n_groups, n_types), means.reshape(n_groups, n_types, -1)


def _offsets(counts: np.ndarray, means: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Least-squares fit of mean = type + offset, ``(n_groups, D)``; a type counts as its root."""
    # counts (S, T)  means (S, T, D)  offsets (S, D)
    weights = np.sqrt(counts)[..., None]
    of_type, of_group = (weights.sum(axis).clip(1e-9) for axis in (0, 1))
    for _ in range(_SWEEPS):
        types = (weights * (means - offsets[:, None])).sum(axis=0) / of_type
        offsets = (weights * (means - types)).sum(axis=1) / of_group
    return offsets
