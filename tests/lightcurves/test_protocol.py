"""One class left out, and how well scores tell it from the others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import leave_class_out


def curves():
    return synthetic_light_curves(
        {"RRAB": 30, "EA": 12, "EW": 8}, ["RRAB", "EA", "EW"], n_points=(6, 8)
    )


def test_as_many_known_ones_by_their_shares_as_strange_ones():
    adata = curves()
    before = adata.obs.copy()
    held = leave_class_out(adata, "EW", n=7)
    assert held.strange.sum() == 7 and held.test.n_obs == 14
    assert (held.test.obs["label"][held.strange] == "EW").all()
    assert held.test.obs["label"][~held.strange].value_counts().to_dict() == {
        "RRAB": 5,
        "EA": 2,
        "EW": 0,
    }
    assert set(held.train.obs["label"].cat.categories) == {"RRAB", "EA"}
    assert held.train.n_obs == 42 - 7
    assert not set(held.train.obs_names) & set(held.test.obs_names)
    pd.testing.assert_frame_equal(adata.obs, before)
    again, other = (leave_class_out(adata, "EW", n=7, seed=seed) for seed in (0, 1))
    assert again.test.obs_names.equals(held.test.obs_names)
    assert not other.test.obs_names.equals(held.test.obs_names)


def test_the_smallest_class_says_how_many():
    assert leave_class_out(curves(), "RRAB").strange.sum() == 8
    numbered = curves()
    numbered.obs["label"] = np.repeat([1, 2, 3], [30, 12, 8])
    assert leave_class_out(numbered, 2).strange.sum() == 8


def test_classes_that_cannot_be_left_out_are_refused():
    adata = curves()
    with pytest.raises(KeyError, match="'EB' is no class"):
        leave_class_out(adata, "EB")
    with pytest.raises(ValueError, match="n=9, but 8 objects are of 'EW' and 42 of other"):
        leave_class_out(adata, "EW", n=9)
    adata.obs.loc["star_3", "label"] = np.nan
    with pytest.raises(ValueError, match="1 objects have no class"):
        leave_class_out(adata, "EW")
