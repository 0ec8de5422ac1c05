"""Temperatures against their optimum, quantiles against the coverage they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixvi.core.maths.calibration import (
    conformal_quantile,
    fit_confidence_temperature,
    fit_temperature,
    log_grouped,
    log_tempered,
)


def drawn(n=20_000, scale=1.0):
    """Logits and classes drawn by their probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(n, 4, generator=generator)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator).view(-1)
    return scale * logits, targets


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_scale(scale):
    assert fit_temperature(*drawn(scale=scale)) == pytest.approx(scale, rel=0.05)


def test_classes_of_several_columns():
    logits, targets = drawn(scale=3.0)
    split = torch.stack([logits, logits - 1e9], dim=-1).flatten(1)
    groups = torch.arange(8) // 2
    expected = fit_temperature(logits, targets)
    assert fit_temperature(split, targets, groups) == pytest.approx(expected, rel=1e-3)
    probs = log_grouped(log_tempered(split, 2.0), groups, 4).exp()
    torch.testing.assert_close(probs, (logits / 2.0).softmax(-1))


def test_a_few_rows_that_are_right_do_not_make_it_sure_of_all():
    logits = torch.tensor([[4.0, 0.0]] * 10)
    targets = torch.zeros(10, dtype=torch.long)
    assert 0.5 < fit_temperature(logits, targets, prior_sd=1.0) < 1.0
    assert fit_temperature(logits, targets) < 0.1


@pytest.mark.parametrize("scale", [0.5, 1.0, 30.0])
def test_being_right_tells_the_temperature(scale):
    """As well as classes do, also where some classes have no column."""
    logits, targets = drawn(scale=scale)
    right = targets == logits.argmax(-1)
    assert fit_confidence_temperature(logits, right) == pytest.approx(scale, rel=0.06)
    # half of what was right belongs to no column
    unknown = right * (torch.arange(len(right)) % 2)
    temperature = fit_confidence_temperature(logits, unknown)
    sure = log_tempered(logits, temperature).exp().amax(-1)
    assert temperature > 1.5 * scale
    assert sure.mean() == pytest.approx(float(unknown.float().mean()), abs=0.05)


def test_shares_are_as_good_as_rows():
    logits, targets = drawn(200)
    right = (targets == logits.argmax(-1)).double()
    halves = fit_confidence_temperature(logits, 0.5 * right + 0.25)
    twice = fit_confidence_temperature(
        logits.repeat(4, 1), torch.cat([right, right, torch.ones(200), torch.zeros(200)])
    )
    assert halves == pytest.approx(twice, rel=1e-3)


def test_the_quantile_is_exceeded_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    beyond = [
        (scores := rng.normal(size=50))[-1] > conformal_quantile(scores[:-1], 0.1)
        for _ in range(4000)
    ]
    assert np.mean(beyond) == pytest.approx(0.1, abs=0.015)
    assert conformal_quantile(np.arange(9.0), 0.1) == 8
    assert conformal_quantile(np.arange(8.0), 0.1) == math.inf
