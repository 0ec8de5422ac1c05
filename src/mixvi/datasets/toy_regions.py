"""Made-up images of three regions, whose colours are set by class and by a hidden code."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_positive
from mixvi.core.data.keys import UNLABELLED

_COLOURS = np.array([[1.0, -0.6, 0.2], [-0.8, 0.9, -0.3], [0.1, 0.2, -1.1]])
# what the bits of the code add to all pixels of an image
_SHIFTS = np.array([[0.9, 0.3, -0.5], [-0.4, 0.8, 0.7]])
_NOISE = 0.5


def toy_region_images(n_images: int, n_labelled: int, size: int = 8, *, seed: int = 0) -> AnnData:
    """Synthetic images of one date and three bands, each with three regions and a gap.

    Nothing of it was measured: for tests and comparisons of what is known to be there. A region is
    what lies nearest to one of three points; each has another class. A pixel's colour is that of
    its class, a shift by two bits that the image has of its own, and noise. A rectangle is hidden,
    a quarter to five eighths of the image's side high and wide.

    Parameters
    ----------
    n_images, size
        Number of images and pixels of an image's side, at least 8.
    n_labelled
        So many, the first, have labels, at every pixel.
    seed
        Of the generator.

    Returns
    -------
    AnnData, one image a row: ``obsm["series"]`` (n_images, 1, 3, size, size) float32, NaN in gaps;
    ``obsm["valid"]`` (n, 1, 1, H, W); ``obsm["labels"]`` (n, H, W). For scoring alone
    ``obsm["complete"]``, the series without gaps, and ``obsm["true_labels"]``, all labels;
    ``obsm["other_labels"]`` are the true labels of other images, as an older map of another place
    would be. ``uns["classes"]`` and ``uns["bands"]``.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    check_positive("n_images", n_images)
    if size < 8:
        raise ValueError(f"size must be at least 8, but is {size}.")
    if not 0 <= n_labelled <= n_images:
        raise ValueError(f"n_labelled must lie from 0 to {n_images}, but is {n_labelled}.")
    rng = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[:size, :size], axis=-1)
    points = rng.uniform(0, size, (n_images, 3, 2))
    distance = ((grid[None, :, :, None] - points[:, None, None]) ** 2).sum(-1)
    maps = rng.permuted(np.tile(np.arange(3), (n_images, 1)), axis=1)
    maps = np.take_along_axis(maps[:, None, None], distance.argmin(-1)[..., None], -1)[..., 0]
    bits = rng.integers(0, 2, (n_images, 2))
    values = _COLOURS[maps] + (bits @ _SHIFTS)[:, None, None]
    values = values + rng.normal(0, _NOISE, values.shape)
    # as reflectance
    complete = (0.4 + 0.1 * values).transpose(0, 3, 1, 2)[:, None].astype(np.float32)
    sides = rng.integers(size // 4, 5 * size // 8 + 1, (n_images, 2))
    first = rng.integers(0, size - sides + 1)[..., None, None]
    after = np.moveaxis(grid, -1, 0) >= first
    before = np.moveaxis(grid, -1, 0) < first + sides[..., None, None]
    valid = ~(after & before).all(1)[:, None, None]
    labels = maps.copy()
    labels[n_labelled:] = UNLABELLED
    obsm = {
        "series": np.where(valid, complete, np.nan).astype(np.float32),
        "valid": valid,
        "labels": labels,
        "complete": complete,
        "true_labels": maps,
        "other_labels": maps[rng.permutation(n_images)],
    }
    obs = pd.DataFrame(index=[f"image_{i}" for i in range(n_images)])
    uns = {"classes": ["a", "b", "c"], "bands": ["red", "green", "blue"]}
    return AnnData(obs=obs, obsm=obsm, uns=uns)
