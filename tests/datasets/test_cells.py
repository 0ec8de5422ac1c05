from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mixvi import datasets
from mixvi.datasets.cells import check_data


def skip_without(file):
    if datasets.find(file) is None:
        pytest.skip(f"{file.name} is not on this machine")


def assert_raw_counts(adata):
    assert adata.X.format == "csr" and adata.X.dtype == np.float32
    assert adata.X.data.min() >= 0
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))


def test_pbmc68k_reduced():
    adata = datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert adata.obs["bulk_labels"].nunique() == 10
    assert (adata.obs["bulk_labels"] == "Dendritic").sum() == 240


def test_counts_of_pbmc68k_reduced():
    """Whole numbers that give the expression scanpy ships, to the decimals that it ships."""
    adata = datasets.pbmc68k_reduced()
    counts = adata.layers["counts"]
    assert counts.dtype == np.float32 and (counts.data >= 1).all()
    assert (counts.data == counts.data.round()).all()
    again = np.log1p(counts.toarray() * 1e4 / adata.obs["n_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(again, adata.raw.X.toarray(), atol=5e-3)


@pytest.mark.parametrize(
    ("drop", "n_obs", "n_types"), [(False, 2638, 8), (True, 2623, 7)], ids=["all", "dropped"]
)
def test_pbmc3k(drop, n_obs, n_types):
    skip_without(datasets.PBMC3K)
    adata = datasets.pbmc3k(drop_megakaryocytes=drop)
    assert adata.shape == (n_obs, 13714)
    assert len(adata.obs["cell_type"].cat.categories) == n_types
    assert ("Megakaryocytes" in adata.obs["cell_type"].cat.categories) is not drop
    assert_raw_counts(adata)


@pytest.mark.parametrize(
    ("part", "shape", "stimulated", "types", "columns"),
    [
        ("both_1556", (1556, 1267), 806, 5, {"condition", "cell_type", "sample"}),
        ("both_2000", (2000, 9015), 1000, 9, {"condition", "cell_type"}),
        ("control_12261", (12261, 1287), 0, 8, {"condition", "cell_type", "donor"}),
    ],
)
def test_kang(part, shape, stimulated, types, columns):
    skip_without(datasets.KANG[part])
    adata = datasets.kang(part)
    assert adata.shape == shape
    assert (adata.obs["condition"] == "stim").sum() == stimulated
    assert adata.obs["cell_type"].nunique() == types
    assert set(adata.obs) == columns
    assert_raw_counts(adata)


@pytest.mark.parametrize(
    ("load", "file", "shape", "column", "n"),
    [
        (datasets.sorted_pbmc, datasets.SORTED_PBMC, (2140, 8863), "sorted_population", 9),
        (datasets.papalexi_eccite, datasets.PAPALEXI, (20729, 299), "target", 26),
        (datasets.shalek_bmdc, datasets.SHALEK, (1059, 2000), "condition", 15),
    ],
    ids=["sorted", "knockouts", "stimuli"],
)
def test_labels_that_are_independent_of_the_rna(load, file, shape, column, n):
    skip_without(file)
    adata = load()
    assert adata.shape == shape
    assert adata.obs[column].nunique() == n
    assert_raw_counts(adata)


def test_pbmc3k_is_made_of_what_scanpy_downloads(monkeypatch, tmp_path):
    """Equal to the file in cells, genes, counts and types."""
    skip_without(datasets.PBMC3K)
    expected = datasets.pbmc3k()
    # 62 further cells, which express rare genes, and an unexpressed gene, as in scanpy's raw data
    more = anndata.AnnData(
        sparse.csr_matrix(np.ones((62, expected.n_vars), np.float32)),
        obs=pd.DataFrame(index=[f"other_{i}" for i in range(62)]),
        var=expected.var[[]],
    )
    rare = anndata.AnnData(
        sparse.csr_matrix((2700, 1), dtype=np.float32),
        obs=pd.DataFrame(index=[*expected.obs_names, *more.obs_names]),
        var=pd.DataFrame(index=["RARE"]),
    )
    plain = anndata.AnnData(expected.X, obs=expected.obs[[]], var=expected.var[[]])
    raw = anndata.concat([anndata.concat([plain, more]), rare], axis=1)
    processed = anndata.AnnData(
        obs=pd.DataFrame({"louvain": expected.obs["cell_type"]}, index=expected.obs_names)
    )
    monkeypatch.setattr("scanpy.datasets.pbmc3k", lambda: raw)
    monkeypatch.setattr("scanpy.datasets.pbmc3k_processed", lambda: processed)
    monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("MIXVI_DATA_URL", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    made = datasets.pbmc3k()
    assert_raw_counts(made)
    assert list(made.var_names) == list(expected.var_names)
    assert (made.X != expected.X).nnz == 0
    assert made.obs["cell_type"].astype(str).equals(expected.obs["cell_type"].astype(str))


def test_interferon_raises_isg15():
    skip_without(datasets.KANG["both_1556"])
    adata = datasets.kang()
    expression = adata[:, "ISG15"].to_df()["ISG15"].groupby(adata.obs["condition"], observed=True)
    means = expression.mean()
    assert means["ctrl"] == pytest.approx(0.28, abs=0.01)
    assert means["stim"] == pytest.approx(47.0, abs=0.1)


def test_an_unknown_part_names_the_known():
    with pytest.raises(ValueError, match="both_1556, both_2000, control_12261"):
        datasets.kang("all")


@pytest.mark.parametrize("load", [datasets.pbmc3k, datasets.kang])
def test_loaders_check_what_they_read(load, monkeypatch, tmp_path):
    """A file that passed its checksum is still checked."""
    path = tmp_path / "few.h5ad"
    anndata.AnnData(np.zeros((2, 3), np.float32)).write_h5ad(path)
    monkeypatch.setattr("mixvi.datasets.cells.fetch", lambda file, verify: path)
    monkeypatch.setattr("mixvi.datasets.cells.find", lambda file, verify: path)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), but"):
        load()
    assert load(verify=False).shape == (2, 3)


def test_a_difference_is_named():
    adata = datasets.toy_conditional_blobs(n_per_group=5)
    counts = {"condition 0": 25, "condition 1": 25}
    check_data(adata, "toy", (50, 16), {"condition": counts})
    with pytest.raises(ValueError, match=r"toy has shape \(50, 16\), but \(51, 16\)"):
        check_data(adata, "toy", (51, 16), {})
    with pytest.raises(ValueError, match="25 cells of 'condition 0', but 24"):
        check_data(adata, "toy", (50, 16), {"condition": counts | {"condition 0": 24}})
    with pytest.raises(ValueError, match="0 cells of 'condition 2', but 3"):
        check_data(adata, "toy", (50, 16), {"condition": counts | {"condition 2": 3}})
    with pytest.raises(ValueError, match="25 cells of 'condition 1', but 0"):
        check_data(adata, "toy", (50, 16), {"condition": {"condition 0": 25}})
    with pytest.raises(ValueError, match=r"no obs\['donor'\]"):
        check_data(adata, "toy", (50, 16), {"donor": {}})
