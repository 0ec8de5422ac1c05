"""The ways of a user: set up, train, annotate, save, load elsewhere, query."""

from __future__ import annotations

import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU
from scipy import sparse

from mixvi import AE, CGMVAE, CVAE, GMVAE, VAE

CONDITION = {"condition_key": "condition"}


def test_annotate_writes_the_documented_keys(toy, fit):
    model = fit(CGMVAE, toy, setup=CONDITION | {"labels_key": "cell_type"}, n_components=6)
    model.annotate(reconstruction=True, counterfactual_to="condition 1")
    n = toy.n_obs
    shapes = {
        "X_gmvae_z": (n, 12),
        "X_gmvae_w": (n, 12),
        "X_gmvae_z_sample": (n, 12),
        "X_gmvae_w_sample": (n, 12),
        "gmvae_component_probs": (n, 6),
    }
    assert {k: toy.obsm[k].shape for k in shapes} == shapes
    assert {"gmvae_component", "gmvae_prediction", "gmvae_confidence"} <= set(toy.obs)
    assert {"gmvae_reconstruction", "gmvae_counterfactual"} <= set(toy.layers)
    notes = toy.uns["gmvae"]
    assert {"component_labels", "settings", "elbo_terms", "used_components"} <= set(notes)
    assert {"active_w", "active_z", "kl_per_w", "counterfactual_condition"} <= set(notes)
    probs = toy.obsm["gmvae_component_probs"]
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    by_label = model.predict(soft=True, level="label")
    np.testing.assert_allclose(toy.obs["gmvae_confidence"], by_label.max(axis=1))


def test_annotated_cells_can_be_written(toy, fit, tmp_path):
    model = fit(GMVAE, toy, epochs=1, n_components=5, term_weights={"W": 0.5})
    model.assign_components("cell_type")
    model.annotate()
    toy.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert list(again.obs["gmvae_prediction"]) == list(toy.obs["gmvae_prediction"])


def test_load_in_a_fresh_process(toy, fit, tmp_path):
    model = fit(CGMVAE, toy, setup=CONDITION | {"labels_key": "cell_type"}, n_components=6)
    model.save(tmp_path / "model")
    plain = anndata.AnnData(toy.X, obs=toy.obs[["cell_type", "condition"]], var=toy.var)
    plain.write_h5ad(tmp_path / "cells.h5ad")
    code = (
        "import sys, anndata, numpy, mixvi\n"
        "adata = anndata.read_h5ad(sys.argv[1] + '/cells.h5ad')\n"
        "model = mixvi.CGMVAE.load(sys.argv[1] + '/model', adata, accelerator='cpu')\n"
        "numpy.savez(sys.argv[1] + '/out.npz', z=model.get_latent_representation(),\n"
        "    label=model.predict(level='label').to_numpy().astype(str),\n"
        "    flipped=model.counterfactual(to='condition 1').X)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out["z"], model.get_latent_representation(), atol=1e-6)
    np.testing.assert_array_equal(out["label"], model.predict(level="label").astype(str))
    np.testing.assert_allclose(out["flipped"], model.counterfactual(to="condition 1").X, atol=1e-5)


@pytest.mark.parametrize("cls", [AE, VAE, CVAE, GMVAE, CGMVAE])
def test_every_model_round_trips(toy, fit, tmp_path, cls):
    setup = CONDITION if cls in (CVAE, CGMVAE) else {}
    model = fit(cls, toy, epochs=1, setup=setup)
    model.save(tmp_path / "model", save_anndata=True)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "mixvi.json",
        "weights.pt",
        "adata.h5ad",
    }
    torch.load(tmp_path / "model" / "weights.pt", weights_only=True)
    again = cls.load(tmp_path / "model")
    assert again.adata is not None
    np.testing.assert_array_equal(
        model.get_latent_representation(), again.get_latent_representation()
    )
    assert list(again.history) == list(model.history)
    bare = cls.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(
        model.get_latent_representation(), bare.get_latent_representation(toy.copy())
    )


def test_a_loaded_model_trains_on(toy, fit, tmp_path):
    model = fit(GMVAE, toy, n_components=5)
    model.save(tmp_path / "model")
    again = GMVAE.load(tmp_path / "model", toy.copy())
    again.train(2, **CPU)
    assert len(again.history["train_loss"]) == len(model.history["train_loss"]) + 2


def test_matrix_formats_agree(counts, fit):
    model = fit(GMVAE, counts, likelihood="nb", n_components=3)
    expected = model.get_latent_representation()
    dense = counts.X.toarray()
    for make in (np.asarray, np.asfortranarray, sparse.csr_matrix, sparse.csc_matrix):
        other = counts.copy()
        other.X = make(dense)
        kind = type(other.X)
        np.testing.assert_allclose(model.get_latent_representation(other), expected, atol=1e-5)
        assert type(other.X) is kind
    layered = counts.copy()
    layered.X = np.zeros_like(dense)
    for make in (np.asarray, sparse.csc_matrix):
        layered.layers["counts"] = make(dense)
        by_layer = fit(
            GMVAE, layered, epochs=1, setup={"layer": "counts"}, likelihood="nb", n_components=3
        )
        by_layer.module.load_state_dict(model.module.state_dict())
        np.testing.assert_allclose(by_layer.get_latent_representation(), expected, atol=1e-5)


def test_views(counts, fit):
    model = fit(GMVAE, counts, likelihood="nb", n_components=3)
    mask = (counts.obs["kind"] == "a").to_numpy()
    columns = list(counts.obs)
    got = model.get_latent_representation(counts[mask])
    np.testing.assert_allclose(got, model.get_latent_representation(indices=mask), atol=1e-6)
    assert list(counts.obs) == columns
    view = counts[mask]
    fit(GMVAE, view, likelihood="nb", n_components=3, epochs=1)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_backed(counts, fit, tmp_path, make):
    model = fit(GMVAE, counts, likelihood="nb", n_components=3)
    expected = model.get_latent_representation()
    stored = anndata.AnnData(make(counts.X.toarray()), obs=counts.obs, var=counts.var)
    stored.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_allclose(model.get_latent_representation(backed), expected, atol=1e-5)
    order = np.random.default_rng(0).permutation(counts.n_obs)[:150]
    got = model.get_latent_representation(backed, order, batch_size=40)
    np.testing.assert_allclose(got, expected[order], atol=1e-5)
    assert model.predict(backed).equals(model.predict())


def test_queries_without_labels_or_with_others(toy, fit):
    toy.obs["partly"] = np.where(np.arange(toy.n_obs) % 2, toy.obs["cell_type"], "Unknown")
    model = fit(GMVAE, toy, setup={"labels_key": "partly"}, n_components=5)
    without = anndata.AnnData(toy.X.copy(), var=toy.var.copy())
    expected = model.predict(level="label").to_numpy()
    np.testing.assert_array_equal(model.predict(without, level="label"), expected)
    assert not [c for c in without.obs if not c.startswith("_scvi")]
    other = toy.copy()
    other.obs["partly"] = "never seen"
    np.testing.assert_array_equal(model.predict(other, level="label"), expected)
    assert set(other.obs["partly"]) == {"never seen"}


@pytest.mark.parametrize("through_files", [False, True])
def test_query_mapping_trains_new_batches_alone(counts, fit, tmp_path, through_files):
    setup = {"batch_key": "batch", "labels_key": "kind"}
    model = fit(GMVAE, counts, setup=setup, likelihood="nb", n_components=3)
    reference = model
    if through_files:
        reference = tmp_path / "model"
        model.save(reference)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    query = counts.copy()
    query.obs["batch"] = "three"
    del query.obs["kind"]
    mapped = GMVAE.load_query_data(query, reference)
    assert mapped.batches == ["one", "two", "three"]
    mapped.train(3, weight_decay=0.0, **CPU)
    after = mapped.module.state_dict()
    changed = []
    for name, old in before.items():
        new = after[name]
        if name.startswith("typical_") or "num_batches" in name:
            continue
        block = new[tuple(slice(n) for n in old.shape)]
        torch.testing.assert_close(block, old, msg=name)
        if new.shape != old.shape and name.startswith(("encoder", "decoder")):
            changed.append(bool((new[:, -1] != 0).any()))
    assert changed and all(changed)
    np.testing.assert_allclose(
        mapped.get_latent_representation(counts), model.get_latent_representation(), atol=1e-5
    )


def test_query_mapping_without_new_batches_is_ready(counts, fit):
    model = fit(GMVAE, counts, setup={"batch_key": "batch"}, likelihood="nb", n_components=3)
    mapped = GMVAE.load_query_data(counts.copy(), model)
    assert mapped.is_trained
    np.testing.assert_array_equal(
        mapped.get_latent_representation(), model.get_latent_representation()
    )


def test_covariates_reach_the_networks(counts, fit):
    setup = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["site", "kind"],
        "continuous_covariate_keys": ["age"],
        "size_factor_key": "size",
        "condition_key": "condition",
    }
    for inject in (False, True):
        model = fit(
            CGMVAE,
            counts,
            setup=setup,
            likelihood="zinb",
            dispersion="gene-batch",
            n_components=3,
            inject_covariates=inject,
        )
        assert model.module.n_covariates == 2 + 3 + 2 + 1 + 2
        as_one = model.get_normalized_expression(transform_batch="one")
        as_two = model.get_normalized_expression(transform_batch="two")
        assert np.abs(as_one - as_two).to_numpy().max() > 0
        own = model.get_normalized_expression(library_size="latent", gene_list=["0", "3"])
        assert own.shape == (200, 2)
        flipped = model.counterfactual(to="stim", keep_residual=False)
        totals = flipped.X.sum(axis=1)
        np.testing.assert_allclose(totals, counts.obs["size"], rtol=0.5)
        drawn = model.sample(2, use_mean=False)
        assert (drawn.X == np.round(drawn.X)).all()


def test_training_twice_goes_on(toy, fit):
    model = fit(GMVAE, toy, epochs=3, n_components=5)
    n = len(model.history["train_loss"])
    weights = model.module.decoder.linears[0].weight.clone()
    model.train(2, **CPU)
    assert len(model.history["train_loss"]) == n + 2
    assert not torch.equal(weights, model.module.decoder.linears[0].weight)


def test_stages_change_the_learning_rate(toy, fit):
    from lightning.pytorch.callbacks import Callback

    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    VAE.setup_anndata(toy)
    model = VAE(toy, n_hidden=16, n_layers=1)
    model.train(stages=[(1e-2, 2), (1e-4, 1)], batch_size=250, callbacks=[Watch()], **CPU)
    assert seen == [1e-2] * 4 + [1e-4] * 2


def test_early_stopping(toy, fit):
    VAE.setup_anndata(toy)
    model = VAE(toy, n_hidden=16, n_layers=1)
    model.train(
        200, early_stopping=True, early_stopping_patience=2, early_stopping_min_delta=5.0, **CPU
    )
    assert len(model.history["elbo_validation"]) < 200
    assert len(model.validation_indices) == 50


def test_the_start_has_records_of_its_own(toy):
    """``history`` has the epochs that were asked for; the start comes before and validates none."""
    GMVAE.setup_anndata(toy)
    model = GMVAE(toy, n_components=5, n_hidden=16, n_layers=1)
    model.train(3, init_epochs=2, train_size=0.8, **CPU)
    assert list(model.history["elbo_train"].index) == [0, 1, 2]
    assert list(model.history["elbo_validation"].index) == [0, 1, 2]
    assert list(model.start_history["elbo_train"].index) == [0, 1]
    assert "elbo_validation" not in model.start_history
    model.train(2, train_size=0.8, **CPU)
    assert list(model.history["elbo_validation"].index) == [0, 1, 2, 3, 4]
    assert len(model.start_history["elbo_train"]) == 2


def test_a_lost_run_names_its_term(toy):
    VAE.setup_anndata(toy)
    model = VAE(toy, n_hidden=16, n_layers=1)
    with torch.no_grad():
        model.module.decoder.linears[0].weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="reconstruction_loss"):
        model.train(1, **CPU)


def test_unsupervised_training_does_not_look_at_labels(toy, fit):
    """Shuffled labels give bit for bit the same model; so do the hidden ones of semi."""
    states = []
    for seed in (0, 1):
        cells = toy.copy()
        labels = cells.obs["cell_type"].to_numpy()
        cells.obs["cell_type"] = np.random.default_rng(seed).permutation(labels)
        torch.manual_seed(0)
        np.random.seed(0)
        model = fit(
            GMVAE,
            cells,
            setup={"labels_key": "cell_type"},
            train={"mode": "unsupervised"},
            n_components=5,
        )
        states.append(model.module.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_soft_labels_train_like_hard_ones(toy, fit, tmp_path):
    onehot = pd.get_dummies(toy.obs["cell_type"]).astype(float)
    onehot.iloc[::2] = 0
    toy.obsm["soft"] = onehot
    model = fit(GMVAE, toy, setup={"soft_labels_key": "soft"}, epochs=30, n_components=5)
    assert model.classes == list(onehot.columns)
    predicted = model.predict(level="label")
    assert (predicted == toy.obs["cell_type"].astype(str)).mean() > 0.95
    assert toy.obsm["soft"].equals(onehot)
    without = anndata.AnnData(toy.X.copy(), var=toy.var.copy())
    np.testing.assert_array_equal(model.predict(without, level="label"), predicted)
    model.save(tmp_path / "model")
    again = GMVAE.load(tmp_path / "model", without[:1].copy())
    assert again.predict(level="label").iloc[0] == predicted.iloc[0]


def test_latent_forms(toy, fit):
    model = fit(GMVAE, toy, n_components=5, n_latent_w=3)
    mean, variance = model.get_latent_representation(which="w", return_dist=True)
    assert mean.shape == variance.shape == (500, 3)
    assert (variance > 0).all()
    draws = model.get_latent_representation(which="w", give_mean=False, n_samples=200)
    assert draws.shape == (200, 500, 3)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.6)
    assert model.get_latent_representation(indices=[4, 2]).shape == (2, 12)
    assert model.predict(indices=[]).empty


def test_verbs_of_an_untrained_model_are_refused(toy):
    GMVAE.setup_anndata(toy)
    model = GMVAE(toy, n_components=5)
    for verb in (model.predict, model.get_latent_representation, model.annotate, model.get_elbo):
        with pytest.raises(RuntimeError, match="not trained yet"):
            verb()
    with pytest.raises(RuntimeError, match="not trained yet"):
        model.sample(2)
    CGMVAE.setup_anndata(toy, condition_key="condition")
    with pytest.raises(RuntimeError, match="This CGMVAE is not trained yet"):
        CGMVAE(toy, n_components=5).counterfactual(to="condition 1")


def test_conditions_may_be_numbers(toy, fit):
    toy.obs["dose"] = toy.obs["condition"].cat.codes.astype(int)
    model = fit(CGMVAE, toy, setup={"condition_key": "dose"}, epochs=1, n_components=5)
    by_number = model.counterfactual(to=1)
    np.testing.assert_array_equal(by_number.X, model.counterfactual(to="1").X)
    assert set(by_number.obs["target_condition"]) == {"1"}
