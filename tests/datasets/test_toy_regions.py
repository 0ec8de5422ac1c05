import numpy as np
import pytest

from mixvi.datasets import toy_region_images


def test_images_have_what_is_said_of_them():
    adata = toy_region_images(40, 3, size=12)
    of = adata.obsm
    hidden = ~np.broadcast_to(of["valid"], of["series"].shape)
    assert np.isnan(of["series"][hidden]).all()
    np.testing.assert_array_equal(of["series"][~hidden], of["complete"][~hidden])
    assert (of["labels"][:3] == of["true_labels"][:3]).all() and (of["labels"][3:] == -1).all()
    sides = [hidden[:, 0, 0].any(axis).sum(1) for axis in (1, 2)]
    assert all(3 <= side.min() and side.max() <= 7 for side in sides)
    # one rectangle an image
    assert (hidden[:, 0, 0].sum((1, 2)) == sides[0] * sides[1]).all()
    # a pixel of the class is of its colour but for the code's shift and noise
    reds = [of["complete"][:, 0, 0][of["true_labels"] == code].mean() for code in range(3)]
    np.testing.assert_allclose(np.diff(reds), [-0.18, 0.09], atol=0.03)
    assert (toy_region_images(40, 3, size=12).obsm["complete"] == of["complete"]).all()


@pytest.mark.parametrize("given", [(0, 0), (4, 5), (4, 1, 7)])
def test_numbers_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match="must"):
        toy_region_images(*given)
