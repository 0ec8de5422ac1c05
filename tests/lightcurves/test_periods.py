"""Folding, searching for periods, epochs and features."""

from __future__ import annotations

import numpy as np
import pytest
from long_tables import long_table
from scipy import stats

from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import curve_features, find_epochs, find_periods, fold, from_tables
from mixvi.lightcurves.fourier import fourier_curve, fourier_fit


def test_phases_are_those_of_the_formula():
    time = np.array([[2_450_000.25, 2_450_001.0], [3.0, -1e-20]])
    np.testing.assert_allclose(fold(time, [1.0, 2.0]), [[0.25, 0.0], [0.5, 0.0]], atol=1e-9)
    np.testing.assert_allclose(fold(time[:1], [1.0], [0.25]), [[0.0, 0.75]], atol=1e-9)


def test_a_series_is_found_again():
    rng = np.random.default_rng(0)
    truth = np.array([[12.0, 0.3, 0.1, 0.2, -0.1], [10.0, 1.0, 0.0, 0.0, 0.5]])
    phase, valid = rng.random((2, 80)), np.ones((2, 80), bool)
    y = fourier_curve(truth, phase)
    valid[:, 60:], y[:, 60:] = False, np.nan
    found = fourier_fit(phase, y, np.full(y.shape, 0.1), valid, n_harmonics=2)
    np.testing.assert_allclose(found, truth, atol=5e-3)


def test_the_period_of_pulsation_is_found():
    pytest.importorskip("astropy", reason="the extra lightcurves is not installed")
    adata = synthetic_light_curves(2, ["RRAB", "RRC"], n_points=(60, 80), years=1.0)
    truth = adata.obs.pop("period")
    find_periods(adata, min_period=0.2, max_period=1.0)
    np.testing.assert_allclose(adata.obs["period"], truth, rtol=1e-3)
    assert adata.obs["period_power"].between(0, 1).all()


@pytest.mark.parametrize("n_terms", [1, 3])
def test_nifty_ls_finds_the_same_periods(n_terms, monkeypatch):
    pytest.importorskip("nifty_ls", reason="nifty-ls, the fast method, is not installed")
    adata = synthetic_light_curves(2, ["RRAB", "RRC"], n_points=(60, 80), years=1.0)
    search = {"min_period": 0.2, "max_period": 1.0, "n_terms": n_terms}
    find_periods(adata, key_added="fast", **search)
    monkeypatch.setattr("mixvi.lightcurves.periods.find_spec", lambda name: None)
    find_periods(adata, key_added="plain", **search)
    np.testing.assert_allclose(adata.obs["fast"], adata.obs["plain"], rtol=1e-6)
    np.testing.assert_allclose(adata.obs["fast_power"], adata.obs["plain_power"], atol=1e-3)


def test_epochs_bring_curves_of_a_shape_to_one_phase():
    adata = synthetic_light_curves(20, ["EA"], n_points=(150, 200))
    truth = adata.obs["epoch"].to_numpy()
    find_epochs(adata, n_harmonics=6, key_added="found")
    off = fold(truth[:, None], adata.obs["period"], adata.obs["found"].to_numpy())[:, 0]
    off = np.minimum(off, 1 - off)
    # the made-up shape is faintest at phase 0
    assert np.median(off) < 0.02


@pytest.mark.parametrize(("find", "key"), [(find_epochs, "epoch"), (find_periods, "period")])
def test_a_column_of_ones_own_is_not_replaced_without_a_word(find, key):
    pytest.importorskip("astropy", reason="the extra lightcurves is not installed")
    adata = synthetic_light_curves(1, ["RRAB"], n_points=(20, 30), years=0.2)
    catalogue = adata.obs[key].copy()
    find(adata, key_added="found")
    assert adata.obs[key].equals(catalogue)
    with pytest.warns(UserWarning, match=rf"replaces obs\['{key}'\].*key_added"):
        find(adata)
    # what was found here before is found again in silence
    find(adata)
    assert adata.uns[key]["found_by"] == find.__name__
    # and what has been changed since then is not
    adata.obs[key] = 5.0
    with pytest.warns(UserWarning, match=rf"replaces obs\['{key}'\]"):
        find(adata)


def test_notes_and_powers_of_others_are_not_replaced_without_a_word():
    pytest.importorskip("astropy", reason="the extra lightcurves is not installed")
    adata = synthetic_light_curves(1, ["RRAB"], n_points=(20, 30), years=0.2)
    adata.obs["mine_power"], adata.uns["other"] = 1.0, [1, 2]
    with pytest.warns(UserWarning, match=r"replaces obs\['mine_power'\]"):
        find_periods(adata, key_added="mine")
    with pytest.warns(UserWarning, match=r"replaces uns\['other'\]"):
        find_periods(adata, key_added="other")
    with pytest.warns(UserWarning, match=r"find_epochs replaces obs\['mine'\]"):
        find_epochs(adata, key_added="mine")
    assert adata.uns["mine"]["found_by"] == "find_epochs"


def test_features_are_those_of_each_curve():
    table = long_table().drop(index=[3, 30])
    adata = from_tables(table)
    adata.obs["period"] = [0.5, 1.0, 2.0, 3.0]
    found = curve_features(adata)
    for name, own in table.groupby("object_id"):
        x = own["magnitude"].to_numpy()
        row = found.loc[name]
        np.testing.assert_allclose(row["mean"], x.mean(), rtol=1e-6)
        np.testing.assert_allclose(row["spread"], x.std(), rtol=1e-4)
        np.testing.assert_allclose(row["skewness"], stats.skew(x), atol=1e-3)
        np.testing.assert_allclose(row["kurtosis"], stats.kurtosis(x), atol=1e-3)
        period = adata.obs["period"][name]
        order = np.argsort(np.mod(own["time"], period).to_numpy())
        ratio = np.mean(np.diff(x[order]) ** 2) / (2 * x.var())
        np.testing.assert_allclose(row["folded_scatter"], ratio, rtol=1e-3)
        np.testing.assert_allclose(row["log_period"], np.log(period))


def test_ratios_of_a_known_series():
    rng = np.random.default_rng(0)
    table = long_table(n_objects=1, n_points=200)
    phase = np.mod(table["time"], 2.0) / 2.0
    wave = np.cos(2 * np.pi * phase + 0.4) + 0.5 * np.cos(4 * np.pi * phase + 1.5)
    table["magnitude"] = 12 + 0.3 * wave + rng.normal(0, 1e-4, len(table))
    adata = from_tables(table)
    adata.obs["period"] = 2.0
    row = curve_features(adata, ["a1", "r21", "phi21"]).iloc[0]
    np.testing.assert_allclose(row, [0.3, 0.5, 1.5 - 0.8], rtol=0.02)


def test_bands_have_features_of_their_own():
    table = long_table(bands=("g", "r"))
    adata = from_tables(table, band_key="band")
    adata.obs["colour"] = range(4)
    found = curve_features(adata, ["mean", "colour"])
    assert found.columns.tolist() == ["mean_g", "mean_r", "colour"]
    own = table[(table["object_id"] == "star 0") & (table["band"] == "r")]
    np.testing.assert_allclose(found["mean_r"].iloc[0], own["magnitude"].mean(), rtol=1e-6)


def test_features_that_need_periods_say_so():
    adata = from_tables(long_table())
    with pytest.raises(KeyError, match="find_periods"):
        curve_features(adata, ["log_period"])
    adata.obs["period"] = [1.0, 0.0, -1.0, 2.0]
    with pytest.raises(ValueError, match=r"2 of 4 curves .*'star 1'\) have a period that is not"):
        curve_features(adata, ["log_period"])
    with pytest.raises(KeyError, match="Did you mean 'skewness'"):
        curve_features(adata, ["skewnes"])


@pytest.mark.parametrize("name", ["min_period", "max_period"])
def test_bounds_of_periods_are_positive_numbers(name):
    pytest.importorskip("astropy", reason="the extra lightcurves is not installed")
    adata = synthetic_light_curves(1, ["RRAB"], n_points=(20, 30))
    with pytest.raises((TypeError, ValueError), match=name):
        find_periods(adata, **{name: "a"})
