from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import pytest
from r_files import S4, Environment, sparse_matrix, table, write_rda

from mixvi import datasets
from mixvi.datasets.r_objects import read_rda

# genes x cells, as in R
COUNTS = np.array([[0, 2, 0], [1, 0, 0], [3, 4, 5]])
GENES, CELLS = ["HES4", "ISG15", "SSU72"], ["AAC-1", "GTT-1", "TGA-1"]
NAMES = {"dimnames": [GENES, CELLS]}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write files of R into a data directory that has no other; there is no address."""
    monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("MIXVI_DATA_URL", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    return lambda name, objects: write_rda(tmp_path / "data" / name, objects)


def assert_cells(adata, counts=COUNTS, cells=CELLS, genes=GENES):
    assert adata.X.format == "csr" and adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), counts.T)
    assert list(adata.obs_names) == cells and list(adata.var_names) == genes


def triplets(counts, names):
    rows, columns = counts.nonzero()
    slots = {
        "i": rows.astype(np.int32),
        "j": columns.astype(np.int32),
        "Dim": np.array(counts.shape, np.int32),
        "Dimnames": names,
        "x": counts[rows, columns].astype(float),
    }
    return S4("dgTMatrix", slots)


def experiment(columns, rows=None, old=False):
    """A SummarizedExperiment with the counts, and normalised ones that nobody asks for."""
    if old:
        kept = S4("SimpleList", {"listData": {"counts": (COUNTS.astype(float), NAMES)}})
        assays = S4("ShallowSimpleListAssays", {".xData": Environment({".->data": kept})})
    else:
        matrices = {
            "counts": sparse_matrix(COUNTS, GENES, CELLS),
            "logcounts": sparse_matrix(COUNTS / 2, GENES, CELLS),
        }
        assays = S4("SimpleAssays", {"data": S4("SimpleList", {"listData": matrices})})
    slots = {"colData": table(columns), "assays": assays, "elementMetadata": table(rows or {})}
    return S4("SummarizedExperiment", slots)


@pytest.mark.parametrize(
    "matrix",
    [sparse_matrix(COUNTS, GENES, CELLS), triplets(COUNTS, [GENES, CELLS]), (COUNTS, NAMES)],
    ids=["columns", "triplets", "dense"],
)
def test_matrices_are_cells_x_genes(matrix, tmp_path):
    write_rda(tmp_path / "x.rda", {"counts": matrix, "again": matrix, "types": ["B", "T"]})
    objects = read_rda(tmp_path / "x.rda")
    assert_cells(objects["counts"])
    assert_cells(objects["again"])
    assert list(objects["types"]) == ["B", "T"]


def test_a_matrix_without_names_has_numbers(tmp_path):
    write_rda(tmp_path / "x.rda", {"counts": triplets(COUNTS, [GENES, None])})
    assert_cells(read_rda(tmp_path / "x.rda")["counts"], cells=["0", "1", "2"])


@pytest.mark.parametrize("old", [False, True], ids=["list", "environment"])
def test_experiments_have_their_tables(old, tmp_path):
    columns = {
        "type": pd.Categorical(["T", "B", "B"], categories=["T", "B"]),
        "n": np.array([1, 2, 3]),
    }
    written = experiment(columns, {"symbol": ["a", "b", "c"]}, old)
    write_rda(tmp_path / "x.rda", {"cells": written})
    adata = read_rda(tmp_path / "x.rda")["cells"]
    assert_cells(adata)
    assert list(adata.obs["type"].cat.categories) == ["T", "B"]
    assert adata.obs.to_dict("list") == {"type": ["T", "B", "B"], "n": [1, 2, 3]}
    assert adata.var["symbol"].tolist() == ["a", "b", "c"]


def put_kang(put, part):
    """Three cells of one part, in its package's form."""
    if part == "both_1556":
        columns = {
            "cluster_id": pd.Categorical(["B cells", "NK cells", "B cells"]),
            "sample_id": pd.Categorical(["ctrl101", "stim107", "stim107"]),
            "group_id": pd.Categorical(["ctrl", "stim", "stim"]),
        }
        put("kang/example_sce.rda", {"example_sce": experiment(columns)})
    elif part == "control_12261":
        columns = {
            "sample_id": np.array([1015, 107, 107]),
            "cluster_id": pd.Categorical(["B cells", "Dendritic cells", "Dendritic cells"]),
        }
        rows = {"feature": pd.Categorical(["A", "C", "B"], categories=["A", "B", "C"])}
        put("kang/kang_se.rda", {"kang_se": experiment(columns, rows, old=True)})
    else:
        conditions = {
            "pbmc.stim": sparse_matrix(COUNTS[:, 1:], GENES, ["TGA-1", "CCC-1"]),
            "pbmc.ctrl": sparse_matrix(COUNTS[:, :1], GENES, ["GTT-1"]),
        }
        put("kang/pbmc_stim.RData", conditions)


def test_kang_of_both_conditions(put):
    put_kang(put, "both_1556")
    adata = datasets.kang("both_1556", verify=False)
    assert_cells(adata, cells=["ctrl_AAC-1", "stim_GTT-1", "stim_TGA-1"])
    expected = {
        "cell_type": ["B cells", "NK cells", "B cells"],
        "sample": ["ctrl101", "stim107", "stim107"],
        "condition": ["ctrl", "stim", "stim"],
    }
    assert adata.obs.to_dict("list") == expected


def test_kang_of_control_cells(put):
    """Genes by symbol; donors in the order of their numbers."""
    put_kang(put, "control_12261")
    adata = datasets.kang("control_12261", verify=False)
    cells = ["ctrl_AAC-1", "ctrl_GTT-1", "ctrl_TGA-1"]
    assert_cells(adata, cells=cells, genes=["A", "C", "B"])
    expected = {
        "donor": ["1015", "107", "107"],
        "cell_type": ["B cells", "Dendritic cells", "Dendritic cells"],
        "condition": ["ctrl", "ctrl", "ctrl"],
    }
    assert adata.obs.to_dict("list") == expected
    assert list(adata.obs["donor"].cat.categories) == ["107", "1015"]
    assert adata.var.to_dict("list") == {"ensembl": GENES}


def test_types_of_kang_come_from_the_other_parts(put):
    for part in datasets.KANG:
        put_kang(put, part)
    adata = datasets.kang("both_2000", verify=False)
    assert_cells(adata, cells=["ctrl_GTT-1", "stim_TGA-1", "stim_CCC-1"])
    assert adata.obs["condition"].tolist() == ["ctrl", "stim", "stim"]
    assert adata.obs["cell_type"].tolist() == ["Dendritic cells", "B cells", "unknown"]


def test_sorted_populations_are_in_the_names_of_cells(put):
    cells = ["naivetAAC-1", "bcellsGTT-1", "bcellsTGA-1"]
    counts = (COUNTS, {"dimnames": [GENES, cells]})
    put("sorted_pbmc_zheng/referenceCounts.rda", {"referenceCounts": counts})
    adata = datasets.sorted_pbmc(verify=False)
    assert_cells(adata, cells=cells)
    assert adata.obs["sorted_population"].tolist() == ["naivet", "bcells", "bcells"]


def test_targets_are_those_of_the_top_guide(put):
    guides = np.array([[1, 0, 9], [3, 0, 1], [0, 8, 0]])
    data = {
        "response_matrix": triplets(COUNTS, [GENES, None]),
        "grna_matrix": triplets(guides, [["JAK2g1", "CD86g2", "NTg1"], None]),
        "extra_covariates": pd.DataFrame({"bio_rep": pd.Categorical(["rep_2", "rep_1", "rep_1"])}),
        "grna_target_data_frame": pd.DataFrame(
            {
                "grna_id": ["CD86g2", "NTg1", "JAK2g1"],
                "grna_target": pd.Categorical(["CD86", "non-targeting", "JAK2"]),
            }
        ),
    }
    put("papalexi_eccite/lowmoi_example_data.rda", {"lowmoi_example_data": data})
    adata = datasets.papalexi_eccite(verify=False)
    assert_cells(adata, cells=["cell0", "cell1", "cell2"])
    expected = {
        "guide": ["CD86g2", "NTg1", "JAK2g1"],
        "target": ["CD86", "non-targeting", "JAK2"],
        "guide_umis": [4, 8, 10],
        "guide_fraction": [0.75, 1, np.float32(0.9)],
        "replicate": ["rep_2", "rep_1", "rep_1"],
    }
    assert adata.obs.to_dict("list") == expected


def test_conditions_of_dendritic_cells(put):
    put("shalek_bmdc/exprdata.rda", {"exprdata": (COUNTS, NAMES)})
    # with the file's spaces
    put("shalek_bmdc/celltype.rda", {"celltype": ["1h PAM ", "4h LPS Rep", "Unstimulated"]})
    adata = datasets.shalek_bmdc(verify=False)
    assert_cells(adata)
    expected = {
        "condition": ["1h PAM", "4h LPS Rep", "Unstimulated"],
        "stimulus": ["PAM", "LPS", "none"],
        "hours": [1, 4, 0],
        "replicate": ["1", "2", "1"],
        "control_suspect": [False, False, True],
    }
    assert adata.obs.to_dict("list") == expected


@pytest.mark.parametrize("part", list(datasets.KANG))
def test_originals_come_from_a_revision_with_a_checksum(part, put, monkeypatch):
    """Of muscat or harmony; where MIXVI_DATA_URL is set, the file itself is asked for."""
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash, fname))
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(FileNotFoundError, match="raw.githubusercontent.com"):
        datasets.kang(part)
    ((url, known_hash, name),) = asked
    revision = r"https://raw\.githubusercontent\.com/\w+/(muscat|harmony)/[0-9a-f]{40}/data/"
    assert re.fullmatch(revision + re.escape(name), url)
    assert re.fullmatch("sha256:[0-9a-f]{64}", known_hash)
    monkeypatch.setenv("MIXVI_DATA_URL", "https://example.org")
    with pytest.raises(FileNotFoundError, match="https://example.org/kang/kang_"):
        datasets.kang(part)


def test_without_rdata_the_error_says_what_to_install(put, monkeypatch):
    put_kang(put, "both_1556")
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(ImportError, match=r"example_sce\.rda .* pip install 'mixvi\[datasets\]'"):
        datasets.kang(verify=False)
