"""Supervised cGMVAE, control to stimulated, on held-out Kang cells (acceptance row 27)."""

from __future__ import annotations

import argparse
import time

import numpy as np
import scvi
from kang_cells import held_out, prepared
from record import medians, quiet, write

import mixvi
from mixvi.metrics import class_mean_baseline, mean_expression_table, variance_ratio

SETTINGS = {
    "held_out": 0.25,
    "n_latent": 24,
    "n_hidden": 256,
    "n_layers": 2,
    "likelihood": "mse",
    "output_activation": "relu",
    "batch_size": 128,
    "stages": [(1e-3, 80), (1e-4, 20)],
    "target": "stim",
}


def run(adata, seed: int) -> dict:
    """Train on the rest, convert held-out control cells, compare with held-out stimulated ones."""
    mask = held_out(adata, SETTINGS["held_out"], seed)
    train, test = adata[~mask].copy(), adata[mask].copy()
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(train, labels_key="cell_type", condition_key="condition")
    model = mixvi.CGMVAE(
        train,
        n_components=train.obs["cell_type"].nunique(),
        n_latent_z=SETTINGS["n_latent"],
        n_latent_w=SETTINGS["n_latent"],
        n_hidden=SETTINGS["n_hidden"],
        n_layers=SETTINGS["n_layers"],
        likelihood=SETTINGS["likelihood"],
        output_activation=SETTINGS["output_activation"],
    )
    start = time.perf_counter()
    model.train(
        stages=SETTINGS["stages"],
        batch_size=SETTINGS["batch_size"],
        accelerator="cpu",
        enable_progress_bar=False,
    )
    seconds = time.perf_counter() - start
    control = (test.obs["condition"] == "ctrl").to_numpy()
    types, real = test.obs["cell_type"].astype(str).to_numpy(), test.X[~control]

    def r2(x):
        return mean_expression_table(x, real, types[control], types[~control])["r2"].to_dict()

    result = {"seed": seed, "seconds": seconds, "n_test": int(mask.sum())}
    for route in ("w", "z"):
        flipped = model.counterfactual(test, to="stim", indices=control, route=route).X
        result[f"cgmvae_{route}"] = r2(flipped)
        result[f"variance_ratio_{route}"] = float(np.nanmedian(variance_ratio(flipped, real)))
    means = class_mean_baseline(train.X, train.obs["cell_type"], train.obs["condition"], "stim")
    result["class_mean"] = r2(np.stack([means[t] for t in types[control]]))
    result["no_change"] = r2(test.X[control])
    predicted = model.predict(test, level="label")
    result["accuracy_test"] = float((predicted == types).mean())
    print(seed, {k: v["all"] for k, v in result.items() if isinstance(v, dict)}, flush=True)
    return result


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    adata = prepared()
    runs = [run(adata, seed) for seed in range(arguments.seeds)]
    summary = medians(runs, ["variance_ratio_w", "variance_ratio_z", "accuracy_test", "seconds"])
    for method in ("cgmvae_w", "cgmvae_z", "class_mean", "no_change"):
        summary[method] = medians([r[method] for r in runs], list(runs[0][method]))
    write("kang_counterfactual", SETTINGS | {"data": "kang both_1556"}, runs, summary)


if __name__ == "__main__":
    main()
