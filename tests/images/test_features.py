"""Clusters of vectors in obsm: standardised inside, on their own scale outside."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import CPU
from scipy import sparse

from mixvi import pl
from mixvi.images import MPCC, ConditionalMPCC, GenerativeInference, VaDE
from mixvi.images.features import Standardisation, resolve_features
from mixvi.metrics import domain_shift, hungarian_accuracy

# three features of very different scales tell three kinds apart, the last is constant
CENTRES = np.array([[0, 5e3, 1e-3, 7], [100, 5e3, -1e-3, 7], [0, 6e3, 1e-3, 7]])
SPREAD = np.array([5, 50, 5e-5, 0])


def vectors(n: int = 240, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    x = CENTRES[kind] + SPREAD * rng.normal(size=(n, 4))
    adata = AnnData(obs=pd.DataFrame(index=[f"row_{i}" for i in range(n)]), obsm={"X_dino": x})
    adata.obs["kind"] = np.array(["a", "b", "c"])[kind]
    return adata


def fitted(cls, adata, epochs=2, **train):
    cls.setup_anndata(adata, features_key="X_dino")
    options = {"backbone_kwargs": {"n_hidden": 32}, "n_latent": 2}
    if cls is VaDE:
        model = VaDE(adata, 3, backbone="mlp", recon_scale=20.0, **options)
        train = {"pretrain_epochs": 2} | train
    else:
        model = MPCC(adata, 3, d_steps=1, ema_decay=None, **options)
    model.train(epochs, **({"batch_size": 50} | CPU | train))
    return model


@pytest.fixture(params=[VaDE, MPCC])
def model(request):
    return fitted(request.param, vectors())


@pytest.fixture(scope="module")
def trained():
    return fitted(VaDE, vectors(), 1, pretrain_epochs=0)


def test_blobs_are_found_and_drawn_on_their_scale():
    adata = vectors(400)
    model = fitted(VaDE, adata, 10, pretrain_epochs=60)
    found = model.get_cluster_assignments()
    assert hungarian_accuracy(found, adata.obs["kind"]) > 0.99
    x = adata.obsm["X_dino"]
    spread = np.maximum(x.std(axis=0), 1e-9)
    assert (np.abs(model.get_reconstruction() - x) / spread).mean() < 0.2
    for name in "abc":
        cluster = found[adata.obs["kind"] == name].mode()[0]
        made = model.sample(100, cluster=cluster)
        off = (made.mean(axis=0) - x[adata.obs["kind"] == name].mean(axis=0)) / spread
        assert np.abs(off).max() < 0.4, name
        assert (made[:, 3] == 7).all()


def test_verbs(model):
    adata, p = model.adata, type(model).__name__.lower()
    assert model.get_latent_representation().shape == (240, 2)
    probs = model.get_cluster_probabilities()
    assert (
        probs.shape == (240, 3) and (probs.idxmax(axis=1) == model.get_cluster_assignments()).all()
    )
    for made, n in (
        (model.sample(5), 5),
        (model.sample(5, cluster="1"), 5),
        (model.get_reconstruction(indices=[3, 1]), 2),
        (model.decode_latent(np.zeros((4, 2))), 4),
    ):
        assert made.shape == (n, 4) and np.isfinite(made).all()
        assert (made[:, 3] == 7).all()
    assert model.get_reconstruction_error() > 0
    assert np.isfinite(model.get_latent_mse(20))
    model.annotate(reconstruction=True)
    assert adata.obsm[f"{p}_reconstruction"].shape == (240, 4)
    assert {f"{p}_cluster", f"{p}_confidence", f"{p}_cluster_distance"} <= set(adata.obs)
    assert "features_key='X_dino'" in repr(model)


def test_save_load_and_query(model, tmp_path):
    """Standardisation is the model's own, also for vectors of another mean and for none."""
    model.save(tmp_path / "model")
    cls, other = type(model), vectors(60, seed=1)
    other.obsm["X_dino"] = other.obsm["X_dino"] + SPREAD
    expected = model.get_cluster_probabilities(other)
    loaded = cls.load(tmp_path / "model", model.adata)
    pd.testing.assert_frame_equal(loaded.get_cluster_probabilities(other), expected)
    query = cls.load_query_data(other, tmp_path / "model")
    pd.testing.assert_frame_equal(query.get_cluster_probabilities(), expected)
    without = cls.load(tmp_path / "model", adata=False)
    made = []
    for one in (model, without):
        torch.manual_seed(0)
        made.append(one.sample(4, cluster=2))
    np.testing.assert_array_equal(*made)


def in_form(adata: AnnData, form: str) -> AnnData:
    if form == "view":
        return adata[np.arange(adata.n_obs)]
    made = {
        "float32": np.float32,
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "sparse array": sparse.csr_array,
        "frame": lambda x: pd.DataFrame(x, index=adata.obs_names, columns=list("pqrs")),
    }[form]
    adata.obsm["X_dino"] = made(adata.obsm["X_dino"])
    return adata


@pytest.mark.parametrize("form", ["float32", "csr", "csc", "sparse array", "frame", "view"])
def test_forms(form, trained):
    """Every form of a query gives the same codes, and the same moments when it is registered."""
    args = {"features_key": "X_dino"}
    known = resolve_features(vectors(), args)
    found = resolve_features(in_form(vectors(), form), args)
    for name in ("means", "scales"):
        np.testing.assert_allclose(found[name], known[name], rtol=1e-5)
    codes = trained.get_latent_representation(in_form(vectors(), form))
    np.testing.assert_allclose(codes, trained.get_latent_representation(), atol=1e-3)


@pytest.mark.parametrize("form", ["csr", "frame"])
def test_forms_train(form):
    model = fitted(VaDE, in_form(vectors(), form))
    assert model.sample(3).shape == (3, 4)
    expected = model.get_latent_representation()
    np.testing.assert_allclose(model.get_latent_representation(vectors()), expected, atol=1e-3)


def test_standardisation():
    x = torch.from_numpy(vectors().obsm["X_dino"]).float()[:, :, None, None]
    known = resolve_features(vectors(), {"features_key": "X_dino"})
    scaled = Standardisation(known["means"], known["scales"])
    z = scaled(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4, 1, 1), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.std(0, correction=0).ravel(), torch.tensor([1.0, 1, 1, 0]))
    torch.testing.assert_close(scaled.undo(z), x.flatten(1))


def with_value(value, column=0):
    x = vectors().obsm["X_dino"]
    x[3, column] = value
    return x


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (with_value(np.nan), ValueError, "NaN or infinite values, first in the row 'row_3'"),
        (sparse.csr_matrix(with_value(np.inf)), ValueError, "NaN or infinite.*'row_3'"),
        (np.zeros((240, 0)), ValueError, "with one feature at least"),
        (np.ones((240, 5)), ValueError, "all rows are the same"),
        (np.zeros((240, 1, 8, 8)), ValueError, "Images are registered by image_key"),
        (np.full((240, 2), "a", dtype=object), TypeError, "holds object, not real numbers"),
        (np.zeros((240, 2), complex), TypeError, "holds complex128"),
    ],
)
def test_unusable_vectors(values, kind, message):
    adata = vectors()
    adata.obsm["X_dino"] = values
    with pytest.raises(kind, match=message):
        VaDE.setup_anndata(adata, features_key="X_dino")


def test_unusable_setups():
    adata = vectors()
    with pytest.raises(KeyError, match="features_key='X_dion'.*Did you mean 'X_dino'"):
        VaDE.setup_anndata(adata, features_key="X_dion")
    with pytest.raises(ValueError, match="vectors are read, pixel_range says"):
        MPCC.setup_anndata(adata, features_key="X_dino", pixel_range=(0, 1))
    # models without clusters of their own read images alone
    for cls in (GenerativeInference, ConditionalMPCC):
        with pytest.raises(TypeError, match="no argument 'features_key'"):
            cls.setup_anndata(adata, features_key="X_dino")


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (VaDE, {"backbone": "conv"}, "backbone='conv' reads images, but features_key='X_dino'"),
        (MPCC, {"backbone": "resnet"}, "backbone='resnet' reads images"),
        (VaDE, {"likelihood": "bernoulli"}, "likelihood='bernoulli' is one of pixels"),
        (VaDE, {"backbone_kwargs": {"n_channels": 3}}, "has no option 'n_channels'"),
    ],
)
def test_networks_of_images_are_refused(cls, options, message):
    adata = vectors()
    cls.setup_anndata(adata, features_key="X_dino")
    with pytest.raises(ValueError, match=message):
        cls(adata, 3, **options)


def test_what_needs_pixels_is_refused(model):
    for call in (
        lambda: model.image_shape,
        lambda: model.pixel_range,
        lambda: pl.traversals(model),
        lambda: pl.interpolations(model),
        lambda: domain_shift(model, np.zeros((4, 1, 8, 8)), {}),
    ):
        with pytest.raises(ValueError, match=r"needs pixels.*features_key='X_dino'"):
            call()


def test_other_columns_are_refused(model):
    other = vectors(20)
    other.obsm["X_dino"] = other.obsm["X_dino"][:, :3]
    with pytest.raises(ValueError, match="has 3 features, but the model reads 4"):
        model.get_latent_representation(other)


def test_columns_have_names():
    model = fitted(VaDE, in_form(vectors(), "frame"), 1)
    other = in_form(vectors(), "frame")
    other.obsm["X_dino"] = other.obsm["X_dino"][list("qprs")]
    with pytest.raises(ValueError, match=r"columns of other names.*\['q', 'p', 'r'\]"):
        model.get_latent_representation(other)
