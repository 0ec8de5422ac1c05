"""The verbs of models with clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU, assert_resumes

from mixvi.images import MPCC, VaDE

OPTIONS = {"backbone": "conv", "backbone_kwargs": {"n_channels": 2}, "n_latent": 6}


def fitted(cls, adata, n_clusters=3, **train):
    cls.setup_anndata(adata)
    more = {"d_steps": 1, "ema_decay": 0.9} if cls is MPCC else {}
    model = cls(adata, n_clusters, **OPTIONS, **more)
    start = {"pretrain_epochs": 1} if cls is VaDE else {}
    model.train(2, **(CPU | start | train))
    return model


@pytest.fixture(params=[VaDE, MPCC])
def model(request, images):
    return fitted(request.param, images)


def test_probabilities_and_assignments(model, images):
    probs = model.get_cluster_probabilities()
    assert probs.shape == (192, 3) and probs.columns.tolist() == ["0", "1", "2"]
    assert probs.index.equals(images.obs_names)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-5)
    found = model.get_cluster_assignments()
    assert (found == probs.idxmax(axis=1)).all()
    rows = [7, 2]
    some = model.get_cluster_probabilities(indices=rows)
    pd.testing.assert_frame_equal(some, probs.iloc[rows], rtol=1e-4)
    # Bayes' rule on the prior at the mean of q(z | x)
    phi, mu, sigma = model.get_prior_parameters()
    z = model.get_latent_representation()
    squares = (((z[:, None] - mu) / sigma) ** 2).sum(-1)
    log_joint = np.log(phi) - np.log(sigma).sum(-1) - 0.5 * squares
    expected = np.exp(log_joint - log_joint.max(1, keepdims=True))
    np.testing.assert_allclose(probs, expected / expected.sum(1, keepdims=True), atol=1e-4)
    distance = model.cluster_distance()
    np.testing.assert_allclose(distance, squares[np.arange(192), found.cat.codes] / 6, rtol=1e-3)


@pytest.mark.parametrize("cls", [VaDE, MPCC])
def test_half_precision(cls, images):
    """Networks in half precision, densities of codes in single; weights stay single."""
    options = {"init": "leiden", "teach_epochs": 1} if cls is VaDE else {}
    model = fitted(cls, images, precision="bf16-mixed", **options)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mu, log_var = model.module.encode(torch.zeros(2, 1, 8, 8))
    assert mu.dtype == log_var.dtype == torch.float32
    assert all(np.isfinite(table.to_numpy(float)).all() for table in model.history.values())


def test_samples(model):
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert model.sample(5, cluster=2, batch_size=2).shape == (5, 1, 8, 8)
    for wrong in (3, -1, "two", True, 0.5, np.int64(7)):
        shown = 7 if wrong == 7 else repr(wrong)
        message = f"cluster={shown} is not a cluster of the model: '0', '1', '2'"
        with pytest.raises(ValueError, match=message):
            model.sample(2, cluster=wrong)
    with pytest.raises(ValueError, match="n must be a positive"):
        model.sample(0, cluster=1)


def test_annotate(model, images):
    model.annotate(reconstruction=True)
    p = type(model).__name__.lower()
    probs = model.get_cluster_probabilities().to_numpy()
    np.testing.assert_array_equal(images.obsm[f"{p}_cluster_probs"], probs)
    cluster = images.obs[f"{p}_cluster"]
    assert cluster.cat.categories.tolist() == ["0", "1", "2"]
    pd.testing.assert_series_equal(
        cluster, model.get_cluster_assignments(), check_names=False, check_categorical=True
    )
    np.testing.assert_array_equal(images.obs[f"{p}_confidence"], probs.max(axis=1))
    np.testing.assert_array_equal(images.obs[f"{p}_cluster_distance"], model.cluster_distance())
    assert images.obsm[f"X_{p}"].shape == (192, 6)
    assert images.obsm[f"{p}_reconstruction"].shape == (192, 1, 8, 8)
    notes = images.uns[p]
    for name, values in zip(("phi", "mu", "sigma"), model.get_prior_parameters(), strict=True):
        np.testing.assert_array_equal(notes[name], values)
    assert 1 <= notes["used_clusters"] <= 3


def test_models_annotate_under_a_key_of_choice(model, images):
    model.annotate(key_added="mine")
    assert {"mine_cluster", "mine_confidence", "mine_reconstruction_error"} <= set(images.obs)
    assert {"X_mine", "X_mine_variance", "mine_cluster_probs"} <= set(images.obsm)
    p = type(model).__name__.lower()
    assert not any(p in str(key) for slot in (images.obs, images.obsm, images.uns) for key in slot)
    images.obs[f"{p}_cluster"] = "by hand"
    with pytest.warns(UserWarning, match=rf"no mixvi model wrote: obs\['{p}_cluster'\]"):
        model.annotate()


def test_a_cluster_has_one_name_in_all_verbs(model, images):
    """What one verb returns, another takes; numbers do, too."""
    model.annotate()
    p = type(model).__name__.lower()
    names = (
        images.obs[f"{p}_cluster"].iloc[0],
        model.get_cluster_assignments().iloc[0],
        model.get_cluster_probabilities().idxmax(axis=1).iloc[0],
        int(model.get_cluster_assignments().cat.codes.iloc[0]),
        model.clusters[int(model.get_cluster_assignments().cat.codes.iloc[0])],
    )
    made = []
    for name in names:
        torch.manual_seed(0)
        made.append(model.sample(3, cluster=name))
        np.testing.assert_array_equal(made[-1], made[0])


def test_save_and_load(model, images, tmp_path):
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", images)
    pd.testing.assert_frame_equal(
        loaded.get_cluster_probabilities(), model.get_cluster_probabilities()
    )
    made = []
    for one in (model, loaded):
        torch.manual_seed(3)
        made.append(one.sample(4, cluster=1))
    np.testing.assert_array_equal(*made)
    assert loaded.history.keys() == model.history.keys()
    without = type(model).load(tmp_path / "model", adata=False)
    assert without.sample(2, cluster=0).shape == (2, 1, 8, 8)
    # fewer images than clusters are enough for a trained model
    few = type(model).load(tmp_path / "model", images[:2].copy())
    assert len(few.get_cluster_assignments()) == 2


@pytest.mark.parametrize("cls", [VaDE, MPCC])
def test_fewer_images_than_clusters(cls, images):
    with pytest.raises(ValueError, match="n_clusters=193, but there are 192 images. Lower"):
        fitted(cls, images, n_clusters=193)


def test_decoding_with_a_cluster(images):
    model = fitted(MPCC, images)
    z = model.get_latent_representation()
    own = model.decode_latent(z, batch_size=50)
    assert own.shape == (192, 1, 8, 8)
    found = model.get_cluster_assignments().to_numpy()
    torch.manual_seed(0)
    as_found = model.decode_latent(z)
    torch.manual_seed(0)
    of_one = model.decode_latent(z, cluster=found[0])
    np.testing.assert_allclose(as_found[found == found[0]], of_one[found == found[0]], atol=1e-5)
    with pytest.raises(ValueError, match="cluster=3 is not a cluster"):
        model.decode_latent(z, cluster=3)
    assert model.get_discriminator_score().shape == (192,)
    assert np.isfinite(model.get_latent_mse(50))


def test_resume(images, tmp_path, monkeypatch):
    """A run of MPCC that was stopped goes on to the same weights, of shared networks, too."""
    MPCC.setup_anndata(images)

    def run(directory, **more):
        torch.manual_seed(0)
        model = MPCC(images, 3, **OPTIONS, d_steps=1, e_steps=1, ema_start=2)
        model.train(3, checkpoint_dir=directory, **CPU, **more)
        return model

    assert_resumes(run, tmp_path, monkeypatch, n_losses=22)


def test_author_code_variants(images):
    """L_q to the prior, and its scales as they are there."""
    MPCC.setup_anndata(images)
    model = MPCC(images, 3, **OPTIONS, latent_ll_to_prior=True, legacy_sigma=True, d_steps=2)
    model.train(2, **CPU)
    assert "encoder_prior_loss_train" in model.history
    np.testing.assert_allclose(model.get_cluster_probabilities().sum(axis=1), 1.0, rtol=1e-5)


def test_larger_prior_rate_moves_the_prior_further(images):
    moved = {}
    for rate in (1e-4, 1e-2):
        torch.manual_seed(0)
        MPCC.setup_anndata(images)
        model = MPCC(images, 3, **OPTIONS, d_steps=1)
        before = model.module.prior.mu.detach().clone()
        model.train(1, prior_lr=rate, **CPU)
        moved[rate] = float((model.module.prior.mu.detach() - before).abs().mean())
    assert moved[1e-2] > 20 * moved[1e-4]
