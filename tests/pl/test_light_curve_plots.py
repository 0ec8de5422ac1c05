from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import CPU

from mixvi import pl
from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import LCVaDE


@pytest.fixture(params=[1, 2])
def model(request):
    adata = synthetic_light_curves(6, ["RRAB", "EA"], n_points=(20, 30), n_bands=request.param)
    LCVaDE.setup_anndata(adata, labels_key="label")
    model = LCVaDE(adata, width=8, n_induction=8)
    model.train(1, batch_size=6, **CPU)
    yield model
    plt.close("all")


def test_a_curve_has_its_observations_mean_band_and_points(model):
    ax = pl.folded_curve(model, "star_3")
    seen = model.get_phases(indices=[3])
    drawn = np.concatenate([c.lines[0].get_xdata() for c in ax.containers[: model.n_bands]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(seen[np.isfinite(seen)]))
    grid = ax.lines[model.n_bands].get_xdata()
    mean = model.interpolate(grid, indices=[3], phases=True)[0].reshape(len(grid), -1)
    np.testing.assert_allclose(ax.lines[model.n_bands].get_ydata(), mean[:, 0])
    assert len(ax.containers) == 2 * model.n_bands
    assert ax.yaxis_inverted()


def test_the_strangest_come_first(model):
    score = model.get_anomaly_score()
    axes = pl.strangest_curves(model, score, n=3, n_columns=2, color="label")
    names = [ax.get_title().split(":")[0] for ax in axes]
    assert names == score.sort_values(ascending=False).index[:3].tolist()


def test_unknown_curves_are_named(model):
    with pytest.raises(KeyError, match="'Vega'"):
        pl.folded_curve(model, "Vega")
    with pytest.raises(KeyError, match="12 curves"):
        pl.folded_curve(model, 12)


def test_histograms_count_known_and_strange_objects(model):
    score = model.get_anomaly_score()
    strange = model.adata.obs["label"] == "EA"
    ax = pl.anomaly_histogram(score, strange.sample(frac=1.0, random_state=0), n_bins=5)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["known (6)", "strange (6)"]
    assert len(ax.patches) == 10 and ax.get_title().startswith("AUCROC")
    with pytest.raises(ValueError, match="0 of 12 objects are strange"):
        pl.anomaly_histogram(score, np.zeros(12, bool))
