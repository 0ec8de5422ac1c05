"""How w is used on the Kang part, with and without free bits (acceptance section 6.3).

Supervised cGMVAE as in ``benchmarks.cells.kang_both``, a quarter held out. Decoder means by route
w, and cells that keep their residual, against real stimulated cells; averages over types.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import scvi
from anndata import AnnData
from benchmarks.cells.kang import held_out
from benchmarks.cells.kang_both import CELLS, SETTINGS
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER

import mixvi
from mixvi.metrics import mean_expression_r2, variance_ratio

FREE_BITS = (0.0, 0.1, 0.5)


def cgmvae(free_bits: float, case: str, seed: int) -> dict[str, float]:
    """One model; figures of held-out cells."""
    test = held_out(CELLS, SETTINGS["held_out"], seed)
    train, test = CELLS[~test].copy(), CELLS[test].copy()
    scvi.settings.seed = seed
    mixvi.CGMVAE.setup_anndata(train, labels_key="cell_type", condition_key="condition")
    model = mixvi.CGMVAE(train, w_free_bits=free_bits, **SETTINGS["supervised"])
    model.train(stages=SETTINGS["supervised_stages"], **TRAINER)
    control = test[test.obs["condition"] == "ctrl"].copy()
    real = test[test.obs["condition"] == "stim"].copy()
    out = {
        "active_w": float(model.history["active_w_train"].iloc[-1, 0]),
        "kl_w": float(model.history["w_train"].iloc[-1, 0]),
        "reconstruction_loss": float(model.history["reconstruction_loss_train"].iloc[-1, 0]),
    }
    routes = {
        "w": {"route": "w"},
        "residual": {"route": "shift", "keep_residual": "centred"},
    }
    for name, options in routes.items():
        converted = model.counterfactual(control, to="stim", **options)
        scores = [_scores(converted, real, kind) for kind in real.obs["cell_type"].unique()]
        out |= {f"{key}_{name}": float(np.mean([s[key] for s in scores])) for key in scores[0]}
    return out


def _scores(converted: AnnData, real: AnnData, kind: str) -> dict[str, float]:
    ours, theirs = (x[(x.obs["cell_type"] == kind).to_numpy()] for x in (converted, real))
    ratio = np.asarray(variance_ratio(ours, theirs))
    ratio = ratio[np.isfinite(ratio)]
    return {
        "r2": mean_expression_r2(ours, theirs),
        "variance_ratio": float(np.median(ratio)),
        "within_factor_2": float(((ratio > 0.5) & (ratio < 2.0)).mean()),
    }


def main() -> None:
    """Run all seeds and write the record."""
    methods = {f"free bits {bits}": partial(cgmvae, bits) for bits in FREE_BITS}
    settings = SETTINGS["supervised"] | {"stages": SETTINGS["supervised_stages"]}
    compare("cells/free_bits", methods, ["both_1556"], settings, seeds(__doc__))


if __name__ == "__main__":
    main()
