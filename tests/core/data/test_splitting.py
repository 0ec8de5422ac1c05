"""Which rows train: as scvi-tools splits them, or as the user names them."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from conftest import CPU
from scvi.dataloaders import DataSplitter

import mixvi
from mixvi.core.data.splitting import split_rows


@pytest.mark.parametrize("sizes", [(0.8, None), (0.7, 0.2), (0.55, 0.31), (1.0, None)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_split_is_that_of_scvi_tools(counts, sizes, shuffle):
    mixvi.VAE.setup_anndata(counts)
    manager = mixvi.VAE(counts, n_hidden=8, likelihood="nb").adata_manager
    for seed in (0, 5):
        scvi.settings.seed = seed
        theirs = DataSplitter(manager, *sizes, shuffle_set_split=shuffle)
        theirs.setup()
        # the state of the generators has no say
        np.random.rand(3)
        ours = split_rows(np.arange(200), *sizes, shuffle)
        parts = (theirs.train_idx, theirs.val_idx, theirs.test_idx)
        for rows, others in zip(ours, parts, strict=True):
            np.testing.assert_array_equal(rows, np.sort(others))


def test_parts_of_chosen_rows():
    chosen = np.arange(0, 200, 2)
    split = split_rows(chosen, 0.7, 0.2)
    assert [len(part) for part in split] == [70, 20, 10]
    np.testing.assert_array_equal(np.sort(np.concatenate(split)), chosen)
    ordered = split_rows(chosen, 0.7, shuffle=False)
    np.testing.assert_array_equal(ordered.validation, chosen[:30])
    np.testing.assert_array_equal(ordered.train, chosen[30:])


def test_rows_that_a_user_names(toy):
    """By number of any integer type, by mask or by name; what is named nowhere is not used."""
    mask = np.zeros(500, dtype=bool)
    mask[[9, 4]] = True
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=8)
    train = np.array([200, 255, 1], dtype=np.uint8)
    for parts in ([train, mask], [toy.obs_names[train], [9, 4], None]):
        model.train(1, datasplitter_kwargs={"external_indexing": parts}, **CPU)
        assert model.train_indices.tolist() == [1, 200, 255]
        assert model.validation_indices.tolist() == [4, 9]
        assert model.test_indices.tolist() == []
        assert len(model.history["elbo_validation"]) == len(model.history["elbo_train"])


def test_a_held_out_test_set_is_never_trained_on(toy):
    """Cells of the test set may hold anything, from the start of the components on."""
    weights = []
    split = [np.arange(0, 300), np.arange(300, 400), np.arange(400, 500)]
    for scale in (1.0, 100.0):
        cells = toy.copy()
        cells.X[300:] *= scale
        scvi.settings.seed = 0
        mixvi.GMVAE.setup_anndata(cells)
        model = mixvi.GMVAE(cells, n_components=5, n_hidden=8)
        model.train(2, init_epochs=2, datasplitter_kwargs={"external_indexing": split}, **CPU)
        weights.append(model.module.state_dict())
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name]), name


def test_labelled_cells_alone_train_of_those_that_are_named(toy):
    toy.obs["partly"] = np.where(np.arange(500) % 2, toy.obs["cell_type"].astype(str), "Unknown")
    mixvi.GMVAE.setup_anndata(toy, labels_key="partly")
    model = mixvi.GMVAE(toy, n_hidden=8)
    split = [np.arange(100), np.arange(100, 120)]
    model.train(1, mode="supervised", datasplitter_kwargs={"external_indexing": split}, **CPU)
    assert model.train_indices.tolist() == list(range(1, 100, 2))
    assert model.validation_indices.tolist() == list(range(101, 120, 2))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([[0, 1], [2], [3], [4]], "up to three"),
        (np.arange(4), "up to three"),
        ([[0, 1, 2], [2, 3]], "1 rows are in the train and in the validation set.*number 2"),
        ([[0, 1], [], [1]], "in the train and in the test set"),
        ([[0, 500]], "row numbers from 0 to 499"),
        ([[0.5]], "row numbers"),
        ([[True, False]], "a mask of length 2, but adata has 500 rows"),
        ([[0]], "fewer than two"),
    ],
)
def test_rows_that_cannot_be(toy, parts, said):
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=8)
    with pytest.raises(ValueError, match=said):
        model.train(1, datasplitter_kwargs={"external_indexing": parts}, **CPU)
    assert not model.is_trained_


def test_shares_and_named_rows_exclude_each_other(toy):
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=8)
    for sizes in ({"train_size": 0.8}, {"validation_size": 0.1}):
        with pytest.raises(ValueError, match="Pass one of them"):
            model.train(1, datasplitter_kwargs={"external_indexing": [[0, 1]]}, **sizes, **CPU)
    with pytest.raises(ValueError, match="no option 'drop_last'.*'external_indexing'"):
        model.train(1, datasplitter_kwargs={"drop_last": True}, **CPU)
