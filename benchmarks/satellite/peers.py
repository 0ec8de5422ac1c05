"""Peers of models that segment: classifiers that see the time course of one pixel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from scipy.ndimage import uniform_filter
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mixvi.metrics import pixel_calibration, segmentation_scores
from mixvi.satellite import linear_interpolation

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
FOREST = {"n_estimators": 200, "min_samples_leaf": [1, 5]}
LOGISTIC = {"C": [0.01, 0.1, 1.0], "max_iter": 1000}


class Task(NamedTuple):
    """Tiles with what of their labels is shown, and all labels for scoring.

    Attributes
    ----------
    tiles
        ``obsm["labels"]`` is what a method may learn from: none of validation and test tiles.
    truth
        All labels ``(n, H, W)``.
    val, test
        Of each tile, whether it chooses settings, and whether it is scored.
    """

    tiles: AnnData
    truth: np.ndarray
    val: np.ndarray
    test: np.ndarray


def features(tiles: AnnData, neighbours: int | None = None) -> np.ndarray:
    """What a pixel's series says ``(n, H, W, F)``: statistics of valid dates, interpolated values.

    With ``neighbours`` also the mean of each over a square of so many pixels.
    """
    series, valid = tiles.obsm["series"], tiles.obsm["valid"]
    if "frame" in tiles.obsm:
        valid = valid & tiles.obsm["frame"][..., None, None, None]
    n, n_dates, n_bands, *_ = series.shape
    time = tiles.obsm["time"] if "time" in tiles.obsm else np.tile(np.arange(n_dates), (n, 1))
    filled = linear_interpolation(series, valid, time)
    seen = np.where(np.broadcast_to(valid, series.shape), series, np.nan).astype(np.float64)
    # a pixel that was never seen has the statistics of what it was filled with
    seen = np.where(valid.any(axis=1, keepdims=True), seen, filled)
    statistics = [*_quantiles(seen), np.nanmean(seen, 1), np.nanstd(seen, 1)]
    count = valid.any(axis=2).sum(axis=1)[:, None].astype(np.float64)
    planes = [*statistics, filled.reshape(n, n_dates * n_bands, *series.shape[3:]), count]
    found = np.moveaxis(np.concatenate(planes, axis=1), 1, -1)
    if neighbours is not None:
        around = uniform_filter(found, size=(1, neighbours, neighbours, 1), mode="nearest")
        found = np.concatenate([found, around], axis=-1)
    return found.astype(np.float32)


def _quantiles(x: np.ndarray) -> list[np.ndarray]:
    """Quantiles of the finite values along axis 1; NumPy's own go through pixels one by one."""
    ordered, last = np.sort(x, axis=1), np.isfinite(x).sum(axis=1, keepdims=True) - 1
    found = []
    for q in QUANTILES:
        below = np.floor(q * last).astype(int)
        ends = [np.take_along_axis(ordered, at, 1) for at in (below, np.minimum(below + 1, last))]
        found.append((ends[0] + (q * last - below) * (ends[1] - ends[0]))[:, 0])
    return found


def figures(task: Task, probabilities: np.ndarray) -> dict[str, float]:
    """Scores of probabilities ``(n, L, H, W)`` of the test tiles' labelled pixels."""
    truth, p = task.truth[task.test], probabilities[task.test]
    classes = task.tiles.uns["classes"]
    support = task.tiles.obsm["valid"][task.test]
    found = segmentation_scores(truth, p.argmax(1), classes, support)
    calibration = pixel_calibration(p, truth)
    scores = {
        "accuracy": found.accuracy,
        "mean_iou": found.mean_iou,
        # of a class that no shown label has the log-likelihood is minus infinity: no mean of it
        "ece": calibration.ece,
        "n_shown": int((task.tiles.obsm["labels"] >= 0).sum()),
        "n_scored": found.n_pixels,
    }
    if found.without_support.n_pixels:
        scores["accuracy_seen"] = found.with_support.accuracy
        scores["accuracy_never_seen"] = found.without_support.accuracy
    return scores


def validation_accuracy(task: Task, probabilities: np.ndarray) -> float:
    """Share of the validation tiles' labelled pixels that are right."""
    truth = task.truth[task.val]
    labelled = truth >= 0
    return float((probabilities[task.val].argmax(1) == truth)[labelled].mean())


def majority(task: Task) -> dict[str, float]:
    """The shares of the shown labels, everywhere."""
    labels = task.tiles.obsm["labels"]
    shares = np.bincount(labels[labels >= 0], minlength=len(task.tiles.uns["classes"]))
    p = np.broadcast_to((shares / shares.sum())[:, None, None], (len(shares), *labels.shape[1:]))
    return figures(task, np.broadcast_to(p, (len(labels), *p.shape)))


def forest(task: Task, seed: int, neighbours: int | None = None) -> dict:
    """Random forest, the field's default."""
    settings = dict(FOREST)
    n_trees = settings.pop("n_estimators")

    def make(**chosen):
        return RandomForestClassifier(n_trees, random_state=seed, n_jobs=1, **chosen)

    return _chosen(task, make, settings, neighbours)


def logistic(task: Task, seed: int) -> dict:
    """Logistic regression on standardised features."""

    def make(**chosen):
        model = LogisticRegression(max_iter=LOGISTIC["max_iter"], random_state=seed, **chosen)
        return make_pipeline(StandardScaler(), model)

    return _chosen(task, make, {"C": LOGISTIC["C"]}, None)


def _chosen(task: Task, make: Callable, grid: dict[str, list], neighbours: int | None) -> dict:
    """Figures of a classifier with the settings that are best on validation tiles."""
    x, labels = features(task.tiles, neighbours), task.tiles.obsm["labels"]
    shown, asked = labels >= 0, task.val | task.test
    best, most, best_settings = None, -1.0, {}
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        model = make(**settings).fit(x[shown], labels[shown])
        p = np.zeros((*labels.shape, len(task.tiles.uns["classes"])))
        # of classes that no label shows the probability is zero
        p[asked] = _placed(model, x[asked], p.shape[-1])
        p = np.moveaxis(p, -1, 1)
        accuracy = validation_accuracy(task, p)
        if accuracy > most:
            best, most, best_settings = p, accuracy, settings
    return figures(task, best) | {"chosen": str(best_settings)}


def _placed(model, x: np.ndarray, n_classes: int) -> np.ndarray:
    """Probabilities ``(..., L)`` of features ``(..., F)``."""
    p = model.predict_proba(x.reshape(-1, x.shape[-1]))
    out = np.zeros((len(p), n_classes))
    out[:, model.classes_] = p
    return out.reshape(*x.shape[:-1], n_classes)
