"""VaDE's loss against the paper's formula and Monte Carlo; a fit that finds known clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU, assert_resumes, bars, blobs
from torch.distributions import Normal, kl_divergence

from mixvi.images import VaDE
from mixvi.images.backbones import make_backbone
from mixvi.images.vade import VaDEModule
from mixvi.metrics import hungarian_accuracy

X = torch.from_numpy(bars(16)).double()


@pytest.fixture
def module():
    torch.manual_seed(0)
    backbone = make_backbone("mlp", (1, 8, 8), 3, {"n_hidden": 16})
    module = VaDEModule(backbone, 4, (-1.0, 1.0)).double()
    with torch.no_grad():
        module.prior.logits.normal_()
        module.prior.raw.normal_()
    return module


@pytest.fixture
def pieces(module):
    """The module's terms, and what they are made of at the same draw of z."""
    torch.manual_seed(1)
    terms = module.terms(X)
    torch.manual_seed(1)
    mu, log_var = module.encode(X)
    z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
    return terms, mu, log_var, z, module.prior.log_membership(z).exp()


def test_loss_is_equation_9_of_the_paper(module, pieces):
    terms, mu, log_var, z, gamma = pieces
    means, variances, phi = module.prior.mu, module.prior.sigma**2, module.prior.log_phi.exp()
    inner = variances.log() + (log_var.exp()[:, None] + (mu[:, None] - means) ** 2) / variances
    loss = 0.5 * (X - module.decode(z)).square().sum((1, 2, 3))
    loss = loss + 0.5 * (gamma * inner.sum(-1)).sum(-1) - 0.5 * (1 + log_var).sum(-1)
    loss = loss + (gamma * (gamma / phi).log()).sum(-1)
    torch.testing.assert_close(sum(terms.values()), loss)
    torch.manual_seed(1)
    torch.testing.assert_close(module.vade_loss(X)[0], loss.mean())


def test_loss_is_kls_weighted_by_membership(module, pieces):
    """Reconstruction + sum_k gamma_k KL(q(z | x) || p(z | k)) + KL(gamma || phi)."""
    terms, mu, log_var, _, gamma = pieces
    q = Normal(mu, (0.5 * log_var).exp())
    kls = [
        kl_divergence(q, Normal(m, s)).sum(-1)
        for m, s in zip(module.prior.mu, module.prior.sigma, strict=True)
    ]
    torch.testing.assert_close(terms["z_kl"], (gamma * torch.stack(kls, -1)).sum(-1))
    to_phi = kl_divergence(
        torch.distributions.Categorical(probs=gamma),
        torch.distributions.Categorical(logits=module.prior.logits),
    )
    torch.testing.assert_close(terms["y_kl"], to_phi)


def test_loss_against_monte_carlo(module, pieces):
    """Minus the ELBO of eq. 7.1 with gamma held: means over many z of its log densities."""
    terms, mu, log_var, _, gamma = pieces
    torch.manual_seed(2)
    q = Normal(mu, (0.5 * log_var).exp())
    z = q.sample((5_000,))
    log_p = torch.stack(
        [
            Normal(m, s).log_prob(z).sum(-1)
            for m, s in zip(module.prior.mu, module.prior.sigma, strict=True)
        ],
        -1,
    )
    ratio = q.log_prob(z).sum(-1, keepdim=True) - log_p + gamma.log() - module.prior.log_phi
    monte_carlo = (gamma * ratio).sum(-1).mean(0)
    closed = terms["z_kl"] + terms["y_kl"]
    torch.testing.assert_close(closed, monte_carlo, rtol=0.03, atol=0.05)


def test_teaching_is_the_elbo_of_known_clusters(module):
    """Minus log p(x, y) bounded by the given component, and minus log q(y | z) beside it."""
    clusters = torch.arange(len(X)) % 4
    torch.manual_seed(1)
    loss, terms = module.teaching_loss(X, clusters)
    torch.manual_seed(1)
    mu, log_var = module.encode(X)
    z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
    own = Normal(module.prior.mu[clusters], module.prior.sigma[clusters])
    kl = kl_divergence(Normal(mu, (0.5 * log_var).exp()), own).sum(-1)
    torch.testing.assert_close(terms["z_kl"], kl.mean())
    torch.testing.assert_close(terms["weight_nll"], -module.prior.log_phi[clusters].mean())
    membership = torch.softmax(module.prior.log_joint(z), -1)
    nll = torch.nn.functional.nll_loss(membership.log(), clusters)
    torch.testing.assert_close(terms["cluster_nll"], nll)
    reconstruction = 0.5 * (X - module.decode(z)).square().sum((1, 2, 3)).mean()
    expected = reconstruction + kl.mean() + nll - module.prior.log_phi[clusters].mean()
    torch.testing.assert_close(loss, expected)


def test_loss_reaches_all_networks(module):
    module.vade_loss(X)[0].backward()
    for name in ("encoder", "generator", "prior"):
        assert all(p.grad.any() for p in getattr(module, name).parameters()), name
    module.zero_grad()
    module.pretraining_loss(X)[0].backward()
    assert not any(p.grad is not None and p.grad.any() for p in module.prior.parameters())
    with module.part("pretraining"):
        assert [step.updates for step in module.steps()] == [("encoder", "generator")]
    with module.part("teaching"):
        assert [step.updates for step in module.steps()] == [("encoder", "generator", "prior")]
    assert [step.name for step in module.steps()] == ["vade"]


def small(adata, **options) -> VaDE:
    VaDE.setup_anndata(adata)
    settings = {"backbone": "mlp", "backbone_kwargs": {"n_hidden": 32}, "recon_scale": 20.0}
    return VaDE(adata, 3, 2, **(settings | options))


def test_blobs_are_found():
    adata = blobs(600)
    model = small(adata)
    model.train(10, pretrain_epochs=60, batch_size=50, **CPU)
    assert hungarian_accuracy(model.get_cluster_assignments(), adata.obs["kind"]) > 0.99
    phi, mu, sigma = model.get_prior_parameters()
    assert (phi.shape, mu.shape, sigma.shape) == ((3,), (3, 2), (3, 2))
    np.testing.assert_allclose(phi, 1 / 3, atol=0.1)
    # the start has records of its own
    assert len(model.start_history["pretraining_loss_train"]) == 60
    assert not any(name.startswith("pretraining") for name in model.history)
    loss = model.history["vade_loss_train"]["vade_loss_train"].astype(float)
    assert len(loss) == 10 and loss.iloc[-1] < loss.iloc[0]
    terms = model.get_elbo(return_terms=True)
    assert terms["total"] == pytest.approx(terms[["R", "Z", "Y"]].sum())
    # three clusters that are told apart cost log 3
    assert terms["Y"] == pytest.approx(np.log(3), abs=0.1)
    # a trained model goes on without another start
    before = model.get_prior_parameters()[1]
    model.train(1, lr=1e-6, **CPU)
    np.testing.assert_allclose(model.get_prior_parameters()[1], before, atol=1e-3)
    assert len(model.history["vade_loss_train"]) == 11


def test_leiden_clusters_are_taught_first():
    adata = blobs(600)
    model = small(adata)
    settings = {"init": "leiden", "teach_epochs": 5, "pretrain_epochs": 30, "batch_size": 50}
    model.train(5, **settings, **CPU)
    assert hungarian_accuracy(model.get_cluster_assignments(), adata.obs["kind"]) > 0.99
    assert len(model.start_history["teaching_loss_train"]) == 5
    assert len(model.history["vade_loss_train"]) == 5
    # clusters are given in teaching alone
    assert model._further_rows() is None


def test_learning_rates_decay(images, monkeypatch):
    from mixvi.core.training.stepwise import StepwiseTrainingPlan

    seen = []
    start = StepwiseTrainingPlan.on_train_epoch_start

    def noted(self):
        start(self)
        seen.append(self.optimizers()[0].param_groups[0]["lr"])

    monkeypatch.setattr(StepwiseTrainingPlan, "on_train_epoch_start", noted)
    model = small(images)
    model.train(4, pretrain_epochs=2, lr=1e-2, plan_kwargs={"decay_epochs": 2}, **CPU)
    assert seen == pytest.approx([1e-3] * 2 + [1e-2] * 2 + [9e-3] * 2)


def test_paper_networks(images):
    VaDE.setup_anndata(images)
    model = VaDE(images)
    sizes = [p.shape for p in model.module.encoder.body.parameters() if p.ndim == 2]
    assert sizes == [(500, 64), (500, 500), (2000, 500)]
    sizes = [p.shape for p in model.module.generator.parameters() if p.ndim == 2]
    assert sizes == [(2000, 10), (500, 2000), (500, 500), (64, 500)]
    assert model._default_epochs(10) == 300


@pytest.mark.parametrize(
    ("init", "n_losses"), [("mixture", 2), ("mixture", 5), ("leiden", 5), ("leiden", 8)]
)
def test_resume(init, n_losses, images, tmp_path, monkeypatch):
    """Stopped in the second epoch of a part; each has three of one whole minibatch."""

    def run(directory, **more):
        torch.manual_seed(0)
        model = small(images, likelihood="bernoulli")
        parts = {"pretrain_epochs": 3, "teach_epochs": 3, "init": init, "n_init": 1}
        model.train(3, checkpoint_dir=directory, **parts, **CPU, **more)
        return model

    assert_resumes(run, tmp_path, monkeypatch, n_losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood='poisson' is not known"),
        ({"recon_scale": 0}, "recon_scale must be a positive number"),
        ({"backbone_kwargs": {"n_hidden": []}}, "n_hidden names no layers"),
        ({"backbone_kwargs": {"n_hidden": [8, 0]}}, "n_hidden must be a positive whole number"),
        ({"backbone": "linear"}, "backbone='linear' is not known"),
    ],
)
def test_unusable_settings(options, message, images):
    with pytest.raises(ValueError, match=message):
        small(images, **options)


def test_leiden_without_igraph_stops_before_training(images, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = small(images)
    with pytest.raises(ImportError, match="mixvi\\[leiden\\]"):
        model.train(1, init="leiden", **CPU)
    assert not model.is_trained_


def test_teaching_that_fails_leaves_no_clusters_behind(images, monkeypatch):
    model = small(images)
    monkeypatch.setattr(VaDEModule, "teaching_loss", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train(1, init="leiden", pretrain_epochs=1, **CPU)
    assert model._further_rows() is None
    assert [step.name for step in model.module.steps()] == ["vade"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrain_epochs": -1}, "pretrain_epochs must be a positive"),
        ({"n_init": 0}, "n_init must be a positive"),
        ({"init": "kmeans"}, "init='kmeans' is not known"),
        ({"teach_epochs": 0}, "teach_epochs must be a positive"),
        ({"max_epochs": 0}, "max_epochs must be a positive"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"plan_kwargs": {"lr_decay": 0}}, "lr_decay must be a positive number"),
    ],
)
def test_unusable_training(settings, message, images):
    with pytest.raises(ValueError, match=message):
        small(images).train(**({"max_epochs": 1, "pretrain_epochs": 0} | CPU | settings))
