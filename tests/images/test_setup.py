"""Registering images, and what is said of images that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from conftest import CPU, bars
from scipy import sparse

from mixvi.images import ConditionalMPCC, GenerativeInference

SMALL = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 16, "n_layers": 1}}


def of(images) -> AnnData:
    return AnnData(obsm={"image": images})


def flat(images, **uns) -> AnnData:
    return AnnData(images.reshape(len(images), -1), uns=uns)


def fitted(adata, **setup):
    GenerativeInference.setup_anndata(adata, **setup)
    model = GenerativeInference(adata, **SMALL)
    model.train(1, lr=1e-3, batch_size=32, **CPU)
    return model


X = bars(64)


@pytest.mark.parametrize(
    ("adata", "setup", "pixel_range"),
    [
        (of(X), {}, (-1, 1)),
        (of((X + 1) / 2), {}, (0, 1)),
        (of(np.round((X + 1) * 127.5).astype(np.uint8)), {}, (0, 255)),
        (of(np.round((X + 1) * 5).astype(np.int16)), {"pixel_range": (0, 10)}, (0, 10)),
        (of(X.astype(np.float64)), {}, (-1, 1)),
        (flat(X, image_shape=(1, 8, 8)), {}, (-1, 1)),
        (flat((X + 1) / 2), {"image_shape": (8, 8)}, (0, 1)),
    ],
)
def test_networks_see_one_range_users_another(adata, setup, pixel_range):
    """Whatever the registered range, the module reads [-1, 1] and returns what was registered."""
    model = fitted(adata, **setup)
    assert model.pixel_range == pixel_range and model.image_shape == (1, 8, 8)
    (seen,) = model._batches(model.adata, None, 64)
    np.testing.assert_allclose(seen.cpu().numpy(), X, atol=0.11)
    returned = model.get_reconstruction()
    assert returned.shape == X.shape and returned.dtype == np.float32
    assert returned.min() >= pixel_range[0] and returned.max() <= pixel_range[1]
    np.testing.assert_allclose(
        model.module.to_pixels(seen).numpy(), np.reshape(registered(adata), X.shape), rtol=1e-4
    )


def registered(adata):
    return adata.obsm["image"] if "image" in adata.obsm else adata.X


def test_sparse_layers_and_own_keys():
    zero_one = ((X + 0.9) / 1.8).round()
    adata = AnnData(np.zeros((64, 64), np.float32))
    adata.layers["pixels"] = sparse.csr_matrix(zero_one.reshape(64, -1))
    adata.obsm["picture"] = zero_one
    a = fitted(adata, layer="pixels", image_shape=(1, 8, 8))
    (seen,) = a._batches(adata, None, 64)
    np.testing.assert_allclose(seen.numpy(), zero_one * 2 - 1, atol=1e-6)
    b = fitted(adata, image_key="picture")
    (seen,) = b._batches(adata, None, 64)
    np.testing.assert_allclose(seen.numpy(), zero_one * 2 - 1, atol=1e-6)


def test_nothing_of_the_users_is_changed():
    adata = of(X.copy())
    fitted(adata)
    np.testing.assert_array_equal(adata.obsm["image"], X)
    assert {key for key in adata.uns if not key.startswith("_scvi")} == set()
    assert list(adata.obsm) == ["image"]


@pytest.mark.parametrize(
    ("adata", "setup", "error", "message"),
    [
        (of(X * 200), {}, ValueError, r"obsm\['image'\] has values from -180 to 180.*pixel_range"),
        (of(X.astype(int)), {}, TypeError, "holds int64; images are floats"),
        (of(X > 0), {}, TypeError, "holds bool"),
        (of((X > 0).astype(np.uint8)), {}, ValueError, r"as uint8.*pixel_range=\(0, 1\)"),
        (of(X / 4), {}, ValueError, r"range is \[-1, 1\] or \[0, 1\] cannot be told"),
        (of((X + 1) / 510), {}, ValueError, "cannot be told. Say it by pixel_range"),
        (of(X), {"pixel_range": "wide"}, ValueError, "pixel_range must be"),
        (of(X + np.nan), {}, ValueError, "NaN or infinite"),
        (of(X[:, 0]), {}, ValueError, r"add its axis: adata.obsm\['image'\] = .*\[:, None\]"),
        (of(X.reshape(64, -1)), {}, ValueError, "Flattened images belong into X"),
        (
            of(np.repeat(X.transpose(0, 2, 3, 1), 3, axis=3)),
            {},
            ValueError,
            "channels seem to come",
        ),
        (of(X), {"image_key": "imag"}, KeyError, "Did you mean 'image'"),
        (of(X), {"image_key": "image", "layer": "a"}, ValueError, "not both"),
        (of(X), {"pixel_range": (0, 1)}, ValueError, "outside of the range"),
        (of(X), {"pixel_range": (1, 0)}, ValueError, "pixel_range must be"),
        (of(X), {"image_key": "image", "image_shape": (3, 8, 8)}, ValueError, "1 channel"),
        (flat(X), {}, ValueError, "There are no images"),
        (flat(X, image_shape=(1, 9, 8)), {}, ValueError, "64 columns.* have 72 values"),
        (flat(X, image_shape=8), {}, ValueError, r"uns\['image_shape'\] must be"),
        (flat(X), {"image_shape": (0, 8, 8)}, ValueError, "image_shape must be"),
        (of(X[:0]), {}, ValueError, "no rows"),
        (X, {}, TypeError, "must be an AnnData"),
    ],
)
def test_bad_images(adata, setup, error, message):
    with pytest.raises(error, match=message):
        GenerativeInference.setup_anndata(adata, **setup)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.repeat(X, 3, axis=1), "3 channel.*, 1 channel are expected: average"),
        (bars(8, size=12), r"has images of shape \(1, 12, 12\).*the model reads \(1, 8, 8\)"),
        (np.round((X + 1) * 127).astype(np.uint8), "outside of the range"),
    ],
)
def test_images_of_another_kind_than_the_models(images, message):
    model = fitted(of(X))
    with pytest.raises(ValueError, match=message):
        model.get_latent_representation(of(images))


BYTES = np.round((X + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize(
    ("trained", "given", "scaled"),
    [
        (BYTES, BYTES / 255, "images \\* 255"),
        (BYTES, (BYTES > 99).astype(np.uint8), "images \\* 255"),
        (X, (X + 1) / 2, "images \\* 2 - 1"),
        (X, (X > 0).astype(np.uint8), "images \\* 2 - 1"),
    ],
)
def test_images_on_a_narrower_range_are_refused(trained, given, scaled, tmp_path):
    """Else they would be all dark or all light: also after loading, for one image, in a file."""
    model = fitted(of(trained))
    message = r"but the model reads .* Scale them as those were: " + scaled
    model.save(tmp_path / "model")
    loaded = GenerativeInference.load(tmp_path / "model", adata=False)
    for one in (model, loaded):
        for images in (given, given[:1]):
            with pytest.raises(ValueError, match=message):
                one.get_latent_representation(of(images))
    with pytest.raises(ValueError, match=message):
        GenerativeInference.load(tmp_path / "model", of(given))


def test_images_on_the_models_own_range_are_read_whatever_their_dtype():
    model = fitted(of(BYTES))
    codes = model.get_latent_representation()
    for images in (BYTES.astype(np.float32), BYTES.astype(float), BYTES.astype(int)):
        np.testing.assert_array_equal(model.get_latent_representation(of(images)), codes)
    # what a model returns, and images that are black
    model.get_latent_representation(of(model.sample(4)))
    model.get_latent_representation(of(np.zeros((2, 1, 8, 8))))


def test_light_images_are_read_by_a_model_that_knows_some():
    some_light = np.concatenate([X[:32], np.abs(X[:32])])
    model = fitted(of(some_light))
    model.get_latent_representation(of(some_light[32:34]))
    # but hardly so many without a dark one
    with pytest.raises(ValueError, match="of its own images 50% lie in"):
        model.get_latent_representation(of(some_light[32:]))


def test_one_channel_to_a_model_of_three():
    model = fitted(of(np.repeat(X, 3, axis=1)))
    with pytest.raises(ValueError, match=r"1 channel.*3 channels are expected: repeat.*axis=1"):
        model.get_latent_representation(of(X))


def test_sizes_that_do_not_halve():
    adata = of(bars(8, size=28))
    GenerativeInference.setup_anndata(adata)
    with pytest.raises(ValueError, match="multiples of 16.*Pad or resize the images to 32 x 32"):
        GenerativeInference(adata)


def test_pixels_in_another_order_are_refused():
    """Columns have names; of others altogether the order counts."""
    model = fitted(flat(X, image_shape=(1, 8, 8)))
    codes = model.get_latent_representation()
    with pytest.raises(ValueError, match="another order"):
        model.get_latent_representation(flat(X, image_shape=(1, 8, 8))[:, ::-1].copy())
    renamed = flat(X, image_shape=(1, 8, 8))
    renamed.var_names = [f"pixel_{i}" for i in range(64)]
    for _ in range(2):
        np.testing.assert_array_equal(model.get_latent_representation(renamed), codes)


@pytest.mark.parametrize("kind", [int, bool, str, float])
def test_labels_of_any_type(kind):
    adata = of(X)
    adata.obs["digit"] = np.resize([0, 1], 64).astype(kind)
    ConditionalMPCC.setup_anndata(adata, labels_key="digit")
    model = ConditionalMPCC(adata, **SMALL | {"n_latent": 4})
    model.train(2, batch_size=32, **CPU)
    assert [str(label) for label in model.clusters] == {
        int: ["0", "1"],
        bool: ["False", "True"],
        str: ["0", "1"],
        float: ["0", "1"],
    }[kind]
    query = of(X)
    query.obs["digit"] = adata.obs["digit"].astype(str)
    own = model.get_cluster_assignments()
    np.testing.assert_array_equal(model.get_cluster_assignments(query), own)
    assert set(own) <= set(model.clusters)


def test_images_that_changed_are_checked_in_training():
    adata = of(X.copy())
    model = fitted(adata)
    adata.obsm["image"] = 100 * X
    with pytest.raises(ValueError, match="outside of the range"):
        model.train(1, **CPU)
    with pytest.raises(ValueError, match="outside of the range"):
        model.get_latent_representation()
