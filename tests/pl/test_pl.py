from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mixvi import GMVAE, metrics, pl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def annotated(toy, fit):
    model = fit(GMVAE, toy, epochs=2, n_components=5, n_latent_w=2)
    model.annotate()
    return toy, model


def test_latent_does_not_touch_the_cells(annotated):
    adata, _ = annotated
    keys = set(adata.obsm), set(adata.uns), set(adata.obsp)
    axes = pl.latent(adata, color=["cell_type", "gmvae_confidence"], titles=["type", "sure"])
    assert [ax.get_title() for ax in axes] == ["type", "sure"]
    assert axes[0].get_xlabel() == "UMAP 1"
    assert len(axes[0].get_legend().get_texts()) == 5
    assert (set(adata.obsm), set(adata.uns), set(adata.obsp)) == keys


def test_two_dimensions_are_drawn_as_they_are(annotated):
    adata, _ = annotated
    (ax,) = pl.latent(adata, "X_gmvae_w")
    drawn = np.sort(ax.collections[0].get_offsets().data, axis=0)
    np.testing.assert_allclose(drawn, np.sort(adata.obsm["X_gmvae_w"], axis=0), rtol=1e-6)
    with pytest.raises(KeyError, match="'X_gmvae_w'"):
        pl.latent(adata, "X_gmvae_v")
    with pytest.raises(KeyError, match="'cell_type'"):
        pl.latent(adata, color="cell_typ")


def test_component_heatmap(annotated):
    adata, _ = annotated
    table = metrics.component_table(adata.obs["gmvae_component"], adata.obs["cell_type"])
    ax = pl.component_heatmap(adata, "cell_type")
    shown = {t.get_text() for t in ax.texts}
    assert shown == {str(n) for n in table.to_numpy().ravel() if n}
    assert len(ax.get_yticklabels()) == len(table)
    with pytest.raises(KeyError, match="labels_key"):
        pl.component_heatmap(adata, "types")


def test_loss_terms(annotated):
    _, model = annotated
    axes = pl.loss_terms(model)
    assert len(axes) == 5
    assert len(axes[0].lines[0].get_xdata()) == len(model.history["train_loss"])
    with pytest.raises(ValueError, match="no history"):
        pl.loss_terms({})


def test_confidence(annotated):
    adata, _ = annotated
    ax = pl.confidence(adata)
    assert sum(p.get_height() for p in ax.patches) == adata.n_obs
    ax = pl.confidence(adata, "cell_type")
    assert len(ax.get_yticklabels()) == 5
    with pytest.raises(KeyError, match="groupby"):
        pl.confidence(adata, "types")


def test_reliability_and_means(annotated):
    adata, _ = annotated
    probs = pd.DataFrame({"a": [0.9] * 10, "b": [0.1] * 10})
    ax = pl.reliability(probs, ["a"] * 9 + ["b"])
    assert "0.000" in ax.get_title()
    ax = pl.mean_expression(adata, adata, title="same")
    assert ax.get_title() == "same: R² = 1.000"
