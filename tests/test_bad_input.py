"""Bad input gets one clear error before training, and the AnnData stays as it was."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from conftest import CPU
from scipy import sparse

from mixvi import AE, CGMVAE, CVAE, GMVAE, VAE


def _content(adata):
    x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    obs = adata.obs[[c for c in adata.obs if not c.startswith("_scvi")]]
    uns = {k for k in adata.uns if not k.startswith("_scvi")}
    layers = {k: v.toarray() if sparse.issparse(v) else v for k, v in adata.layers.items()}
    return (
        np.array(x),
        obs.copy(),
        uns,
        list(adata.obsm),
        {k: np.array(v) for k, v in layers.items()},
    )


@contextmanager
def refuses(adata, *words, kind=ValueError):
    """The error names all the words, and the user's data are as before."""
    before = _content(adata)
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    for word in words:
        assert word in message, message
    after = _content(adata)
    np.testing.assert_array_equal(before[0], after[0])
    pd.testing.assert_frame_equal(before[1], after[1])
    assert before[2:4] == after[2:4]
    for key, values in before[4].items():
        np.testing.assert_array_equal(values, after[4][key])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("to", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_nan_and_inf(toy, value, to):
    x = toy.X.copy()
    x[3, 2] = value
    toy.X = to(x)
    with refuses(toy, "adata.X", "NaN or infinite"):
        GMVAE.setup_anndata(toy)
    assert not any(c.startswith("_scvi") for c in toy.obs)


def test_nan_in_a_layer(toy):
    toy.layers["log"] = toy.X.copy()
    toy.layers["log"][0, 0] = np.nan
    with refuses(toy, "adata.layers['log']", "NaN"):
        GMVAE.setup_anndata(toy, layer="log")


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_negative_counts(toy, likelihood):
    toy.X[0, 0] = -1
    GMVAE.setup_anndata(toy)
    with refuses(toy, "adata.X", "negative", likelihood):
        GMVAE(toy, likelihood=likelihood)


def test_fractions_as_counts_warn_and_train(counts):
    counts.X = counts.X * 0.5
    GMVAE.setup_anndata(counts)
    with pytest.warns(UserWarning, match="not whole numbers"):
        model = GMVAE(counts, n_components=2, likelihood="nb")
    model.train(1, **CPU)
    assert model.is_trained


def test_bernoulli_range(toy):
    toy.X = np.abs(toy.X)
    GMVAE.setup_anndata(toy)
    with refuses(toy, "above 1", "bernoulli", "[0, 1]"):
        GMVAE(toy, likelihood="bernoulli")
    toy.X = -toy.X / 100
    GMVAE.setup_anndata(toy)
    with refuses(toy, "negative", "bernoulli"):
        GMVAE(toy, likelihood="bernoulli")


@pytest.mark.parametrize("part", [np.s_[:0, :], np.s_[:, :0]])
def test_empty(toy, part):
    empty = toy[part].copy()
    with pytest.raises(ValueError, match="empty"):
        GMVAE.setup_anndata(empty)


def test_not_an_anndata():
    with pytest.raises(TypeError, match="AnnData"):
        GMVAE.setup_anndata(np.zeros((3, 3)))


def test_one_cell(toy):
    one = toy[:1].copy()
    GMVAE.setup_anndata(one)
    with refuses(one, "fewer than two"):
        GMVAE(one, n_components=1).train(1, **CPU)


def test_cells_without_counts(counts):
    x = counts.X.toarray()
    x[5] = 0
    counts.X = sparse.csr_matrix(x)
    GMVAE.setup_anndata(counts)
    with refuses(counts, "1 cells have no counts", "filter_cells"):
        GMVAE(counts, likelihood="nb")
    GMVAE.setup_anndata(counts, size_factor_key="size")
    GMVAE(counts, likelihood="nb")


@pytest.mark.parametrize(
    ("argument", "key", "near"),
    [
        ("layer", "count", "counts"),
        ("labels_key", "kinds", "kind"),
        ("condition_key", "conditions", "condition"),
        ("batch_key", "batches", "batch"),
        ("size_factor_key", "sizes", "size"),
    ],
)
def test_missing_keys(counts, argument, key, near):
    with refuses(counts, argument, repr(key), f"'{near}'", kind=KeyError):
        GMVAE.setup_anndata(counts, **{argument: key})


@pytest.mark.parametrize("argument", ["categorical_covariate_keys", "continuous_covariate_keys"])
def test_missing_covariates(counts, argument):
    with refuses(counts, argument, "'agee'", "'age'", kind=KeyError):
        GMVAE.setup_anndata(counts, **{argument: ["agee"]})


@pytest.mark.parametrize("argument", ["labels_key", "condition_key", "batch_key"])
def test_floats_and_nan_as_categories(counts, argument):
    with refuses(counts, argument, "floats", "astype(str)"):
        GMVAE.setup_anndata(counts, **{argument: "age"})
    if argument == "labels_key":
        return
    counts.obs["holes"] = counts.obs["kind"].where(np.arange(counts.n_obs) > 3)
    with refuses(counts, argument, "4 missing values", "fillna"):
        GMVAE.setup_anndata(counts, **{argument: "holes"})


def test_numeric_covariates(counts):
    with refuses(counts, "not numeric", "'site'"):
        GMVAE.setup_anndata(counts, continuous_covariate_keys=["site"])
    counts.obs["age"] = counts.obs["age"].where(counts.obs["age"] > 0)
    with refuses(counts, "'age'", "NaN"):
        GMVAE.setup_anndata(counts, continuous_covariate_keys=["age"])
    counts.obs["size"] = 0.0
    with refuses(counts, "'size'", "positive"):
        GMVAE.setup_anndata(counts, size_factor_key="size")


def test_soft_labels(toy):
    toy.obsm["soft"] = np.full((toy.n_obs, 3), 0.5)
    with refuses(toy, "soft", "sum to 1"):
        GMVAE.setup_anndata(toy, soft_labels_key="soft")
    toy.obsm["soft"][0, 0] = np.nan
    with refuses(toy, "soft", "NaN"):
        GMVAE.setup_anndata(toy, soft_labels_key="soft")
    with refuses(toy, "not both"):
        GMVAE.setup_anndata(toy, labels_key="cell_type", soft_labels_key="soft")


def test_all_unlabelled(toy):
    toy.obs["nothing"] = "Unknown"
    with refuses(toy, "'nothing'", "Every cell"):
        GMVAE.setup_anndata(toy, labels_key="nothing")


def test_a_label_with_one_cell(toy):
    toy.obs["label"] = toy.obs["cell_type"].astype(str)
    toy.obs.loc[toy.obs_names[0], "label"] = "mast cell"
    with pytest.warns(UserWarning, match="'label'.*labels_key.*'mast cell'.*Join it"):
        GMVAE.setup_anndata(toy, labels_key="label")


def test_fewer_components_than_labels(toy):
    GMVAE.setup_anndata(toy, labels_key="cell_type")
    with refuses(toy, "n_components=3", "5 labels"):
        GMVAE(toy, n_components=3)
    with refuses(toy, "n_components=5", "2 component(s)"):
        GMVAE(toy, n_components=5, components_per_class=2)


@pytest.mark.parametrize("cls", [CGMVAE, CVAE])
def test_conditional_models_need_a_condition(toy, cls):
    with refuses(toy, cls.__name__, "condition_key"):
        cls.setup_anndata(toy)


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ({"likelihood": "gausian"}, "'gaussian'"),
        ({"y_prior": "dirichlett"}, "'dirichlet'"),
        ({"y_posterior": "baye"}, "'bayes'"),
        ({"d_term": "colapsed"}, "'collapsed'"),
        ({"likelihood": "nb", "output_activation": "relu"}, "no effect"),
        ({"likelihood": "gaussian_sigma", "sigma": "genes"}, "'feature'"),
        ({"n_components": 0}, "n_components"),
        ({"n_latent_z": 2.5}, "n_latent_z"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"alpha": -1}, "alpha"),
        ({"term_weights": {"Q": 1.0}}, "term_weights"),
    ],
)
def test_unknown_options(toy, option, near):
    GMVAE.setup_anndata(toy)
    with refuses(toy, list(option)[-1], near):
        GMVAE(toy, **option)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"batch_size": 1}, "batch_size=1"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"stages": [(1e-3,)]}, "stages"),
        ({"stages": "1e-3"}, "stages"),
        ({"stages": [(1e-3, 2)], "max_epochs": 3}, "not both"),
        ({"stages": [(0.0, 2)]}, "learning rate"),
        ({"lr": -1}, "lr"),
        ({"train_size": 1.5}, "train_size"),
        ({"train_size": 0.8, "validation_size": 0.5}, "validation_size"),
        ({"early_stopping": True, "train_size": 1.0}, "early_stopping"),
        ({"mode": "supervised"}, "needs labels"),
        ({"mode": "semi"}, "needs labels"),
        ({"mode": "half"}, "mode"),
        ({"labelled_fraction": 0.5}, "labelled_fraction"),
        ({"label_weighting": "cells"}, "label_weighting"),
        ({"init": "random"}, "init"),
    ],
)
def test_training_arguments(toy, arguments, word):
    GMVAE.setup_anndata(toy)
    model = GMVAE(toy, n_components=5)
    with refuses(toy, word):
        model.train(**{"max_epochs": None, **CPU, **arguments})
    assert not model.is_trained


def test_more_components_than_cells(toy):
    few = toy[:8].copy()
    GMVAE.setup_anndata(few)
    with refuses(few, "8 cells", "20 components"):
        GMVAE(few).train(1, **CPU)


@pytest.fixture
def conditional(toy, fit):
    return fit(CGMVAE, toy, setup={"condition_key": "condition"}, epochs=1, n_components=5)


def test_query_genes(toy, conditional):
    fewer = toy[:, :10].copy()
    with refuses(fewer, "lack 6", "genes"):
        conditional.predict(fewer)
    turned = toy[:, ::-1].copy()
    with refuses(turned, "order", "model.var_names"):
        conditional.predict(turned)


def test_query_categories(toy, counts, conditional, fit):
    other = toy.copy()
    other.obs["condition"] = "condition 9"
    with refuses(other, "'condition 9'", "condition_key"):
        conditional.predict(other)
    with refuses(other, "'condition 9'", "condition_key"):
        CGMVAE.load_query_data(other, conditional)
    model = fit(VAE, counts, epochs=1, likelihood="nb", setup={"batch_key": "batch"})
    new = counts.copy()
    new.obs["batch"] = "three"
    with refuses(new, "'three'", "load_query_data"):
        model.get_latent_representation(new)
    model = fit(
        VAE, counts, epochs=1, likelihood="nb", setup={"categorical_covariate_keys": ["site"]}
    )
    new = counts.copy()
    new.obs["site"] = "w"
    with refuses(new, "'w'", "categorical_covariate_keys"):
        model.get_latent_representation(new)
    without = toy.copy()
    del without.obs["condition"]
    with refuses(without, "'condition'", "condition_key", kind=KeyError):
        conditional.predict(without)


def test_counterfactual_arguments(toy, conditional):
    with refuses(toy, "to='condition 7'", "condition"):
        conditional.counterfactual(to="condition 7")
    with refuses(toy, "Name the target condition"):
        conditional.counterfactual()
    with refuses(toy, "labels='observed'", "predicted"):
        conditional.counterfactual(to="condition 1", labels="observed")
    with refuses(toy, "key_added", "indices"):
        conditional.counterfactual(to="condition 1", indices=[0, 1], key_added="flipped")
    with refuses(toy, "route"):
        conditional.counterfactual(to="condition 1", route="x")


def test_generation_arguments(toy, conditional):
    with refuses(toy, "components has 9", "0 to 4"):
        conditional.sample(2, components=[9])
    with refuses(toy, "conditions='condition 7'"):
        conditional.sample(2, conditions=["condition 7"])
    with refuses(toy, "n must be"):
        conditional.sample(0)


def test_inference_arguments(toy, conditional):
    with refuses(toy, "which", "'w'"):
        conditional.get_latent_representation(which="v")
    with refuses(toy, "indices", "row numbers"):
        conditional.predict(indices=[10_000])
    with refuses(toy, "mask of length 3"):
        conditional.predict(indices=np.array([True, False, True]))
    with refuses(toy, "have no labels yet", "assign_components"):
        conditional.predict(level="label")
    with refuses(toy, "'gene_99'", kind=KeyError):
        conditional.get_normalized_expression(gene_list=["gene_99"])
    with refuses(toy, "shape (n, 12)"):
        conditional.get_component_parameters(w=np.zeros((2, 3)), condition="condition 0")


def test_mse_has_no_elbo(toy, fit):
    model = fit(GMVAE, toy, epochs=1, n_components=5, likelihood="mse")
    with refuses(toy, "mse", "no ELBO"):
        model.get_elbo()


def test_load(toy, conditional, tmp_path):
    with pytest.raises(FileNotFoundError, match="no mixvi model"):
        CGMVAE.load(tmp_path, toy)
    path = tmp_path / "model"
    conditional.save(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        conditional.save(path)
    with pytest.raises(ValueError, match="holds a CGMVAE model, not a GMVAE"):
        GMVAE.load(path, toy)
    fewer = toy[:, :3].copy()
    with refuses(fewer, "lack 13", "genes"):
        CGMVAE.load(path, fewer)
    record = json.loads((path / "mixvi.json").read_text())
    (path / "mixvi.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        CGMVAE.load(path, toy)
    (path / "mixvi.json").write_text(json.dumps(record)[:200])
    with pytest.raises(ValueError, match="damaged or truncated"):
        CGMVAE.load(path, toy)
    (path / "mixvi.json").write_text(json.dumps(record))
    weights = (path / "weights.pt").read_bytes()
    (path / "weights.pt").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="damaged or truncated"):
        CGMVAE.load(path, toy)


def test_a_strangers_pickle_is_not_executed(toy, conditional, tmp_path):
    """Weights swapped for a pickle that runs code, its checksum made to fit."""
    import hashlib
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "model"
    conditional.save(path)
    trap = pickle.dumps(Trap())
    (path / "weights.pt").write_bytes(trap)
    record = json.loads((path / "mixvi.json").read_text())
    record["weights_sha256"] = hashlib.sha256(trap).hexdigest()
    (path / "mixvi.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="not a file of tensors"):
        CGMVAE.load(path, toy)
    assert not (tmp_path / "sprung").exists()


def test_autoencoder_arguments(toy):
    AE.setup_anndata(toy)
    with refuses(toy, "noise"):
        AE(toy, noise=-1.0)
    with refuses(toy, "n_latent"):
        AE(toy, n_latent=0)
