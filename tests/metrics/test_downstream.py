from __future__ import annotations

import numpy as np
import pytest

from mixvi import metrics


def test_downstream_task_by_the_number_of_labels():
    rng = np.random.default_rng(0)
    factors = {"kind": rng.integers(0, 4, 1500), "size": rng.integers(0, 3, 1500)}
    codes = np.stack([*factors.values(), rng.normal(size=1500)], 1)
    found = metrics.downstream_probe(
        codes, factors, sizes=(10, 100, 1000), n_test=500, probe="logistic"
    )
    assert float(found) == pytest.approx(1.0, abs=0.01)
    assert found.accuracy.shape == (3, 3)
    assert found.sample_efficiency == pytest.approx(
        found.accuracy.loc[100, "mean"] / found.accuracy.loc[1000, "mean"]
    )
    with pytest.raises(ValueError, match="1500 rows are too few"):
        metrics.downstream_probe(codes, factors)
    with pytest.raises(ValueError, match="sizes is empty"):
        metrics.downstream_probe(codes, factors, sizes=())
    twice = metrics.downstream_probe(
        codes, factors, sizes=(1000, 100, 10, 100), n_test=500, probe="logistic"
    )
    assert twice.accuracy.equals(found.accuracy)
    # a training set of one class predicts it
    one = metrics.downstream_probe(
        codes, {"kind": np.r_[np.zeros(1400), 1, np.zeros(99)]}, sizes=(10,), n_test=100
    )
    assert float(one) > 0.98 and np.isnan(one.sample_efficiency)


def test_perfect_codes_have_the_accuracy_that_bounds_all_others():
    rng = np.random.default_rng(0)
    sizes = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
    factors = {name: rng.integers(0, size, 2100) for name, size in sizes.items()}
    codes = np.hstack([np.stack(list(factors.values()), 1), rng.normal(0, 1e-3, (2100, 5))])
    found = metrics.downstream_probe(codes, factors, sizes=(100,), n_test=2000)
    assert float(found) == pytest.approx(0.714, abs=0.05)
