"""Data on disk: every row once, in bounded memory, and the same numbers as from memory."""

from __future__ import annotations

import tracemalloc

import anndata
import h5py
import numpy as np
import pytest
import torch
from conftest import on_disk
from scipy import sparse

import mixvi
from mixvi.core.data.backed import BackedMatrix, BackedRows
from mixvi.core.data.loading import MinibatchModule, inference_loader, place_rows, registered_fields
from mixvi.core.data.resident import ResidentRows
from mixvi.core.data.splitting import split_rows
from mixvi.core.settings import Settings

KINDS = ["h5ad dense", "h5ad csr", "h5ad gzip", "zarr csr", "zarr dense"]


def x_of(batch):
    return batch["X"] if "X" in batch else batch["X_sparse"].dense()


def prepared(adata, **keys):
    mixvi.VAE.setup_anndata(adata, **keys)
    return mixvi.VAE(adata, n_hidden=8, likelihood="nb").adata_manager


@pytest.mark.parametrize("kind", KINDS)
def test_read_backed_leaves_the_matrices_on_disk(counts, tmp_path, kind):
    adata = on_disk(counts, tmp_path, kind)
    assert not isinstance(adata.X, np.ndarray) and not sparse.issparse(adata.X)
    assert not sparse.issparse(adata.layers["counts"])
    np.testing.assert_array_equal(adata.obs["kind"], counts.obs["kind"])
    with pytest.raises(FileNotFoundError, match="nothing.h5ad"):
        mixvi.read_backed(tmp_path / "nothing.h5ad")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_in_memory(counts, tmp_path, kind, small_windows):
    dense = counts.X.toarray()
    matrix = BackedMatrix(on_disk(counts, tmp_path, kind).X)
    matrix.chunk_rows = 8
    rng = np.random.default_rng(0)
    for rows in (
        np.arange(200),
        np.arange(3, 120),
        np.array([0]),
        np.array([0, 199]),
        np.array([], dtype=int),
        np.sort(rng.choice(200, 40, replace=False)),
        np.r_[5:9, 80:130, 199],
    ):
        block = matrix.read(rows)
        block = block.toarray() if sparse.issparse(block) else block
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, dense[rows])
    np.testing.assert_allclose(matrix.row_sums(), dense.sum(1), rtol=1e-6)
    total = sum(float(np.sum(block)) for block in matrix.stored_blocks())
    assert total == pytest.approx(dense.sum(), rel=1e-6)


def test_far_rows_are_not_read_with_what_is_between(tmp_path):
    """One stretch of disk for near rows, separate ones across a gap, none longer than a chunk."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        matrix = BackedMatrix(file.create_dataset("x", data=np.zeros((5000, 2))))
        rows = np.r_[0:10, 12, 400:403, 1000:4000]
        spans = list(matrix._spans(rows))
    assert [span[:2] for span in spans[:2]] == [(0, 13), (400, 403)]
    assert max(stop - start for start, stop, *_ in spans) <= mixvi.settings.backed_chunk_rows
    assert sum(last - first for *_, first, last in spans) == len(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [7, 16, 128])
def test_every_row_once_in_another_order_each_epoch(
    counts, tmp_path, kind, batch_size, small_windows
):
    counts.obs["number"] = np.arange(200.0)
    adata = on_disk(counts, tmp_path, kind)
    dense = counts.X.toarray()
    manager = prepared(adata, batch_key="batch", continuous_covariate_keys=["number"])
    chosen = np.arange(1, 200, 2) if batch_size == 7 else np.arange(200)
    data = MinibatchModule(
        manager,
        split_rows(chosen, 1.0),
        batch_size,
        extra={"components": np.arange(200).reshape(-1, 1)},
    )
    data.setup()
    loader = data.train_dataloader()
    epochs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert min(len(batch["X"]) for batch in batches) >= 2
        assert {batch["X"].dtype for batch in batches} == {torch.float32}
        rows = torch.cat([batch["components"] for batch in batches]).ravel().numpy()
        np.testing.assert_array_equal(np.sort(rows), chosen)
        np.testing.assert_array_equal(torch.cat([b["X"] for b in batches]).numpy(), dense[rows])
        if "dense" not in kind:
            entries = torch.cat([b["X_sparse"].dense() for b in batches])
            np.testing.assert_array_equal(entries.numpy(), dense[rows])
        numbers = torch.cat([b["extra_continuous_covs"] for b in batches]).ravel()
        np.testing.assert_array_equal(numbers.numpy(), rows)
        codes = torch.cat([b["batch"] for b in batches]).ravel()
        np.testing.assert_array_equal(codes.numpy(), counts.obs["batch"].cat.codes.iloc[rows])
        assert codes.dtype == torch.int64
        epochs.append(rows.tolist())
    assert epochs[0] == epochs[1] != epochs[2]
    torch.manual_seed(0)
    first, second = (torch.cat([b["components"] for b in loader]).ravel() for _ in range(2))
    assert first.tolist() != second.tolist()


def test_a_window_has_many_chunks(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        matrix = BackedMatrix(file.create_dataset("x", (10_000, 30_000), np.float32))
    assert matrix.window_bytes / (4 * 30_000 * matrix.chunk_rows) >= 64


def test_the_order_is_mixed_across_the_file(tmp_path):
    """A minibatch has rows of many places, and a row meets others in each epoch."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        matrix = BackedMatrix(file.create_dataset("x", data=np.zeros((4000, 25), np.float32)))
    matrix.chunk_rows, matrix.window_bytes = 50, 100_000
    groups = matrix.shuffled(np.arange(4000), 10)
    assert len(groups) == 4
    for group in groups:
        assert len(np.unique(group // 50)) > 15
        batch = group[:50]
        assert len(np.unique(batch // 50)) > 8
        assert (np.diff(batch) != 1).any()
    assert (
        len(np.unique([np.sort(matrix.shuffled(np.arange(4000), 10)[0])[0] for _ in range(5)])) > 1
    )


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n_labelled", [3, 60])
def test_labelled_fraction(counts, tmp_path, fraction, n_labelled, small_windows):
    labelled = np.zeros(200, dtype=bool)
    labelled[np.random.default_rng(0).choice(200, n_labelled, replace=False)] = True
    manager = prepared(on_disk(counts, tmp_path, "h5ad csr"))
    data = MinibatchModule(
        manager,
        split_rows(np.arange(200), 1.0),
        10,
        labelled=labelled,
        labelled_fraction=fraction,
        extra={"components": np.arange(200).reshape(-1, 1)},
    )
    data.setup()
    loader = data.train_dataloader()
    batches = [batch["components"].ravel().numpy() for batch in loader]
    assert len(batches) == len(loader)
    assert {int(labelled[batch].sum()) for batch in batches} == {round(10 * fraction)}
    rows = np.concatenate(batches)
    np.testing.assert_array_equal(np.sort(rows[~labelled[rows]]), np.flatnonzero(~labelled))
    times = np.bincount(rows[labelled[rows]], minlength=200)[labelled]
    assert times.max() - times.min() <= 1


def test_repeated_rows_and_validation(counts, tmp_path, small_windows):
    manager = prepared(on_disk(counts, tmp_path, "zarr csr"))
    drawn = np.sort(np.random.default_rng(0).integers(0, 200, 300))
    data = MinibatchModule(
        manager,
        split_rows(drawn, 0.8),
        16,
        extra={"components": np.arange(200).reshape(-1, 1)},
    )
    data.setup()
    dense = counts.X.toarray()
    for loader, rows in (
        (data.train_dataloader(), data.split.train),
        (data.val_dataloader(), data.split.validation),
    ):
        batches = list(loader)
        read = torch.cat([batch["components"] for batch in batches]).ravel().numpy()
        np.testing.assert_array_equal(np.sort(read), rows)
        np.testing.assert_array_equal(torch.cat([b["X"] for b in batches]).numpy(), dense[read])
    np.testing.assert_array_equal(read, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_reads_any_order(counts, tmp_path, kind, small_windows):
    manager = prepared(on_disk(counts, tmp_path, kind))
    rng = np.random.default_rng(0)
    for order in (
        np.arange(200),
        rng.permutation(200)[:150],
        np.array([9, 2, 2, 190]),
        np.array([], int),
    ):
        batches = list(inference_loader(manager, order, 33))
        read = [x_of(batch) for batch in batches]
        assert len(batches) == -(-len(order) // 33)
        if batches:
            np.testing.assert_array_equal(torch.cat(read).numpy(), counts.X.toarray()[order])


def test_an_error_while_reading_reaches_the_caller(counts, tmp_path, small_windows):
    manager = prepared(on_disk(counts, tmp_path, "h5ad csr"))
    data = MinibatchModule(manager, split_rows(np.arange(200), 1.0), 16)
    data.setup()
    loader = data.train_dataloader()
    reads = []

    def broken(rows, read=loader._rows.matrix.read):
        reads.append(len(rows))
        if len(reads) == 3:
            raise OSError("the disk is gone")
        return read(rows)

    loader._rows.matrix.read = broken
    with pytest.raises(OSError, match="the disk is gone"):
        list(loader)
    loader._rows.matrix.read = lambda rows: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


def test_a_loop_left_early_reads_no_further(counts, tmp_path, small_windows):
    manager = prepared(on_disk(counts, tmp_path, "h5ad csr"))
    data = MinibatchModule(manager, split_rows(np.arange(200), 1.0), 16)
    data.setup()
    loader = data.train_dataloader()
    reads, read = [], loader._rows.matrix.read
    loader._rows.matrix.read = lambda rows: (reads.append(len(rows)), read(rows))[1]
    batches = iter(loader)
    next(batches)
    batches.close()
    assert len(reads) <= 2


@pytest.mark.filterwarnings("ignore:.*values that are not whole numbers:UserWarning")
@pytest.mark.parametrize("how", ["dense", "csr"])
def test_memory_is_bounded(tmp_path, monkeypatch, how):
    """An epoch over 64 MB of dense rows, and 16 MB of entries, holds no more than it is given."""
    memory = 4 * 2**20
    monkeypatch.setattr(mixvi.settings, "backed_memory", memory)
    rng = np.random.default_rng(0)
    x = sparse.random(16_000, 1000, 0.125, "csr", dtype=np.float32, random_state=rng)
    stored = anndata.AnnData(x.toarray() if how == "dense" else x)
    stored.write_h5ad(tmp_path / "cells.h5ad")
    del stored, x
    adata = mixvi.read_backed(tmp_path / "cells.h5ad")
    manager = prepared(adata)
    data = MinibatchModule(manager, split_rows(np.arange(16_000), 1.0), 64)
    data.setup()
    for loader in (data.train_dataloader(), inference_loader(manager, np.arange(16_000), 64)):
        tracemalloc.start()
        rows = sum(len(batch["batch"]) for batch in loader)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == 16_000
        # indices and row numbers take 8 bytes a row each; minibatches are being collected
        assert peak < memory + 16_000 * 8 * 10 + 4 * 64 * 1000 * 4
    tracemalloc.start()
    BackedMatrix(adata.X).row_sums()
    assert tracemalloc.get_traced_memory()[1] < 1.5 * memory
    tracemalloc.stop()


def test_where_data_train(counts, tmp_path, monkeypatch):
    """By size, unless told; what is in memory is not on disk."""
    fields = registered_fields(prepared(on_disk(counts, tmp_path, "h5ad csr")))
    cpu = torch.device("cpu")
    kinds = {where: type(place_rows(fields, cpu, where)) for where in ("auto", "disk", "host")}
    assert kinds == {"auto": ResidentRows, "disk": BackedRows, "host": ResidentRows}
    monkeypatch.setattr(mixvi.settings, "backed_memory", 20_000)
    assert type(place_rows(fields, cpu)) is BackedRows
    assert type(place_rows(fields, cpu, "host")) is ResidentRows
    with pytest.raises(ValueError, match="mixvi.read_backed"):
        place_rows(registered_fields(prepared(counts)), cpu, "disk")


def test_settings_are_checked():
    settings = Settings()
    for value in (0, -1, 1.5, True, "1 GiB"):
        with pytest.raises(ValueError, match="backed_memory must be a positive whole number"):
            settings.backed_memory = value
    with pytest.raises(AttributeError, match="backed_memory, backed_chunk_rows"):
        settings.chunk_rows = 10
