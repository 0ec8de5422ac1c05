from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

from mixvi import pl

DAYS = [17226.0, 17236.0, 17258.0]
BANDS = ["B02", "B03", "B04", "B08"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def tiles():
    """Two tiles of 6 x 8 pixels, three dates and four bands, with maps of three classes."""
    rng = np.random.default_rng(0)
    series = rng.uniform(0, 1, (2, 3, 4, 6, 8)).astype("float32")
    valid = np.ones((2, 3, 1, 6, 8), bool)
    valid[:, 1, :, :3] = False
    labels = np.zeros((2, 6, 8), int)
    labels[:, 0], labels[:, 1], labels[:, 2] = -1, -2, 2
    probabilities = np.full((2, 3, 6, 8), 0.25)
    probabilities[:, 1] = 0.5
    tiles = AnnData(
        obsm={
            "series": series,
            "valid": valid,
            "time": np.tile(DAYS, (2, 1)),
            "labels": labels,
            "imputed": series + 1,
            "sd": np.full_like(series, 0.5),
            "probabilities": probabilities,
        },
        uns={"bands": BANDS, "classes": ["water", "forest", "bare"]},
    )
    tiles.obs_names = ["0_0", "0_8"]
    return tiles


def drawn(ax):
    return np.asarray(ax.images[0].get_array())


def is_grey(colours):
    return np.ptp(colours, -1) == 0


def test_strip_of_true_colours(tiles):
    axes = pl.image_series(tiles, "0_8", value_range=(0, 1))
    assert [ax.get_title() for ax in axes] == ["2017-03-01", "2017-03-11", "2017-04-02"]
    expected = tiles.obsm["series"][1, 0][[2, 1, 0]]
    np.testing.assert_allclose(drawn(axes[0]), np.moveaxis(expected, 0, -1), rtol=1e-6)
    # what is not valid is grey stripes
    hidden = is_grey(drawn(axes[1]))
    assert hidden[:3].all() and not hidden[3:].any()
    assert len(np.unique(drawn(axes[1])[:3])) == 2


def test_imputed_strip_and_one_band(tiles):
    tiles.obsm["series"][0, 0, 3, 0, 0] = np.nan
    axes = pl.image_series(tiles, bands="B08", imputed_key="imputed", dates=[0, 1])
    assert len(axes) == 4
    assert (axes[0].get_ylabel(), axes[2].get_ylabel()) == ("observed", "imputed")
    assert is_grey(drawn(axes[0]))[0, 0] and is_grey(drawn(axes[1]))[:3].all()
    assert not is_grey(drawn(axes[3])).any()
    assert len(pl.image_series(tiles, n_dates=2)) == 2


def test_index(tiles):
    axes = pl.image_series(tiles, index=("B08", "B04"))
    red, nir = tiles.obsm["series"][0, 0, 2:].astype(float)
    expected = plt.get_cmap("RdYlGn")(((nir - red) / (nir + red) + 1) / 2)[..., :3]
    np.testing.assert_allclose(drawn(axes[0]), expected)


def test_segmentation_panels(tiles):
    axes = pl.segmentation(tiles, prediction_key="probabilities")
    assert [ax.get_title() for ax in axes] == ["prediction", "labels", "entropy (nats)"]
    colours = [to_hex(plt.get_cmap("tab10")(i)) for i in range(3)]
    assert {to_hex(c) for c in drawn(axes[0]).reshape(-1, 3)} == {colours[1]}
    assert to_hex(drawn(axes[1])[2, 0]) == colours[2]
    assert len({to_hex(drawn(axes[1])[i, 0]) for i in range(4)}) == 4
    np.testing.assert_allclose(drawn(axes[2]), -0.5 * np.log(0.25) - 0.5 * np.log(0.5))
    (legend,) = axes[0].figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["water", "forest", "bare", "void", "unlabelled"]


def test_beyond_the_scene_nothing_is_drawn(tiles):
    tiles.uns["scene"] = {"height": 4, "width": 100}
    tiles.obs["row"], tiles.obs["column"] = 0, 8
    prediction, _, entropy = pl.segmentation(tiles, prediction_key="probabilities")
    shown = np.ma.masked_invalid(drawn(entropy))
    assert shown.mask[4:].all() and not shown.mask[:4].any()
    # as void pixels of labels are
    assert len({to_hex(c) for c in drawn(prediction)[4:].reshape(-1, 3)}) == 1
    assert to_hex(drawn(prediction)[4, 0]) == to_hex("0.25")


def test_codes_of_each_date_in_given_axes(tiles):
    tiles.obsm["codes"] = np.arange(6).reshape(2, 3, 1, 1) % 3 + np.zeros((2, 3, 6, 8), int)
    tiles.uns["colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    _, ax = plt.subplots()
    (ax,) = pl.segmentation(tiles, prediction_key="codes", labels_key=None, date=1, axes=[ax])
    assert {to_hex(c) for c in drawn(ax).reshape(-1, 3)} == {"#00ff00"}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["forest"]


def test_pixel_series(tiles):
    ax = pl.pixel_series(tiles, 0, 1, 2, band="B03", imputed_key="imputed", sd_key="sd")
    values = tiles.obsm["series"][0, :, 1, 1, 2]
    hidden, valid = (np.asarray(c.get_offsets())[:, 1] for c in ax.collections[1:])
    np.testing.assert_allclose(valid, values[[0, 2]])
    np.testing.assert_allclose(hidden, values[[1]])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values + 1)
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(edges.max() - values.max() - 1, 1.645 * 0.5, atol=1e-3)
    assert ax.get_ylabel() == "B03" and ax.get_legend().get_texts()[1].get_text() == "90 % interval"


def test_messages(tiles):
    with pytest.raises(KeyError, match="No tile is called '0_1'"):
        pl.image_series(tiles, "0_1")
    with pytest.raises(IndexError, match="There is no tile 2"):
        pl.image_series(tiles, 2)
    with pytest.raises(KeyError, match="Band 'B09' is not in uns"):
        pl.image_series(tiles, bands="B09")
    with pytest.raises(ValueError, match="one or three"):
        pl.image_series(tiles, bands=[0, 1])
    with pytest.raises(ValueError, match="index takes two bands"):
        pl.image_series(tiles, bands=[0], index=("B08", "B04"))
    with pytest.raises(IndexError, match="There is no date 3"):
        pl.image_series(tiles, dates=[3])
    with pytest.raises(ValueError, match="axes needs 3 entries"):
        pl.image_series(tiles, axes=[None])
    with pytest.raises(ValueError, match="has the shape"):
        pl.image_series(tiles, imputed_key="labels")
    with pytest.raises(KeyError, match="prediction_key='predictions'"):
        pl.segmentation(tiles, prediction_key="predictions")
    with pytest.raises(ValueError, match="has the shape"):
        pl.segmentation(tiles, prediction_key="time")
    with pytest.raises(ValueError, match="a map of each date: choose one"):
        pl.segmentation(tiles, prediction_key="labels", entropy_key="probabilities")
    with pytest.raises(IndexError, match=r"Pixel \(6, 0\) is not in a tile of 6 x 8"):
        pl.pixel_series(tiles, 0, 6, 0)
    with pytest.raises(ValueError, match="sd_key needs imputed_key"):
        pl.pixel_series(tiles, 0, 0, 0, sd_key="sd")
    with pytest.raises(ValueError, match="interval must lie"):
        pl.pixel_series(tiles, 0, 0, 0, interval=1)
