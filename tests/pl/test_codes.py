"""Plots of latent dimensions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from codes_and_results import Decoder

import mixvi
from mixvi import pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


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
