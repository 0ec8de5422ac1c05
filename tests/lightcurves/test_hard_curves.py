"""Curves as users bring them: what is refused, told and kept of hard input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import (
    CurveVAE,
    LCVaDE,
    class_isolation_forests,
    class_mahalanobis,
    curve_features,
    find_epochs,
)
from mixvi.lightcurves.features import centre_and_spread
from mixvi.lightcurves.observations import Observations

SMALL = {"width": 8, "n_induction": 8}


def curves(**options):
    return synthetic_light_curves(3, ["RRAB", "EA"], **({"n_points": (6, 8)} | options))


def untrained(adata, **setup):
    """A model whose verbs may be called, as if it were trained."""
    CurveVAE.setup_anndata(adata, **setup)
    model = CurveVAE(adata, **SMALL)
    model.is_trained_ = True
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_band_constant_but_for_rounding_has_the_spread_of_its_errors(dtype):
    magnitude = np.full((1, 1, 30), 13.1, dtype)
    valid = np.ones(magnitude.shape, bool)
    of = Observations(magnitude, magnitude, np.full(magnitude.shape, 0.02), valid)
    mean, spread = centre_and_spread(of)
    np.testing.assert_allclose([mean.item(), spread.item()], [13.1, 0.02], rtol=1e-6)
    noisy = Observations(magnitude, magnitude + 1e-3 * (np.arange(30) % 2), of.error, valid)
    np.testing.assert_allclose(centre_and_spread(noisy)[1].item(), 5e-4, rtol=1e-2)


def test_times_in_too_few_digits_are_refused():
    adata = curves()
    adata.obsm["time"] = adata.obsm["time"] + 2_450_000.0
    CurveVAE.setup_anndata(adata)
    adata.obsm["time"] = adata.obsm["time"].astype(np.float32)
    with pytest.raises(ValueError, match=r"of 6 curves .* times as float32, .* steps of 0.25"):
        CurveVAE.setup_anndata(adata)
    adata.obsm["time"] = (adata.obsm["time"] - 2_450_000).astype(np.float32)
    CurveVAE.setup_anndata(adata)


def test_features_are_names_of_numbers():
    adata = curves()
    adata.obs["survey"] = pd.Categorical(["a", "b"] * 3)
    adata.obs["colour"] = pd.array([0.5, None] * 3, dtype="Float64")
    for features, error, message in (
        ("mean", TypeError, r"a list of names: \['mean'\]"),
        (["mean", "mean"], ValueError, "'mean' more than once"),
        (["survey"], TypeError, r"'survey'\] \(features\) has 6 values .* such as 'a'"),
    ):
        with pytest.raises(error, match=message):
            CurveVAE.setup_anndata(adata, features=features)
        with pytest.raises(error, match=message):
            curve_features(adata, features)
    found = curve_features(adata, ["colour"])["colour"]
    np.testing.assert_array_equal(found, [0.5, np.nan] * 3)
    with pytest.raises(TypeError, match="'tme_key' is none of time_key"):
        curve_features(adata, ["mean"], tme_key="time")


def test_periods_may_be_of_any_type_and_unused_ones_anything():
    adata, expected = curves(), curves()
    del adata.obs["epoch"], expected.obs["epoch"]
    for dtype in ("Float64", object, "category"):
        adata.obs["period"] = expected.obs["period"].astype(dtype)
        find_epochs(adata)
        find_epochs(expected)
        np.testing.assert_array_equal(adata.obs["epoch"], expected.obs["epoch"])
        CurveVAE.setup_anndata(adata)
    adata.obs["period"] = "not known"
    CurveVAE.setup_anndata(adata, fold=False)


@pytest.mark.filterwarnings("ignore:.*lack at least one")
def test_features_of_a_missing_band_are_not_known():
    adata = curves(n_bands=2)
    adata.obsm["valid"][1, :, 1] = False
    adata.uns["bands"] = ["g", "r", "i"]
    found = curve_features(adata, ["amplitude", "quantile_shape"])
    assert found.columns.tolist() == [
        "amplitude_0",
        "amplitude_1",
        "quantile_shape_0",
        "quantile_shape_1",
    ]
    assert found.isna().sum().tolist() == [0, 1, 0, 1]


def test_bands_in_another_order_are_refused():
    adata = curves(n_bands=2)
    adata.uns["bands"] = ["g", "r"]
    model = untrained(adata)
    expected = model.get_latent_representation()
    other = adata.copy()
    for bands in (["r", "g"], ["g", "i"]):
        other.uns["bands"] = bands
        with pytest.raises(ValueError, match=f"bands {', '.join(bands)} .* reads g, r"):
            model.get_latent_representation(other)
    other.uns["bands"] = ["0", "1"]
    np.testing.assert_array_equal(model.get_latent_representation(other), expected)


def test_registered_curves_that_became_unusable_are_refused():
    adata = curves()
    model = untrained(adata)
    period = adata.obs["period"].copy()
    adata.obs["period"] = period.where(np.arange(6) != 2)
    with pytest.raises(ValueError, match=r"1 of 6 .* have no period"):
        model.get_anomaly_score()
    adata.obs["period"] = period
    adata.obsm["error"][3, 0] = 0.0
    with pytest.raises(ValueError, match=r"1 of 6 .* errors that are not positive"):
        model.get_anomaly_score()


def test_times_that_are_none():
    model = untrained(curves())
    for verb in (model.interpolate, lambda times: model.sample(2, times=times)):
        with pytest.raises(TypeError, match="times holds datetime64"):
            verb(pd.to_datetime(["2020-01-01", "2020-01-02"]))
        with pytest.raises(TypeError, match="times holds <U1"):
            verb(["a"])
        with pytest.raises(ValueError, match="times has shape"):
            verb(np.zeros((5, 3)))
        with pytest.raises(ValueError, match="NaN or infinite"):
            verb([0.0, np.nan])


def test_samples_of_curves_that_are_not_folded_reach_their_end():
    model = untrained(curves(), fold=False)
    a, b = (model.sample(1, times=[t], noise=False) for t in (0.0, 1.0))
    phases = []
    decode = model.module.decode

    def watched(z):
        process = decode(z)
        return lambda phase: phases.append(phase) or process(phase)

    model.module.decode = watched
    model.sample(1, times=[0.0, 1.0], noise=False)
    np.testing.assert_array_equal(phases[0][0, 0], [0.0, 1.0])
    assert a.obsm["time"].item() == 0.0 and b.obsm["time"].item() == 1.0


def test_too_few_curves_for_a_start_are_refused_before_training():
    adata = curves()
    LCVaDE.setup_anndata(adata)
    model = LCVaDE(adata, n_clusters=7, **SMALL)
    with pytest.raises(ValueError, match="7 components .* only 6 train"):
        model.train(1, accelerator="cpu", devices=1)
    assert not model.is_trained_


@pytest.mark.parametrize("score", [class_isolation_forests, class_mahalanobis])
def test_scores_take_lists_and_refuse_missing_classes(score):
    codes = np.random.default_rng(0).normal(size=(12, 2))
    labels, others = ["a", "b"] * 6, codes[:3] + 1.0
    found = score(codes.tolist(), labels, pd.DataFrame(others))
    np.testing.assert_array_equal(found, score(codes, np.array(labels), others))
    with pytest.raises(ValueError, match="labels has 1 missing"):
        score(codes, [*labels[:-1], None], others)
