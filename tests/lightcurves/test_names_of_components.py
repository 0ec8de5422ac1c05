"""Components beside classes that are numbers, and predictions of the labels' own type."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import CurveVAE, EnergyGMM, LCVaDE
from mixvi.lightcurves.model import component_names

SIZES = {
    LCVaDE: ({"width": 8, "n_induction": 8}, "n_clusters"),
    EnergyGMM: ({"width": 8}, "n_components"),
}


def numbered(dtype: type) -> AnnData:
    """Three curves each of the classes 1, 2 and 3."""
    adata = synthetic_light_curves(3, ["RRAB", "EA", "EW"], n_points=(6, 8))
    adata.obs["label"] = np.repeat([1, 2, 3], 3).astype(dtype)
    return adata


@pytest.mark.parametrize(
    ("classes", "n", "names"),
    [
        (["EA", "EW"], 4, ["EA", "EW", "2", "3"]),
        ([], 2, ["0", "1"]),
        ([1, 2, 3], 3, ["1", "2", "3"]),
        ([1, 2, 3], 5, ["1", "2", "3", "component_3", "component_4"]),
        (["3", "EA"], 4, ["3", "EA", "component_2", "component_3"]),
    ],
)
def test_components_have_names_of_their_own(classes, n, names):
    assert component_names(classes, n) == names


@pytest.mark.parametrize("cls", [LCVaDE, EnergyGMM])
@pytest.mark.parametrize("dtype", [int, float, str])
def test_more_components_than_classes_that_are_numbers(cls, dtype):
    adata = numbered(dtype)
    cls.setup_anndata(adata, labels_key="label")
    sizes, argument = SIZES[cls]
    model = cls(adata, **sizes, **{argument: 5})
    # names need no training
    model.is_trained_ = True
    expected = ["1", "2", "3", "component_3", "component_4"]
    assert model.predict(soft=True).columns.tolist() == expected
    assert model.predict().cat.categories.tolist() == expected
    if cls is LCVaDE:
        new = model.sample(2, cluster="component_3")
        assert new.obs["cluster"].tolist() == ["component_3"] * 2
        assert model.sample(1, cluster=3.0).obs["cluster"].tolist() == ["3"]


@pytest.mark.parametrize("cls", [LCVaDE, CurveVAE, EnergyGMM])
def test_predictions_equal_labels_of_their_type(cls):
    adata = numbered(int)
    cls.setup_anndata(adata, labels_key="label")
    model = cls(adata, **SIZES.get(cls, SIZES[LCVaDE])[0])
    model.is_trained_ = True
    found, p = model.predict(), model.predict(soft=True)
    assert found.cat.categories.tolist() == p.columns.tolist() == [1, 2, 3]
    best = p.columns.to_numpy()[p.to_numpy().argmax(1)]
    pd.testing.assert_series_equal(found == 2, pd.Series(best == 2, found.index, name="label"))


@pytest.mark.parametrize("n", [2.5, "3", 0])
def test_numbers_of_components_that_cannot_be(n):
    adata = numbered(str)
    EnergyGMM.setup_anndata(adata)
    with pytest.raises(ValueError, match="n_components must be a positive whole number"):
        EnergyGMM(adata, n_components=n)
