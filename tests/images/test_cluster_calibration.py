"""Confidence in clusters, calibrated by the labels of some images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import CPU, blobs
from scipy.special import softmax

from mixvi.images import VaDE
from mixvi.images.calibration import share_right


def fitted(adata, n_clusters=3):
    VaDE.setup_anndata(adata)
    model = VaDE(adata, n_clusters, 2, backbone="mlp", backbone_kwargs={"n_hidden": 16})
    model.train(1, pretrain_epochs=1, n_init=1, **CPU)
    return model


def noisy_labels(model, share=0.3, seed=0):
    """A label a cluster, wrong for a share of the images, whatever their confidence."""
    rng = np.random.default_rng(seed)
    found = model.get_cluster_assignments().astype(int).to_numpy()
    wrong = rng.random(len(found)) < share
    return np.where(wrong, (found + 1) % 3, found)


def test_confidence_becomes_a_share_of_right_ones(tmp_path):
    adata = blobs(300)
    model = fitted(adata)
    before = model.get_cluster_probabilities()
    assert model.calibration is None
    adata.obs["label"] = pd.Categorical(noisy_labels(model)).rename_categories(list("xyz"))
    temperature = model.calibrate("label", indices=np.arange(150))
    assert model.calibration.temperature == temperature and model.calibration.n_images == 150
    after = model.get_cluster_probabilities()
    # the most probable cluster stays, and the rest has 0.3
    assert (after.idxmax(axis=1) == before.idxmax(axis=1)).all()
    assert after.max(axis=1)[150:].mean() == pytest.approx(model.calibration.accuracy, abs=0.1)
    assert model.calibration.accuracy == pytest.approx(0.7, abs=0.1)
    # logits are divided by the temperature
    phi, mu, sigma = model.get_prior_parameters()
    squares = (((model.get_latent_representation()[:, None] - mu) / sigma) ** 2).sum(-1)
    logits = (np.log(phi) - np.log(sigma).sum(-1) - 0.5 * squares) / temperature
    np.testing.assert_allclose(after, softmax(logits, axis=1), atol=1e-4)
    model.annotate()
    np.testing.assert_array_equal(adata.obs["vade_confidence"], after.max(axis=1))
    assert adata.uns["vade"]["temperature"] == temperature
    model.save(tmp_path / "model")
    loaded = VaDE.load(tmp_path / "model", adata)
    assert loaded.calibration == model.calibration
    pd.testing.assert_frame_equal(loaded.get_cluster_probabilities(), after)
    # other weights, other probabilities
    model.train(1, **CPU)
    assert model.calibration is None


def test_share_right():
    """Others of the cluster decide, and ties are shared."""
    rng = np.random.default_rng(0)
    clusters, labels = rng.integers(0, 4, 40), rng.integers(0, 3, 40)
    clusters[0] = 4
    for i, found in enumerate(share_right(clusters, labels)):
        others = np.delete(labels, i)[np.delete(clusters, i) == clusters[i]]
        if i == 0:
            assert len(others) == 0 and np.isnan(found)
            continue
        names, counts = np.unique(others, return_counts=True)
        most = names[counts == counts.max()]
        assert found == pytest.approx((labels[i] in most) / len(most))


def test_unusable_labels():
    adata = blobs(60)
    model = fitted(adata)
    adata.obs["few"] = [*"aabbaabb", *[None] * 52]
    adata.obs["none"] = np.nan
    with pytest.raises(KeyError, match="labels_key='kin'.*Did you mean 'kind'"):
        model.calibrate("kin")
    for key in ("few", "none"):
        with pytest.raises(ValueError, match=f"'{key}'.*at least 10 are needed"):
            model.calibrate(key)
    with pytest.raises(ValueError, match="There is one cluster"):
        fitted(adata, 1).calibrate("kind")
