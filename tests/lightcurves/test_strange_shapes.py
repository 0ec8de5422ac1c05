"""LC-VaDE on curves of four made-up shapes, one of which it has not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from conftest import CPU
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from mixvi.lightcurves import CurveVAE, LCVaDE

SHAPES = {
    "sine": lambda phase: np.sin(2 * np.pi * phase),
    "sawtooth": lambda phase: 2 * phase - 1,
    "one dip": lambda phase: 2 * np.exp(-(((phase - 0.5) / 0.08) ** 2)),
    "two dips": lambda phase: (
        2 * np.exp(-(((phase - 0.25) / 0.06) ** 2)) + np.exp(-(((phase - 0.75) / 0.06) ** 2))
    ),
}
MOST = 60


def shapes(n: int, seed: int) -> AnnData:
    """``n`` curves of each shape at irregular phases, with known errors of their own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(list(SHAPES), n)
    phase = rng.random((len(labels), MOST))
    valid = np.arange(MOST) < rng.integers(40, MOST + 1, len(labels))[:, None]
    amplitude = rng.uniform(0.3, 1.0, (len(labels), 1))
    values = np.stack([SHAPES[of](row) for of, row in zip(labels, phase, strict=True)])
    error = amplitude * rng.uniform(0.05, 0.4, (len(labels), 1)) * np.ones(MOST)
    magnitude = 13 + amplitude * values + error * rng.normal(size=phase.shape)
    names = [f"curve {i}" for i in range(len(labels))]
    return AnnData(
        obs=pd.DataFrame({"label": labels, "period": 1.0}, index=names),
        obsm={"time": phase, "magnitude": magnitude, "error": error, "valid": valid},
    )


@pytest.fixture(scope="module", params=["one dip", "sawtooth"])
def trained(request):
    """Models that have not seen a shape, curves of all, and which of these are strange."""
    adata = shapes(80, seed=0)
    train = adata[adata.obs["label"] != request.param].copy()
    test = shapes(40, seed=1)
    models = {}
    for cls in (LCVaDE, CurveVAE):
        scvi.settings.seed = 0
        cls.setup_anndata(train, labels_key="label", features=[])
        models[cls] = cls(train, width=8)
        models[cls].train(120, batch_size=64, **CPU)
    return models, test, (test.obs["label"] == request.param).to_numpy()


@pytest.mark.slow
def test_the_shape_that_was_left_out_is_strange(trained):
    """The acceptance of the specification; shapes so unlike leave one Gaussian nothing to lose.

    That the mixture is above one Gaussian is for real stars to show, in the benchmarks.
    """
    models, test, strange = trained
    by_mixture = roc_auc_score(strange, models[LCVaDE].get_anomaly_score(test, kind="ias"))
    by_one = roc_auc_score(strange, models[CurveVAE].get_anomaly_score(test))
    assert by_mixture > 0.9
    assert by_mixture >= by_one - 1e-3


@pytest.mark.slow
def test_decoded_spreads_follow_the_errors(trained):
    models, test, strange = trained
    known = test[~strange].copy()
    _, sd = models[LCVaDE].interpolate(known.obsm["time"], known)
    valid = known.obsm["valid"]
    decoded = np.where(valid, sd, 0).sum(1) / valid.sum(1)
    assert spearmanr(decoded, known.obsm["error"][:, 0]).statistic > 0.7
