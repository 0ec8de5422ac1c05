"""Rows read in the order asked for, and minibatches that batch norm can take."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

import mixvi
from mixvi.core.data.loading import (
    Minibatches,
    MinibatchModule,
    MinibatchSampler,
    inference_loader,
    place_rows,
    registered_fields,
)
from mixvi.core.data.splitting import split_rows


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [2, 3, 7, 128])
def test_every_row_once_and_never_alone(batch_size, shuffle):
    for n in range(2, 40):
        indices = 100 + 3 * np.arange(n)
        sampler = MinibatchSampler(indices, batch_size, shuffle=shuffle)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert min(map(len, batches)) >= 2
        assert max(map(len, batches)) <= batch_size + 1
        rows = np.concatenate(batches)
        np.testing.assert_array_equal(np.sort(rows), indices)
        if not shuffle:
            np.testing.assert_array_equal(rows, indices)


def test_order_is_drawn_anew_and_follows_the_seed():
    sampler = MinibatchSampler(np.arange(200), 50)
    epochs = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        epochs.append(np.concatenate(list(sampler)).tolist())
    assert epochs[0] == epochs[2] != epochs[1]
    assert np.concatenate(list(sampler)).tolist() != np.concatenate(list(sampler)).tolist()


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("n_labelled", [1, 13, 90])
def test_labelled_fraction(fraction, n_labelled):
    """Each minibatch has its share; unlabelled rows come once an epoch, labelled ones in turn."""
    n, batch_size = 100, 20
    indices = 1000 + np.arange(n)
    labelled = np.zeros(n, dtype=bool)
    labelled[np.random.default_rng(0).choice(n, n_labelled, replace=False)] = True
    sampler = MinibatchSampler(indices, batch_size, labelled=labelled, labelled_fraction=fraction)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    share = min(max(round(fraction * batch_size), 1), batch_size - 1)
    drawn = [labelled[np.array(batch) - 1000] for batch in batches]
    assert all(mask.sum() == share for mask in drawn)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 2 <= len(batches[-1]) <= batch_size
    rows, is_labelled = np.concatenate(batches), np.concatenate(drawn)
    np.testing.assert_array_equal(np.sort(rows[~is_labelled]), indices[~labelled])
    times = np.bincount(rows[is_labelled] - 1000, minlength=n)[labelled]
    assert times.max() - times.min() <= 1


def shared(n_ranks, indices, batch_size, **options):
    """Each process's minibatches of one epoch."""
    generators = [torch.Generator().manual_seed(3) for _ in range(n_ranks)]
    samplers = [
        MinibatchSampler(
            indices, batch_size, rank=i, n_ranks=n_ranks, generator=generators[i], **options
        )
        for i in range(n_ranks)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert [len(part) for part in batches] == [len(sampler) for sampler in samplers]
    # one that has fewer minibatches than the others would leave them waiting
    assert len(set(map(len, batches))) == 1
    return batches


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_processes_share_the_rows(n_ranks):
    for n in range(2 * n_ranks, 60):
        batches = shared(n_ranks, 100 + np.arange(n), 7)
        assert min(len(batch) for part in batches for batch in part) >= 2
        rows = np.concatenate([np.concatenate(part) for part in batches])
        np.testing.assert_array_equal(np.sort(rows), 100 + np.arange(n))
    with pytest.raises(ValueError, match="devices: 3 rows are too few"):
        shared(n_ranks, np.arange(3), 7)
    # validation has no batch norm to feed
    assert sum(len(part[0]) for part in shared(n_ranks, np.arange(3), 7, shuffle=False)) == 3


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_processes_share_labelled_and_unlabelled_rows(n_ranks):
    for n in range(30, 60):
        labelled = np.arange(n) % 4 == 0
        batches = shared(n_ranks, np.arange(n), 8, labelled=labelled, labelled_fraction=0.25)
        assert all(labelled[batch].sum() == 2 for part in batches for batch in part)
        rows = np.concatenate([np.concatenate(part) for part in batches])
        np.testing.assert_array_equal(np.sort(rows[~labelled[rows]]), np.flatnonzero(~labelled))
        times = np.bincount(rows[labelled[rows]], minlength=n)[labelled]
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize("present", [True, False])
def test_labelled_fraction_needs_both_groups(present):
    """A split may leave one group out: say so instead of dividing by zero."""
    mask = np.full(10, present)
    with pytest.raises(ValueError, match="labelled_fraction"):
        MinibatchSampler(np.arange(10), 4, labelled=mask, labelled_fraction=0.5)


def setup(adata, **keys):
    mixvi.VAE.setup_anndata(adata, **keys)
    return mixvi.VAE(adata, n_hidden=8, likelihood="nb").adata_manager


@pytest.mark.parametrize(
    "make", [np.asarray, np.asfortranarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array]
)
def test_rows_in_the_order_asked_for(counts, make):
    """Unsorted and with a row asked for twice."""
    dense = counts.X.toarray()
    adata = anndata.AnnData(make(dense), obs=counts.obs, var=counts.var)
    manager = setup(adata, batch_key="batch", continuous_covariate_keys=["age"])
    codes = np.arange(200).reshape(-1, 1)
    fields = registered_fields(manager, {"components": codes})
    rows = np.array([150, 3, 3, 77, 0, 199])
    (tensors,) = Minibatches(place_rows(fields, torch.device("cpu")), [rows])
    assert tensors["X"].dtype == torch.float32
    np.testing.assert_array_equal(tensors["X"].numpy(), dense[rows])
    assert tensors["batch"].dtype == tensors["components"].dtype == torch.int64
    expected = counts.obs["batch"].cat.codes.to_numpy()[rows]
    np.testing.assert_array_equal(tensors["batch"].numpy().ravel(), expected)
    np.testing.assert_array_equal(tensors["components"].numpy(), codes[rows])
    ages = counts.obs["age"].to_numpy()[rows]
    np.testing.assert_allclose(tensors["extra_continuous_covs"].numpy().ravel(), ages, rtol=1e-6)
    order = np.array([9, 2, 5, 190, 4])
    read = torch.cat([_x(part) for part in inference_loader(manager, order, 2)])
    np.testing.assert_array_equal(read.numpy(), dense[order])


def _x(tensors):
    return tensors["X"] if "X" in tensors else tensors["X_sparse"].dense()


def test_integer_counts_of_a_single_gene_are_data(counts):
    """Only codes stay whole numbers; a matrix of one column is no column of codes."""
    one = anndata.AnnData(counts.X.toarray()[:, :1].astype(np.int32) + 1, obs=counts.obs)
    mixvi.VAE.setup_anndata(one)
    model = mixvi.VAE(one, n_hidden=8, likelihood="poisson")
    (tensors,) = inference_loader(model.adata_manager, np.array([0, 1]), 2)
    assert tensors["X"].dtype == torch.float32


def test_minibatches_of_a_split(counts):
    manager = setup(counts)
    split = split_rows(np.arange(0, 200, 2), 0.7, 0.2)
    data = MinibatchModule(manager, split, 16)
    data.setup()
    loaders = data.train_dataloader(), data.val_dataloader()
    for loader, part in zip(loaders, split[:2], strict=True):
        seen = torch.cat([batch["X"] for batch in loader]).sum(0).numpy()
        np.testing.assert_allclose(seen, counts.X.toarray()[part].sum(0))
    assert MinibatchModule(manager, split_rows(np.arange(200), 1.0), 16).n_val == 0


def test_the_split_keeps_the_labelled_share(counts):
    """The mask is of all rows; after a split it still points at the right ones."""
    labelled = (np.arange(200) % 5) == 0
    counts.obs["code"] = np.where(labelled, 1.0, 0.0)
    manager = setup(counts, continuous_covariate_keys=["code"])
    data = MinibatchModule(
        manager,
        split_rows(np.arange(200), 0.6),
        20,
        labelled=labelled,
        labelled_fraction=0.25,
    )
    data.setup()
    for batch in data.train_dataloader():
        assert int(batch["extra_continuous_covs"].sum()) == 5


def test_groups_are_drawn_alike_and_others_come_once():
    groups = np.array([0] * 90 + [1] * 9 + [2] * 1 + [-1] * 20)
    rows = np.concatenate(list(MinibatchSampler(np.arange(120), 16, groups=groups)))
    assert len(rows) == 120
    assert sorted(rows[groups[rows] < 0]) == list(range(100, 120))
    counts = np.bincount(groups[rows][groups[rows] >= 0])
    assert counts.sum() == 100 and counts.min() > 15
