"""Distances of codes to their class, in spreads of that class."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from mixvi.lightcurves.class_distance import ClassDistance

N_AXES = 3


def codes(sizes=(400, 400), widths=(0.5, 2.0), seed=0):
    """Classes at places of their own, each as wide as told."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(sizes)), sizes)
    scale = np.asarray(widths)[classes][:, None]
    return 10.0 * classes[:, None] + scale * rng.normal(size=(len(classes), N_AXES)), classes


def fitted(points, classes, n_classes=2):
    distance = ClassDistance(n_classes, N_AXES)
    distance.fit(points, classes)
    return lambda z: distance(torch.as_tensor(z).float()).numpy()


def test_training_codes_have_the_same_median_and_spread_in_every_class():
    points, classes = codes()
    found = fitted(points, classes)(points)
    for k in range(2):
        low, middle, high = np.quantile(found[classes == k], [0.25, 0.5, 0.75])
        assert middle == pytest.approx(0.0, abs=1e-4)
        assert (high - low) / 1.349 == pytest.approx(1.0, abs=1e-3)


def test_a_code_is_as_strange_as_it_is_unusual_for_the_nearest_class():
    points, classes = codes((3000, 3000))
    score = fitted(points, classes)
    # four standard deviations off: log 16 by median and spread of the logs of chi-squared of three
    off = np.array([[-2.0, 0.0, 0.0], [10.0 + 8.0, 10.0, 10.0]])
    logs = np.log(chi2(N_AXES).ppf([0.25, 0.5, 0.75]))
    expected = (np.log(16.0) - logs[1]) / ((logs[2] - logs[0]) / 1.349)
    np.testing.assert_allclose(score(off), expected, atol=0.2)
    narrow, wide = score([[-2.0, 0.0, 0.0], [12.0, 10.0, 10.0]])
    assert narrow > wide + 2.0


def test_scale_and_place_of_the_codes_do_not_matter():
    points, classes = codes()
    rng = np.random.default_rng(1)
    turn, shift = rng.normal(size=(N_AXES, N_AXES)), rng.normal(size=N_AXES)
    turned = points @ turn + shift
    expected = fitted(points, classes)(points)
    np.testing.assert_allclose(fitted(turned, classes)(turned), expected, atol=0.01)


def test_a_class_with_few_codes_has_the_usual_distance_of_all():
    points, classes = codes((500, 3), (1.0, 1.0))
    found = fitted(points, classes)
    at_its_mean = points[classes == 1].mean(0, keepdims=True)
    assert found(at_its_mean)[0] < -2.0
    assert found(at_its_mean + 8.0)[0] > 2.0


def test_a_class_that_no_training_code_has_is_near_to_nothing():
    points, classes = codes()
    expected = fitted(points, classes)(points)
    np.testing.assert_array_equal(fitted(points, classes, n_classes=3)(points), expected)
