"""Whether probabilities mean what they say (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def reliability_curve(probs: pd.DataFrame, labels: Sequence, n_bins: int = 15) -> pd.DataFrame:
    """Accuracy against confidence, in bins of confidence of equal width.

    Parameters
    ----------
    probs
        Probabilities ``(n_obs, n_labels)``, columns named as the labels.
    labels
        True labels ``(n_obs,)``.
    n_bins
        Number of bins.

    Returns
    -------
    DataFrame with ``confidence`` and ``accuracy`` (means) and ``n``, one row a bin that has cells.

    Raises
    ------
    ValueError
        If lengths differ.
    """
    labels = np.asarray(labels).astype(str)
    if len(labels) != len(probs):
        raise ValueError(f"probs has {len(probs)} rows, but there are {len(labels)} labels.")
    values = probs.to_numpy()
    confidence = values.max(axis=1)
    predicted = probs.columns.to_numpy().astype(str)[values.argmax(axis=1)]
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": predicted == labels, "bin": bins})
    curve = frame.groupby("bin").agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), n=("accuracy", "size")
    )
    return curve


def expected_calibration_error(probs: pd.DataFrame, labels: Sequence, n_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, weighted by cells, in [0, 1]."""
    curve = reliability_curve(probs, labels, n_bins)
    gaps = (curve["confidence"] - curve["accuracy"]).abs()
    return float((gaps * curve["n"]).sum() / curve["n"].sum())
