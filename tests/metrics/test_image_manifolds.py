"""Balls around features, by hand and where the expected shares are known."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from mixvi import metrics

SIGNED = {"pixel_range": (-100, 100)}


def on_a_line(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def pixels(images):
    # on the scale of the values above
    return images.flatten(1).double() * 100


def scores(real, generated, k, **options):
    return metrics.manifold_scores(real, generated, pixels, k, **SIGNED, **options)


def test_scores_by_hand():
    # radii of real images: 1, 1, 2.5; of generated ones: 3.1, 3.1, 5
    found = scores(on_a_line(-5, -4, -1.5), on_a_line(-3.1, 0, 5), 1)
    # -3.1 lies in the balls of -4 and -1.5, 0 in that of -1.5, 5 in none
    assert found == pytest.approx((2 / 3, 1.0, 3 / 3, 2 / 3))


def test_sides_far_apart_share_nothing_and_copies_everything():
    x = np.random.default_rng(0).normal(size=(40, 1, 1, 3)).astype(np.float32)
    assert scores(x, x - 50, 3) == (0, 0, 0, 0)
    same = scores(x, x, 3, batch_size=7)
    assert same[:2] == (1, 1) and same.coverage == 1


def test_of_one_distribution_density_is_one_and_coverage_as_expected():
    rng = np.random.default_rng(1)
    real, generated = rng.normal(size=(2, 1500, 1, 1, 2)).astype(np.float32)
    n, k = 1500, 5
    found = scores(real, generated, k)
    # Naeem et al. 2020, lemma 2
    assert found.coverage == pytest.approx(1 - comb(n - 1, k) / comb(2 * n - 1, k), abs=0.02)
    assert found.density == pytest.approx(1, abs=0.05)


def test_lost_modes_cost_recall_and_coverage_alone():
    rng = np.random.default_rng(2)
    real = rng.normal(size=(400, 1, 1, 2)).astype(np.float32)
    real[200:] += 30
    one_mode = rng.normal(size=(400, 1, 1, 2)).astype(np.float32)
    found = scores(real, one_mode, 5)
    assert found.precision > 0.9 and found.recall < 0.55 and found.coverage < 0.55


def test_messages():
    x = on_a_line(-1, 0, 1)
    with pytest.raises(ValueError, match="n_neighbors=3 must be less than the number of real"):
        scores(x, x, 3)
    with pytest.raises(ValueError, match="n_neighbors must be a positive"):
        scores(x, x, 0)
