"""The likelihood follows the data by default, and raw counts are noticed under another."""

import anndata
import numpy as np
import pytest
from conftest import CPU
from scipy import sparse

import mixvi
from mixvi import AE, CGMVAE, CVAE, GMVAE, VAE

FORMS = {
    "dense": np.asarray,
    "sparse": sparse.csr_matrix,
    "integers": lambda x: x.astype(np.int32),
    "double precision": lambda x: x.astype(np.float64),
}


@pytest.fixture
def raw(counts):
    return anndata.AnnData(counts.X.toarray(), obs=counts.obs)


def build(cls, adata, **options):
    cls.setup_anndata(adata, **({"condition_key": "condition"} if cls in (CVAE, CGMVAE) else {}))
    return cls(adata, n_hidden=8, n_layers=1, **options)


@pytest.mark.parametrize("cls", [AE, VAE, CVAE, GMVAE, CGMVAE])
@pytest.mark.parametrize("form", FORMS)
def test_counts_are_nb_by_default(raw, cls, form, lines, recwarn):
    raw.X = FORMS[form](raw.X)
    model = build(cls, raw)
    assert model.module.likelihood.name == model.init_params_["likelihood"] == "nb"
    assert lines() == ["adata.X holds whole numbers alone, as raw counts are: likelihood='nb'."]
    assert not recwarn


@pytest.mark.parametrize("cls", [AE, VAE, CVAE, GMVAE, CGMVAE])
def test_other_values_keep_their_likelihood(raw, cls, lines):
    raw.X = np.log1p(raw.X)
    expected = "mse" if cls is AE else "gaussian"
    assert build(cls, raw).module.likelihood.name == expected
    assert not lines()


def test_the_choice_stays_with_the_model(raw, tmp_path):
    model = build(VAE, raw)
    model.train(1, **CPU)
    model.save(tmp_path / "model")
    assert VAE.load(tmp_path / "model", adata=False).module.likelihood.name == "nb"
    with pytest.raises(ValueError, match="likelihood='auto' follows the data"):
        VAE(None, registry=model.registry)


@pytest.mark.parametrize("cls", [AE, VAE, CVAE, GMVAE, CGMVAE])
@pytest.mark.parametrize("form", FORMS)
def test_before_training_with_the_line_to_write(raw, cls, form):
    raw.X = FORMS[form](raw.X)
    with pytest.warns(UserWarning, match="likelihood='nb'") as told:
        build(cls, raw, likelihood="gaussian")
    assert len(told) == 1
    assert f"{cls.__name__}(adata, likelihood='nb'" in str(told[0].message)
    assert told[0].filename == __file__


def test_once_a_model(raw, recwarn):
    model = build(VAE, raw, likelihood="gaussian")
    assert len(recwarn) == 1
    model.train(1, **CPU)
    model.get_latent_representation()
    assert len(recwarn) == 1


@pytest.mark.parametrize("likelihood", ["gaussian", "mse", "gaussian_sigma"])
def test_a_layer_is_named(raw, likelihood):
    raw.layers["counts"] = raw.X.copy()
    raw.X = np.log1p(raw.X)
    GMVAE.setup_anndata(raw, layer="counts")
    with pytest.warns(UserWarning, match=r"adata.layers\['counts'\] holds whole numbers alone"):
        GMVAE(raw, likelihood=likelihood)


def test_on_disk(raw, tmp_path):
    raw.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.warns(UserWarning, match="likelihood='nb'"):
        build(VAE, mixvi.read_backed(tmp_path / "cells.h5ad"), likelihood="gaussian")
    on_disk = build(VAE, mixvi.read_backed(tmp_path / "cells.h5ad"))
    assert on_disk.module.likelihood.name == "nb"


def test_counts_given_to_a_model_of_other_values(raw):
    logged = raw.copy()
    logged.X = np.log1p(raw.X)
    model = build(VAE, logged)
    model.train(1, **CPU)
    with pytest.warns(UserWarning, match="trained on other values"):
        model.get_latent_representation(raw)


def test_other_values_given_to_a_model_of_counts(raw, recwarn):
    model = build(VAE, raw)
    model.train(1, **CPU)
    logged = raw.copy()
    logged.X = np.log1p(raw.X)
    model.get_latent_representation(logged)
    assert "the model was trained on raw counts. Put the counts" in str(recwarn.pop().message)
    assert not recwarn


def test_scaled_values_given_to_a_model_of_logarithms(raw, recwarn):
    raw.X = np.log1p(raw.X)
    model = build(VAE, raw)
    model.train(1, **CPU)
    scaled = raw.copy()
    scaled.X = raw.X - raw.X.mean(0)
    model.get_latent_representation(raw.copy())
    assert not recwarn
    for _ in range(2):
        model.get_latent_representation(scaled)
    told = recwarn.pop()
    assert "adata.X has negative values" in str(told.message) and told.filename == __file__
    assert not recwarn


@pytest.mark.parametrize(
    "change",
    [
        np.log1p,
        lambda x: x - x.mean(0),
        lambda x: x - 3.0,
        lambda x: np.minimum(x, 1.0),
        lambda x: x / 2,
    ],
    ids=["logged", "centred", "negative", "zeros and ones", "halves"],
)
def test_other_values_are_no_counts(raw, change, recwarn):
    raw.X = change(raw.X)
    assert build(VAE, raw).module.likelihood.name == "gaussian"
    assert not recwarn


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_likelihoods_of_counts_say_nothing(raw, likelihood, recwarn):
    build(VAE, raw, likelihood=likelihood)
    assert not recwarn
