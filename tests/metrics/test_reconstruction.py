from __future__ import annotations

import numpy as np
import pytest
import torch

from mixvi import metrics


def test_errors_by_hand():
    x = np.zeros((2, 1, 1, 2), dtype=np.float32)
    y = np.array([[1.0, -1.0], [3.0, 1.0]], dtype=np.float32).reshape(2, 1, 1, 2)
    assert metrics.mean_squared_error(x, y) == 3
    assert metrics.log_mse(torch.tensor(x), y) == pytest.approx(np.log(3))
    # mean differences: 0 and -2 of the rows, -1 of both together
    assert metrics.mean_bias_sq(x, y) == pytest.approx(1)
    assert metrics.mean_bias_sq(x, y, batch_size=1) == pytest.approx(2)


def test_the_last_batch_counts_by_its_size():
    x = np.array([[1.0], [1.0], [4.0]])
    assert metrics.mean_bias_sq(x, np.zeros_like(x), batch_size=2) == pytest.approx((2 + 16) / 3)


def test_codes_from_a_known_encoder():
    # the posterior mean of z under x = z + e, e ~ N(0, 1), is x / 2; its error is 1 / 2
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 5))
    x = z + rng.normal(size=z.shape)
    assert metrics.log_mse(z, x / 2) == pytest.approx(np.log(0.5), abs=0.02)
    assert metrics.log_mse(z, z) == -np.inf


def test_errors_bad_input():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\), estimate \(2, 2\)"):
        metrics.log_mse(x, x[:, :2])
    with pytest.raises(ValueError, match="rows of values"):
        metrics.mean_squared_error(x[0], x[0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.mean_bias_sq(x, x + np.inf)
    with pytest.raises(ValueError, match="batch_size must be a positive"):
        metrics.mean_bias_sq(x, x, batch_size=0)
