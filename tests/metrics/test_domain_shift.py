from __future__ import annotations

import numpy as np
import pytest
from codes_and_results import Decoder

from mixvi import metrics


def test_changed_images_are_reported():
    model = Decoder()
    x = model.adata.obsm["image"]
    shifted = {"flipped": metrics.flipped_pixels(x, 0.3), "inverted": metrics.inverted(x)}
    report = metrics.domain_shift(model, x, shifted)
    assert list(report.index) == ["none", "flipped", "inverted"]
    assert report.loc["none", ["displacement", "iou"]].tolist() == [0.0, 1.0]
    # nothing that is white in an image is white in its negative
    assert report.loc["inverted", "iou"] == 0.0
    assert 0.3 < report.loc["flipped", "iou"] < 0.9
    with pytest.raises(ValueError, match="two or more"):
        metrics.domain_shift(model, x[:1], {})
    with pytest.raises(ValueError, match="flipped: images have the shape"):
        metrics.domain_shift(model, x, {"flipped": x[:5]})


def test_a_triangle_is_a_shape_of_its_own():
    x = metrics.triangle()
    assert x.shape == (1, 1, 64, 64) and set(np.unique(x)) == {0, 255}
    widths = (x[0, 0] > 0).sum(1)
    assert (np.diff(widths[widths > 0]) >= 0).all() and widths.max() == 24
