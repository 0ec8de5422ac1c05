"""What filled gaps are made of: neighbouring dates, other gaps in training, carried residuals."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from made_up import minibatch

from mixvi.datasets import toy_satellite_series
from mixvi.satellite import HierarchicalVAE, SymmetricHVAE
from mixvi.satellite.ladder_encoder import DateHead
from mixvi.satellite.series import between_dates
from mixvi.satellite.setup import dates


def model_of(cls=HierarchicalVAE, **options):
    adata = toy_satellite_series(6, 4, 8, 3, seed=1)
    del adata.obsm["labels"]
    scvi.settings.seed = 0
    cls.setup_anndata(adata)
    model = cls(adata, n_code=2, n_date_code=3, n_place_code=4, **options)
    model.is_trained_ = True
    return model, next(iter(model._inputs(adata, None, 6)))


def test_dates_between_known_ones_are_read_linearly():
    x = torch.tensor([[[1.0, 9.0, 9.0, 4.0, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    known = torch.tensor([[[True, False, False, True, False], [False] * 5]])
    days = torch.tensor([[0.0, 10.0, 20.0, 30.0, 50.0]])
    expected = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 4.0], [0.0] * 5]])
    torch.testing.assert_close(between_dates(x, known, days), expected)
    # days that are not known: the order
    torch.testing.assert_close(between_dates(x, known, torch.zeros(1, 5)), expected)
    shorter = torch.tensor([[0.0, 5.0, 20.0, 30.0, 50.0]])
    assert between_dates(x, known, shorter)[0, 0, 1] == pytest.approx(1.5)


def test_other_gaps_are_those_of_other_dates_and_leave_something():
    series = minibatch(n=6, n_dates=5, gaps=0.5, seed=1)
    torch.manual_seed(0)
    fewer = series.under_other_gaps(0.9)
    assert not (fewer.observed & ~series.observed).any()
    hidden = (series.observed & ~fewer.observed).flatten(2).any(2)
    assert 0 < hidden.float().mean() < 1
    assert (fewer.x[~fewer.observed] == 0).all()
    assert series.under_other_gaps(0.0) is series
    nothing = series.with_values(series.x, series.observed & False)
    one = torch.arange(5)[None, :, None, None, None] == 2
    single = series.with_values(series.x, nothing.observed | one)
    assert all(single.under_other_gaps(0.99).observed.flatten(1).any(1))


def test_a_date_of_which_nothing_is_seen_has_its_neighbours_features():
    head = DateHead(2, 3, "relu")
    features = torch.randn(1, 2, 3, 4, 4)
    seen = torch.ones(1, 1, 3, 4, 4, dtype=torch.bool)
    seen[:, :, 1] = False
    dates = torch.stack([torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([[0.0, 0.5, 1.0]])], 1)
    other = features.clone()
    other[:, :, 1] = 7.0
    assert torch.equal(head(features, seen, dates), head(other, seen, dates))
    # a part of a date stands for it
    seen[:, :, 0, 0] = False
    other[:, :, 0, 0] = 7.0
    assert torch.equal(head(features, seen, dates), head(other, seen, dates))


def test_residuals_are_carried_into_gaps():
    model, series = model_of()
    module = model.module
    module.residual_share.fill_(0.5)
    x, observed = module.target(series)
    mean = torch.ones_like(x)
    carried = module.carried(mean, series)
    between = between_dates(torch.where(observed, x, 0.0) - 1.0, observed, series.time)
    expected = torch.where(observed.any(2, keepdim=True), 0.5 * between, 0.0)
    torch.testing.assert_close(carried, expected)


def test_calibration_finds_what_residuals_and_deviations_are_worth():
    model, series = model_of()
    module = model.module
    last = module.decoder.blocks[-1].rest[-1][-1]
    with torch.no_grad():
        # a decoder that says 0 with variance 1
        last.weight.zero_()
        last.bias.zero_()
    lasting = series.with_values(torch.full_like(series.x, 0.8), series.observed)
    module.calibrate_gaps([lasting], 0.5, 1)
    torch.testing.assert_close(module.residual_share, torch.ones(5))
    assert (module.sd_factor < 1e-2).all()
    torch.manual_seed(0)
    noise = series.with_values(2.0 * torch.randn_like(series.x), series.observed)
    module.calibrate_gaps([noise], 0.5, 1)
    assert (module.residual_share < 0.9).all()
    assert module.sd_factor.mean() == pytest.approx(2.0, abs=0.3)


def test_evidence_of_bits_tells_dates_and_pixels_apart_from_the_start():
    model, series = model_of(SymmetricHVAE)
    model.module.spread(series)
    evidence = model.module.evidence(series)
    for name in ("date_code", "place_code"):
        values = evidence[name].eta[0].transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.std(1), torch.full((len(values),), 3.0))


@pytest.mark.parametrize("cls", [SymmetricHVAE, HierarchicalVAE])
def test_codes_of_pixels_are_part_of_series_alone(cls):
    model, series = model_of(cls)
    path = model.module.posterior(series, model.module.evidence(series))
    assert path.z["place_code"].shape == (6, 4, 1, 8, 8)
    assert [layer.kernel for layer in model.module.table] == [1]
    images = toy_satellite_series(6, 1, 8, 3, seed=1)
    del images.obsm["labels"]
    cls.setup_anndata(images)
    alone = cls(images, n_place_code=4)
    assert alone.module.top == ["code"]
    assert len(alone.module.table) == 4


def test_what_lasts_at_pixels_fills_their_gaps():
    rng = np.random.default_rng(0)
    adata = toy_satellite_series(8, 6, 8, 3, seed=2)
    del adata.obsm["labels"]
    shape = adata.obsm["series"].shape
    level = rng.uniform(size=(8, 1, shape[2], 8, 8))
    adata.obsm["series"] = (level + 0.05 * rng.normal(size=shape)).astype(np.float32)
    valid = rng.random((8, 6, 1, 8, 8)) < 0.6
    valid[:, 0] |= ~valid.any(1)
    adata.obsm["valid"] = valid
    scvi.settings.seed = 0
    HierarchicalVAE.setup_anndata(adata)
    model = HierarchicalVAE(adata)
    model.train(2, batch_size=4, enable_progress_bar=False)
    filled, sd = model.impute(n_samples=4, return_sd=True)
    gap = np.broadcast_to(~valid, filled.shape)
    error = (filled - adata.obsm["series"])[gap]
    # of levels 0.29, of the noise and of two neighbours' mean 0.06
    assert np.sqrt(np.mean(error**2)) < 0.08
    assert 0.8 < (np.abs(error) < 1.645 * sd[gap]).mean() < 0.97


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -np.inf])
def test_a_date_of_an_acquisition_is_never_made_up(unknown):
    adata = toy_satellite_series(4, 5, 8, 3, cloud_fraction=0.2, seed=2)
    adata.obsm["time"] = adata.obsm["time"].astype(float)
    adata.obsm["time"][1, 2] = unknown
    with pytest.raises(
        ValueError, match=r"'time'\] .*lacks the date of an acquisition of tile 'tile_1'"
    ):
        HierarchicalVAE.setup_anndata(adata)
    # nothing is seen on it
    adata.obsm["valid"][1, 2] = False
    adata.obsm["frame"][1, 2] = False
    HierarchicalVAE.setup_anndata(adata)


@pytest.mark.parametrize("as_what", ["nan", "inf", "datetime64"])
def test_unknown_dates_of_absent_acquisitions_lie_between_the_others(as_what):
    adata = toy_satellite_series(4, 5, 8, 3, missing_dates=0.3, cloud_fraction=0.2, seed=2)
    absent, time = ~adata.obsm["frame"], adata.obsm["time"]
    assert absent[:, 1:-1].any()
    keys = ("series", "valid", "frame", "time")
    args = {f"{name}_key": name for name in keys}
    known = dates(adata, args)
    if as_what == "datetime64":
        adata.obsm["time"] = time.astype("datetime64[D]")
        adata.obsm["time"][absent] = np.datetime64("NaT", "D")
    else:
        adata.obsm["time"] = np.where(absent, float(as_what), time)
    found = dates(adata, args)
    inner = absent.copy()
    # before the first and after the last there is nothing to read between
    inner[:, [0, -1]] = False
    inner &= np.maximum.accumulate(~absent, 1) & np.maximum.accumulate(~absent[:, ::-1], 1)[:, ::-1]
    np.testing.assert_allclose(found[inner | ~absent], known[inner | ~absent])
    assert np.isfinite(found).all()
    HierarchicalVAE.setup_anndata(adata)
    model = HierarchicalVAE(adata, width=0.25)
    model.train(1, batch_size=2, enable_progress_bar=False)
    filled = model.impute(n_samples=2)
    assert np.isfinite(filled).all() and np.abs(filled).max() < 10
