"""How far apart two populations of cells are, in gene space or on principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from mixvi.core.arguments import check_choice, check_positive
from mixvi.metrics.pairs import finite_pair, on_components_of


def energy_distance(
    predicted,
    real,
    n_cells: int = 2000,
    seed: int = 0,
    *,
    n_pcs: int | None = None,
    layer: str | None = "auto",
) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely & Rizzo 2013), Euclidean.

    The terms within a side run over pairs of different cells (the zeros of a cell with itself are
    left out), so that the estimate has no bias: it is 0 on average for equal distributions and
    may fall below.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    n_cells
        Cells a side at most; of more, a random subset.
    seed
        Of the subset.
    n_pcs
        Compare on so many principal components of both sides together; ``None``: on genes. Those
        of one side would tell it from the other by what chance did to few cells.
    layer
        As in :func:`mean_expression_r2`.

    Raises
    ------
    KeyError
        If a side has no such layer.
    ValueError
        If the genes differ, a side has fewer than two cells, values are not finite, or the sides
        are not on one scale.
    """
    x, y = _drawn(predicted, real, n_cells, seed, n_pcs, layer)
    between = euclidean_distances(x, y).mean()
    within = _mean_off_diagonal(euclidean_distances(x)) + _mean_off_diagonal(euclidean_distances(y))
    return float(2 * between - within)


def mmd(
    predicted,
    real,
    bandwidths: float | Sequence[float] | None = None,
    n_cells: int = 2000,
    seed: int = 0,
    *,
    n_pcs: int | None = None,
    layer: str | None = "auto",
) -> float:
    """Squared maximum mean discrepancy (Gretton et al. 2012, unbiased, equation 3).

    The kernel is the mean of Gaussians ``exp(-d² / (2 b²))`` over the bandwidths b. As for
    :func:`energy_distance`, equal distributions give 0 on average.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    bandwidths
        One or several. ``None``: a half, one and two times the median distance between the
        cells of both sides. That depends on the cells: to compare models, pass the same to all.
    n_cells, seed, n_pcs, layer
        As in :func:`energy_distance`.

    Raises
    ------
    KeyError, ValueError
        As :func:`energy_distance`; also if a bandwidth is not positive or the median is zero.
    """
    x, y = _drawn(predicted, real, n_cells, seed, n_pcs, layer)
    squared = euclidean_distances(np.vstack([x, y]), squared=True)
    kernel = _kernel(squared, bandwidths)
    n = len(x)
    within = _mean_off_diagonal(kernel[:n, :n]) + _mean_off_diagonal(kernel[n:, n:])
    return float(within - 2 * kernel[:n, n:].mean())


@dataclass(frozen=True)
class PermutationTest:
    """A distance of two populations, and those of their cells dealt out at random."""

    value: float
    null: np.ndarray
    """Of each permutation, ``(n_permutations,)``."""

    @property
    def p_value(self) -> float:
        """Share of permutations as far apart or farther, the cells' own order counted in."""
        return float((1 + (self.null >= self.value).sum()) / (1 + len(self.null)))


def permutation_test(
    predicted,
    real,
    distance: str = "energy",
    n_permutations: int = 200,
    n_cells: int = 500,
    seed: int = 0,
    *,
    bandwidths: float | Sequence[float] | None = None,
    n_pcs: int | None = None,
    layer: str | None = "auto",
) -> PermutationTest:
    """Whether predicted cells can be told from real ones: a distance under random dealing.

    Parameters
    ----------
    predicted, real
        Cells by genes, dense, sparse or AnnData: ``(n, G)`` and ``(m, G)``.
    distance
        ``"energy"``, see :func:`energy_distance`, or ``"mmd"``, see :func:`mmd`.
    n_permutations
        How often the cells of both sides are dealt out anew.
    n_cells, seed, bandwidths, n_pcs, layer
        As in :func:`energy_distance` and :func:`mmd`; the seed is of the dealing, too.

    Raises
    ------
    KeyError, ValueError
        As :func:`energy_distance` and :func:`mmd`; also for an unknown distance.

    Notes
    -----
    Source: Gretton et al. 2012, section 5 (permutation threshold).
    """
    check_choice("distance", distance, ("energy", "mmd"))
    check_positive("n_permutations", n_permutations)
    x, y = _drawn(predicted, real, n_cells, seed, n_pcs, layer)
    both = np.vstack([x, y])
    if distance == "energy":
        # energy distances are discrepancies of the kernel minus |x - y|
        kernel = -euclidean_distances(both)
    else:
        kernel = _kernel(euclidean_distances(both, squared=True), bandwidths)
    np.fill_diagonal(kernel, 0.0)
    rng = np.random.default_rng(seed)
    own = np.repeat([1.0, 0.0], [len(x), len(y)])
    dealt = np.stack([own, *(rng.permutation(own) for _ in range(n_permutations))])
    found = _discrepancies(kernel, dealt)
    return PermutationTest(float(found[0]), found[1:])


def _kernel(squared: np.ndarray, bandwidths: float | Sequence[float] | None) -> np.ndarray:
    """Mean of Gaussians of the squared distances ``(N, N)``."""
    widths = _widths(bandwidths, squared)
    return sum(np.exp(-squared / (2 * width**2)) for width in widths) / len(widths)


def _discrepancies(kernel: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Within minus between for each row of ``members`` ``(P, N)``, 1 on one side; ``(P,)``."""
    n, others = members.sum(axis=1), 1.0 - members
    m = others.sum(axis=1)
    towards = members @ kernel
    within = (towards * members).sum(axis=1) / (n * (n - 1))
    between = (towards * others).sum(axis=1) / (n * m)
    return within + ((others @ kernel) * others).sum(axis=1) / (m * (m - 1)) - 2 * between


def _drawn(
    predicted, real, n_cells: int, seed: int, n_pcs: int | None, layer: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``n_cells`` random rows of each side, and at least two."""
    check_positive("n_cells", n_cells)
    rng = np.random.default_rng(seed)
    sides = []
    both = finite_pair(predicted, real, layer=layer)
    if n_pcs is not None:
        check_positive("n_pcs", n_pcs)
        found = on_components_of(np.vstack(both), np.vstack(both), n_pcs)[0]
        both = np.split(found, [len(both[0])])
    for name, x in zip(("predicted", "real"), both, strict=True):
        if min(len(x), n_cells) < 2:
            raise ValueError(f"{name} needs two cells or more (and n_cells two or more).")
        sides.append(x if len(x) <= n_cells else x[rng.choice(len(x), n_cells, replace=False)])
    return sides[0], sides[1]


def _mean_off_diagonal(square: np.ndarray) -> float:
    n = len(square)
    return (square.sum() - np.trace(square)) / (n * (n - 1))


def _widths(bandwidths: float | Sequence[float] | None, squared: np.ndarray) -> np.ndarray:
    if bandwidths is None:
        median = np.median(np.sqrt(squared[np.triu_indices(len(squared), 1)]))
        if median == 0:
            raise ValueError("The median distance is zero (most cells are equal); pass bandwidths.")
        return median * np.array([0.5, 1.0, 2.0])
    widths = np.atleast_1d(np.asarray(bandwidths, dtype=float))
    if widths.ndim > 1 or not widths.size or not ((widths > 0) & np.isfinite(widths)).all():
        raise ValueError(f"bandwidths must be positive numbers, but are {bandwidths!r}.")
    return widths
