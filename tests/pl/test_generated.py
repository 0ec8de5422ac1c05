from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib.colors import to_hex, to_rgba
from scipy import sparse

from mixvi import CGMVAE, pl


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


def tile(ax, i, j, height, width):
    """Image ``i, j`` of the grid; gaps are one pixel."""
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    top, left = i * (height + 1), j * (width + 1)
    return shown[top : top + height, left : left + width]


def labels(ticks):
    return [t.get_text() for t in ticks]


def test_images_lie_in_their_order():
    images = np.arange(5 * 6, dtype=float).reshape(5, 6)
    ax = pl.image_grid(images, (2, 3), n_columns=3)
    assert ax.images[0].get_array().shape == (2 * 2 + 1, 3 * 3 + 2)
    for k in range(5):
        np.testing.assert_array_equal(tile(ax, *divmod(k, 3), 2, 3), images[k].reshape(2, 3))
    # the sixth place and the gaps are empty
    assert np.isnan(tile(ax, 1, 2, 2, 3)).all()
    assert np.ma.count(ax.images[0].get_array()) == images.size
    assert ax.images[0].get_clim() == (0, 29)
    assert not ax.get_xlabel() and not labels(ax.get_xticklabels())
    square = pl.image_grid(sparse.csr_matrix(images), (2, 3))
    assert square.images[0].get_array().shape == (2 * 2 + 1, 3 * 3 + 2)


def test_white_gaps_and_black_zero():
    ax = pl.image_grid(np.array([[0.0, 1.0], [0.5, 1.0]]), (1, 2), vmin=0, vmax=2)
    image = ax.images[0]
    rgba = image.to_rgba(image.get_array())
    assert to_hex(rgba[0, 0]) == "#000000"
    assert to_hex(rgba[0, 2]) == "#ffffff"
    assert image.get_clim() == (0, 2)


def sampled(n_w=2, components=("0", "2", "10")):
    obs = pd.DataFrame(
        {
            "w_index": np.repeat(np.arange(n_w), len(components)),
            "component": pd.Categorical(np.tile(components, n_w)),
        },
        index=[f"generated_{i}" for i in range(n_w * len(components))],
    )
    return AnnData(np.arange(len(obs) * 4, dtype=float).reshape(-1, 4), obs=obs)


def test_samples_are_laid_out_by_draw_and_component():
    cells = sampled()
    ax = pl.image_grid(cells, (2, 2))
    # components keep the model's order, not that of text
    assert labels(ax.get_xticklabels()) == ["0", "2", "10"]
    assert labels(ax.get_yticklabels()) == ["0", "1"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("component", "draw of w")
    np.testing.assert_array_equal(tile(ax, 1, 2, 2, 2), cells.X[5].reshape(2, 2))
    gap = pl.image_grid(cells[[0, 1, 2, 3, 5]].copy(), (2, 2))
    assert np.isnan(tile(gap, 1, 1, 2, 2)).all()
    np.testing.assert_array_equal(tile(gap, 1, 2, 2, 2), cells.X[5].reshape(2, 2))
    in_order = pl.image_grid(cells, (2, 2), n_columns=2)
    assert in_order.images[0].get_array().shape == (8, 5)
    assert not in_order.get_xlabel()


def test_ticks_stand_at_the_middle_of_images():
    _, given = plt.subplots()
    ax = pl.image_grid(
        np.zeros((4, 6)),
        (2, 3),
        n_columns=2,
        row_labels=["first", 2],
        column_labels=["x", "y"],
        title="grid",
        ax=given,
    )
    assert ax is given and ax.get_title() == "grid"
    assert labels(ax.get_yticklabels()) == ["first", "2"]
    assert labels(ax.get_xticklabels()) == ["x", "y"]
    # pixel centres are whole numbers: rows 0 1 | 3 4, columns 0 1 2 | 4 5 6
    np.testing.assert_array_equal(ax.get_yticks(), [0.5, 3.5])
    np.testing.assert_array_equal(ax.get_xticks(), [1, 5])


def test_what_a_model_samples_fits(counts, fit):
    model = fit(
        CGMVAE,
        counts,
        epochs=1,
        setup={"layer": "counts", "condition_key": "condition"},
        n_components=3,
        likelihood="nb",
    )
    cells = model.sample(2)
    with pytest.raises(ValueError, match="several rows of w_index 0 and component '0'"):
        pl.image_grid(cells, (5, 6))
    ax = pl.image_grid(cells[cells.obs["condition"] == "stim"], (5, 6))
    assert labels(ax.get_xticklabels()) == ["0", "1", "2"]
    assert len(labels(ax.get_yticklabels())) == 2


def test_image_grid_bad_input():
    images = np.zeros((4, 6))
    with pytest.raises(ValueError, match="images have 6 pixels, but shape=.2, 2. has 4"):
        pl.image_grid(images, (2, 2))
    with pytest.raises(ValueError, match="shape must be .height, width."):
        pl.image_grid(images, (6,))
    with pytest.raises(ValueError, match=r"shape\[1\] must be a positive"):
        pl.image_grid(images, (2, 3.0))
    with pytest.raises(ValueError, match="n > 0"):
        pl.image_grid(images[:0], (2, 3))
    with pytest.raises(ValueError, match=r"but are \(4, 2, 3\)"):
        pl.image_grid(images.reshape(4, 2, 3), (2, 3))
    with pytest.raises(ValueError, match="row_labels needs 2 entries, but has 1"):
        pl.image_grid(images, (2, 3), row_labels=["one"])
    with pytest.raises(ValueError, match="column_labels needs 4 entries, but has 3"):
        pl.image_grid(images, (2, 3), n_columns=4, column_labels="abc")
    with pytest.raises(ValueError, match="n_columns must be a positive"):
        pl.image_grid(images, (2, 3), n_columns=0)
