"""Equal data give equal numbers, whatever the format and the type they are stored in."""

import anndata
import numpy as np
import pytest
import torch
from conftest import CPU
from scipy import sparse

import mixvi
from mixvi.core.data.backed import BackedMatrix, row_sums
from mixvi.core.data.loading import inference_loader


def in_parts(x, into=sparse.csr_matrix, dtype=np.float32):
    """Every entry of ``x`` as three that share its place: all but one, one, and none."""
    by_column = into is sparse.csc_matrix
    major, minor = np.nonzero(x.T if by_column else x)
    values = (x.T if by_column else x)[major, minor]
    indptr = 3 * np.searchsorted(major, np.arange(x.shape[by_column] + 1))
    parts = np.stack([values - 1, np.ones_like(values), np.zeros_like(values)], axis=1)
    return into((parts.ravel().astype(dtype), np.repeat(minor, 3), indptr), x.shape)


def halves(x):
    """Single entries in half precision, which scipy stores but does not compute in."""
    x = sparse.csr_matrix(x)
    return sparse.csr_matrix((x.data.astype(np.float16), x.indices, x.indptr), x.shape)


def with_zeros(x):
    """Every third entry is stored, whatever its value, and all that are not zero."""
    stored = (x != 0) | (np.arange(x.size).reshape(x.shape) % 3 == 0)
    indptr = np.r_[0, stored.sum(1).cumsum()]
    return sparse.csr_matrix((x[stored], stored.nonzero()[1], indptr), x.shape)


FORMATS = {
    "repeated entries": in_parts,
    "repeated entries by columns": lambda x: in_parts(x, sparse.csc_matrix),
    "repeated entries of a sparse array": lambda x: in_parts(x, sparse.csr_array),
    "repeated small integers": lambda x: in_parts(x, dtype=np.uint8),
    "stored zeros": with_zeros,
    "half precision": lambda x: x.astype(np.float16),
    "sparse half precision": halves,
    "small integers": lambda x: x.astype(np.uint8),
    "sparse small integers": lambda x: sparse.csr_matrix(x.astype(np.int16)),
    "by columns": sparse.csc_matrix,
    "big-endian": lambda x: x.astype(">f4"),
}


@pytest.fixture
def plain(counts):
    """Counts up to 250, dense."""
    x = counts.X.toarray() * 25
    return anndata.AnnData(x.clip(0, 250), obs=counts.obs)


@pytest.fixture(params=list(FORMATS))
def same(request, plain):
    return anndata.AnnData(FORMATS[request.param](plain.X), obs=plain.obs)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_a_model_gives_the_same_numbers(plain, same, likelihood):
    options = {"n_components": 3, "n_hidden": 16, "n_layers": 1, "likelihood": likelihood}
    before = [part.copy() for part in _stored(same.X)]

    def numbers(model, adata=None):
        torch.manual_seed(0)
        terms = model.get_elbo(adata)
        return [model.get_latent_representation(adata), terms, model.get_reconstruction(adata)]

    found = []
    for adata in (plain, same):
        mixvi.GMVAE.setup_anndata(adata)
        torch.manual_seed(0)
        np.random.seed(0)
        model = mixvi.GMVAE(adata, **options)
        model.train(2, init_epochs=1, **CPU)
        found.append([model.module.typical_library.item(), *numbers(model)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(numbers(model, plain.copy()), numbers(model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    # the user's matrix is as it was
    for ours, theirs in zip(_stored(same.X), before, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def _stored(x):
    return (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("make", [in_parts, halves, with_zeros])
def test_data_on_disk_are_read_as_those_in_memory(plain, tmp_path, form, make):
    stored = anndata.AnnData(make(plain.X), obs=plain.obs)
    path = tmp_path / f"cells.{form}"
    getattr(stored, f"write_{form}")(path)
    adata = mixvi.read_backed(path)
    matrix = BackedMatrix(adata.X)
    matrix.chunk_rows = 8
    rows = np.r_[0:30, 50, 199]
    np.testing.assert_array_equal(matrix.read(rows).toarray(), plain.X[rows])
    np.testing.assert_array_equal(matrix.row_sums(), plain.X.sum(1))
    mixvi.VAE.setup_anndata(adata)
    manager = mixvi.VAE(adata, n_hidden=8, likelihood="nb").adata_manager
    (tensors,) = inference_loader(manager, rows, 128)
    np.testing.assert_array_equal(tensors["X_sparse"].dense().numpy(), plain.X[rows])


@pytest.mark.parametrize(
    "x",
    [
        np.full((2, 600), 200, np.float16),
        halves(np.full((2, 600), 200.0)),
        np.full((2, 600), 200, np.uint8),
        in_parts(np.full((2, 600), 200.0), dtype=np.uint8),
        sparse.csr_matrix(np.full((2, 600), 200, np.int16)),
    ],
)
def test_sums_are_in_double_precision(x):
    """120,000 is infinite in half precision, and wraps in small integers."""
    np.testing.assert_array_equal(row_sums(x), [120_000.0, 120_000.0])


def test_the_typical_library_of_half_precision_is_finite():
    x = np.random.default_rng(0).poisson(1500, (60, 60)).astype(np.float16)
    adata = anndata.AnnData(x)
    mixvi.GMVAE.setup_anndata(adata)
    model = mixvi.GMVAE(adata, n_components=3, n_hidden=8, likelihood="nb")
    model.train(1, init_epochs=1, **CPU)
    median = np.median(x.astype(float).sum(1))
    assert model.module.typical_library.item() == pytest.approx(median)
    assert np.isfinite(model.sample(1).X).all()


@pytest.mark.parametrize("form", ["memory", "h5ad", "zarr"])
def test_repeated_entries_are_judged_by_their_sum(plain, tmp_path, form, recwarn):
    """Fractions that make whole counts are counts, and so are negative ones; ones may make two."""
    x = in_parts(plain.X)
    x.data[1::3] = 1.5
    x.data[2::3] = -0.5
    twos = in_parts(np.full((4, 3), 2.0))

    def stored(x):
        adata = anndata.AnnData(x)
        if form != "memory":
            getattr(adata, f"write_{form}")(tmp_path / f"{x.shape[0]}.{form}")
            adata = mixvi.read_backed(tmp_path / f"{x.shape[0]}.{form}")
        mixvi.VAE.setup_anndata(adata)
        return adata

    mixvi.VAE(stored(x), n_hidden=8, likelihood="nb")
    assert not [w for w in recwarn if "whole numbers" in str(w.message)]
    with pytest.raises(ValueError, match="values above 1"):
        mixvi.VAE(stored(twos), n_hidden=8, likelihood="bernoulli")
