from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib.colors import to_hex
from scipy import sparse

from mixvi import CGMVAE, pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


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


def signed(n, channels=1, height=2, width=3):
    """Images in [-1, 1], no two alike."""
    x = np.linspace(-1, 1, n * channels * height * width, dtype=np.float32)
    return x.reshape(n, channels, height, width)


def test_images_of_arrays_and_of_an_anndata():
    x = signed(5)
    flat = AnnData(x.reshape(5, -1), uns={"image_shape": (1, 2, 3)})
    for given in (x, torch.tensor(x), AnnData(obsm={"image": x}), flat):
        ax = pl.images(given, n_columns=3)
        for k in range(5):
            np.testing.assert_allclose(tile(ax, *divmod(k, 3), 2, 3), x[k, 0], rtol=1e-6)
        assert ax.images[0].get_clim() == (-1, 1)
    assert pl.images(x, n_images=4).images[0].get_array().shape == (5, 7)
    assert pl.images(x, value_range=(0, 0.5)).images[0].get_clim() == (0, 0.5)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.array([[0, 9]], dtype=np.uint8), (0, 255)),
        (np.array([[0.1, 0.9]]), (0, 1)),
        (np.array([[-0.1, 0.9]]), (-1, 1)),
        (np.array([[-3.0, 5.0]]), (-3, 5)),
        (np.array([[3.0, 5.0]]), (3, 5)),
    ],
)
def test_black_and_white_by_the_values(x, expected):
    assert pl.images(x[:, None, None]).images[0].get_clim() == expected


def test_colours_are_drawn_with_white_gaps():
    x = np.stack([np.full((2, 3), level) for level in (1.0, -1.0, 0.0)])[None]
    ax = pl.images(np.concatenate([x, -x, x]), n_columns=2)
    shown = ax.images[0].get_array()
    assert shown.shape == (2 * 2 + 1, 2 * 3 + 1, 3)
    np.testing.assert_allclose(shown[0, 0], [1, 0, 0.5])
    np.testing.assert_allclose(shown[1, 6], [0, 1, 0.5])
    np.testing.assert_array_equal(shown[2], 1)
    np.testing.assert_array_equal(shown[3:, 4:], 1)
    as_bytes = pl.images(np.full((1, 3, 2, 3), 51, dtype=np.uint8)).images[0].get_array()
    np.testing.assert_allclose(as_bytes, 0.2)


def test_reconstructions_lie_below_their_originals():
    x = signed(5)
    y = -2 * x
    ax = pl.reconstructions(x, y, n_columns=3)
    for k in range(5):
        i, j = divmod(k, 3)
        np.testing.assert_allclose(tile(ax, 2 * i, j, 2, 3), x[k, 0], rtol=1e-6)
        np.testing.assert_allclose(tile(ax, 2 * i + 1, j, 2, 3), y[k, 0], rtol=1e-6)
    assert labels(ax.get_yticklabels()) == ["original", "reconstructed"] * 2
    # by the originals
    assert ax.images[0].get_clim() == (-1, 1)
    few = pl.reconstructions(x, y, n_images=2)
    assert few.images[0].get_array().shape == (5, 7)


@pytest.mark.parametrize("scale", [1 / 255, 1.0])
def test_bytes_beside_floats_are_drawn_alike(scale):
    """Floats in [0, 1] would be black between 0 and 255."""
    x = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 1, 2, 3)
    for pair in ((x, x * np.float32(scale)), (x * np.float32(scale), x)):
        ax = pl.reconstructions(*pair, n_columns=4)
        for k in range(4):
            of_x, of_y = tile(ax, 0, k, 2, 3), tile(ax, 1, k, 2, 3)
            np.testing.assert_allclose(of_x, of_y, atol=1e-5)
        assert ax.images[0].get_clim() == (-1, 1)


def test_clusters_are_rows():
    x = signed(6)
    ax = pl.images_by_cluster(x, [10, 2, 10, 2, 10, 10], n_columns=3)
    assert labels(ax.get_yticklabels()) == ["2", "10"]
    for place, k in {(0, 0): 1, (0, 1): 3, (1, 0): 0, (1, 1): 2, (1, 2): 4}.items():
        np.testing.assert_allclose(tile(ax, *place, 2, 3), x[k, 0], rtol=1e-6)
    assert np.isnan(tile(ax, 0, 2, 2, 3)).all()
    adata = AnnData(obsm={"image": x})
    adata.obs["cluster"] = pd.Categorical(list("babacc"), categories=["c", "z", "b", "a"])
    ax = pl.images_by_cluster(adata, "cluster")
    # the order of the categories; z has no images
    assert labels(ax.get_yticklabels()) == ["c", "b", "a"]
    np.testing.assert_allclose(tile(ax, 0, 1, 2, 3), x[5, 0], rtol=1e-6)


def captions(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("channels", [1, 3])
def test_failures_come_most_confident_first(channels):
    """By names of labels, whatever their type; captions lie below the images."""
    x = signed(6, channels=channels)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical([1, 2, 1, 2, 1, 2]),
            "found": ["1", "1", "2", "2", "2", "1"],
            "sure": [0.9, 0.5, 0.7, 0.6, 0.95, 0.8],
        },
        index=list("abcdef"),
    )
    adata = AnnData(obs=obs, obsm={"image": x})
    ax = pl.failures(adata, "found", "label", "sure", n_columns=2)
    assert captions(ax) == ["1\n→ 2\n0.95", "2\n→ 1\n0.80", "1\n→ 2\n0.70", "2\n→ 1\n0.50"]
    assert ax.get_title() == "4 of 6 images wrong"
    # two rows of two tiles, each with one row of pixels for its caption
    shown = ax.images[0].get_array()
    assert shown.shape[:2] == (2 * 3 + 1, 2 * 3 + 1)
    if channels == 1:
        for (i, j), k in {(0, 0): 4, (0, 1): 5, (1, 0): 2, (1, 1): 1}.items():
            of_tile = tile(ax, i, j, 3, 3)
            np.testing.assert_allclose(of_tile[:2], x[k, 0], rtol=1e-6)
            assert np.isnan(of_tile[2]).all()
    else:
        np.testing.assert_allclose(shown[2], 1.0)
    few = pl.failures(x, obs["found"].to_numpy(), list(obs["label"]), n_images=1)
    assert captions(few) == ["2\n→ 1"]
    # a Series has its own order
    turned = pl.failures(adata, obs["found"][::-1], "label", n_images=1)
    assert captions(turned) == ["2\n→ 1"]


def test_failures_of_clusters():
    """A cluster stands for the label that most of its images have."""
    x = signed(6)
    ax = pl.failures(x, list("001122"), list("aabbba"), of_clusters=True)
    assert captions(ax) in (["a\n→ b"], ["b\n→ a"])
    with pytest.raises(ValueError, match="no failure to draw: all 6 images"):
        pl.failures(x, list("001122"), list("aabbcc"), of_clusters=True)
    with pytest.raises(ValueError, match="predicted='found' names a column"):
        pl.failures(x, "found", list("aabbcc"))
    with pytest.raises(ValueError, match="confidence must have one entry"):
        pl.failures(x, list("001122"), list("aabbcc"), [0.5])


def test_images_bad_input():
    x = signed(4)
    with pytest.raises(ValueError, match=r"must be \(n, channels, height, width\)"):
        pl.images(x[0])
    with pytest.raises(ValueError, match="one or three channels, but have 2"):
        pl.images(signed(4, channels=2))
    with pytest.raises(KeyError, match="image_shape"):
        pl.images(AnnData(x.reshape(4, -1)))
    with pytest.raises(ValueError, match="value_range must be"):
        pl.images(x, value_range=(1, 1))
    with pytest.raises(ValueError, match="n_images must be a positive"):
        pl.images(x, n_images=0)
    with pytest.raises(ValueError, match="row_labels needs 2 entries, but has 1"):
        pl.images(x, row_labels=["a"])
    with pytest.raises(ValueError, match=r"\(4, 1, 2, 3\), reconstructed \(3, 1, 2, 3\)"):
        pl.reconstructions(x, x[:3])
    with pytest.raises(ValueError, match="images have no obs"):
        pl.images_by_cluster(x, "cluster")
    with pytest.raises(KeyError, match="clusters='cluster'"):
        pl.images_by_cluster(AnnData(obsm={"image": x}), "cluster")
    with pytest.raises(ValueError, match="clusters must have one entry a cell"):
        pl.images_by_cluster(x, [0, 1])
    with pytest.raises(ValueError, match="missing values"):
        pl.images_by_cluster(x, [0, 1, None, 1])
