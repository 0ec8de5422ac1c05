from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mixvi import metrics


@pytest.fixture
def case():
    """Two bands on six dates: 1 and 2-4 hidden of one pixel; estimate off by 0.1 and by 0.2."""
    truth = np.random.default_rng(0).uniform(0.1, 0.5, (1, 6, 2, 1, 2))
    hidden = np.zeros((1, 6, 1, 1, 2), bool)
    hidden[0, 1, 0, 0, 0] = hidden[0, 2:5, 0, 0, 1] = True
    valid = ~hidden
    estimate = truth.copy()
    estimate[0, 1, :, 0, 0] += 0.1
    estimate[0, 2:5, :, 0, 1] -= 0.2
    return truth, estimate, hidden, valid


def value(scores, metric, band="all", gap="all"):
    row = scores[(scores.metric == metric) & (scores.band == band) & (scores.gap == gap)]
    assert len(row) == 1
    return row["value"].item()


def test_by_hand(case):
    truth, estimate, hidden, valid = case
    sd = np.full(truth.shape, 0.1)
    scores = metrics.imputation_scores(
        truth, estimate, hidden, valid=valid, sd=sd, bands=["red", "nir"]
    )
    mse = (0.01 + 3 * 0.04) / 4
    assert value(scores, "rmse") == pytest.approx(mse**0.5)
    assert value(scores, "rmse", "nir") == pytest.approx(mse**0.5)
    assert value(scores, "mae") == pytest.approx(0.175)
    assert value(scores, "psnr") == pytest.approx(-10 * np.log10(mse))
    assert value(scores, "rmse", gap="1") == pytest.approx(0.1)
    assert value(scores, "rmse", "red", "3-5") == pytest.approx(0.2)
    assert set(scores.gap) == {"all", "1", "3-5"}
    assert scores[scores.metric == "rmse"].set_index(["band", "gap"]).n["all", "3-5"] == 6
    density = stats.norm.logpdf([0.1, 0.2, 0.2, 0.2], scale=0.1)
    assert value(scores, "nll") == pytest.approx(-density.mean())
    # one of four lies within 1.645 standard deviations
    assert value(scores, "coverage_90") == 0.25


def test_interval_instead_of_deviation(case):
    truth, estimate, hidden, _ = case
    interval = estimate - 0.15, estimate + 0.25
    scores = metrics.imputation_scores(truth, estimate, hidden, interval=interval)
    assert value(scores, "coverage_90") == 1.0
    assert "nll" not in set(scores.metric) and set(scores.gap) == {"all"}


def test_spectral_angle():
    truth = np.array([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 2, 1, 1)
    estimate = np.array([[0.0, 3.0], [2.0, 2.0]]).reshape(1, 2, 2, 1, 1)
    hidden = np.ones((1, 2, 1, 1, 1), bool)
    scores = metrics.imputation_scores(truth, estimate, hidden)
    assert value(scores, "spectral_angle") == pytest.approx(45, abs=1e-5)
    # a spectrum of which a band was seen has none
    part = np.ones(truth.shape, bool)
    part[0, 0, 0] = False
    scores = metrics.imputation_scores(truth, estimate, part)
    assert value(scores, "spectral_angle") == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("junk", [np.nan, 1e9])
def test_only_hidden_entries_count(case, junk):
    truth, estimate, hidden, valid = case
    sd = np.full(truth.shape, 0.1)
    expected = metrics.imputation_scores(truth, estimate, hidden, valid=valid, sd=sd)
    changed = [np.where(hidden, x, junk) for x in (truth, estimate, sd)]
    found = metrics.imputation_scores(*changed[:2], hidden, valid=valid, sd=changed[2])
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_gap_lengths():
    valid = np.array([[0, 0, 1, 0, 1, 1, 0, 0, 0]], bool)
    assert metrics.gap_lengths(valid).tolist() == [[2, 2, 0, 1, 0, 0, 3, 3, 3]]
    assert metrics.gap_lengths(np.zeros((1, 4, 1), bool)).ravel().tolist() == [4] * 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden": np.zeros((1, 6, 1, 1, 2), bool)}, "hidden marks no entry"),
        ({"valid": np.ones((1, 6, 1, 1, 2), bool)}, "both hidden and valid"),
        ({"estimate": np.full((1, 6, 2, 1, 2), np.nan)}, "estimate is not finite at 8"),
        ({"estimate": np.zeros((1, 6, 2, 1, 1))}, "estimate has the shape"),
        ({"sd": np.zeros((1, 6, 2, 1, 2))}, "sd must be positive"),
        ({"bands": ["red"]}, "1 names in bands, but 2 bands"),
    ],
)
def test_bad_input(case, change, match):
    given = dict(zip(("truth", "estimate", "hidden"), case, strict=False)) | change
    with pytest.raises(ValueError, match=match):
        metrics.imputation_scores(**given)


def test_a_single_band_has_no_spectral_angle(case):
    truth, estimate, hidden, valid = (x[:, :, :1] for x in case)
    scores = metrics.imputation_scores(truth, estimate, hidden, valid=valid)
    assert "spectral_angle" not in set(scores.metric)
