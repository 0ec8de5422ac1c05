"""1, 5 and 10 % of the labels on the Kang part: cGMVAE beside SCANVI and logistic regression.

All see every cell's expression, the condition, and the labels of the shown cells (the same ones, at
least one a type); scores are on the hidden cells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from benchmarks.cells.kang import prepared
from sklearn.metrics import f1_score

import mixvi

CPU = {"accelerator": "cpu", "enable_progress_bar": False}
SETTINGS = {
    "data": "kang both_1556",
    "scanvi": {"n_hidden": 128, "n_layers": 2, "n_latent": 12},
    "scvi_epochs": 200,
    "scanvi_epochs": 25,
    "samples_per_label": 100,
    "n_pcs": 30,
}
CELLS = prepared()
TRUTH = CELLS.obs["cell_type"].astype(str).to_numpy()


def _shown(share: float, seed: int) -> np.ndarray:
    """Mask of the cells whose label is shown: a random share, and at least one of each type."""
    rng = np.random.default_rng(seed)
    shown = rng.random(CELLS.n_obs) < share
    for name in np.unique(TRUTH):
        if not shown[TRUTH == name].any():
            shown[rng.choice(np.flatnonzero(TRUTH == name))] = True
    return shown


def _cells(shown: np.ndarray):
    cells = CELLS.copy()
    cells.obs["shown"] = np.where(shown, TRUTH, "Unknown")
    del cells.obs["cell_type"]
    return cells


def _scores(probs: pd.DataFrame, hidden: np.ndarray) -> dict[str, float]:
    probs, truth = probs[hidden], TRUTH[hidden]
    predicted = probs.columns.to_numpy().astype(str)[probs.to_numpy().argmax(1)]
    return {
        "accuracy": float((predicted == truth).mean()),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
        "ece": mixvi.metrics.expected_calibration_error(probs, truth),
    }
