"""5 % of the labels on the Kang part: cGMVAE beside SCANVI, same split, same run.

Both see every cell's expression, the condition, and the labels of the shown cells; scores are on
the hidden ones. Both methods' accuracy, macro F1 and calibration error are recorded.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scvi
from kang_cells import prepared
from record import medians, quiet, write
from sklearn.metrics import f1_score

import mixvi

SETTINGS = {
    "share": 0.05,
    "cgmvae": {
        "likelihood": "mse",
        "output_activation": "relu",
        "classification_weight": 50.0,
        "n_hidden": 128,
        "n_layers": 2,
        "n_latent_z": 12,
        "n_latent_w": 12,
        "dropout_rate": 0.15,
    },
    "epochs": 60,
    "scanvi": {"n_hidden": 128, "n_layers": 2, "n_latent": 12},
    "scvi_epochs": 200,
    "scanvi_epochs": 25,
    "samples_per_label": 100,
}


def scores(probs, truth: np.ndarray, hidden: np.ndarray, seconds: float) -> dict:
    """Accuracy, macro F1 and calibration error on the hidden cells."""
    probs = probs[hidden]
    predicted = probs.columns.to_numpy().astype(str)[probs.to_numpy().argmax(1)]
    return {
        "accuracy": float((predicted == truth[hidden]).mean()),
        "macro_f1": float(f1_score(truth[hidden], predicted, average="macro")),
        "ece": mixvi.metrics.expected_calibration_error(probs, truth[hidden]),
        "seconds": seconds,
    }


def cgmvae(adata, seed: int):
    """Semi-supervised cGMVAE on log-normalised expression."""
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(adata, labels_key="shown", condition_key="condition")
    n_classes = adata.obs["cell_type"].nunique()
    model = mixvi.CGMVAE(adata, n_components=n_classes, **SETTINGS["cgmvae"])
    model.train(SETTINGS["epochs"], accelerator="cpu", enable_progress_bar=False)
    return model.predict(soft=True, level="label")


def scanvi(adata, seed: int):
    """SCVI, then SCANVI, on counts with the condition as batch (its documented workflow)."""
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, layer="counts", labels_key="shown", batch_key="condition")
    first = scvi.model.SCVI(adata, **SETTINGS["scanvi"])
    first.train(SETTINGS["scvi_epochs"], accelerator="cpu", enable_progress_bar=False)
    model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="Unknown")
    model.train(
        SETTINGS["scanvi_epochs"],
        n_samples_per_label=SETTINGS["samples_per_label"],
        accelerator="cpu",
        enable_progress_bar=False,
    )
    return model.predict(soft=True)


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    adata = prepared()
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    runs = []
    for seed in range(arguments.seeds):
        shown = np.random.default_rng(seed).random(adata.n_obs) < SETTINGS["share"]
        run = {"seed": seed, "n_shown": int(shown.sum())}
        for name, method in {"cgmvae": cgmvae, "scanvi": scanvi}.items():
            cells = adata.copy()
            cells.obs["shown"] = np.where(shown, truth, "Unknown")
            start = time.perf_counter()
            probs = method(cells, seed)
            run[name] = scores(probs, truth, ~shown, time.perf_counter() - start)
        print(run, flush=True)
        runs.append(run)
    keys = ["accuracy", "macro_f1", "ece", "seconds"]
    summary = {m: medians([r[m] for r in runs], keys) for m in ("cgmvae", "scanvi")}
    write("label_transfer", SETTINGS | {"data": "kang both_1556"}, runs, summary)


if __name__ == "__main__":
    main()
