"""Effects of categories that add up, against arithmetic by hand and fits anew."""

from __future__ import annotations

import numpy as np
import pytest

from mixvi.core.maths.additive import AdditiveWeights, combination_levels, side_by_side


def test_columns_side_by_side():
    np.testing.assert_array_equal(
        combination_levels((2, 3)), [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    )
    rows = side_by_side((2, 3))
    assert rows.shape == (6, 5)
    np.testing.assert_array_equal(rows[4], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(side_by_side((3,)), np.eye(3))


def test_both_drugs_do_what_each_does_alone():
    found = AdditiveWeights.of((2, 2), np.array([True, True, True, False]))
    np.testing.assert_array_equal(found.made, [3])
    np.testing.assert_allclose(found.weights[3], [-1, 1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.weights[:3, :3], np.eye(3))
    # of three means and three effects none can be left out
    assert not found.testable.any()


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 2)])
def test_leaving_one_out_is_a_fit_without_it(sizes):
    rng = np.random.default_rng(0)
    seen = np.ones(np.prod(sizes), bool)
    seen[[0, -1]] = False
    values = rng.normal(size=(len(seen), 2))
    found = AdditiveWeights.of(sizes, seen)
    design = side_by_side(sizes)
    assert found.testable.sum() > 5
    for code in np.flatnonzero(found.testable):
        others = seen.copy()
        others[code] = False
        effects = np.linalg.lstsq(design[others], values[others], rcond=None)[0]
        np.testing.assert_allclose(found.left_out[code] @ values, design[code] @ effects)
        np.testing.assert_allclose(found.left_out[code, ~others], 0.0, atol=1e-12)


def test_effects_that_are_not_told_apart():
    # a at 0 alone, b and c at 1 alone
    seen = np.array([True, False, False, True, False, True])
    found = AdditiveWeights.of((3, 2), seen)
    np.testing.assert_array_equal(found.told, seen)
    assert not len(found.made)
    assert not AdditiveWeights.of((2, 2), np.zeros(4, bool)).told.any()
