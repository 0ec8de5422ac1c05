"""Scores of label maps: accuracy and intersection over union, void left out; calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from mixvi.core.data.keys import VOID
from mixvi.metrics.calibration import calibration_error, confidence_bins

_CHUNK = 2**24


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over the labelled pixels of a whole set, as :func:`segmentation_scores` gives them.

    Attributes
    ----------
    accuracy
        Share of the labelled pixels that are predicted right; NaN of none.
    iou
        Intersection over union TP / (TP + FP + FN) by class; NaN where a class is neither labelled
        nor predicted.
    mean_iou
        Mean of ``iou`` over the classes that have one.
    frequencies
        Share of each class of the labelled pixels.
    majority_accuracy
        Accuracy of predicting the most frequent class everywhere.
    n_pixels
        Number of labelled pixels.
    confusion
        Pixels by labelled class (rows) and predicted class (columns); the column ``"none"`` counts
        predictions that are no class.
    with_support, without_support
        The same of the pixels that were seen at least once and of those that never were; None
        unless ``support`` was given.
    by_date
        The same of each date's maps, in order, of labels that are a map a date; else empty. The
        scores themselves pool the dates: pixels count alike whatever their date.
    """

    accuracy: float
    iou: pd.Series
    mean_iou: float
    frequencies: pd.Series
    majority_accuracy: float
    n_pixels: int
    confusion: pd.DataFrame
    with_support: SegmentationScores | None = None
    without_support: SegmentationScores | None = None
    by_date: tuple[SegmentationScores, ...] = ()


class PixelCalibration(NamedTuple):
    """Expected calibration error in [0, 1], and mean negative log-likelihood in nats a pixel."""

    ece: float
    nll: float


def segmentation_scores(
    labels: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str] | int,
    support: np.ndarray | None = None,
    count_void_fp: bool = False,
) -> SegmentationScores:
    """Accuracy, IoU and their like from one confusion matrix over all maps, by torchmetrics.

    Only labelled pixels count: void and unlabelled ones are no hit, no false alarm and no miss,
    whatever is predicted there. A prediction that is no class (negative) on a labelled pixel is a
    miss.

    Parameters
    ----------
    labels
        Codes ``(n, H, W)`` or, one map a date, ``(n, T, H, W)``: classes from 0, -1 unlabelled, -2
        void.
    predicted
        Codes of the same shape.
    classes
        Names of the classes, or their number.
    support
        Whether a pixel was ever seen: bool of the shape of ``labels``, or the validity of the
        series, ``(n, T, C or 1, H, W)``, of which any is meant (of each date for maps by date).
        Scores with and without support are then given, too.
    count_void_fp
        Also count predictions on void pixels as false alarms of their class. Hruška (2023, table
        4.3) did; for comparison alone.

    Raises
    ------
    ValueError
        If shapes differ, or a code lies beyond the classes.
    """
    names = _class_names(classes)
    labels, predicted = _codes("labels", labels, names), _codes("predicted", predicted, names)
    if labels.shape != predicted.shape:
        raise ValueError(f"labels has the shape {labels.shape}, predicted {predicted.shape}.")
    seen = None if support is None else _support(support, labels.shape)
    scores = _scores(labels, predicted, names, count_void_fp, seen)
    if labels.ndim < 4:
        return scores
    by_date = (
        _scores(
            labels[:, t],
            predicted[:, t],
            names,
            count_void_fp,
            seen if seen is None else seen[:, t],
        )
        for t in range(labels.shape[1])
    )
    return replace(scores, by_date=tuple(by_date))


def pixel_calibration(
    probabilities: np.ndarray, labels: np.ndarray, n_bins: int = 15
) -> PixelCalibration:
    """Whether probabilities of classes mean what they say, over labelled pixels.

    Parameters
    ----------
    probabilities
        ``(n, L, H, W)`` or, one map a date, ``(n, T, L, H, W)``; they sum to 1 over the L classes.
    labels
        Codes ``(n, H, W)`` or ``(n, T, H, W)``; -1 (unlabelled) and -2 (void) do not count.
    n_bins
        Bins of confidence for the calibration error.

    Returns
    -------
    Both scores; a probability of 0 counts as the smallest of single precision (87 nats).

    Raises
    ------
    ValueError
        If shapes do not fit, no pixel is labelled, a label is beyond the classes, or probabilities
        of labelled pixels are not finite and in [0, 1].
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    expected = (*probabilities.shape[:-3], *probabilities.shape[-2:])
    if probabilities.ndim not in (4, 5) or labels.shape != expected:
        raise ValueError(
            f"probabilities has the shape {probabilities.shape}, labels {labels.shape}; they must "
            "be (n, L, H, W) and (n, H, W), or (n, T, L, H, W) and (n, T, H, W)."
        )
    n_classes = probabilities.shape[-3]
    labels = _codes("labels", labels, range(n_classes))
    labelled = labels >= 0
    if not labelled.any():
        raise ValueError("No pixel is labelled.")
    rows, targets = np.moveaxis(probabilities, -3, -1)[labelled], labels[labelled]
    # single precision may exceed one by rounding
    if not ((rows >= 0) & (rows <= 1 + 1e-4)).all():
        raise ValueError("probabilities must lie in [0, 1] without missing values (NaN).")
    of_label = np.take_along_axis(rows, targets[:, None], axis=1)[:, 0].astype(np.float64)
    nll = -np.log(of_label.clip(np.finfo(np.float32).tiny)).mean()
    curve = confidence_bins(rows.max(axis=1), rows.argmax(axis=1) == targets, n_bins)
    return PixelCalibration(calibration_error(curve), float(nll))


def _scores(
    labels: np.ndarray,
    predicted: np.ndarray,
    names: list[str],
    count_void_fp: bool,
    seen: np.ndarray | None = None,
) -> SegmentationScores:
    """Of all pixels and, where it is told which were seen, of these and of the others."""
    parts = () if seen is None else (seen, ~seen)
    parts = [_scores(labels[part], predicted[part], names, count_void_fp) for part in parts]
    n = len(names)
    counts = _confusion(labels, predicted, n, count_void_fp)
    confusion, on_void = counts[:n], counts[n, :n]
    of_class, hits = confusion.sum(axis=1), np.diagonal(confusion)
    n_pixels = int(of_class.sum())
    union = of_class + confusion[:, :n].sum(axis=0) - hits + on_void
    # 0 / 0, which is NaN: a class without union, or no labelled pixel
    with np.errstate(invalid="ignore"):
        iou = pd.Series(hits / union, index=names, name="iou")
        frequencies = pd.Series(of_class / np.float64(n_pixels), index=names, name="frequency")
    return SegmentationScores(
        accuracy=float(hits.sum() / n_pixels) if n_pixels else float("nan"),
        iou=iou,
        mean_iou=float(iou.mean()),
        frequencies=frequencies,
        majority_accuracy=float(frequencies.max()),
        n_pixels=n_pixels,
        confusion=pd.DataFrame(confusion, index=names, columns=[*names, "none"]),
        with_support=parts[0] if parts else None,
        without_support=parts[1] if parts else None,
    )


def _confusion(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, count_void: bool
) -> np.ndarray:
    """Counts (L + 1, L + 1): row L is of void pixels if they count, column L of no class."""
    metric = MulticlassConfusionMatrix(n_classes + 1, validate_args=False)
    labels, predicted = labels.ravel(), predicted.ravel()
    for start in range(0, labels.size, _CHUNK):
        target, guess = labels[start : start + _CHUNK], predicted[start : start + _CHUNK]
        counted = (target >= 0) | (count_void & (target == VOID))
        target, guess = (np.where(x < 0, n_classes, x)[counted] for x in (target, guess))
        metric.update(torch.from_numpy(guess), torch.from_numpy(target))
    return metric.confmat.numpy()


def _support(support: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    support = np.asarray(support, bool)
    if support.ndim == 5:
        support = support.any(axis=2)
        if len(shape) == 3:
            support = support.any(axis=1)
    if support.shape != shape:
        raise ValueError(f"support stands for {support.shape} pixels, but labels for {shape}.")
    return support


def _class_names(classes: Sequence[str] | int) -> list[str]:
    names = range(classes) if isinstance(classes, int | np.integer) else classes
    names = [str(name) for name in names]
    if not names:
        raise ValueError("classes is empty.")
    return names


def _codes(name: str, codes: np.ndarray, classes: Sequence) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers, but has the dtype {codes.dtype}.")
    codes = codes.astype(np.int64)
    if codes.size and codes.max() >= len(classes):
        raise ValueError(
            f"{name} has the code {codes.max()}, but there are {len(classes)} classes."
        )
    return codes
