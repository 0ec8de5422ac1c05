"""Labels that were changed after the set-up are read as they are, or refused."""

from __future__ import annotations

import pytest
from conftest import CPU

import mixvi


def test_labels_beyond_the_classes_are_refused():
    tiles = mixvi.datasets.toy_satellite_series(4, 3, 8, 2, seed=0)
    mixvi.satellite.UNetSegmenter.setup_anndata(tiles)
    model = mixvi.satellite.UNetSegmenter(tiles, width=2, n_levels=1)
    tiles.obsm["labels"][0, 0, 0] = 2
    with pytest.raises(ValueError, match="labels_key.*from 0 to 1"):
        model.train(1, **CPU)
    assert not model.is_trained_
