from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mixvi import datasets
from mixvi.datasets.cells import check_data
from mixvi.datasets.fetch import DataFile, fetch, find


def here(file) -> bool:
    return find(file) is not None


def test_toy():
    adata = datasets.toy_conditional_blobs(n_per_group=30)
    assert adata.shape == (300, 16)
    assert (adata.obs.groupby(["cell_type", "condition"], observed=True).size() == 30).all()
    again = datasets.toy_conditional_blobs(n_per_group=30)
    np.testing.assert_array_equal(adata.X, again.X)
    means = adata.to_df().groupby([adata.obs["cell_type"], adata.obs["condition"]], observed=True)
    means = means.mean().unstack().stack(level=0, future_stack=True)
    first = adata[adata.obs["condition"] == "condition 0"]
    centres = first.to_df().groupby(first.obs["cell_type"], observed=True).mean().to_numpy()
    gaps = cdist(centres, centres)[np.triu_indices(5, 1)]
    shift = np.linalg.norm(
        adata[adata.obs["condition"] == "condition 1"].X.mean(0) - first.X.mean(0)
    )
    assert gaps.min() > shift
    with pytest.raises(ValueError, match="separable"):
        datasets.toy_conditional_blobs(effect=8.0)


def test_pbmc68k_reduced():
    adata = datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert adata.obs["bulk_labels"].nunique() == 10


@pytest.mark.skipif(not here(datasets.PBMC3K), reason="pbmc3k.h5ad is not on this machine")
def test_pbmc3k():
    adata = datasets.pbmc3k(drop_megakaryocytes=True)
    assert adata.shape == (2623, 13714)
    assert adata.obs["cell_type"].nunique() == 7
    assert (adata.X.data == np.round(adata.X.data)).all()


@pytest.mark.parametrize("part", list(datasets.KANG))
def test_kang(part):
    if not here(datasets.KANG[part]):
        pytest.skip(f"the Kang cells {part} are not on this machine")
    adata = datasets.kang(part)
    assert {"condition", "cell_type"} <= set(adata.obs)
    assert (adata.X.data == np.round(adata.X.data)).all()


def test_unknown_part():
    with pytest.raises(ValueError, match="both_1556"):
        datasets.kang("all")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MIXVI_DATA_URL", raising=False)
    return tmp_path


def test_a_missing_file_says_what_to_do(elsewhere):
    file = DataFile("made_up", "cells.h5ad", "0" * 64, "nowhere")
    with pytest.raises(FileNotFoundError, match="MIXVI_DATA_DIR") as caught:
        fetch(file)
    assert "0" * 64 in str(caught.value) and "nowhere" in str(caught.value)


def test_a_wrong_checksum_is_refused(elsewhere):
    os.makedirs(elsewhere / "made_up")
    (elsewhere / "made_up" / "cells.h5ad").write_bytes(b"other")
    with pytest.raises(ValueError, match="SHA-256"):
        fetch(DataFile("made_up", "cells.h5ad", "0" * 64, "nowhere"))


def test_counts_are_checked():
    adata = datasets.toy_conditional_blobs(n_per_group=5)
    check_data(adata, "toy", (50, 16), {"condition": {"condition 0": 25}})
    with pytest.raises(ValueError, match="shape"):
        check_data(adata, "toy", (51, 16), {})
    with pytest.raises(ValueError, match="25 cells of 'condition 0', but 24"):
        check_data(adata, "toy", (50, 16), {"condition": {"condition 0": 24}})
