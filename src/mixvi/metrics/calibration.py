"""Whether probabilities mean what they say (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mixvi.core.data.alignment import in_order_of, names_of


def reliability_curve(
    probs: pd.DataFrame | np.ndarray, labels: Sequence, n_bins: int = 15
) -> pd.DataFrame:
    """Accuracy against confidence, in bins of confidence of equal width.

    Parameters
    ----------
    probs
        Probabilities ``(n_obs, n_labels)``, columns named as the labels. Of an array, the
        labels are the column numbers.
    labels
        True labels ``(n_obs,)``; a Series by the names of the rows of a table.
    n_bins
        Number of bins.

    Returns
    -------
    DataFrame with ``confidence`` and ``accuracy`` (means) and ``n``, one row a bin that has cells.

    Raises
    ------
    ValueError
        If lengths differ, there are no cells, a label is missing, or a probability is missing or
        outside [0, 1].
    """
    probs = pd.DataFrame(probs)
    if len(labels) != len(probs):
        raise ValueError(f"probs has {len(probs)} rows, but there are {len(labels)} labels.")
    labels = np.asarray(in_order_of(names_of(probs), labels, "labels"))
    if len(probs) == 0:
        raise ValueError("There are no cells to score.")
    if pd.isna(labels).any():
        raise ValueError("Some labels are missing (NaN); drop those cells first.")
    values = probs.to_numpy(dtype=float)
    # single precision may exceed one by rounding
    if not ((values >= 0) & (values <= 1 + 1e-4)).all():
        raise ValueError("probs must lie in [0, 1] without missing values (NaN).")
    predicted = probs.columns.to_numpy().astype(str)[values.argmax(axis=1)]
    return confidence_bins(values.max(axis=1), predicted == labels.astype(str), n_bins)


def confidence_bins(confidence: np.ndarray, hit: np.ndarray, n_bins: int) -> pd.DataFrame:
    """The curve of :func:`reliability_curve` from confidences and whether each was right."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, but is {n_bins}.")
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": hit, "bin": bins})
    return frame.groupby("bin").agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), n=("accuracy", "size")
    )


def calibration_error(curve: pd.DataFrame) -> float:
    """Mean gap between confidence and accuracy of a curve, weighted by its numbers."""
    gaps = (curve["confidence"] - curve["accuracy"]).abs()
    return float((gaps * curve["n"]).sum() / curve["n"].sum())


def expected_calibration_error(
    probs: pd.DataFrame | np.ndarray, labels: Sequence, n_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, weighted by cells, in [0, 1]."""
    return calibration_error(reliability_curve(probs, labels, n_bins))
