"""Whether generated images lie among real ones, and real ones among generated ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from mixvi.core.arguments import check_positive
from mixvi.metrics.classifier import ImageClassifier
from mixvi.metrics.image_features import feature_network, real_and_generated


class ManifoldScores(NamedTuple):
    """Of generated images: how good (precision, density) and how varied (recall, coverage)."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(
    real,
    generated,
    features: ImageClassifier | nn.Module | Callable[[Tensor], Tensor] | str,
    n_neighbors: int = 5,
    *,
    pixel_range: tuple[float, float] | None = None,
    batch_size: int = 250,
    device: str | torch.device | None = None,
) -> ManifoldScores:
    """Precision and recall, density and coverage, by balls around the features of each image.

    A ball reaches to the ``n_neighbors``-th nearest image of its own side. *Precision* is the share
    of generated images in a ball of a real one, *recall* that of real images in a ball of a
    generated one (Kynkäänniemi et al. 2019). *Density* is in how many balls of real images a
    generated one lies, over ``n_neighbors``; it is 1 on average for one distribution and may be
    more. *Coverage* is the share of real images whose ball has a generated one (Naeem et al. 2020).
    Single outliers have large balls, which raise precision and recall; the other two hold against
    them. Compare models at the same numbers of images.

    Parameters
    ----------
    real, generated, features, pixel_range, batch_size, device
        As for :func:`fid`.
    n_neighbors
        Which neighbour a ball reaches to.

    Raises
    ------
    ImportError, FileNotFoundError
        As :func:`fid`.
    ValueError
        As :func:`fid`; also if a side has no such neighbour.
    """
    check_positive("n_neighbors", n_neighbors)
    check_positive("batch_size", batch_size)
    sides = real_and_generated(real, generated, pixel_range)
    for name, x in sides.items():
        if len(x) <= n_neighbors:
            raise ValueError(
                f"n_neighbors={n_neighbors} must be less than the number of {name} images, "
                f"{len(x)}."
            )
    network = feature_network(features, "features", sides, device)
    x, y = (network.of(side, batch_size) for side in sides.values())
    of_real, of_generated = (_radii(codes, n_neighbors) for codes in (x, y))
    n_around = np.zeros(len(y))
    recalled, covered = [], []
    for distances in pairwise_distances_chunked(x, y):
        rows = slice(len(covered), len(covered) + len(distances))
        inside = distances <= of_real[rows, None]
        n_around += inside.sum(axis=0)
        covered.extend(inside.any(axis=1))
        recalled.extend((distances <= of_generated).any(axis=1))
    return ManifoldScores(
        precision=float((n_around > 0).mean()),
        recall=float(np.mean(recalled)),
        density=float(n_around.mean() / n_neighbors),
        coverage=float(np.mean(covered)),
    )


def _radii(codes: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Distance of each row to its ``n_neighbors``-th nearest other row."""
    # a row is none of its own neighbours where none is asked about
    return NearestNeighbors(n_neighbors=n_neighbors).fit(codes).kneighbors()[0][:, -1]
