"""What a series itself says of residuals in its gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scvi
import torch

from mixvi.datasets import toy_satellite_series
from mixvi.satellite import HierarchicalVAE
from mixvi.satellite.residuals import Hidden, carried_residuals
from mixvi.satellite.series import Series

T, SIDE = 12, 24


def a_series(x: torch.Tensor, observed: torch.Tensor, step: float = 10.0) -> Series:
    n_dates = x.shape[1]
    days = step * torch.arange(n_dates)[None]
    return Series(x, observed, torch.ones(1, n_dates, dtype=torch.bool), days)


def hidden_twice(residual: torch.Tensor) -> tuple[Series, Series]:
    """Values whose dates have a rectangle hidden each, and the same under more gaps."""
    rng, n_bands = np.random.default_rng(0), residual.shape[1]
    masks = torch.ones(2, 1, T, n_bands, SIDE, SIDE, dtype=torch.bool)
    for mask in masks:
        for t in range(T):
            row, column = rng.integers(0, SIDE - 10, 2)
            mask[0, t, :, row : row + 10, column : column + 10] = False
    x = residual.transpose(1, 2)
    return a_series(x, masks[0]), a_series(x, masks[0] & masks[1])


def carried(residual: np.ndarray):
    """Of residuals ``(C, T, H, W)`` from a mean of zero: what is carried, and what is hidden."""
    residual = torch.tensor(residual, dtype=torch.float32)[None]
    series, seen = hidden_twice(residual)
    mean, variance = torch.zeros_like(residual), torch.ones_like(residual)
    trial = Hidden(seen, mean, variance)
    found = carried_residuals(mean, series, [trial], torch.zeros(residual.shape[1]))
    hidden = ~series.observed.transpose(1, 2)
    return found, hidden


def left(found, hidden, residual: np.ndarray) -> float:
    """Share of the residuals' variance in gaps that is not explained."""
    truth = torch.tensor(residual, dtype=torch.float32)[None][hidden]
    return float((found.residual[hidden] - truth).square().mean() / truth.square().mean())


def test_modes_of_the_series_are_carried():
    rng = np.random.default_rng(1)
    # without a neighbour in time or space that is like it
    pattern = rng.choice([-1.0, 1.0], (SIDE, SIDE))
    residual = rng.normal(size=T)[:, None, None] * pattern
    found, hidden = carried(residual[None])
    assert left(found, hidden, residual[None]) < 0.05
    assert (found.sd_factor < 0.3).all()


def test_offsets_of_dates_are_carried_from_their_other_pixels():
    offsets = np.random.default_rng(2).normal(size=T)
    residual = np.broadcast_to(offsets[:, None, None], (T, SIDE, SIDE))[None]
    found, hidden = carried(residual)
    assert left(found, hidden, residual) < 0.05


def test_what_lasts_is_carried_from_dates():
    level = np.random.default_rng(3).normal(size=(1, 1, SIDE, SIDE))
    residual = np.broadcast_to(level, (1, T, SIDE, SIDE))
    found, hidden = carried(residual)
    assert left(found, hidden, residual) < 0.05


def test_noise_is_not_carried_and_deviations_are_scaled_to_it():
    noise = np.random.default_rng(4).normal(0, 2.0, (2, T, SIDE, SIDE))
    found, hidden = carried(noise)
    assert found.residual[hidden].square().mean() < 0.1 * 4.0
    torch.testing.assert_close(found.sd_factor, torch.full((2, T), 2.0), atol=0.2, rtol=0)
    assert found.known.all()


def whole_dates_hidden(x: np.ndarray, hidden: list[int], trials: list[list[int]], step: float):
    """A series ``(T, H, W)`` without some dates, and the same without those of each trial."""
    values = torch.tensor(x, dtype=torch.float32)[None, :, None]
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[:, hidden] = False
    series, under = a_series(values, observed, step), []
    for dates in trials:
        fewer = observed.clone()
        fewer[:, dates] = False
        under.append(series.with_values(values, fewer))
    return series, under


def test_the_season_of_other_years_is_carried_into_dates_that_are_hidden_as_a_whole():
    # each 10 days, three years; a peak in summer that the model does not know
    days = 10.0 * np.arange(110)
    peak = 2.0 * np.exp(-0.5 * ((days % 365.25 - 180.0) / 50.0) ** 2)
    x = np.broadcast_to(peak[:, None, None], (110, 8, 8))
    # the second summer is hidden, in trials the first or the third as well
    hidden, trials = list(range(48, 62)), [list(range(11, 25)), list(range(85, 98))]
    series, under = whole_dates_hidden(x, hidden, trials, 10.0)
    mean = torch.zeros(1, 1, 110, 8, 8)
    given = [Hidden(seen, mean, torch.ones_like(mean)) for seen in under]
    found = carried_residuals(mean, series, given, torch.ones(1))
    error = found.residual[0, 0, hidden].numpy() - x[hidden]
    shown = np.setdiff1d(np.arange(110), hidden)
    between = np.interp(days[hidden], days[shown], peak[shown]) - peak[hidden]
    assert np.sqrt(np.mean(error**2)) < 0.4 * np.sqrt(np.mean(between**2))


def test_where_the_model_knows_nothing_of_a_season_its_values_stand_for_it():
    rng = np.random.default_rng(7)
    days = 10.0 * np.arange(73)
    wave = np.sin(2 * np.pi * days / 365.25)
    x = np.broadcast_to(wave[:, None, None], (73, 8, 8))
    # each run the model says something else of dates that it does not see
    trials = [sorted(rng.choice(73, 15, replace=False)) for _ in range(4)]
    hidden = [5, 20, 33, 47, 60]
    series, under = whole_dates_hidden(x, hidden, trials, 10.0)

    def wrong_where_not_seen(series):
        right = torch.tensor(x.copy(), dtype=torch.float32)[None, None]
        wrong = torch.tensor(rng.normal(0, 2.0, (1, 1, 73, 1, 1)), dtype=torch.float32)
        return torch.where(series.observed.transpose(1, 2), right, wrong.expand_as(right))

    given = [Hidden(s, wrong_where_not_seen(s), torch.ones(1, 1, 73, 8, 8)) for s in under]
    mean = wrong_where_not_seen(series)
    found = carried_residuals(mean, series, given, torch.zeros(1))
    filled = (mean + found.residual)[0, 0, hidden].numpy()
    assert np.sqrt(np.mean((filled - x[hidden]) ** 2)) < 0.35


def test_heavy_tailed_errors_lie_within_intervals_as_often_as_they_should():
    errors = np.random.default_rng(8).standard_t(2.5, (1, T, SIDE, SIDE))
    found, hidden = carried(errors)
    left = (found.residual - torch.tensor(errors)[None]).abs()[hidden]
    factor = found.sd_factor[None, ..., None, None].expand_as(found.residual)[hidden]
    # scaled to the root mean square, 96 %
    assert 0.86 < (left <= 1.645 * factor).float().mean() < 0.94


def test_of_days_that_are_not_known_residuals_are_carried():
    residual = np.random.default_rng(9).normal(size=(1, T, 1, 1)) + np.zeros((1, T, SIDE, SIDE))
    residual = torch.tensor(residual, dtype=torch.float32)[None]
    series, seen = (replace(s, time=torch.zeros(1, T)) for s in hidden_twice(residual))
    mean = torch.zeros_like(residual)
    given = [Hidden(seen, mean, torch.ones_like(mean))]
    found = carried_residuals(mean, series, given, torch.zeros(1))
    assert left(found, ~series.observed.transpose(1, 2), residual[0].numpy()) < 0.05


def test_hidden_values_are_never_read():
    rng = np.random.default_rng(5)
    residual = rng.normal(size=(1, T, SIDE, SIDE)).cumsum(1)
    found, hidden = carried(residual)
    other = residual.copy()
    other[hidden[0].numpy()] = 1e3
    again, _ = carried(other)
    assert torch.equal(found.residual, again.residual)


def test_a_band_of_which_too_little_is_seen_is_left_to_training():
    mean = torch.randn(1, 2, T, SIDE, SIDE)
    series, seen = hidden_twice(torch.zeros_like(mean))
    observed = series.observed.clone()
    observed[:, :, 1] = False
    observed[:, 0, 1, 0, 0] = True
    series, seen = a_series(series.x, observed), a_series(series.x, observed & seen.observed)
    trial = Hidden(seen, mean, torch.ones_like(mean))
    found = carried_residuals(mean, series, [trial], torch.zeros(2))
    assert found.known.all(1).tolist() == [True, False]
    assert not found.known[1].any()
    assert (found.residual[:, 1] == 0).all()
    assert (found.sd_factor[1] == 1).all()


def model_of(n_dates: int, **changes):
    adata = toy_satellite_series(4, n_dates, 16, 2, seed=1)
    del adata.obsm["labels"]
    for key, change in changes.items():
        adata.obsm[key] = change(adata.obsm[key])
    scvi.settings.seed = 0
    HierarchicalVAE.setup_anndata(adata)
    model = HierarchicalVAE(adata, n_code=2, n_date_code=3, n_place_code=4)
    model.is_trained_ = True
    return model, adata


def test_residuals_of_each_series_bring_filled_values_closer():
    def shifted(series):
        # each date brighter or darker as a whole: an untrained model knows nothing of it
        rng = np.random.default_rng(0)
        return (series + rng.normal(0, 0.3, series.shape[:2])[..., None, None, None]).astype("f4")

    model, adata = model_of(10, series=shifted)
    truth, valid = adata.obsm["series"].copy(), adata.obsm["valid"]
    hidden = valid & (np.random.default_rng(1).uniform(size=valid.shape) < 0.2)
    adata.obsm["valid"] = valid & ~hidden
    at = np.broadcast_to(hidden, truth.shape)
    error = {}
    for how in ("trained", "series", "auto"):
        filled, sd = model.impute(residuals=how, return_sd=True)
        error[how] = np.abs(filled - truth)[at].mean()
        observed = np.broadcast_to(adata.obsm["valid"], truth.shape)
        assert np.array_equal(filled[observed], truth[observed])
        assert (sd[at] > 0).all()
    assert error["series"] < 0.7 * error["trained"]
    assert error["auto"] < 0.7 * error["trained"]


def test_few_dates_are_filled_as_training_found_unless_asked():
    model, _ = model_of(4)
    scvi.settings.seed = 1
    by_default = model.impute()
    scvi.settings.seed = 1
    np.testing.assert_array_equal(by_default, model.impute(residuals="trained"))
    assert np.isfinite(model.impute(residuals="series")).all()


def test_a_band_and_a_date_without_any_value_are_filled():
    def without(valid):
        valid = np.repeat(valid, 5, axis=2) if valid.shape[2] == 1 else valid.copy()
        valid[0, :, 1] = False
        valid[:, 3] = False
        return valid

    model, _ = model_of(9, valid=without)
    filled, sd, draws = model.impute(n_samples=2, return_sd=True, return_draws=True)
    assert all(np.isfinite(x).all() for x in (filled, sd, draws))


def test_a_tile_that_no_date_shows_much_of_is_filled():
    def corner(valid):
        valid = valid.copy()
        valid[0] = False
        valid[0, :, :, :2, :2] = True
        return valid

    model, adata = model_of(9, valid=corner)
    filled, sd = model.impute(return_sd=True)
    gaps = ~np.broadcast_to(adata.obsm["valid"], sd.shape)
    assert np.isfinite(filled).all()
    assert (sd[gaps] > 0).all()


def test_an_unknown_way_is_named():
    model, _ = model_of(4)
    with pytest.raises(ValueError, match="residuals=.kriging. is not known"):
        model.impute(residuals="kriging")
