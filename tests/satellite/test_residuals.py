"""What a series itself says of residuals in its gaps."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch

from mixvi.datasets import toy_satellite_series
from mixvi.satellite import HierarchicalVAE
from mixvi.satellite.residuals import Hidden, carried_residuals
from mixvi.satellite.series import Series

T, SIDE = 12, 24


def a_series(observed: torch.Tensor) -> Series:
    n_bands = observed.shape[2]
    x = torch.zeros(1, T, n_bands, SIDE, SIDE)
    days = 10.0 * torch.arange(T)[None]
    return Series(x, observed, torch.ones(1, T, dtype=torch.bool), days)


def hidden_twice(n_bands: int = 1, seed: int = 0) -> tuple[Series, Series]:
    """A series whose dates have a rectangle hidden each, and the same under more gaps."""
    rng = np.random.default_rng(seed)
    masks = torch.ones(2, 1, T, n_bands, SIDE, SIDE, dtype=torch.bool)
    for mask in masks:
        for t in range(T):
            row, column = rng.integers(0, SIDE - 10, 2)
            mask[0, t, :, row : row + 10, column : column + 10] = False
    return a_series(masks[0]), a_series(masks[0] & masks[1])


def carried(residual: np.ndarray, variance: float = 1.0):
    """Of residuals ``(C, T, H, W)``: what is carried, and what is hidden."""
    residual = torch.tensor(residual, dtype=torch.float32)[None]
    series, seen = hidden_twice(residual.shape[1])
    trial = Hidden(seen, residual, torch.full_like(residual, variance))
    found = carried_residuals(residual, series, [trial], torch.zeros(residual.shape[1]))
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


def test_hidden_values_are_never_read():
    rng = np.random.default_rng(5)
    residual = rng.normal(size=(1, T, SIDE, SIDE)).cumsum(1)
    found, hidden = carried(residual)
    other = residual.copy()
    other[hidden[0].numpy()] = 1e3
    again, _ = carried(other)
    assert torch.equal(found.residual, again.residual)


def test_a_band_of_which_too_little_is_seen_is_left_to_training():
    series, seen = hidden_twice(2)
    observed = series.observed.clone()
    observed[:, :, 1] = False
    observed[:, 0, 1, 0, 0] = True
    series, seen = a_series(observed), a_series(observed & seen.observed)
    residual = torch.randn(1, 2, T, SIDE, SIDE)
    trial = Hidden(seen, residual, torch.ones_like(residual))
    found = carried_residuals(residual, series, [trial], torch.zeros(residual.shape[1]))
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
