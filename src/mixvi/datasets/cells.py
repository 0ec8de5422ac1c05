"""Single-cell data sets; each loader checks shape and class counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mixvi.datasets import known_counts
from mixvi.datasets.fetch import DATA_URL_VARIABLE, DataFile, fetch, find
from mixvi.datasets.r_objects import read_rda

PBMC3K = DataFile(
    "pbmc3k",
    "pbmc3k.h5ad",
    "09f64b16446befe7f8c4d227c94d861c65fea442940c6ff450808523bd8a754e",
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
SORTED_PBMC = DataFile(
    "sorted_pbmc_zheng",
    "sorted_pbmc_zheng.h5ad",
    "cc9264d1146c564c1f08979d7e7cfcacd5798cbd699c1f70eca0350d32ba817f",
    "10x Genomics (CC BY 4.0; Zheng et al. 2017), data/referenceCounts.rda of the repository "
    "JEFworks/MUDAN.",
)
PAPALEXI = DataFile(
    "papalexi_eccite",
    "papalexi_eccite.h5ad",
    "55b9db2276e24010a73a4242416b7403fa93d8b57de04e10a6722b7a17af7ba6",
    "GEO GSE153056 (Papalexi et al. 2021), the example data of the R package sceptre.",
)
SHALEK = DataFile(
    "shalek_bmdc",
    "shalek_bmdc.h5ad",
    "fcf24d24378197832825d56004b95bb5d53f339bed53122c0bf2ebb6a790295a",
    "GEO GSE48968 (Shalek et al. 2014), data/exprdata.rda of the R package scBFA.",
)


def _of_r(file: DataFile, address: str, checksum: str) -> DataFile:
    """A file of R that has the same cells, at one revision of its repository."""
    url = f"https://raw.githubusercontent.com/{address}"
    return DataFile(file.folder, address.rpartition("/")[2], checksum, file.origin, url)


_KANG_OF_R = {
    "both_1556": _of_r(
        KANG["both_1556"],
        "HelenaLC/muscat/7d68329bf1cd13fc6cda2a8f857bf90a605200e9/data/example_sce.rda",
        "f66811fa513a01a91dae01bad308e96ed5238277246b911d8e1cd5f4425c3ed9",
    ),
    "both_2000": _of_r(
        KANG["both_2000"],
        "immunogenomics/harmony/e04ab3a11c0feb167685d2221899b94387cfc3cc/data/pbmc_stim.RData",
        "d85a18ce8ec9dcb4ac86c8e195ed53ff893c5952a7d6bf70035a17856c9dc0ef",
    ),
    "control_12261": _of_r(
        KANG["control_12261"],
        "HelenaLC/muscat/d5acab66a2468bb51368f527b6cd617de8253a67/data/kang_se.rda",
        "f2d6728424b2d40a88ee6c6c2a1f543e9dc798e98990c4f11b5a625470ffe285",
    ),
}
_SORTED_PBMC_OF_R = _of_r(
    SORTED_PBMC,
    "JEFworks/MUDAN/3636ed2f9a404cbdfcfdce5500384b59a72de666/data/referenceCounts.rda",
    "d44df269ab223db35a3ac0f46a08f623b61ffd46f44f110b34910724b932a8d6",
)
_PAPALEXI_OF_R = _of_r(
    PAPALEXI,
    "Katsevich-Lab/sceptre/823bcdae9df321db501a59aa6b7acc1975052b9f/data/lowmoi_example_data.rda",
    "e3f8ad09bb4b1d0deeeec2850a2d96f8f5062fef31a9ab1cc080e60560421b6a",
)
_SHALEK_OF_R = (
    _of_r(
        SHALEK,
        "quon-titative-biology/scBFA/ebecc269a559d3971ac07086d27a453db85fc07e/data/exprdata.rda",
        "d5919207d2b581eb7fc8088d5a7f3e3670cd4ec746d5ea9e0dce899bc9e32159",
    ),
    _of_r(
        SHALEK,
        "quon-titative-biology/scBFA/ebecc269a559d3971ac07086d27a453db85fc07e/data/celltype.rda",
        "480662923a85118f5c8dab7a81cf17e28f42d80e13ae7f7e35b7ef9854813224",
    ),
)


def pbmc3k(drop_megakaryocytes: bool = False, *, verify: bool = True) -> AnnData:
    """2,638 peripheral blood cells x 13,714 genes, raw counts (10x Genomics).

    The types are the annotation of :func:`scanpy.datasets.pbmc3k_processed`, a Louvain clustering
    of a PCA graph: accuracy against them says nothing about a comparison with Louvain or Leiden,
    and flatters both.

    Parameters
    ----------
    drop_megakaryocytes
        Leave out the 15 megakaryocytes, which gives the thesis's 2,623 cells and 7 types
        (Kolb 2022, chapter 8).
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32, (n_obs, 13714)) and ``obs["cell_type"]``, 8 or 7
    categories. A file on this machine has more columns; where there is none, counts and types are
    taken from scanpy's own downloads (30 MB) and no others.

    Raises
    ------
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    counts = {"cell_type": known_counts.PBMC3K_TYPES}
    adata = _read(PBMC3K, _pbmc3k_of_scanpy, "pbmc3k", (2638, 13714), counts, verify)
    if drop_megakaryocytes:
        adata = adata[adata.obs["cell_type"] != "Megakaryocytes"].copy()
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    return adata


def _pbmc3k_of_scanpy() -> AnnData:
    """The same cells and genes from scanpy's raw and processed AnnData."""
    import scanpy as sc

    raw, processed = sc.datasets.pbmc3k(), sc.datasets.pbmc3k_processed()
    raw.var_names_make_unique()
    # scanpy's tutorial keeps genes of at least three of the 2,700 cells
    expressed = np.asarray((raw.X > 0).sum(axis=0)).ravel() >= 3
    adata = raw[processed.obs_names, expressed].copy()
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.obs["cell_type"] = processed.obs["louvain"].astype("category")
    return adata


def kang(part: str = "both_1556", *, verify: bool = True) -> AnnData:
    """Blood cells with and without interferon beta, raw counts (Kang et al. 2018), in parts.

    Parameters
    ----------
    part
        ``"both_1556"``: 1,556 cells x 1,267 genes, both conditions, 5 types; ``"both_2000"``: 2,000
        cells x 9,015 genes, both conditions, most types unknown; ``"control_12261"``: 12,261
        control cells x 1,287 genes, 8 types.
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32, (n_obs, n_genes)), ``obs["condition"]``
    (``ctrl``, ``stim``) and ``obs["cell_type"]`` (the authors' annotation; ``unknown`` in
    ``"both_2000"`` where there is none). ``"both_1556"`` also has ``obs["sample"]`` (donor and
    condition), ``"control_12261"`` has ``obs["donor"]`` and ``var["ensembl"]``. None is the
    thesis's own file (Kolb 2022, chapter 11): quote results as "on this part".

    Where the file is not on this machine, the same cells are made of the example data of the R
    packages muscat (``"both_1556"``, 1 MB; ``"control_12261"``, 4 MB, at its first revision) and
    harmony (``"both_2000"``, 3 MB, with types out of the two others), downloaded from GitHub.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ImportError
        If it is to be made of R's files and rdata (extra ``datasets``) is not installed.
    ValueError
        If the part is unknown, or its checksum, shape or class counts are not as expected.
    """
    if part not in KANG:
        raise ValueError(f"part={part!r} is not known. Known: {', '.join(KANG)}.")
    return _read(
        KANG[part],
        partial(_kang_of_r, part, verify),
        f"kang {part}",
        known_counts.KANG_SHAPES[part],
        known_counts.KANG_COUNTS[part],
        verify,
    )


def _kang_of_r(part: str, verify: bool) -> AnnData:
    """The same cells from the R packages muscat and harmony."""
    objects = read_rda(fetch(_KANG_OF_R[part], verify))
    if part == "both_1556":
        adata = objects["example_sce"]
        names = {"cluster_id": "cell_type", "sample_id": "sample", "group_id": "condition"}
        adata.obs = adata.obs.rename(columns=names)
    elif part == "control_12261":
        adata = objects["kang_se"]
        columns = {
            "donor": adata.obs["sample_id"].astype(str),
            "cell_type": adata.obs["cluster_id"].astype(str),
            "condition": "ctrl",
        }
        adata.obs = pd.DataFrame(columns, index=adata.obs_names)
        adata.var["ensembl"] = adata.var_names
        adata.var_names = adata.var.pop("feature").astype(str).array
        # in this order, as anndata makes it: 101, 107, 1015
        adata.strings_to_categoricals()
    else:
        conditions = {"ctrl": objects["pbmc.ctrl"], "stim": objects["pbmc.stim"]}
        adata = anndata.concat(conditions, label="condition")
    adata.obs_names = adata.obs["condition"].astype(str) + "_" + adata.obs_names
    if part == "both_2000":
        types = pd.concat([kang(p, verify=verify).obs["cell_type"] for p in KANG if p != part])
        # the control cells of the first part are in both, with the same types
        types = types.astype(str)[~types.index.duplicated()].reindex(adata.obs_names)
        adata.obs["cell_type"] = types.fillna("unknown").astype("category")
    return adata


def sorted_pbmc(*, verify: bool = True) -> AnnData:
    """2,140 blood cells x 8,863 genes of nine antibody-sorted populations (Zheng et al. 2017).

    Labels are the antibody sort, independent of the RNA. The cells are those with the most counts
    of ten 10x data sets, so that population sizes mean nothing; subsets of T cells overlap in RNA.

    Parameters
    ----------
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32, (2140, 8863)) and ``obs["sorted_population"]``, 9
    categories.

    Where the file is not on this machine, the same cells are made of the example data of the R
    package MUDAN (2 MB), downloaded from GitHub.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ImportError
        If it is to be made of R's files and rdata (extra ``datasets``) is not installed.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    counts = {"sorted_population": known_counts.SORTED_POPULATIONS}
    made = partial(_sorted_pbmc_of_r, verify)
    return _read(SORTED_PBMC, made, "sorted_pbmc", (2140, 8863), counts, verify)


def _sorted_pbmc_of_r(verify: bool) -> AnnData:
    """The same cells from the R package MUDAN."""
    adata = read_rda(fetch(_SORTED_PBMC_OF_R, verify))["referenceCounts"]
    # a cell's name is its population, in small letters, and its barcode
    populations = adata.obs_names.str.extract("^([a-z]+)", expand=False)
    adata.obs["sorted_population"] = pd.Categorical(populations)
    return adata


def papalexi_eccite(*, verify: bool = True) -> AnnData:
    """20,729 THP-1 cells x 299 genes, 25 knocked-out genes and control (Papalexi et al. 2021).

    Labels come from the guide RNA, independent of the expression; many knockouts change nothing.
    Only 299 of some 18,000 genes, a median of 186 counts a cell: quote results as "on this part".

    Parameters
    ----------
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with raw counts in ``X`` (CSR float32, (20729, 299)), ``obs["target"]`` (25 genes and
    ``"non-targeting"``), ``obs["guide"]``, ``obs["guide_umis"]`` (of all guides),
    ``obs["guide_fraction"]`` (share of the top guide) and ``obs["replicate"]`` (3).

    Where the file is not on this machine, the same cells are made of the example data of the R
    package sceptre (1 MB), downloaded from GitHub.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ImportError
        If it is to be made of R's files and rdata (extra ``datasets``) is not installed.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    counts = {"target": known_counts.TARGETS}
    made = partial(_papalexi_of_r, verify)
    return _read(PAPALEXI, made, "papalexi_eccite", (20729, 299), counts, verify)


def _papalexi_of_r(verify: bool) -> AnnData:
    """The same cells from the R package sceptre; a cell's guide is that with the most UMIs."""
    data = read_rda(fetch(_PAPALEXI_OF_R, verify))["lowmoi_example_data"]
    adata, guides = data["response_matrix"], data["grna_matrix"]
    adata.obs_names = "cell" + adata.obs_names
    targets = data["grna_target_data_frame"].set_index("grna_id")["grna_target"]
    guide = guides.var_names[np.asarray(guides.X.argmax(axis=1)).ravel()]
    umis = np.asarray(guides.X.sum(axis=1)).ravel()
    adata.obs["guide"] = pd.Categorical(guide)
    adata.obs["target"] = pd.Categorical(targets[guide].astype(str))
    adata.obs["guide_umis"] = umis
    adata.obs["guide_fraction"] = guides.X.max(axis=1).toarray().ravel() / umis
    adata.obs["replicate"] = data["extra_covariates"]["bio_rep"].array
    return adata


def shalek_bmdc(*, verify: bool = True) -> AnnData:
    """1,059 mouse dendritic cells x 2,000 genes, three stimuli over six hours (Shalek et al. 2014).

    Smart-seq reads, not molecules: over-dispersed, up to 2.4 million a gene. Half of the conditions
    are one plate each. The 80 cells of the first unstimulated control look stimulated.

    Parameters
    ----------
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with read counts in ``X`` (CSR float32, (1059, 2000)), ``obs["stimulus"]`` (``LPS``,
    ``PAM``, ``PIC``, ``none``), ``obs["hours"]`` (0, 1, 2, 4, 6), ``obs["replicate"]``,
    ``obs["condition"]`` (15) and ``obs["control_suspect"]``, which marks the 80 cells.

    Where the file is not on this machine, the same cells are made of the example data of the R
    package scBFA (3 MB), downloaded from GitHub.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ImportError
        If it is to be made of R's files and rdata (extra ``datasets``) is not installed.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    counts = {"stimulus": known_counts.STIMULI}
    made = partial(_shalek_of_r, verify)
    return _read(SHALEK, made, "shalek_bmdc", (1059, 2000), counts, verify)


def _shalek_of_r(verify: bool) -> AnnData:
    """The same cells from the R package scBFA."""
    expression, conditions = (read_rda(fetch(file, verify)) for file in _SHALEK_OF_R)
    adata = expression["exprdata"]
    # such as "4h LPS Rep", "1h PAM", "Unstimulated"
    condition = pd.Series(conditions["celltype"], index=adata.obs_names).str.strip()
    words = condition.str.extract("(?:([0-9]+)h (LPS|PAM|PIC)|Unstimulated)( Rep)?")
    adata.obs["condition"] = condition.astype("category")
    adata.obs["stimulus"] = words[1].fillna("none").astype("category")
    adata.obs["hours"] = words[0].fillna("0").astype(int)
    adata.obs["replicate"] = pd.Categorical(np.where(words[2].isna(), "1", "2"))
    adata.obs["control_suspect"] = condition == "Unstimulated"
    return adata


def pbmc68k_reduced() -> AnnData:
    """700 blood cells x 765 genes, raw counts and scaled, as shipped inside scanpy; no download.

    Returns
    -------
    AnnData with raw counts in ``layers["counts"]`` (CSR float32, (700, 765)), scaled values in
    ``X`` (float32) and ``obs["bulk_labels"]``, 10 types by correlation with sorted populations;
    other columns are scanpy's. scanpy ships no counts but what makes them: ``raw``, which is log1p
    of counts per 10,000, and each cell's total.

    Raises
    ------
    ValueError
        If this scanpy ships a file of another shape or other class counts.
    """
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    check_data(adata, "pbmc68k_reduced", (700, 765), {"bulk_labels": known_counts.PBMC68K_TYPES})
    counts = adata.raw.X.astype(np.float64).expm1()
    counts.data *= np.repeat(adata.obs["n_counts"].to_numpy(), np.diff(counts.indptr)) / 1e4
    # the file's values have three decimals
    adata.layers["counts"] = counts.rint().astype(np.float32)
    return adata


def _read(
    file: DataFile,
    of_originals: Callable[[], AnnData],
    name: str,
    shape: tuple[int, int],
    counts: dict,
    verify: bool,
) -> AnnData:
    """The file, or what is made of the public originals if it is neither here nor served."""
    path = find(file, verify)
    if path is None and os.environ.get(DATA_URL_VARIABLE):
        path = fetch(file)
    adata = of_originals() if path is None else anndata.read_h5ad(path)
    if verify:
        check_data(adata, name, shape, counts)
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
