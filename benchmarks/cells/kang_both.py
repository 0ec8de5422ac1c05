"""Acceptance rows 25-30: both conditions of Kang, on the part with 5 types; held-out cells.

A quarter of every type and condition is kept from training. Row 27 is ``benchmarks.cells.
counterfactual`` type by type; here are the thesis's own pairs of populations. Markers (row 29) are
ranked by scanpy's default test, since the thesis names none.
"""

from __future__ import annotations

import numpy as np
import scvi
import torch
from benchmarks.cells.kang import held_out, prepared
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER

import mixvi
from mixvi.metrics import (
    accuracy_by_overlap,
    component_table,
    knn_agreement,
    marker_overlap,
    mean_expression_r2,
    overlap_map,
)

SETTINGS = {
    "data": "kang both_1556",
    "held_out": 0.25,
    "unsupervised": {
        "n_components": 28,
        "n_latent_z": 2,
        "n_latent_w": 2,
        "n_hidden": 256,
        "n_layers": 2,
        "dropout_rate": 0.1,
        "likelihood": "mse",
        "output_activation": "softplus",
    },
    "unsupervised_stages": [(1e-3, 80), (1e-4, 20)],
    "supervised": {
        "n_components": 5,
        "n_latent_z": 24,
        "n_latent_w": 24,
        "n_hidden": 256,
        "n_layers": 2,
        "dropout_rate": 0.15,
        "likelihood": "mse",
        "output_activation": "softplus",
        "classification_weight": 50.0,
    },
    "supervised_stages": [(1e-3, 80), (1e-4, 20)],
    "n_generated": 50,
}
CELLS = prepared()


def _split(seed: int):
    test = held_out(CELLS, SETTINGS["held_out"], seed)
    return CELLS[~test].copy(), CELLS[test].copy()


def _types(cells):
    return cells.obs["cell_type"].astype(str).to_numpy()


def unsupervised(case: str, seed: int) -> dict[str, float]:
    """Row 25: 28 components, two latent dimensions each."""
    train, test = _split(seed)
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(train, condition_key="condition")
    model = mixvi.CGMVAE(train, **SETTINGS["unsupervised"])
    model.train(stages=SETTINGS["unsupervised_stages"], **TRAINER)
    mapping = overlap_map(component_table(model.predict(), _types(train)))
    found = model.predict(test)
    return {
        "train_own_map": accuracy_by_overlap(model.predict(), _types(train)),
        "test_own_map": accuracy_by_overlap(found, _types(test)),
        "test": accuracy_by_overlap(found, _types(test), mapping),
        "types_with_component": len(set(mapping.values())),
    }


def supervised(case: str, seed: int) -> dict[str, float]:
    """Rows 26-30: labels of the training cells, route w, decoder means."""
    train, test = _split(seed)
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(train, labels_key="cell_type", condition_key="condition")
    model = mixvi.CGMVAE(train, **SETTINGS["supervised"])
    model.train(stages=SETTINGS["supervised_stages"], **TRAINER)
    control = test[test.obs["condition"] == "ctrl"]
    real = test[test.obs["condition"] == "stim"]
    converted = model.counterfactual(control.copy(), to="stim", route="w")
    kept = model.counterfactual(control.copy(), to="stim", route="shift", keep_residual=True)
    out = {
        "train": float((model.predict(level="label").to_numpy() == _types(train)).mean()),
        "test": float((model.predict(test, level="label").to_numpy() == _types(test)).mean()),
    }
    for name, of in (("B", "B cells"), ("all", None)):
        pick = [
            x if of is None else x[(x.obs["cell_type"] == of).to_numpy()]
            for x in (control, real, converted, kept)
        ]
        out[f"r2_stim_converted_{name}"] = mean_expression_r2(pick[2], pick[1])
        out[f"r2_stim_kept_{name}"] = mean_expression_r2(pick[3], pick[1])
        out[f"r2_control_stim_{name}"] = mean_expression_r2(pick[0], pick[1])
        out[f"r2_control_converted_{name}"] = mean_expression_r2(pick[0], pick[2])
    out["markers_shared_of_10"] = marker_overlap(converted, real, control, method="t-test").n_shared
    out["markers_shared_of_10_kept"] = marker_overlap(kept, real, control, method="t-test").n_shared
    torch.set_num_threads(1)
    generated = model.sample(SETTINGS["n_generated"])
    for key, column in (("condition", "condition"), ("label", "cell_type")):
        ours = generated.obs[key].astype(str)
        out[f"knn_{key}"] = knn_agreement(generated, test, ours, test.obs[column].astype(str))
    return out


def conditions_alone(case: str, seed: int) -> dict[str, float]:
    """The 2,000 cells of which most types are unknown: no labels, conversion of all cells."""
    import scanpy as sc

    cells = mixvi.datasets.kang("both_2000")
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=2000)
    cells = cells[:, cells.var["highly_variable"]].copy()
    cells.X = cells.X.toarray()
    torch.set_num_threads(1)
    test = np.random.default_rng(seed).random(cells.n_obs) < SETTINGS["held_out"]
    train, rest = cells[~test].copy(), cells[test].copy()
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(train, condition_key="condition")
    model = mixvi.CGMVAE(train, **SETTINGS["supervised"] | {"n_components": 16})
    model.train(stages=SETTINGS["supervised_stages"], **TRAINER)
    control, real = (rest[rest.obs["condition"] == c].copy() for c in ("ctrl", "stim"))
    converted = model.counterfactual(control, to="stim", route="w")
    kept = model.counterfactual(control, to="stim", route="shift", keep_residual=True)
    return {
        "r2_stim_converted_all": mean_expression_r2(converted, real),
        "r2_stim_kept_all": mean_expression_r2(kept, real),
        "r2_control_stim_all": mean_expression_r2(control, real),
        "r2_control_converted_all": mean_expression_r2(control, converted),
        "markers_shared_of_10": marker_overlap(converted, real, control, method="t-test").n_shared,
    }


def main() -> None:
    """Run all seeds and write the record."""
    n = seeds(__doc__)
    methods = {"unsupervised K=28": unsupervised, "supervised": supervised}
    compare("cells/kang_both", methods, ["both_1556"], SETTINGS, n)
    compare("cells/kang_conditions", {"no labels": conditions_alone}, ["both_2000"], SETTINGS, n)


if __name__ == "__main__":
    main()
