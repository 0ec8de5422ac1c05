"""Plots of latent dimensions, and of many trained models."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import mixvi
from mixvi import metrics, pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


class Decoder:
    """Codes are what they are, and images are painted with them."""

    image_shape = (1, 4, 4)
    pixel_range = (-1.0, 1.0)
    registry = {"setup_args": {"image_key": "image", "layer": None}}

    def __init__(self, n: int = 40):
        rng = np.random.default_rng(0)
        self.means = rng.normal(size=(n, 3)) * [0.01, 2.0, 1.0]
        images = rng.uniform(-1, 1, (n, 1, 4, 4)).astype(np.float32)
        obs = pd.DataFrame({"kind": list("ab") * (n // 2)}, index=[str(i) for i in range(n)])
        self.adata = AnnData(obs=obs, obsm={"image": images})

    def get_latent_representation(self, adata=None, indices=None, return_dist=False):
        mean = self.means if indices is None else self.means[indices]
        return (mean, np.full_like(mean, 0.5) + [0.499, 0, 0]) if return_dist else mean

    def decode_latent(self, z):
        self.decoded = z
        return np.tanh(z[:, :1, None, None] * np.ones((1, 1, 4, 4)) + z[:, 1:2, None, None])

    def get_reconstruction(self, adata):
        return adata.obsm["image"]


def test_kl_of_dimensions_is_drawn_largest_first():
    ax = pl.latent_kl(Decoder())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "0"]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == sorted(heights, reverse=True)
    assert ax.get_title() == "2 of 3 dimensions active"
    assert "1 of 3" in pl.latent_kl(Decoder(), active_kl=heights[1] + 0.1).get_title()


def test_draws_of_each_dimension_are_beside_the_prior():
    axes = pl.aggregate_posterior(Decoder(), n_bins=10)
    assert [ax.get_title()[:2] for ax in axes] == ["z1", "z2", "z0"]
    for ax in axes:
        areas = sum(bar.get_width() * bar.get_height() for bar in ax.patches)
        assert areas == pytest.approx(1.0)
        assert ax.lines[0].get_ydata().max() == pytest.approx(0.399, abs=1e-3)
    with pytest.raises(ValueError, match="one entry a dimension"):
        pl.aggregate_posterior(Decoder(), axes=axes[:2])


def test_traversals_move_one_dimension_a_row():
    model = Decoder()
    ax = pl.traversals(model, obs=5, n_steps=4, span=2.0)
    codes = model.decoded.reshape(3, 4, 3)
    for row, d in zip(codes, (1, 2, 0), strict=True):
        assert row[:, d] == pytest.approx([-2, -2 / 3, 2 / 3, 2])
        others = np.delete(np.arange(3), d)
        np.testing.assert_array_equal(row[:, others], np.tile(model.means[5, others], (4, 1)))
    assert [t.get_text()[:2] for t in ax.get_yticklabels()] == ["z1", "z2", "z0"]
    with pytest.raises(ValueError, match="no row 40"):
        pl.traversals(model, obs=40)


def test_interpolations_begin_and_end_at_codes():
    model = Decoder()
    pl.interpolations(model, [(2, 7), (1, 3)], n_steps=3)
    codes = model.decoded.reshape(2, 3, 3)
    np.testing.assert_allclose(codes[0, [0, 2]], model.means[[2, 7]])
    np.testing.assert_allclose(codes[0, 1], model.means[[2, 7]].mean(0))
    ax = pl.interpolations(model, clusters="kind", n_steps=3)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    ends = model.decoded.reshape(2, 3, 3)[:, [0, 2]]
    kinds = [[int(np.abs(model.means - end).sum(1).argmin()) % 2 for end in row] for row in ends]
    assert kinds == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="leave clusters out"):
        pl.interpolations(model, [(0, 1)], clusters="kind")
    with pytest.raises(KeyError, match="no column 'type'"):
        pl.interpolations(model, clusters="type")


def test_traversals_of_cells_show_genes(fit, toy):
    model = fit(mixvi.VAE, toy, epochs=2, n_latent=2)
    ax = pl.traversals(model, n_genes=5)
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert len(shown) == len(set(shown)) == min(5, toy.n_vars) and set(shown) <= set(toy.var_names)
    assert ax.images[0].get_array().shape == (2, len(shown))
    assert pl.latent_kl(model).patches


RESULTS = pd.DataFrame(
    {
        "method": ["a"] * 4 + ["b"] * 4,
        "strength": [1, 1, 2, 2] * 2,
        "seed": [0, 1] * 4,
        "score": [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9],
        "reconstruction": [8.0, 7, 6, 5, 4, 3, 2, 1],
        "constant": [1.0] * 8,
    }
)


def test_many_models_in_one_figure():
    ax = pl.tradeoff(RESULTS, "score")
    assert [len(c.get_offsets()) for c in ax.collections] == [4, 4]
    ax = pl.rank_correlations(RESULTS, ["score", "constant"], ["reconstruction", "score"])
    assert [text.get_text() for text in ax.texts] == ["-1.00", "1.00", "–", "–"]
    ax = pl.robustness(RESULTS, "score")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "1", "2"]
    with pytest.raises(KeyError, match="no column 'scor'. Did you mean 'score'"):
        pl.robustness(RESULTS, "scor")


def test_agreement_and_variance_shares():
    table = metrics.rank_agreement(RESULTS, ["score", "reconstruction"])
    assert table.to_numpy() == pytest.approx(np.array([[1, -1], [-1, 1]]))
    shares = metrics.variance_shares(RESULTS, "score", ["method", "strength"])
    assert list(shares.index) == ["method", "strength", "rest"]
    assert shares.sum() == pytest.approx(1.0)
    # (0.25)^2 and (0.1)^2 and (0.05)^2 of each model
    assert list(shares) == pytest.approx(np.array([25, 4, 1]) / 30)
    with pytest.raises(ValueError, match="3 or more"):
        metrics.rank_agreement(RESULTS[:2], ["score", "reconstruction"])
    with pytest.raises(ValueError, match="the same for all models"):
        metrics.variance_shares(RESULTS, "constant", ["method"])


def test_downstream_task_by_the_number_of_labels():
    rng = np.random.default_rng(0)
    factors = {"kind": rng.integers(0, 4, 1500), "size": rng.integers(0, 3, 1500)}
    codes = np.stack([*factors.values(), rng.normal(size=1500)], 1)
    found = metrics.downstream_probe(
        codes, factors, sizes=(10, 100, 1000), n_test=500, probe="logistic"
    )
    assert float(found) == pytest.approx(1.0, abs=0.01)
    assert found.accuracy.shape == (3, 3)
    assert found.sample_efficiency == pytest.approx(
        found.accuracy.loc[100, "mean"] / found.accuracy.loc[1000, "mean"]
    )
    ax = pl.sample_efficiency({"codes": found})
    assert ax.lines[0].get_xdata().tolist() == [10, 100, 1000]
    with pytest.raises(ValueError, match="1500 rows are too few"):
        metrics.downstream_probe(codes, factors)
    # a training set of one class predicts it
    one = metrics.downstream_probe(
        codes, {"kind": np.r_[np.zeros(1400), 1, np.zeros(99)]}, sizes=(10,), n_test=100
    )
    assert float(one) > 0.98 and np.isnan(one.sample_efficiency)


def test_perfect_codes_have_the_accuracy_that_bounds_all_others():
    rng = np.random.default_rng(0)
    sizes = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
    factors = {name: rng.integers(0, size, 2100) for name, size in sizes.items()}
    codes = np.hstack([np.stack(list(factors.values()), 1), rng.normal(0, 1e-3, (2100, 5))])
    found = metrics.downstream_probe(codes, factors, sizes=(100,), n_test=2000)
    assert float(found) == pytest.approx(0.714, abs=0.05)


def test_changed_images_are_reported():
    model = Decoder()
    x = model.adata.obsm["image"]
    shifted = {"flipped": metrics.flipped_pixels(x, 0.3), "inverted": metrics.inverted(x)}
    report = metrics.domain_shift(model, x, shifted)
    assert list(report.index) == ["none", "flipped", "inverted"]
    assert report.loc["none", ["displacement", "iou"]].tolist() == [0.0, 1.0]
    # nothing that is white in an image is white in its negative
    assert report.loc["inverted", "iou"] == 0.0
    assert 0.3 < report.loc["flipped", "iou"] < 0.9
    axes = pl.domain_shift(report)
    assert len(axes) == 4 and len(axes[0].patches) == 3
    with pytest.raises(ValueError, match="two or more"):
        metrics.domain_shift(model, x[:1], {})
    with pytest.raises(ValueError, match="flipped: images have the shape"):
        metrics.domain_shift(model, x, {"flipped": x[:5]})


def test_a_triangle_is_a_shape_of_its_own():
    x = metrics.triangle()
    assert x.shape == (1, 1, 64, 64) and set(np.unique(x)) == {0, 255}
    widths = (x[0, 0] > 0).sum(1)
    assert (np.diff(widths[widths > 0]) >= 0).all() and widths.max() == 24
