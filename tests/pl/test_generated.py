from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib.colors import to_rgba
from scipy import sparse

from mixvi import pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def blobs(seed, n, types):
    """``n`` cells of 40 genes of each type, the types far apart."""
    x = np.random.default_rng(seed).normal(0, 1, (n * len(types), 40))
    kind = np.repeat(types, n)
    x[kind == "b", :20] += 8
    x[kind == "c", 20:] += 8
    adata = AnnData(x)
    adata.obs["kind"] = pd.Categorical(kind)
    adata.obs["size"] = x.sum(axis=1)
    return adata


@pytest.fixture
def real():
    return blobs(0, 30, ["a", "b"])


@pytest.fixture
def generated():
    return blobs(1, 10, ["b", "c"])


def test_real_are_dots_and_generated_crosses(real, generated):
    axes = pl.hybrid_umap(real, generated, "kind", n_neighbors=8)
    assert [ax.get_title() for ax in axes] == ["origin", "kind"]
    assert axes[0].get_xlabel() == "UMAP 1"
    for ax in axes:
        dots, crosses = ax.collections[:2]
        assert len(dots.get_offsets()) == 60 and len(crosses.get_offsets()) == 20
        # a cross has two strokes of two points, a dot is a closed curve
        assert len(crosses.get_paths()[0].vertices) == 4
        assert len(dots.get_paths()[0].vertices) > 4
        assert crosses.zorder >= dots.zorder
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["real", "generated"]
    assert [t.get_text() for t in axes[1].get_legend().get_texts()] == ["a", "b", "c"]


def test_generated_lie_among_real_cells_of_their_type_in_one_colour(real, generated):
    _, ax = pl.hybrid_umap(real, generated, "kind", n_neighbors=8)
    dots, crosses = ax.collections[:2]
    colours = dict(zip("abc", plt.get_cmap("tab10").colors, strict=False))
    at = {
        (name, kind): c.get_offsets().data[np.isclose(c.get_edgecolors(), to_rgba(rgb)).all(axis=1)]
        for name, c in (("real", dots), ("generated", crosses))
        for kind, rgb in colours.items()
    }
    assert {key: len(points) for key, points in at.items()} == {
        ("real", "a"): 30,
        ("real", "b"): 30,
        ("real", "c"): 0,
        ("generated", "a"): 0,
        ("generated", "b"): 10,
        ("generated", "c"): 10,
    }
    apart = np.linalg.norm(at["real", "a"].mean(0) - at["real", "b"].mean(0))
    assert np.linalg.norm(at["generated", "b"].mean(0) - at["real", "b"].mean(0)) < apart / 3
    assert np.linalg.norm(at["generated", "c"].mean(0) - at["real", "b"].mean(0)) > apart / 3


def test_hybrid_umap_repeats_itself_and_leaves_cells_and_threads(real, generated):
    before = real.copy(), generated.copy()
    threads = torch.get_num_threads()
    drawn = [pl.hybrid_umap(real, generated, "kind", n_neighbors=8)[0] for _ in range(2)]
    points = [ax.collections[0].get_offsets().data for ax in drawn]
    np.testing.assert_array_equal(*points)
    assert torch.get_num_threads() == threads
    for cells, old in zip((real, generated), before, strict=True):
        assert not cells.uns and not cells.obsm and not cells.obsp
        np.testing.assert_array_equal(cells.X, old.X)


def test_numbers_share_one_scale_and_missing_values_are_grey(real, generated):
    generated.obs["size"] += 1000
    real.obs.loc[real.obs_names[:3], "size"] = np.nan
    real.X = sparse.csr_matrix(real.X)
    _, ax, by_kind = pl.hybrid_umap(
        real, generated, ["size", "kind"], n_neighbors=8, titles=["from", "size", "type"]
    )
    assert by_kind.get_title() == "type"
    bar = ax.figure.axes[-1]
    low, high = real.obs["size"].min(), generated.obs["size"].max()
    np.testing.assert_allclose(bar.get_ylim(), [low, high])
    grey = np.isclose(ax.collections[0].get_facecolors(), to_rgba("0.8")).all(axis=1)
    assert grey.sum() == 3


def test_missing_labels_are_grey_on_both_sides(real, generated):
    real.obs.loc[real.obs_names[:4], "kind"] = None
    generated.obs.loc[generated.obs_names[:2], "kind"] = None
    _, ax = pl.hybrid_umap(real, generated, "kind", n_neighbors=8)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "c", "missing"]
    grey = [
        np.isclose(c.get_edgecolors(), to_rgba("0.8")).all(axis=1).sum() for c in ax.collections[:2]
    ]
    assert grey == [4, 2]


def test_labels_of_different_types_are_one_label(real, generated):
    real.obs["digit"] = np.repeat([1, 2], 30)
    generated.obs["digit"] = pd.Categorical(np.repeat(["2", "3"], 10))
    _, ax = pl.hybrid_umap(real, generated, "digit", n_neighbors=8)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["1", "2", "3"]


def test_hybrid_umap_draws_on_given_axes(real, generated):
    _, given = plt.subplots(1, 2)
    assert pl.hybrid_umap(real, generated, "kind", n_neighbors=8, axes=given) == list(given)


def test_hybrid_umap_bad_input(real, generated):
    with pytest.raises(KeyError, match="color='kinds' is not in real.obs.*'kind'"):
        pl.hybrid_umap(real, generated, "kinds")
    del generated.obs["size"]
    with pytest.raises(KeyError, match="'size' is not in generated.obs"):
        pl.hybrid_umap(real, generated, ["kind", "size"])
    with pytest.raises(ValueError, match=r"titles needs one entry a panel \(2\), has 1"):
        pl.hybrid_umap(real, generated, "kind", titles=["one"])
    with pytest.raises(ValueError, match="axes needs one entry a panel"):
        pl.hybrid_umap(real, generated, "kind", axes=[plt.gca()])
    with pytest.raises(ValueError, match="real has 40 genes, generated has 39"):
        pl.hybrid_umap(real, generated[:, 1:], "kind")
    with pytest.raises(ValueError, match="n_pcs must be a positive"):
        pl.hybrid_umap(real, generated, "kind", n_pcs=0)
    generated.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="generated has NaN"):
        pl.hybrid_umap(real, generated, "kind")
