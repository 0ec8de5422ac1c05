"""Integration over conditions on the Kang part: GMVAE and cGMVAE beside SCVI, by scib-metrics.

No method sees a type; all see the condition: SCVI and GMVAE as their batch, cGMVAE as a condition
that its components, too, may depend on, which mixes less. Bio conservation and batch
correction as in Luecken et al. 2022, on the latent space; principal components for reference.
Needs ``pip install 'mixvi[benchmarks]'``.
"""

from __future__ import annotations

import scvi
from benchmarks.cells.kang import prepared
from benchmarks.compare import compare, seeds
from benchmarks.record import TRAINER
from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

import mixvi
from mixvi.cells.initial import principal_components

SETTINGS = {
    "data": "kang both_1556, condition to be mixed",
    "gmvae": {
        "likelihood": "nb",
        "n_components": 10,
        "n_hidden": 128,
        "n_layers": 2,
        "n_latent_z": 12,
        "n_latent_w": 12,
    },
    "gmvae_epochs": 100,
    "scvi": {"gene_likelihood": "nb", "n_hidden": 128, "n_layers": 2, "n_latent": 12},
    "scvi_epochs": 200,
}
CELLS = prepared()
TYPES = CELLS.obs["cell_type"].copy()


def _scores(latent) -> dict[str, float]:
    cells = CELLS[:, :1].copy()
    cells.obs["cell_type"] = TYPES
    cells.obsm["z"] = latent
    bench = Benchmarker(
        cells,
        batch_key="condition",
        label_key="cell_type",
        embedding_obsm_keys=["z"],
        bio_conservation_metrics=BioConservation(),
        batch_correction_metrics=BatchCorrection(pcr_comparison=False),
        pre_integrated_embedding_obsm_key="z",
        n_jobs=1,
        progress_bar=False,
    )
    bench.benchmark()
    found = bench.get_results(min_max_scale=False).loc["z"]
    return {str(key): float(value) for key, value in found.items()}


def gmvae(case: str, seed: int) -> dict[str, float]:
    """GMVAE's z, the condition being its batch."""
    return _mixture(mixvi.GMVAE, seed, batch_key="condition")


def cgmvae(case: str, seed: int) -> dict[str, float]:
    """CGMVAE's z."""
    return _mixture(mixvi.CGMVAE, seed, condition_key="condition")


def _mixture(cls: type[mixvi.GMVAE], seed: int, **keys: str) -> dict[str, float]:
    cells = CELLS.copy()
    scvi.settings.seed = seed
    cls.setup_anndata(cells, layer="counts", **keys)
    model = cls(cells, **SETTINGS["gmvae"])
    model.train(SETTINGS["gmvae_epochs"], **TRAINER)
    return _scores(model.get_latent_representation())


def scvi_(case: str, seed: int) -> dict[str, float]:
    """SCVI's latent space."""
    cells = CELLS.copy()
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(cells, layer="counts", batch_key="condition")
    model = scvi.model.SCVI(cells, **SETTINGS["scvi"])
    model.train(SETTINGS["scvi_epochs"], **TRAINER)
    return _scores(model.get_latent_representation())


def pca(case: str, seed: int) -> dict[str, float]:
    """Principal components, nothing mixed."""
    return _scores(principal_components(CELLS.X, is_count=False, seed=seed))


METHODS = {"GMVAE": gmvae, "cGMVAE": cgmvae, "SCVI": scvi_, "PCA": pca}


def main() -> None:
    """Run all seeds and write the record."""
    compare("cells/integration", METHODS, ["conditions"], SETTINGS, seeds(__doc__))


if __name__ == "__main__":
    main()
