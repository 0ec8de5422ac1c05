from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi import metrics


def test_two_bins_by_hand():
    probs = np.array([[0.6, 0.4]] * 4 + [[0.1, 0.9]] * 6)
    labels = [0, 0, 1, 1] + [1] * 6
    curve = metrics.reliability_curve(probs, labels, n_bins=10)
    np.testing.assert_allclose(curve, [[0.6, 0.5, 4], [0.9, 1.0, 6]])
    # 0.4 * |0.6 - 0.5| + 0.6 * |0.9 - 1.0|
    assert metrics.expected_calibration_error(probs, labels, 10) == pytest.approx(0.1)


def test_certainty_belongs_to_the_last_bin():
    curve = metrics.reliability_curve(np.array([[1.0, 0.0]], dtype=np.float32), [0], n_bins=4)
    assert curve.index.tolist() == [3]


@pytest.mark.parametrize(
    ("values", "labels", "n_bins", "words"),
    [
        ([[0.5, 0.5], [np.nan, 0.5]], ["a", "b"], 5, "NaN"),
        ([[1.5, -0.5]], ["a"], 5, r"\[0, 1\]"),
        ([[0.5, 0.5]], [None], 5, "labels are missing"),
        ([[0.5, 0.5]], ["a"], 0, "n_bins"),
        (np.empty((0, 2)), [], 5, "no cells"),
    ],
)
def test_bad_input(values, labels, n_bins, words):
    probs = pd.DataFrame(values, columns=["a", "b"])
    with pytest.raises(ValueError, match=words):
        metrics.expected_calibration_error(probs, labels, n_bins)
