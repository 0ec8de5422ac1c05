from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi import metrics
from mixvi.core.data.keys import UNLABELLED, VOID

NAMES = ["water", "forest", "crop", "snow"]
# crop is predicted once and never labelled; snow is neither
LABELS = np.array([[[0, 0, 0, 1], [1, 1, VOID, VOID], [UNLABELLED, 0, 1, VOID]]])
PREDICTED = np.array([[[0, 0, 1, 1], [1, 2, 0, VOID], [1, VOID, 1, 1]]])


def test_by_hand():
    """Water: TP 2, FN 2 (one as no class). Forest: TP 3, FP 1, FN 1. Crop: FP 1."""
    scores = metrics.segmentation_scores(LABELS, PREDICTED, NAMES)
    assert scores.n_pixels == 8
    assert scores.accuracy == 5 / 8
    iou = pd.Series([2 / 4, 3 / 5, 0.0, np.nan], index=NAMES, name="iou")
    pd.testing.assert_series_equal(scores.iou, iou)
    assert scores.mean_iou == pytest.approx((2 / 4 + 3 / 5) / 3)
    assert scores.frequencies.tolist() == [0.5, 0.5, 0, 0] and scores.majority_accuracy == 0.5
    assert scores.confusion.loc["water"].tolist() == [2, 1, 0, 0, 1]
    assert scores.with_support is None


def test_false_alarms_on_void_count_on_demand():
    """Void pixels were called water, no class and forest."""
    scores = metrics.segmentation_scores(LABELS, PREDICTED, NAMES, count_void_fp=True)
    assert scores.iou.tolist()[:3] == [2 / 5, 3 / 6, 0.0]
    assert scores.accuracy == 5 / 8 and scores.n_pixels == 8


def test_predictions_off_the_labels_change_nothing():
    elsewhere = np.where(LABELS < 0, 3, PREDICTED)
    one = metrics.segmentation_scores(LABELS, PREDICTED, NAMES)
    other = metrics.segmentation_scores(LABELS, elsewhere, NAMES)
    pd.testing.assert_frame_equal(one.confusion, other.confusion)
    assert one.mean_iou == other.mean_iou


@pytest.mark.parametrize("from_validity", [False, True])
def test_three_numbers(from_validity):
    support = np.zeros(LABELS.shape, bool)
    support[:, :2] = True
    given = support
    if from_validity:
        # seen on the second of two dates, in one of three bands
        given = np.zeros((1, 2, 3, 3, 4), bool)
        given[:, 1, 2] = support
    scores = metrics.segmentation_scores(LABELS, PREDICTED, 4, given)
    assert (scores.accuracy, scores.n_pixels) == (5 / 8, 8)
    assert (scores.with_support.accuracy, scores.with_support.n_pixels) == (4 / 6, 6)
    assert (scores.without_support.accuracy, scores.without_support.n_pixels) == (1 / 2, 2)
    assert list(scores.iou.index) == ["0", "1", "2", "3"]


def test_maps_by_date_and_many_maps():
    """One confusion matrix of all, not the mean of the maps'."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(-2, 3, (2, 3, 2, 4, 4))
    of_dates = metrics.segmentation_scores(labels, predicted, 3)
    joined = metrics.segmentation_scores(labels.reshape(1, 6, 16), predicted.reshape(1, 6, 16), 3)
    pd.testing.assert_series_equal(of_dates.iou, joined.iou)
    valid = rng.random((3, 2, 1, 4, 4)) < 0.5
    scores = metrics.segmentation_scores(labels, predicted, 3, valid)
    assert scores.with_support.n_pixels == ((labels >= 0) & valid[:, :, 0]).sum()
    assert len(scores.by_date) == 2
    for t, of_date in enumerate(scores.by_date):
        alone = metrics.segmentation_scores(labels[:, t], predicted[:, t], 3, valid[:, t, 0])
        pd.testing.assert_frame_equal(of_date.confusion, alone.confusion)
        assert of_date.without_support.accuracy == alone.without_support.accuracy
    assert sum(of_date.n_pixels for of_date in scores.by_date) == scores.n_pixels
    assert scores.with_support.by_date == alone.by_date == ()


def test_nothing_labelled():
    scores = metrics.segmentation_scores(np.full((1, 2, 2), VOID), np.zeros((1, 2, 2), int), 2)
    assert scores.n_pixels == 0
    assert np.isnan([scores.accuracy, scores.mean_iou, scores.majority_accuracy]).all()


@pytest.mark.parametrize(
    ("labels", "predicted", "support", "match"),
    [
        (LABELS, PREDICTED[:, :2], None, "labels has the shape"),
        (LABELS + 4, PREDICTED, None, "labels has the code 5, but there are 4 classes"),
        (LABELS, PREDICTED.astype(float), None, "predicted must be whole numbers"),
        (LABELS, PREDICTED, np.ones((1, 2, 2), bool), "support stands for"),
    ],
)
def test_bad_maps(labels, predicted, support, match):
    with pytest.raises(ValueError, match=match):
        metrics.segmentation_scores(labels, predicted, NAMES, support)


def test_calibration_ignores_pixels_without_a_label():
    probabilities = np.array([[0.9, 0.6], [0.2, np.nan], [0.5, 7.0]])
    # (n, L, H, W) of two classes: three rows of two pixels
    probabilities = np.stack([probabilities, 1 - probabilities])[None]
    labels = np.array([[[0, 1], [1, UNLABELLED], [UNLABELLED, VOID]]])
    found = metrics.pixel_calibration(probabilities, labels)
    assert found.nll == pytest.approx(-np.log([0.9, 0.4, 0.8]).mean())
    # three bins of one pixel: gaps 0.1, 0.6 and 0.2
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.2) / 3)


def test_calibration_is_that_of_cells():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), (2, 5, 5)).transpose(0, 3, 1, 2)
    labels = rng.integers(0, 3, (2, 5, 5))
    rows = probabilities.transpose(0, 2, 3, 1).reshape(-1, 3)
    expected = metrics.expected_calibration_error(rows, labels.ravel())
    assert metrics.pixel_calibration(probabilities, labels).ece == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "label", "match"),
    [
        (np.nan, 0, "without missing values"),
        (0.5, VOID, "No pixel is labelled"),
        (0.5, 2, "code 2"),
    ],
)
def test_calibration_of_bad_input(value, label, match):
    with pytest.raises(ValueError, match=match):
        metrics.pixel_calibration(np.full((1, 2, 1, 1), value), np.full((1, 1, 1), label))
    with pytest.raises(ValueError, match="probabilities has the shape"):
        metrics.pixel_calibration(np.full((1, 2, 1, 1), 0.5), np.zeros((1, 2, 1), int))
