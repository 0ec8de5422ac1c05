from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import made_up_scene

from mixvi.satellite import predict_scene, stitch, tile

TILES = {"size": 32, "overlap": 8}


def brightness(tiles):
    """Two classes: dark and bright."""
    bright = tiles.obsm["series"].mean((1, 2)) / tiles.obsm["series"].dtype.type(2**14)
    return np.stack([1 - bright, bright], 1)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_is_tile_predict_and_stitch(batch_size):
    scene = made_up_scene()
    tiles = tile(scene, **TILES)
    options = TILES | {"batch_size": batch_size, "classes": ["dark", "bright"]}
    soft = predict_scene(brightness, scene, soft=True, **options)
    np.testing.assert_array_equal(soft, stitch(tiles, brightness(tiles)))
    assert soft["class"].to_numpy().tolist() == ["dark", "bright"]
    hard = predict_scene(lambda t: torch.from_numpy(brightness(t)), scene, **options)
    assert hard.dims == ("y", "x") and hard.dtype == np.int16
    np.testing.assert_array_equal(hard, stitch(tiles, brightness(tiles), soft=False))
    np.testing.assert_array_equal(hard["x"], scene["x"])


@pytest.mark.parametrize("key", ["series", "labels"])
def test_series_and_codes(key):
    scene = made_up_scene()
    found = predict_scene(lambda tiles: tiles.obsm[key], scene, **TILES)
    assert found.dims == scene[key].dims
    np.testing.assert_array_equal(found, scene[key])


def test_tiles_without_a_valid_pixel_are_not_predicted():
    scene = made_up_scene()
    scene["valid"] = scene["series"] > -1
    scene["valid"][..., :40, :] = False
    seen = []

    def predict(tiles):
        seen.extend(tiles.obs["row"])
        return brightness(tiles)

    found = predict_scene(predict, scene, batch_size=2, **TILES)
    assert set(seen) == {24, 48}
    assert (found[:24] == -1).all() and (found[24:] >= 0).all()
    scene["valid"][:] = False
    with pytest.raises(ValueError, match="No pixel of the scene is valid"):
        predict_scene(predict, scene, **TILES)


def test_predictions_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"what predict returned must have the shape \(9, ..., 32"):
        predict_scene(lambda tiles: np.zeros((9, 2, 16, 16)), made_up_scene(), **TILES)
    with pytest.raises(ValueError, match="what predict returned must be numbers"):
        predict_scene(lambda tiles: np.full((9, 32, 32), "a"), made_up_scene(), **TILES)
