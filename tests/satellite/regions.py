"""Made-up images of three regions, whose colours are set by class and a hidden code (spec 5.10)."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from mixvi.core.data.keys import UNLABELLED

_COLOURS = np.array([[1.0, -0.6, 0.2], [-0.8, 0.9, -0.3], [0.1, 0.2, -1.1]])
# what the bits of the code add to all pixels of an image
_SHIFTS = np.array([[0.9, 0.3, -0.5], [-0.4, 0.8, 0.7]])


def region_images(n: int, n_labelled: int, size: int = 8, seed: int = 0) -> AnnData:
    """Images of one date: ``series`` with gaps, ``labels`` of the first, ``truth`` and ``maps``."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[:size, :size], axis=-1)
    points = rng.uniform(0, size, (n, 3, 2))
    distance = ((grid[None, :, :, None] - points[:, None, None]) ** 2).sum(-1)
    maps = rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1)
    maps = np.take_along_axis(maps[:, None, None], distance.argmin(-1)[..., None], -1)[..., 0]
    bits = rng.integers(0, 2, (n, 2))
    truth = _COLOURS[maps] + (bits @ _SHIFTS)[:, None, None]
    truth = truth + rng.normal(0, 0.5, truth.shape)
    # in units of reflectance
    truth = (0.4 + 0.1 * truth).transpose(0, 3, 1, 2)[:, None].astype(np.float32)
    valid = np.ones((n, 1, 1, size, size), dtype=bool)
    for row in range(n):
        height, width = rng.integers(2, 6, 2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        valid[row, ..., top : top + height, left : left + width] = False
    labels = maps.copy()
    labels[n_labelled:] = UNLABELLED
    obsm = {
        "series": np.where(valid, truth, np.nan).astype(np.float32),
        "valid": valid,
        "labels": labels,
        "truth": truth,
        "maps": maps,
        # maps of other images, as an older product of another place would be
        "unpaired": maps[rng.permutation(n)],
    }
    return AnnData(obsm=obsm, uns={"classes": ["a", "b", "c"]})
