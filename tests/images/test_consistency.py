"""Views of images that are to have the cluster of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU, bars, blobs
from torch.distributions import Categorical, kl_divergence

from mixvi.images import MPCC, VaDE
from mixvi.images.views import Views

X = torch.from_numpy(bars(16))


def built(cls, adata, **options):
    cls.setup_anndata(adata)
    more = {} if cls is VaDE else {"d_steps": 1, "ema_decay": None}
    settings = {"backbone": "mlp", "backbone_kwargs": {"n_hidden": 16}, "n_latent": 2}
    return cls(adata, 3, **settings | more | options)


def test_views():
    """Shifts mirror the edges, noise has its spread, and no view is another's."""
    torch.manual_seed(0)
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(200, 1, 1, 1)
    seen = Views(shift=1)(x)
    assert {int(v) for v in seen[:, 0, 1, 1]} == {0, 1, 2, 4, 5, 6, 8, 9, 10}
    assert {int(v) for v in seen[:, 0, 0, 0]} == {0, 1, 4, 5}
    noise = Views(shift=0, noise=0.5)(x) - x
    assert noise.std() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(Views(shift=0)(x), x)


def test_term_is_the_kl_to_clusters_of_a_view(images):
    module = built(VaDE, images, consistency=2.0).module
    torch.manual_seed(1)
    found = module.consistency_term(X)
    torch.manual_seed(1)
    probs = [
        Categorical(logits=module.prior.log_joint(module.encode(x)[0]))
        for x in (X, module.views(X))
    ]
    torch.testing.assert_close(found, kl_divergence(*probs))
    found.sum().backward()
    assert all(p.grad is not None for p in module.prior.parameters())
    # an image that is its own view has nothing to learn
    module.views = Views(shift=0)
    torch.testing.assert_close(module.consistency_term(X), torch.zeros(16), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", [VaDE, MPCC])
def test_losses_have_the_term_by_its_weight(cls, images):
    """And are what they were without."""
    # without power iterations of spectral norms
    module = built(cls, images, consistency=3.0).module.eval()
    loss = module.vade_loss if cls is VaDE else module.encoder_step
    torch.manual_seed(2)
    with_term, terms = loss(X)
    module.consistency = 0.0
    torch.manual_seed(2)
    without, others = loss(X)
    torch.testing.assert_close(with_term, without + 3.0 * terms["consistency"])
    assert set(terms) - set(others) == {"consistency"} and terms["consistency"] > 0


@pytest.mark.parametrize("cls", [VaDE, MPCC])
def test_training_brings_views_together(cls):
    """The term has a record of its own, and falls where the clusters are there from the start."""
    adata = blobs(200)
    model = built(cls, adata, consistency=20.0, view_kwargs={"shift": 0, "noise": 0.5})
    start = {"pretrain_epochs": 1, "n_init": 1} if cls is VaDE else {}
    model.train(6, batch_size=50, lr=3e-3, **CPU, **start)
    record = model.history["consistency_train"]["consistency_train"].astype(float)
    assert np.isfinite(record).all()
    assert cls is MPCC or record.iloc[-1] < record.iloc[0]


def test_none_by_default(images):
    model = built(VaDE, images)
    model.train(1, pretrain_epochs=1, n_init=1, **CPU)
    assert "consistency_train" not in model.history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": -1}, "consistency must be a number of at least 0"),
        ({"view_kwargs": {"turn": 3}}, "view_kwargs: a view has no option 'turn'"),
        ({"view_kwargs": {"shift": 0.5}}, "shift must be a whole number"),
        ({"view_kwargs": {"shift": 8}}, "shift=8, but images have 8 x 8 pixels"),
        ({"view_kwargs": {"flip": 1}}, "flip must be True or False"),
        ({"view_kwargs": {"noise": -1}}, "noise must be a number of at least 0"),
        ({"view_kwargs": {"shift": 0}, "consistency": 1}, "views are the images as they are"),
    ],
)
def test_unusable_views(options, message, images):
    with pytest.raises(ValueError, match=message):
        built(VaDE, images, **options)


def test_views_of_vectors_are_noisy(images):
    images.obsm["X_dino"] = np.random.default_rng(0).normal(size=(images.n_obs, 4))
    VaDE.setup_anndata(images, features_key="X_dino")
    assert VaDE(images, 3, consistency=1.0).module.views == Views(shift=0, noise=0.3)
    with pytest.raises(ValueError, match="vectors cannot be shifted or flipped"):
        VaDE(images, 3, view_kwargs={"shift": 1})
