from __future__ import annotations

import numpy as np
import pytest
from whittaker_eilers import WhittakerSmoother

from mixvi import satellite
from mixvi.satellite import interpolation

NAMES = (
    "band_mean",
    "nearest_date",
    "linear_interpolation",
    "seasonal_climatology",
    "savitzky_golay",
    "whittaker",
    "hants",
    "dineof",
)


def fill(name, series, valid, time, **options):
    function = getattr(satellite, name)
    if name == "band_mean":
        return function(series, valid)
    return function(series, valid, time, **options)


@pytest.fixture
def seasons():
    """Three years of two bands that move together; 40 % hidden, one date as a whole."""
    rng = np.random.default_rng(0)
    time = np.cumsum(rng.integers(5, 20, 80)).astype(float)
    season = np.sin(2 * np.pi * time / 365.25)
    weights = rng.uniform(0.1, 0.3, (2, 1, 2, 5, 4))
    truth = 0.4 + weights * season[:, None, None, None]
    valid = rng.random((2, 80, 1, 5, 4)) > 0.4
    valid[:, 7] = False
    return truth, valid, time


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("junk", [np.nan, 1e9])
def test_gaps_are_never_read(seasons, name, junk):
    truth, valid, time = seasons
    expected = fill(name, truth, valid, time)
    np.testing.assert_array_equal(fill(name, np.where(valid, truth, junk), valid, time), expected)
    seen = np.broadcast_to(valid, truth.shape)
    np.testing.assert_array_equal(expected[seen], truth[seen])


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("band_mean", 0.2),
        ("nearest_date", 0.1),
        ("linear_interpolation", 0.02),
        ("seasonal_climatology", 0.03),
        ("savitzky_golay", 0.03),
        ("whittaker", 0.03),
        ("hants", 0.005),
        ("dineof", 0.01),
    ],
)
def test_a_smooth_season_is_found(seasons, name, largest):
    truth, valid, time = seasons
    error = fill(name, truth, valid, time) - truth
    assert 1e-6 < np.sqrt(np.mean(error**2)) < largest


@pytest.mark.parametrize("name", NAMES)
def test_a_pixel_never_seen_gets_the_mean_of_its_band(seasons, name):
    truth, valid, time = seasons
    valid[0, :, 0, 2, 2] = False
    filled = fill(name, truth, valid, time)
    assert np.isfinite(filled).all()
    if name != "dineof":
        for band in range(2):
            mean = truth[:, :, band][valid[:, :, 0]].mean()
            np.testing.assert_allclose(filled[0, :, band, 2, 2], mean)


def of_one(values):
    return np.array(values, float).reshape(1, -1, 1, 1, 1)


def test_by_hand():
    series, time = of_one([9, 1, 9, 9, 4, 9]), np.array([0.0, 1, 2, 3, 4, 10])
    valid = of_one([0, 1, 0, 0, 1, 0]).astype(bool)
    linear = satellite.linear_interpolation(series, valid, time)
    np.testing.assert_allclose(linear.ravel(), [1, 1, 2, 3, 4, 4])
    nearest = satellite.nearest_date(series, valid, time)
    np.testing.assert_allclose(nearest.ravel(), [1, 1, 1, 4, 4, 4])
    assert satellite.band_mean(series, valid).ravel().tolist() == [2.5, 1, 2.5, 2.5, 4, 2.5]


def test_climatology_looks_at_other_years():
    time = np.array([100.0, 200, 100 + 365.25, 200 + 365.25])
    valid = of_one([1, 1, 0, 1]).astype(bool)
    filled = satellite.seasonal_climatology(of_one([1, 5, np.nan, 6]), valid, time)
    assert filled.ravel().tolist() == [1, 5, 1, 6]
    # nothing within 16 days of the year: within 128 there is the other date of both years
    valid = of_one([0, 1, 0, 1]).astype(bool)
    filled = satellite.seasonal_climatology(of_one([1, 5, np.nan, 6]), valid, time)
    assert filled.ravel().tolist() == [5.5, 5, 5.5, 6]


def smooth_of(x, weights, time, smoothing):
    """Whittaker's smooth of one series by its normal equations."""
    first = np.diff(np.eye(len(time)), axis=0) / np.diff(time)[:, None]
    second = np.diff(first, axis=0) / (time[2:] - time[:-2])[:, None]
    return np.linalg.solve(np.diag(weights) + smoothing * second.T @ second, weights * x)


@pytest.mark.parametrize("smoothing", [1e2, 1e6])
def test_whittaker_solves_the_normal_equations(seasons, smoothing):
    truth, valid, time = seasons
    filled = satellite.whittaker(truth, valid, time, smoothing)
    for place in ((0, 1, 2), (1, 4, 3)):
        i, row, column = place
        seen = valid[i, :, 0, row, column]
        x = truth[i, :, 1, row, column]
        expected = np.where(seen, x, smooth_of(x, seen.astype(float), time, smoothing))
        np.testing.assert_allclose(filled[i, :, 1, row, column], expected, atol=1e-9)


def test_whittaker_is_that_of_the_package(seasons):
    truth, valid, time = seasons
    weights = valid[0, :, 0, 0, 0].astype(float)
    smoother = WhittakerSmoother(1e5, 2, len(time), list(time), list(weights))
    expected = smoother.smooth(list(truth[0, :, 0, 0, 0]))
    seen = np.broadcast_to(valid[0], truth[0].shape).astype(float)
    found = interpolation._penalised(truth[0], seen, time, 1e5)[:, 0, 0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["linear_interpolation", "savitzky_golay", "whittaker", "dineof"])
def test_one_date(name):
    series, valid = np.arange(4.0).reshape(1, 1, 1, 2, 2), np.ones((1, 1, 1, 2, 2), bool)
    valid[..., 1, 1] = False
    filled = fill(name, series, valid, np.zeros(1))
    np.testing.assert_allclose(filled.ravel(), [0, 1, 2, 1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"time": np.zeros(80)}, "increasing order"),
        ({"time": np.arange(3.0)}, "time has the shape"),
        ({"valid": np.ones((2, 80, 1, 5, 5), bool)}, "valid has the shape"),
        ({"valid": np.zeros((2, 80, 1, 5, 4), bool)}, "A band has no valid entry"),
        ({"series": np.full((2, 80, 2, 5, 4), np.nan)}, "series is not finite at"),
        ({"series": np.zeros((2, 80))}, r"series must be \(n, T, C, H, W\)"),
    ],
)
def test_bad_input(seasons, change, match):
    given = dict(zip(("series", "valid", "time"), seasons, strict=True)) | change
    with pytest.raises(ValueError, match=match):
        satellite.linear_interpolation(**given)
    if "time" not in change:
        with pytest.raises(ValueError, match=match):
            satellite.band_mean(given["series"], given["valid"])


def test_bad_numbers(seasons):
    for name, options, match in (
        ("savitzky_golay", {"window": 4}, "window must be odd"),
        ("whittaker", {"smoothing": 0}, "smoothing must be a positive number"),
        ("dineof", {"held_out": 1.0}, "held_out must lie in"),
    ):
        with pytest.raises(ValueError, match=match):
            fill(name, *seasons, **options)


def test_hants_finds_the_season_below_overlooked_clouds():
    time = np.arange(0.0, 730, 16)
    season = (0.5 + 0.2 * np.cos(2 * np.pi * (time - 190) / 365.25)).reshape(1, -1, 1, 1, 1)
    valid = np.ones(season.shape, bool)
    valid[:, ::3] = False
    seen = season.copy()
    seen[:, 4::9] -= 0.3
    filled = satellite.hants(seen, valid, time, tolerance=0.05)
    gaps = ~valid
    assert np.abs(filled - season)[gaps].max() < 0.01
    # without rejection clouds draw the course down
    assert np.abs(satellite.hants(seen, valid, time) - season)[gaps].max() > 0.05


def test_hants_without_a_date_or_with_few_is_filled_otherwise():
    time, valid = np.arange(0.0, 320, 16), np.zeros((1, 20, 1, 1, 3), bool)
    valid[0, [2, 6], 0, 0, 0] = True
    valid[0, :, 0, 0, 1] = True
    series = np.broadcast_to(np.linspace(0, 1, 20).reshape(1, -1, 1, 1, 1), valid.shape)
    filled = satellite.hants(series, valid, time)[0, :, 0, 0]
    expected = satellite.linear_interpolation(series, valid, time)[0, :, 0, 0]
    np.testing.assert_allclose(filled[:, [0, 2]], expected[:, [0, 2]])
