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


def test_accuracy_by_either_mapping():
    # clusters 0 and 1 are a, 2 is b with one a; one of the two loses its label one to one
    labels = ["a", "a", "a", "a", "a", "b", "b"]
    clusters = [0, 0, 0, 1, 2, 2, 2]
    assert metrics.clustering_accuracy(labels, clusters) == pytest.approx(6 / 7)
    assert metrics.clustering_accuracy(labels, clusters, "hungarian") == pytest.approx(5 / 7)
    # fewer clusters than labels: the roles of the two arguments differ
    assert metrics.clustering_accuracy(labels, [0] * 7) == pytest.approx(5 / 7)
    with pytest.raises(ValueError, match="mapping='greedy' is not known"):
        metrics.clustering_accuracy(labels, clusters, "greedy")
    with pytest.raises(ValueError, match="one length"):
        metrics.clustering_accuracy(labels, clusters[:3])


def test_information_and_rand_index_by_hand():
    labels, halves = [0, 0, 1, 1], ["x", "y", "x", "y"]
    assert metrics.nmi(labels, ["p", "p", "q", "q"]) == metrics.ari(labels, [7, 7, 3, 3]) == 1
    # independent halves: no pair is together in both; (0 - 4 / 6) / (2 - 4 / 6)
    assert metrics.nmi(labels, halves) == pytest.approx(0, abs=1e-12)
    assert metrics.ari(labels, halves) == pytest.approx(-0.5)
    # one cluster split in two: I = H(labels) = ln 2, H(clusters) = 1.5 ln 2
    assert metrics.nmi(labels, [0, 0, 1, 2]) == pytest.approx(2 / 2.5)
    with pytest.raises(ValueError, match="missing"):
        metrics.nmi(["a", None], [0, 1])
    with pytest.raises(ValueError, match="no cells"):
        metrics.ari([], [])
