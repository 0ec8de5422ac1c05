"""Counterfactual stimulation on the Kang part: cGMVAE beside scGen's method, class means and CVAE.

``held-out cells``: a quarter of every type and condition is kept from training; its control cells
are converted and compared with its stimulated ones (acceptance row 27). ``without <type>``: the
stimulated cells of one type are kept from training altogether and predicted from its control cells.
Every method sees the true types, as in the thesis. Means, top 100 genes by Wilcoxon within the
type, energy distance and variance of every gene are compared type by type and averaged over types.
"""

from __future__ import annotations

import numpy as np
import scvi
from anndata import AnnData
from benchmarks.cells.kang import held_out, prepared
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER

import mixvi
from mixvi.cells import (
    predict_class_means,
    predict_label_condition_cvae,
    predict_latent_shift,
    train_label_condition_cvae,
)
from mixvi.metrics import energy_distance, mean_expression_r2, top_de_genes, variance_ratio

KEYS = {"labels_key": "cell_type", "condition_key": "condition"}
SETTINGS = {
    "data": "kang both_1556",
    "held_out": 0.25,
    "network": {"n_hidden": 256, "n_layers": 2, "likelihood": "mse"},
    "cgmvae": {
        "n_components": 5,
        "n_latent_z": 24,
        "n_latent_w": 24,
        "dropout_rate": 0.0,
        "output_activation": "softplus",
        "condition_in": "x_only",
    },
    "vae": {"n_latent": 24, "dropout_rate": 0.0, "output_activation": "softplus"},
    "train": {"stages": [(1e-3, 80), (1e-4, 20)], "batch_size": 128},
}
CELLS = prepared()
TYPES = list(CELLS.obs["cell_type"].cat.categories)
TOP = {
    t: top_de_genes(CELLS[CELLS.obs["cell_type"] == t], "condition", "stim", "ctrl") for t in TYPES
}


def _split(case: str, seed: int) -> tuple[AnnData, AnnData, AnnData]:
    """Training cells, control cells to convert, and the stimulated cells to compare with."""
    stimulated = (CELLS.obs["condition"] == "stim").to_numpy()
    if case == "held-out cells":
        test = held_out(CELLS, SETTINGS["held_out"], seed)
        return (
            CELLS[~test].copy(),
            CELLS[test & ~stimulated].copy(),
            CELLS[test & stimulated].copy(),
        )
    of_type = (CELLS.obs["cell_type"] == case.removeprefix("without ")).to_numpy()
    return (
        CELLS[~(of_type & stimulated)].copy(),
        CELLS[of_type & ~stimulated].copy(),
        CELLS[of_type & stimulated].copy(),
    )


def _scores(predicted: AnnData, real: AnnData) -> dict[str, float]:
    """Means over the types found."""
    rows = []
    for name in real.obs["cell_type"].unique():
        ours = predicted[predicted.obs["cell_type"] == name]
        theirs = real[real.obs["cell_type"] == name]
        ratio = variance_ratio(ours, theirs)
        ratio = ratio[np.isfinite(ratio)]
        rows.append(
            {
                "r2": mean_expression_r2(ours, theirs),
                "r2_top100": mean_expression_r2(ours, theirs, TOP[name]),
                "energy": energy_distance(ours, theirs),
                "mean_ratio": float(np.mean(ours.X) / np.mean(theirs.X)),
                "variance_ratio": float(np.median(ratio)),
                "variance_within_2x": float(((ratio > 0.5) & (ratio < 2)).mean()),
            }
        )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def cgmvae(case: str, seed: int) -> dict[str, dict[str, float]]:
    """One model, its routes: through w (the thesis), z moved with its component, and residuals."""
    train, control, real = _split(case, seed)
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(train, **KEYS)
    model = mixvi.CGMVAE(train, **SETTINGS["network"], **SETTINGS["cgmvae"])
    model.train(**SETTINGS["train"], **TRAINER)
    routes = {
        "shift, centred residual": {"route": "shift", "keep_residual": "centred"},
        "shift, residual": {"route": "shift", "keep_residual": True},
        "shift": {"route": "shift", "keep_residual": False},
        "route w": {"route": "w"},
    }
    return {
        name: _scores(model.counterfactual(control, to="stim", **options), real)
        for name, options in routes.items()
    }


def latent_shift(case: str, seed: int) -> dict[str, float]:
    """ScGen's method on mixvi's VAE."""
    train, control, real = _split(case, seed)
    scvi.settings.seed = seed
    mixvi.VAE.setup_anndata(train)
    model = mixvi.VAE(train, **SETTINGS["network"], **SETTINGS["vae"])
    model.train(**SETTINGS["train"], **TRAINER)
    return _scores(predict_latent_shift(model, control, to="stim", seed=seed, **KEYS), real)


def class_means(case: str, seed: int) -> dict[str, float]:
    """Mean of the type's stimulated training cells, or of all where there are none."""
    train, control, real = _split(case, seed)
    return _scores(predict_class_means(train, control, to="stim", **KEYS), real)


def cvae(case: str, seed: int) -> dict[str, float]:
    """CVAE on the pair of type and condition; it cannot leave a pair out."""
    train, control, real = _split(case, seed)
    if case != "held-out cells":
        return {}
    scvi.settings.seed = seed
    options = SETTINGS["network"] | SETTINGS["vae"]
    model = train_label_condition_cvae(
        train, **KEYS, model_kwargs=options, **SETTINGS["train"], **TRAINER
    )
    return _scores(predict_label_condition_cvae(model, control, to="stim", **KEYS), real)


def no_change(case: str, seed: int) -> dict[str, float]:
    """The control cells themselves."""
    _, control, real = _split(case, seed)
    return _scores(control, real)


METHODS = {
    "cGMVAE": cgmvae,
    "latent shift (scGen)": latent_shift,
    "class means": class_means,
    "CVAE (type, condition)": cvae,
    "no change": no_change,
}


def main() -> None:
    """Run all seeds and write the record."""
    cases = ["held-out cells", *(f"without {name}" for name in TYPES)]
    compare("cells/counterfactual", METHODS, cases, SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
