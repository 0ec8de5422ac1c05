"""The verbs that write and read model directories."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from conftest import CPU

from mixvi import AE, GMVAE, VAE
from mixvi.images import VaDE

FILES = {"mixvi.json", "weights.pt"}


@pytest.fixture
def model(toy, fit):
    return fit(GMVAE, toy, epochs=1, n_components=5, setup={"labels_key": "cell_type"})


def names(directory):
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def test_models_side_by_side(toy, fit, tmp_path):
    one = fit(VAE, toy, epochs=1)
    two = fit(VAE, toy, epochs=2)
    one.save(tmp_path / "models", prefix="one_", save_anndata=True)
    two.save(tmp_path / "models", "two_")
    assert names(tmp_path / "models") == {f"{p}_{f}" for p in ("one", "two") for f in FILES} | {
        "one_adata.h5ad"
    }
    for prefix, saved in (("one_", one), ("two_", two)):
        again = VAE.load(tmp_path / "models", toy.copy(), prefix=prefix)
        np.testing.assert_array_equal(
            again.get_latent_representation(), saved.get_latent_representation()
        )
    assert VAE.load(tmp_path / "models", prefix="one_").adata is not None
    assert VAE.load(tmp_path / "models", prefix="two_").adata is None
    with pytest.raises(FileExistsError, match="two_mixvi.json exists already"):
        one.save(tmp_path / "models", "two_")
    one.save(tmp_path / "models", "two_", overwrite=True)
    assert len(VAE.load(tmp_path / "models", prefix="two_").history["train_loss"]) == 1
    with pytest.raises(FileNotFoundError, match="prefix='one_' or 'two_'"):
        VAE.load(tmp_path / "models")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"save_anndta": True}, TypeError, "save_anndta.*'save_anndata'"),
        ({"prefx": "a"}, TypeError, "prefx.*'prefix'"),
        ({"prefix": "a", "save_anndata": True, "compresion": "gzip"}, TypeError, "'compression'"),
        ({"compression": "gzip"}, TypeError, "save_anndata=True as well"),
        ({"legacy_mudata_format": True}, TypeError, "legacy_mudata_format"),
        ({"prefix": "a/b"}, ValueError, "prefix must be"),
        ({"prefix": True}, ValueError, "overwrite=True"),
    ],
)
def test_unusable_arguments_write_nothing(model, tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        model.save(tmp_path / "model", **arguments)
    assert not (tmp_path / "model").exists()


def test_what_overwrite_was_by_position_is_refused(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save(tmp_path / "model", True)


def test_cells_that_cannot_be_written_leave_the_model_as_it_was(toy, fit, model, tmp_path):
    toy.uns["unwritable"] = object()
    with pytest.raises(Exception, match="object"):
        model.save(tmp_path / "model", save_anndata=True)
    assert not (tmp_path / "model").exists()
    other = fit(GMVAE, toy.copy(), epochs=2, n_components=5)
    other.save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with pytest.raises(Exception, match="object"):
        model.save(tmp_path / "model", overwrite=True, save_anndata=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_options_reach_the_writer(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True, compression="gzip")
    assert names(tmp_path / "model") == FILES | {"adata.h5ad"}


def test_a_model_of_scvi_tools_is_named_as_such(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="a model of scvi-tools"):
        GMVAE.load(tmp_path / "model")


def test_splits_are_kept(toy, tmp_path):
    VAE.setup_anndata(toy)
    model = VAE(toy, n_hidden=8)
    model.train(1, train_size=0.6, validation_size=0.2, **CPU)
    model.save(tmp_path / "model")
    again = VAE.load(tmp_path / "model", toy)
    for part in ("train", "validation", "test"):
        rows = getattr(model, f"{part}_indices")
        assert len(rows) in (300, 100)
        np.testing.assert_array_equal(getattr(again, f"{part}_indices"), rows)


@pytest.mark.parametrize("prefix", [None, "one_"])
def test_the_registry_of_a_saved_model(model, tmp_path, capsys, prefix):
    model.save(tmp_path / "model", prefix)
    registry = GMVAE.load_registry(tmp_path / "model", prefix)
    assert registry["setup_args"]["labels_key"] == "cell_type"
    assert registry["model_name"] == "GMVAE"
    labels = registry["field_registries"]["labels"]["state_registry"]["categorical_mapping"]
    assert list(labels[:-1]) == model.classes
    GMVAE.view_setup_args(str(tmp_path / "model"), prefix)
    assert "cell_type" in capsys.readouterr().out


def test_the_registry_of_no_model(tmp_path):
    for verb in (GMVAE.load_registry, GMVAE.view_setup_args, AE.load_registry):
        with pytest.raises(FileNotFoundError, match="no mixvi model"):
            verb(tmp_path)


@pytest.mark.parametrize("cls", [GMVAE, VaDE])
def test_there_is_no_older_format(cls, tmp_path):
    with pytest.raises(NotImplementedError, match=rf"{cls.__name__}.load reads.*hub"):
        cls.convert_legacy_save(tmp_path, tmp_path / "new")


def test_the_shape_of_flat_images_may_be_a_tuple(images, tmp_path):
    x = images.obsm["image"]
    flat = AnnData(x.reshape(len(x), -1), uns={"image_shape": x.shape[1:]})
    VaDE.setup_anndata(flat)
    VaDE(flat, n_clusters=2, backbone="mlp").save(tmp_path / "model", save_anndata=True)
    assert flat.uns["image_shape"] == x.shape[1:]
    again = VaDE.load(tmp_path / "model")
    assert again.image_shape == x.shape[1:]
