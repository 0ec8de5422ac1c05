"""Genes of a type that a biologist knows come first."""

import numpy as np
import pytest
import scanpy as sc
from conftest import CPU

import mixvi
from mixvi import datasets

KNOWN = {
    "B cells": "CD79A MS4A1 CD79B CD74 HLA-DRA HLA-DRB1 HLA-DPB1 HLA-DQA1 HLA-DQB1 TCL1A CD37",
    "CD14+ Monocytes": "LYZ S100A8 S100A9 CD14 LGALS2 LGALS3 FCN1 CST3 S100A12 TYROBP FCER1G",
    "CD4 T cells": "IL7R LTB CD3D CD3E LDHB IL32 CD27 CD2 TCF7 LEF1 CCR7 MAL",
    "CD8 T cells": "CD8A CD8B GZMK CCL5 NKG7 CST7 GZMA GZMH CTSW LYAR KLRG1 IL32 CD3D",
    "Dendritic cells": "FCER1A CLEC10A CST3 CD1C HLA-DQA1 HLA-DQB1 HLA-DRB5 HLA-DPB1 HLA-DMA "
    "HLA-DPA1 HLA-DQA2",
    "FCGR3A+ Monocytes": "FCGR3A LST1 MS4A7 AIF1 SERPINA1 IFITM3 IFITM2 RHOC COTL1 FCER1G CDKN1C",
    "Megakaryocytes": "PPBP PF4 SDPR GNG11 NRGN SPARC TUBB1 GP9 CLU CD9 PTCRA HIST1H2AC",
    "NK cells": "GNLY NKG7 GZMB PRF1 FGFBP2 CST7 CTSW SPON2 KLRD1 GZMA CLIC3 XCL2",
}


def test_of_blood_cells():
    """Five of each type's first ten, of 2,000 genes, by a model that saw no type."""
    if datasets.find(datasets.PBMC3K) is None:
        pytest.skip("pbmc3k.h5ad is not on this machine")
    cells = datasets.pbmc3k()
    # the genes of most cells: markers of large types are among them, as are ribosomes
    sc.pp.filter_genes(cells, min_cells=15)
    logged = sc.pp.log1p(sc.pp.normalize_total(cells, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(logged, n_top_genes=2000)
    cells = cells[:, logged.var["highly_variable"]].copy()
    mixvi.GMVAE.setup_anndata(cells)
    model = mixvi.GMVAE(cells, n_hidden=64)
    model.train(12, init_epochs=16, **CPU)
    genes = model.differential_expression(groupby="cell_type")
    first = {kind: set(part.index[:10]) for kind, part in genes.groupby("group1", sort=False)}
    assert first.keys() == KNOWN.keys()
    found = {kind: len(of_kind & set(KNOWN[kind].split())) for kind, of_kind in first.items()}
    assert min(found.values()) >= 5, found


def test_order_and_filter(counts, fit):
    """Raised and expressed genes first, then the others in scvi-tools' order."""
    model = fit(mixvi.VAE, counts, epochs=20, setup={"layer": "counts"})
    options = {"groupby": "kind", "min_expressed": 0.5}
    found = model.differential_expression(**options)
    for _, part in found.groupby("group1"):
        more = part["non_zeros_proportion1"] - part["non_zeros_proportion2"]
        is_marker = (part["lfc_mean"] > 0) & (more > 0) & (part["non_zeros_proportion1"] >= 0.5)
        n = int(is_marker.sum())
        assert n > 0 and is_marker.iloc[:n].all()
        score = (part["lfc_mean"] * more**2).iloc[:n]
        assert (np.diff(score) <= 0).all()
        assert (np.diff(part["proba_de"].iloc[n:]) <= 0).all()
    assert len(found) == 2 * counts.n_vars
    plain = model.differential_expression(**options, order="probability")
    for _, part in plain.groupby("group1"):
        assert (np.diff(part["proba_de"]) <= 0).all()
    assert "non_zeros_proportion1" not in model.differential_expression(
        groupby="kind", all_stats=False
    )
    with pytest.raises(ValueError, match="order='markers' needs"):
        model.differential_expression(groupby="kind", order="markers", all_stats=False)
    with pytest.raises(ValueError, match="min_expressed must be a share"):
        model.differential_expression(groupby="kind", min_expressed=10)
    with pytest.raises(ValueError, match="'markers'"):
        model.differential_expression(groupby="kind", order="marker")
