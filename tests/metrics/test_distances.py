"""Permutation tests and principal components; the distances themselves are in test_populations."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mixvi import metrics


def draws(seed, n=40, shift=0.0, width=5):
    return np.random.default_rng(seed).normal(shift, 1, (n, width))


@pytest.mark.parametrize("distance", ["energy", "mmd"])
def test_a_test_is_the_distance_and_those_of_dealt_cells(distance):
    x, y = draws(0, 12), draws(1, 15, shift=0.5)
    of = {"energy": metrics.energy_distance, "mmd": metrics.mmd}[distance]
    options = {} if distance == "energy" else {"bandwidths": [1.0, 2.0]}
    test = metrics.permutation_test(x, y, distance, 20, seed=3, **options)
    assert test.value == pytest.approx(of(x, y, **options))
    rng, both = np.random.default_rng(3), np.vstack([x, y])
    own = np.repeat([1.0, 0.0], [12, 15])
    for found in test.null:
        first = rng.permutation(own) == 1
        assert found == pytest.approx(of(both[first], both[~first], **options))
    assert test.p_value == (1 + (test.null >= test.value).sum()) / 21


@pytest.mark.parametrize("distance", ["energy", "mmd"])
def test_p_values(distance):
    apart = metrics.permutation_test(draws(0), draws(1, shift=1), distance, 99)
    assert apart.p_value == 0.01
    alike = [
        metrics.permutation_test(draws(2 * i), draws(2 * i + 1), distance, 49).p_value
        for i in range(40)
    ]
    assert 0.35 < np.mean(alike) < 0.65
    with pytest.raises(ValueError, match="distance='w2' is not known"):
        metrics.permutation_test(draws(0), draws(1), "w2")


@pytest.mark.parametrize("distance", [metrics.energy_distance, metrics.mmd])
def test_on_principal_components_of_both_sides(distance):
    x, y = draws(0), draws(1, shift=0.3) * np.array([5, 4, 1, 0.1, 0.1])
    pca = PCA(2, random_state=0).fit(np.vstack([x, y]))
    expected = distance(pca.transform(x), pca.transform(y))
    assert distance(x, y, n_pcs=2) == pytest.approx(expected)
    assert distance(x, y, n_pcs=5) == pytest.approx(distance(x, y))
    # of few cells with many genes, too, none of one population is far from another
    few = [
        distance(draws(i, 12, width=300), draws(i + 50, 12, width=300), n_pcs=5) for i in range(9)
    ]
    apart = distance(draws(1, 12, 1.0, 300), draws(51, 12, width=300), n_pcs=5)
    assert abs(np.mean(few)) < 0.2 * apart
