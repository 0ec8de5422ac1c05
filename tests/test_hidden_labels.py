"""No method sees the labels it is scored on: shuffling them gives the same model."""

import numpy as np
import pytest
import scvi
import torch
from conftest import CPU

import mixvi
from mixvi import cells as procedures

SMALL = {"n_hidden": 32, "n_layers": 1, "n_latent_z": 3, "n_latent_w": 2}
TRAIN = {"max_epochs": 3, "batch_size": 100} | CPU
SHOWN = np.arange(500) % 10 == 0


def unsupervised_with_labels_registered(adata):
    mixvi.CGMVAE.setup_anndata(adata, labels_key="cell_type", condition_key="condition")
    model = mixvi.CGMVAE(adata, n_components=8, **SMALL)
    model.train(mode="unsupervised", **TRAIN)
    return model


def unsupervised_from_leiden(adata):
    mixvi.GMVAE.setup_anndata(adata)
    model = mixvi.GMVAE(adata, n_components=8, **SMALL)
    model.train(init="leiden", **TRAIN)
    return model


def semi_supervised(adata, **train):
    mixvi.CGMVAE.setup_anndata(adata, labels_key="shown", condition_key="condition")
    model = mixvi.CGMVAE(adata, **SMALL)
    model.train(mode="semi", **train, **TRAIN)
    return model


def few_labels(adata):
    return semi_supervised(adata, init="discriminant", labelled_fraction=0.3)


def guided(adata):
    mixvi.GMVAE.setup_anndata(adata)
    clusters = procedures.cluster_cells(adata, n_clusters=6)
    model = mixvi.GMVAE(adata, n_components=6, **SMALL)
    stages = {"supervised_stages": [(1e-3, 2)], "unsupervised_stages": [(1e-3, 2)]}
    procedures.train_guided(model, clusters, **stages, **CPU)
    return model


def transferred(adata):
    known = adata.obs["condition"] == adata.obs["condition"].iloc[0]
    source, target = adata[known.to_numpy()].copy(), adata[~known.to_numpy()].copy()
    source.obs["cell_type"] = source.obs["truth_of_source"]
    result = procedures.transfer_labels(source, target, "cell_type", model_kwargs=SMALL, **TRAIN)
    return result.model


@pytest.mark.parametrize(
    "method",
    [
        unsupervised_with_labels_registered,
        unsupervised_from_leiden,
        semi_supervised,
        few_labels,
        guided,
        transferred,
    ],
)
def test_shuffled_hidden_labels_change_nothing(toy, method):
    truth = toy.obs["cell_type"].astype(str).to_numpy()
    toy.obs["shown"] = np.where(SHOWN, truth, "Unknown")
    toy.obs["truth_of_source"] = truth
    first_half = (toy.obs["condition"] == toy.obs["condition"].iloc[0]).to_numpy()
    hidden = ~first_half if method is transferred else np.ones(500, dtype=bool)
    if method in (semi_supervised, few_labels):
        hidden = ~SHOWN
    weights = []
    for shuffle in (False, True):
        cells = toy.copy()
        if shuffle:
            labels = truth.copy()
            labels[hidden] = np.random.default_rng(0).permutation(labels[hidden])
            assert (labels != truth).mean() > 0.3
            cells.obs["cell_type"] = labels
        scvi.settings.seed = 0
        weights.append(method(cells).module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
