from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi import metrics


def test_a_map_with_numbers_scores_components_held_as_text():
    components = pd.Categorical(["0", "1", "1", "10"])
    labels = ["a", "b", "a", "b"]
    assert metrics.accuracy_by_overlap(components, labels, {0: "a", 1: "b", 10: "b"}) == 0.75
    assert metrics.accuracy_by_overlap([0, 1, 1, 10], labels, {"0": "a", "1": "b"}) == 0.5


def test_labels_may_be_numbers():
    assert metrics.accuracy_by_overlap(["0", "1"], [7, 8], {0: 7, 1: 7}) == 0.5


def test_surplus_components_count_only_under_overlap():
    components, labels = [0, 0, 1, 2], ["a", "a", "a", "b"]
    assert metrics.accuracy_by_overlap(components, labels) == 1
    assert metrics.hungarian_accuracy(components, labels) == 0.75


def test_active_units_at_a_known_kl():
    # KL(N(m, 1) || N(0, 1)) = m^2 / 2 nats
    mean = np.tile(np.sqrt(2 * np.array([0.0, 0.009, 0.011])), (4, 1))
    assert metrics.active_units(mean, np.ones_like(mean)) == 1
    assert metrics.active_units(mean, np.ones_like(mean), threshold=0.005) == 2


def test_usage_bad_input():
    ones = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        metrics.active_units(ones, ones[:1])
    with pytest.raises(ValueError, match="not their logs"):
        metrics.active_units(ones, ones - 1)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        metrics.used_components(ones[:, 0])
