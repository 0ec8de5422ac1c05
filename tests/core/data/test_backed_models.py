"""Models of data on disk: what they refuse, and results as from memory."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from conftest import on_disk
from scipy import sparse

import mixvi
from mixvi import CGMVAE, GMVAE, VAE
from mixvi.cells.discriminant import discriminant_codes
from mixvi.cells.initial import PrincipalAxes, initial_clusters
from mixvi.core.data.backed import BackedRows
from mixvi.core.data.loading import place_rows, registered_fields
from mixvi.core.maths.clustering import kmeans_clusters


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_columns_on_disk_are_refused(counts, tmp_path, form):
    counts.X = counts.X.tocsc()
    path = tmp_path / f"cells.{form}"
    counts.write_h5ad(path) if form == "h5ad" else counts.write_zarr(path)
    with pytest.raises(ValueError, match=r"adata.X is stored by columns.*tocsr"):
        VAE.setup_anndata(mixvi.read_backed(path))


def test_views_of_files_are_refused(counts, tmp_path):
    counts.write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match="indices="):
        VAE.setup_anndata(adata[:50])


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or infinite"), (-1.0, "negative"), (0.5, "whole numbers")]
)
@pytest.mark.parametrize("how", ["dense", "csr"])
def test_checks_read_to_the_end(counts, tmp_path, value, message, how, small_windows):
    x = counts.X.toarray()
    x[199, 29] = value
    counts.X = sparse.csr_matrix(x)
    adata = on_disk(counts, tmp_path, f"h5ad {how}")
    if value == 0.5:
        with pytest.warns(UserWarning, match=message):
            prepared_counts(adata)
    else:
        with pytest.raises(ValueError, match=message):
            prepared_counts(adata)


def prepared_counts(adata):
    GMVAE.setup_anndata(adata)
    return GMVAE(adata, likelihood="nb", n_components=3, n_hidden=8)


def test_cells_without_counts_are_found(counts, tmp_path, small_windows):
    x = counts.X.toarray()
    x[150] = 0
    counts.X = sparse.csr_matrix(x)
    with pytest.raises(ValueError, match="1 cells have no counts"):
        prepared_counts(on_disk(counts, tmp_path, "zarr csr"))


@pytest.mark.parametrize("kind", ["h5ad dense", "h5ad csr", "zarr csr"])
def test_training_reaches_the_types(toy, fit, tmp_path, kind, monkeypatch):
    """500 cells in five windows, without labels: as from memory."""
    monkeypatch.setattr(mixvi.settings, "backed_chunk_rows", 20)
    monkeypatch.setattr(mixvi.settings, "backed_memory", 4 * toy.X.nbytes // 5 * 3)
    adata = on_disk(toy, tmp_path, kind)
    model = fit(CGMVAE, adata, 15, {"condition_key": "condition"}, n_components=5)
    assert model.assign_components("cell_type").accuracy >= 0.99
    fields = registered_fields(model.adata_manager)
    assert isinstance(place_rows(fields, torch.device("cpu")), BackedRows)


@pytest.mark.parametrize("kind", ["h5ad dense", "h5ad csr", "zarr csr"])
def test_results_are_those_in_memory(counts, fit, tmp_path, kind, small_windows):
    keys = {"batch_key": "batch", "labels_key": "kind"}
    model = fit(GMVAE, counts, setup=keys, likelihood="nb", n_components=3)
    adata = on_disk(counts, tmp_path, kind)
    for which in ("z", "w"):
        np.testing.assert_allclose(
            model.get_latent_representation(adata, which=which),
            model.get_latent_representation(which=which),
            atol=1e-6,
        )
    np.testing.assert_allclose(model.predict(adata, soft=True), model.predict(soft=True), atol=1e-6)
    model.annotate(adata)
    model.annotate(counts)
    np.testing.assert_allclose(adata.obsm["X_gmvae_z"], counts.obsm["X_gmvae_z"], atol=1e-6)
    assert (adata.obs["gmvae_prediction"] == counts.obs["gmvae_prediction"]).all()
    trained = fit(GMVAE, adata, setup=keys, likelihood="nb", n_components=3)
    assert float(trained.module.typical_library) == float(model.module.typical_library)
    trained.save(tmp_path / "model")
    again = GMVAE.load(tmp_path / "model", adata)
    np.testing.assert_allclose(
        again.get_latent_representation(), trained.get_latent_representation(), atol=1e-6
    )


def test_layers_early_stopping_and_shares_of_labels(counts, fit, tmp_path, small_windows):
    counts.obs["partly"] = np.where(np.arange(200) % 5 == 0, counts.obs["kind"], "Unknown")
    adata = on_disk(counts, tmp_path, "h5ad csr")
    model = fit(
        GMVAE,
        adata,
        setup={"layer": "counts", "labels_key": "partly"},
        train={"early_stopping": True, "labelled_fraction": 0.3, "init": "discriminant"},
        likelihood="nb",
    )
    assert len(model.validation_indices) == 20
    assert set(np.unique(model.predict(level="label"))) == {"a", "b"}


@pytest.mark.parametrize("kind", ["h5ad dense", "zarr csr"])
def test_initial_clusters_are_those_in_memory(toy, tmp_path, kind, monkeypatch):
    options = {"is_count": False, "seed": 3, "groups": toy.obs["condition"].cat.codes.to_numpy()}
    in_memory = PrincipalAxes(np.asarray(toy.X), **options)

    def five(points):
        return kmeans_clusters(points, 5, 3)

    expected = initial_clusters(in_memory, five, 3)
    x = on_disk(toy, tmp_path, kind).X
    axes = PrincipalAxes(x, **options)
    np.testing.assert_array_equal(initial_clusters(axes, five, 3), expected)
    # labels of a few teach the others
    known = np.where(np.arange(500) % 10 == 0, toy.obs["cell_type"].cat.codes, -1)
    np.testing.assert_array_equal(
        discriminant_codes(axes, known, 3), discriminant_codes(in_memory, known, 3)
    )
    # the rest joins the clusters of a part, read in many parts
    monkeypatch.setattr("mixvi.cells.initial._MAX_SAMPLE", 100)
    monkeypatch.setattr(mixvi.settings, "backed_memory", 60_000)
    codes = initial_clusters(PrincipalAxes(x, **options), five, 3)
    assert len(set(zip(codes.tolist(), expected.tolist(), strict=True))) == 5
