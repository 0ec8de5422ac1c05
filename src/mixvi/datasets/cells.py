"""Single-cell data sets; each loader checks shape and class counts."""

from __future__ import annotations

import anndata
from anndata import AnnData

from mixvi.datasets.fetch import DataFile, fetch

PBMC3K = DataFile(
    "pbmc3k",
    "pbmc3k.h5ad",
    "66777214ab83e61570ad67a60540c8d51737ddeeab7003ec76e4895d35d325c4",
    "10x Genomics PBMC 3k (CC BY 4.0), filtered and labelled as in scanpy's PBMC tutorial.",
)
_GEO = "GEO GSE96583 (Kang et al. 2018), "
KANG = {
    "both_1556": DataFile(
        "kang",
        "kang_both_1556.h5ad",
        "54dc5d2d1a8b04181222a1224e33e1c1e915993d70f8cc88132bd26a75823d70",
        _GEO + "the example data of the Bioconductor package muscat.",
    ),
    "both_2000": DataFile(
        "kang",
        "kang_both_2000.h5ad",
        "a24b8f97591b91113349df0864c90078249b34fff94e3ead1bb17eb689bc8590",
        _GEO + "the example data of the R package harmony.",
    ),
    "control_12261": DataFile(
        "kang",
        "kang_control_12261.h5ad",
        "27b8f63c03b023bcc5243e91a54d6d7427a345eb93597358ca660c8308795004",
        _GEO + "an earlier example data set of the Bioconductor package muscat.",
    ),
}
_PBMC3K_TYPES = {
    "CD4 T cells": 1153,
    "CD14+ Monocytes": 480,
    "B cells": 341,
    "CD8 T cells": 303,
    "NK cells": 157,
    "FCGR3A+ Monocytes": 153,
    "Dendritic cells": 36,
    "Megakaryocytes": 15,
}
_KANG_SHAPES = {
    "both_1556": (1556, 1267),
    "both_2000": (2000, 9015),
    "control_12261": (12261, 1287),
}
_KANG_COUNTS = {
    "both_1556": {
        "condition": {"ctrl": 750, "stim": 806},
        "cell_type": {
            "CD14+ Monocytes": 400,
            "CD4 T cells": 400,
            "B cells": 298,
            "FCGR3A+ Monocytes": 249,
            "CD8 T cells": 209,
        },
    },
    "both_2000": {
        "condition": {"ctrl": 1000, "stim": 1000},
        "cell_type": {
            "unknown": 987,
            "CD4 T cells": 437,
            "CD14+ Monocytes": 223,
            "B cells": 119,
            "CD8 T cells": 79,
            "FCGR3A+ Monocytes": 65,
            "NK cells": 58,
            "Dendritic cells": 25,
            "Megakaryocytes": 7,
        },
    },
    "control_12261": {
        "condition": {"ctrl": 12261},
        "cell_type": {
            "CD4 T cells": 5154,
            "CD14+ Monocytes": 2770,
            "B cells": 1306,
            "CD8 T cells": 1082,
            "NK cells": 915,
            "FCGR3A+ Monocytes": 736,
            "Dendritic cells": 203,
            "Megakaryocytes": 95,
        },
    },
}
_PBMC68K_TYPES = {
    "Dendritic": 240,
    "CD14+ Monocyte": 129,
    "CD19+ B": 95,
    "CD4+/CD25 T Reg": 68,
    "CD8+ Cytotoxic T": 54,
    "CD8+/CD45RA+ Naive Cytotoxic": 43,
    "CD56+ NK": 31,
    "CD4+/CD45RO+ Memory": 19,
    "CD34+": 13,
    "CD4+/CD45RA+/CD25- Naive T": 8,
}


def pbmc3k(drop_megakaryocytes: bool = False) -> AnnData:
    """2,638 peripheral blood cells x 13,714 genes, raw counts (10x Genomics).

    The types are a Louvain clustering of a PCA graph: accuracy against them says nothing about a
    comparison with Louvain or Leiden.

    Parameters
    ----------
    drop_megakaryocytes
        Leave out the 15 megakaryocytes, which gives the thesis's 2,623 cells and 7 types
        (Kolb 2022, chapter 8).

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32, (n_obs, 13714)) and ``obs["cell_type"]``, 8 or 7
    categories.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    adata = anndata.read_h5ad(fetch(PBMC3K))
    check_data(adata, "pbmc3k", (2638, 13714), {"cell_type": _PBMC3K_TYPES})
    if drop_megakaryocytes:
        adata = adata[adata.obs["cell_type"] != "Megakaryocytes"].copy()
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    return adata


def kang(part: str = "both_1556") -> AnnData:
    """Blood cells with and without interferon beta, raw counts (Kang et al. 2018), in parts.

    Parameters
    ----------
    part
        ``"both_1556"``: 1,556 cells x 1,267 genes, both conditions, 5 types; ``"both_2000"``: 2,000
        cells x 9,015 genes, both conditions, most types unknown; ``"control_12261"``: 12,261
        control cells x 1,287 genes, 8 types.

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32, (n_obs, n_genes)), ``obs["condition"]``
    (``ctrl``, ``stim``) and ``obs["cell_type"]`` (the authors' annotation; ``unknown`` in
    ``"both_2000"`` where there is none). ``"both_1556"`` also has ``obs["sample"]`` (donor and
    condition), ``"control_12261"`` has ``obs["donor"]`` and ``var["ensembl"]``. None is the
    thesis's own file (Kolb 2022, chapter 11): quote results as "on this part".

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If the part is unknown, or its checksum, shape or class counts are not as expected.
    """
    if part not in KANG:
        raise ValueError(f"part={part!r} is not known. Known: {', '.join(KANG)}.")
    adata = anndata.read_h5ad(fetch(KANG[part]))
    check_data(adata, f"kang {part}", _KANG_SHAPES[part], _KANG_COUNTS[part])
    return adata


def pbmc68k_reduced() -> AnnData:
    """700 blood cells x 765 genes, scaled, as shipped inside scanpy; no download.

    Returns
    -------
    AnnData with scaled values in ``X`` (float32, (700, 765)) and ``obs["bulk_labels"]``, 10 types
    by correlation with sorted populations; other columns are scanpy's.

    Raises
    ------
    ValueError
        If this scanpy ships a file of another shape or other class counts.
    """
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    check_data(adata, "pbmc68k_reduced", (700, 765), {"bulk_labels": _PBMC68K_TYPES})
    return adata


def check_data(
    adata: AnnData, name: str, shape: tuple[int, int], counts: dict[str, dict[str, int]]
) -> None:
    """Raise ValueError unless shape and class counts are as expected.

    Parameters
    ----------
    adata
        The data as read.
    name
        What messages call it.
    shape
        Expected (n_obs, n_vars).
    counts
        Expected number of cells of each category, by column of ``obs``.

    Raises
    ------
    ValueError
        At the first difference: shape, a missing column, a count, an unexpected category.
    """
    if adata.shape != shape:
        raise ValueError(f"{name} has shape {adata.shape}, but {shape} was expected.")
    for key, expected in counts.items():
        if key not in adata.obs:
            raise ValueError(f"{name} has no obs[{key!r}]. It has: {', '.join(adata.obs)}.")
        found = adata.obs[key].value_counts(dropna=False)
        found = {value: n for value, n in found.items() if n}
        for value in [*expected, *(value for value in found if value not in expected)]:
            if found.get(value, 0) != expected.get(value, 0):
                raise ValueError(
                    f"{name}: obs[{key!r}] has {found.get(value, 0)} cells of {value!r}, but "
                    f"{expected.get(value, 0)} were expected."
                )
