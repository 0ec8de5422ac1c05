"""1, 5 and 10 % of the labels on the Kang part: cGMVAE beside SCANVI and logistic regression.

All see every cell's expression, the condition, and the labels of the shown cells (the same ones, at
least one a type); scores are on the hidden cells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scvi
from benchmarks.cells.kang import prepared
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import mixvi
from mixvi.cells.initial import principal_components

SETTINGS = {
    "data": "kang both_1556",
    "cgmvae": {
        "likelihood": "mse",
        "output_activation": "relu",
        "classification_weight": 50.0,
        "n_components": 5,
        "n_hidden": 128,
        "n_layers": 2,
        "n_latent_z": 12,
        "n_latent_w": 12,
        "dropout_rate": 0.15,
    },
    "cgmvae_train": {
        "init": "logistic",
        "init_epochs": 20,
        "max_epochs": 20,
        "lr": 1e-4,
        "labelled_fraction": 0.3,
    },
    "n_samples": 20,
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


def cgmvae(case: str, seed: int) -> dict[str, float]:
    """Semi-supervised cGMVAE on log-normalised expression, a logistic regression first."""
    shown = _shown(float(case.removesuffix(" %")) / 100, seed)
    cells = _cells(shown)
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(cells, labels_key="shown", condition_key="condition")
    model = mixvi.CGMVAE(cells, **SETTINGS["cgmvae"])
    model.train(mode="semi", **SETTINGS["cgmvae_train"], **TRAINER)
    probs = model.predict(soft=True, level="label", n_samples=SETTINGS["n_samples"])
    return _scores(probs, ~shown)


def scanvi(case: str, seed: int) -> dict[str, float]:
    """SCVI, then SCANVI, on counts with the condition as batch (its documented workflow)."""
    shown = _shown(float(case.removesuffix(" %")) / 100, seed)
    cells = _cells(shown)
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(cells, layer="counts", labels_key="shown", batch_key="condition")
    first = scvi.model.SCVI(cells, **SETTINGS["scanvi"])
    first.train(SETTINGS["scvi_epochs"], **TRAINER)
    model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="Unknown")
    model.train(
        SETTINGS["scanvi_epochs"], n_samples_per_label=SETTINGS["samples_per_label"], **TRAINER
    )
    return _scores(model.predict(soft=True), ~shown)


def logistic(case: str, seed: int) -> dict[str, float]:
    """Logistic regression on principal components, genes centred within each condition."""
    shown = _shown(float(case.removesuffix(" %")) / 100, seed)
    conditions = CELLS.obs["condition"].cat.codes.to_numpy()
    points = principal_components(CELLS.X, is_count=False, seed=seed, groups=conditions)
    points = points[:, : SETTINGS["n_pcs"]]
    model = LogisticRegression(max_iter=2000).fit(points[shown], TRUTH[shown])
    probs = pd.DataFrame(model.predict_proba(points), columns=model.classes_)
    return _scores(probs, ~shown)


METHODS = {"cGMVAE": cgmvae, "SCANVI": scanvi, "logistic regression on PCA": logistic}


def main() -> None:
    """Run all seeds and write the record."""
    compare("cells/label_transfer", METHODS, ["1 %", "5 %", "10 %"], SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
