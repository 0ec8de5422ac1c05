"""Held-out log likelihood of counts: GMVAE beside SCVI, same likelihood, size and split.

Both marginal likelihoods are importance-sampled with as many draws, given the observed library
size and the batch (donor), in nats a cell; higher is better.
"""

from __future__ import annotations

import numpy as np
import scvi
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER

import mixvi

SETTINGS = {
    "data": "kang control_12261, donor as batch",
    "n_cells": 3000,
    "held_out": 0.25,
    "network": {"n_hidden": 128, "n_layers": 2, "dropout_rate": 0.1},
    "n_latent": 12,
    "n_components": 16,
    "epochs": 80,
    "n_samples": 50,
}
CELLS = mixvi.datasets.kang("control_12261")


def _split(seed: int):
    rows = np.random.default_rng(seed).permutation(CELLS.n_obs)[: SETTINGS["n_cells"]]
    n_test = round(SETTINGS["held_out"] * len(rows))
    return CELLS[np.sort(rows[n_test:])].copy(), CELLS[np.sort(rows[:n_test])].copy()


def gmvae(case: str, seed: int) -> dict[str, float]:
    """GMVAE, no labels."""
    train, test = _split(seed)
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(train, batch_key="donor")
    model = mixvi.GMVAE(
        train,
        likelihood=case,
        n_components=SETTINGS["n_components"],
        n_latent_z=SETTINGS["n_latent"],
        n_latent_w=SETTINGS["n_latent"],
        **SETTINGS["network"],
    )
    model.train(SETTINGS["epochs"], **TRAINER)
    n = SETTINGS["n_samples"]
    return {
        "held_out": model.get_marginal_ll(test, n_mc_samples=n),
        "train": model.get_marginal_ll(train, indices=np.arange(test.n_obs), n_mc_samples=n),
        "elbo_held_out": model.get_elbo(test),
    }


def scvi_(case: str, seed: int) -> dict[str, float]:
    """SCVI with observed library size."""
    train, test = _split(seed)
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(train, batch_key="donor")
    model = scvi.model.SCVI(
        train, gene_likelihood=case, n_latent=SETTINGS["n_latent"], **SETTINGS["network"]
    )
    model.train(SETTINGS["epochs"], train_size=1.0, **TRAINER)
    n = SETTINGS["n_samples"]
    return {
        "held_out": float(model.get_marginal_ll(test, n_mc_samples=n)),
        "train": float(model.get_marginal_ll(train, indices=np.arange(test.n_obs), n_mc_samples=n)),
        # scvi-tools' get_elbo is the ELBO's mean over cells
        "elbo_held_out": -abs(float(model.get_elbo(test))),
    }


METHODS = {"GMVAE": gmvae, "SCVI": scvi_}


def main() -> None:
    """Run all seeds and write the record."""
    compare("cells/likelihood", METHODS, ["nb"], SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
