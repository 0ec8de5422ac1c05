from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex, to_rgba
from scipy import sparse

from mixvi import pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    kind = np.repeat(["a", "b"], 30)
    adata = AnnData(np.zeros((60, 1), dtype=np.float32))
    adata.obs["kind"] = pd.Categorical(kind)
    adata.obsm["flat"] = rng.normal(size=(60, 2))
    adata.obsm["deep"] = rng.normal(size=(60, 5)) + 20 * (kind == "b")[:, None]
    return adata


def test_umap_parts_blobs_repeats_itself_and_leaves_the_cells(cells):
    before = cells.copy()
    (first,) = pl.latent(cells, "deep", n_neighbors=8)
    (second,) = pl.latent(cells, "deep", n_neighbors=8)
    points = first.collections[0].get_offsets().data
    np.testing.assert_array_equal(points, second.collections[0].get_offsets().data)
    # the permutation in which points are drawn, seed 0
    kind = cells.obs["kind"].to_numpy()[np.random.default_rng(0).permutation(60)]
    centres = {k: points[kind == k].mean(axis=0) for k in "ab"}
    spread = max(np.linalg.norm(points[kind == k] - centres[k], axis=1).max() for k in "ab")
    assert np.linalg.norm(centres["a"] - centres["b"]) > 2 * spread
    assert list(cells.obsm) == list(before.obsm)
    assert not cells.uns and not cells.obsp
    np.testing.assert_array_equal(cells.obsm["deep"], before.obsm["deep"])


def test_missing_categories_have_a_colour_of_their_own(cells):
    cells.obs.loc[cells.obs_names[:7], "kind"] = None
    (ax,) = pl.latent(cells, "flat", "kind")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "missing"]
    drawn = ax.collections[0].get_facecolors()
    assert np.isclose(drawn, to_rgba("0.8")).all(axis=1).sum() == 7


def test_categories_have_the_colours_that_scanpy_gave_them(cells):
    cells.obs["kind"] = cells.obs["kind"].cat.add_categories("c").cat.reorder_categories([*"cab"])
    cells.uns["kind_colors"] = np.array(["#00ff00", "#112233", "#445566"])
    (ax,) = pl.latent(cells, "flat", "kind")
    kind = cells.obs["kind"].to_numpy()[np.random.default_rng(0).permutation(60)]
    drawn = [to_hex(colour) for colour in ax.collections[0].get_facecolors()]
    assert drawn == ["#112233" if name == "a" else "#445566" for name in kind]
    rows = [to_rgba(colour) for colour in cells.uns["kind_colors"]]
    for same in (np.array(rows), rows, [*cells.uns["kind_colors"], "red"]):
        cells.uns["kind_colors"] = same
        (ax,) = pl.latent(cells, "flat", "kind")
        assert [to_hex(colour) for colour in ax.collections[0].get_facecolors()] == drawn


@pytest.mark.parametrize("colours", [None, ["red"], ["red", "nocolour"], {"a": "red", "b": "blue"}])
def test_what_is_no_list_of_colours_is_passed_over(cells, colours):
    (ax,) = pl.latent(cells, "flat", "kind")
    expected = ax.collections[0].get_facecolors()
    cells.uns["kind_colors"] = colours
    (ax,) = pl.latent(cells, "flat", "kind")
    np.testing.assert_array_equal(ax.collections[0].get_facecolors(), expected)


def test_missing_numbers_are_drawn_and_have_a_colour_bar(cells):
    cells.obs["score"] = np.r_[np.nan, np.arange(59.0)]
    (ax,) = pl.latent(cells, "flat", "score")
    assert ax.collections[0].colorbar is not None
    ax.figure.canvas.draw()
    grey = np.isclose(ax.collections[0].get_facecolors(), to_rgba("0.8")).all(axis=1)
    assert grey.sum() == 1


def test_the_colour_bar_says_its_numbers(cells):
    """Values that hardly differ look alike, and ticks are the values, not offsets from one."""
    cells.obs["sure"] = 1 - 1e-6 * np.arange(60.0)
    (ax,) = pl.latent(cells, "flat", "sure")
    ax.figure.canvas.draw()
    colours = ax.collections[0].get_facecolors()
    assert np.abs(colours - colours[0]).max() < 0.02
    bar = ax.collections[0].colorbar
    assert bar.ax.yaxis.get_offset_text().get_text() == ""
    assert {"0.990", "1.000"} <= {text.get_text() for text in bar.ax.get_yticklabels()}


def test_booleans_are_categories(cells):
    cells.obs["flag"] = np.arange(60) < 9
    (ax,) = pl.latent(cells, "flat", "flag")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["False", "True"]


@pytest.mark.parametrize("n", [10, 18, 25, 60])
def test_many_categories_have_different_colours_and_stay_inside(cells, n):
    cells.obs["many"] = pd.Categorical([f"type {i % n:02d}" for i in range(60)])
    (ax,) = pl.latent(cells, "flat", "many")
    colours = {to_hex(c) for c in ax.collections[0].get_facecolors()}
    assert len(colours) == n
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    figure = ax.figure.bbox
    assert legend.y0 >= 0 and legend.y1 <= figure.y1 and legend.x1 <= figure.x1 + 1


def test_genes_are_colours(cells):
    rng = np.random.default_rng(1)
    cells = AnnData(
        sparse.csr_matrix(rng.poisson(2, (60, 3)).astype(float)),
        obs=cells.obs,
        obsm=dict(cells.obsm),
        var=pd.DataFrame(index=["CST3", "kind", "MS4A1"]),
        layers={"logs": rng.random((60, 3))},
    )
    order = np.random.default_rng(0).permutation(60)
    gene, column = pl.latent(cells, "flat", ["CST3", "kind"])
    np.testing.assert_allclose(gene.collections[0].get_array(), cells.X.toarray()[order, 0])
    assert gene.get_title() == "CST3"
    # a column of obs comes before a gene of its name
    assert column.get_legend() is not None
    (gene,) = pl.latent(cells, "flat", "MS4A1", layer="logs")
    np.testing.assert_allclose(gene.collections[0].get_array(), cells.layers["logs"][order, 2])
    with pytest.raises(KeyError, match="'CST4' is neither in adata.obs nor a gene.*'CST3'"):
        pl.latent(cells, "flat", "CST4")
    with pytest.raises(KeyError, match="layer='log'"):
        pl.latent(cells, "flat", "CST3", layer="log")
    cells.var_names = ["CST3", "CST3", "MS4A1"]
    with pytest.raises(KeyError, match="'CST3' names several genes"):
        pl.latent(cells, "flat", "CST3")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_value_alone_has_a_bar(cells, value):
    cells.obs["same"] = value
    (ax,) = pl.latent(cells, "flat", "same")
    ax.figure.canvas.draw()
    bar = ax.collections[0].colorbar
    assert bar.vmin < bar.vmax == value


def test_bad_input(cells):
    cells.obsm["line"] = np.zeros((60, 1))
    with pytest.raises(ValueError, match="one dimension"):
        pl.latent(cells, "line", method="scatter")
    with pytest.raises(ValueError, match="color is empty"):
        pl.latent(cells, "flat", [])
    with pytest.raises(ValueError, match="titles needs one entry a panel"):
        pl.latent(cells, "flat", ["kind", "kind"], titles=["one"])
    with pytest.raises(ValueError, match="axes needs one entry a panel"):
        pl.latent(cells, "flat", ["kind", "kind"], axes=[plt.gca()])
