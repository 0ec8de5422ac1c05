"""MPCC: losses and whom they reach, networks in the thesis's sizes, fits that find clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU, assert_resumes, bars, blobs
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.images import AIMMPCC, MPCC, Backbone, ConditionalMPCC, GenerativeInference, mpcc_recipe
from mixvi.images.backbones import BACKBONES, Critic, MLPBackbone, make_backbone
from mixvi.images.cluster_networks import ProjectionCritic, Slots, cluster_networks
from mixvi.images.mpcc_module import MPCCModule
from mixvi.metrics import hungarian_accuracy

X = torch.from_numpy(bars(32))
SMALL = {"n_latent": 6, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 32}}


@pytest.fixture
def module():
    torch.manual_seed(0)
    backbone = make_backbone("mlp", (1, 8, 8), 6, {"n_hidden": 32})
    networks = cluster_networks(backbone, 4, "class_norm")
    prior = GaussianMixturePrior(4, 6, floor=0.5)
    # spectral norms iterate in training mode, and formulas are of one state
    return MPCCModule((1, 8, 8), (-1.0, 1.0), 6, networks, prior).eval()


def reached(module: MPCCModule, loss: torch.Tensor) -> set[str]:
    """Networks that a loss has gradients for."""
    module.zero_grad()
    loss.backward()
    return {
        name
        for name in module.network_names
        if any(p.grad is not None and p.grad.any() for p in getattr(module, name).parameters())
    }


def n_weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_latent_likelihood_reaches_neither_generator_nor_prior(module):
    # the trunk that critic and encoder share is the encoder's, too
    assert reached(module, module.encoder_step(X)[0]) == {"encoder", "image_critic"}
    assert all(p.grad is None for p in module.image_critic.head.parameters())
    assert all(p.grad.any() for p in module.encoder.parameters())


def test_generator_loss_reaches_means_and_scales(module):
    assert {"generator", "prior"} <= reached(module, module.generator_step(X)[0])
    assert module.prior.mu.grad.any(1).all() and module.prior.raw.grad.any(1).all()


def test_prior_loss_reaches_the_prior_alone(module):
    assert reached(module, module.prior_step(X)[0]) == {"prior"}
    torch.manual_seed(1)
    module.zero_grad()
    module.prior_step(X)[0].backward()
    without = module.prior.mu.grad.clone()
    torch.manual_seed(1)
    loss, terms = module.encoder_prior_step(X)
    assert reached(module, loss) >= {"encoder", "prior"}
    # L_q adds to the prior's gradient, as in the author's code
    assert (module.prior.mu.grad - without).abs().max() > 0
    assert "latent_nll" in terms and "cluster_nll" in terms


def test_losses_are_the_thesis_formulas(module):
    prior, n = module.prior, len(X)

    torch.manual_seed(1)
    z, y = prior.draw(n)
    generated = module.generator(z, y)
    torch.manual_seed(1)
    loss, _ = module.critic_step(X)
    real, fake = module.image_critic(X), module.image_critic(generated)
    torch.testing.assert_close(loss, F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    torch.manual_seed(1)
    torch.testing.assert_close(module.generator_step(X)[0], -fake.mean())
    torch.manual_seed(1)
    mu, log_var = module.encode(generated)
    nll = -Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum(1).mean()
    torch.testing.assert_close(module.encoder_step(X)[0], nll / 64)
    torch.manual_seed(1)
    loss, terms = module.prior_step(X)
    log_p = torch.stack(
        [Normal(m, s).log_prob(z).sum(1) for m, s in zip(prior.mu, prior.sigma, strict=True)], 1
    )
    cluster_nll = F.cross_entropy(log_p, y)
    entropy = -np.log(4) - Normal(prior.mu, prior.sigma).entropy().mean(1).mean()
    torch.testing.assert_close(terms["cluster_nll"], cluster_nll)
    torch.testing.assert_close(loss, cluster_nll + 0.01 * entropy)


def test_steps_of_algorithm_1(module):
    plan = [(s.name, s.updates, s.times, s.every) for s in module.steps()]
    assert plan == [
        ("critic", ("image_critic",), 1, 1),
        ("generator", ("generator", "prior"), 1, 4),
        ("prior", ("prior",), 1, 4),
        ("encoder", ("encoder",), 4, 4),
    ]
    module.latent_ll_to_prior = True
    assert [(s.name, s.times) for s in module.steps()][2:] == [("encoder_prior", 1), ("encoder", 3)]
    module.e_steps = 1
    assert [s.name for s in module.steps()] == ["critic", "generator", "encoder_prior"]


def test_thesis_sizes():
    """Weights that the author's CIFAR-10 checkpoint has; 768 of the output's batch norm beside."""
    backbone = make_backbone("resnet", (3, 32, 32), 128, {"n_channels": 96})
    made = cluster_networks(backbone, 10, "split", n_classes=10)
    assert n_weights(made["generator"]) == 9_360_131 + 768
    assert n_weights(made["image_critic"]) == 9_456_769
    assert n_weights(made["encoder"]) == 17_615_872
    table = cluster_networks(backbone, 10, "split", own_plain_block=False)
    assert n_weights(table["encoder"]) == 14_960_896
    assert n_weights(table["image_critic"]) == 9_452_929


@pytest.mark.parametrize("name", ["resnet", "conv", "mlp"])
@pytest.mark.parametrize("conditioning", ["split", "copy", "class_norm"])
def test_generators_see_codes_and_clusters(name, conditioning):
    torch.manual_seed(0)
    options = {"n_hidden": 8} if name == "mlp" else {"n_channels": 2}
    backbone = make_backbone(name, (1, 16, 16), 12, options)
    made = cluster_networks(backbone, 3, conditioning)
    generator = made["generator"].eval()
    with torch.no_grad():
        # small starting weights would hide what is seen
        for values in generator.parameters():
            values.mul_(5)
    z, y = torch.randn(4, 12), torch.tensor([0, 1, 2, 0])
    x = generator(z, y)
    assert x.shape == (4, 1, 16, 16) and x.abs().max() <= 1
    assert (generator(z, y.flip(0))[1] - x[1]).abs().max() > 1e-6
    z.requires_grad_()
    generator(z, y).square().sum().backward()
    assert z.grad.any(0).all()
    assert made["encoder"](x)[0].shape == (4, 12)
    assert made["image_critic"](x).shape == (4,)


def test_what_enters_where():
    split = Slots("split", 128, 10, n_blocks=3)
    assert (split.n_first, split.n_condition) == (32, 160)
    assert (Slots("split", 128, 0, 3).n_first, Slots("split", 128, 0, 3).n_condition) == (32, 32)
    assert (Slots("copy", 16, 10, 3).n_first, Slots("copy", 16, 10, 3).n_condition) == (16, 32)
    norm = Slots("class_norm", 24, 10, 3)
    assert (norm.n_first, norm.n_condition, norm.is_spectral) == (24, 10, False)


@pytest.mark.parametrize("share", [True, False])
def test_sharing(share, images):
    """Critic steps move the encoder's first half, and encoder steps the critic's, if shared."""
    MPCC.setup_anndata(images)
    model = MPCC(images, 3, share=share, d_steps=1, ema_decay=None, **SMALL)
    module = model.module
    assert (module.encoder.body[0] is module.image_critic.body[0]) == share
    frozen = dict.fromkeys(module.network_names, 1e-12)
    for mover, other in (("image_critic", "encoder"), ("encoder", "image_critic")):
        before = {
            name: [p.clone() for p in getattr(module, name).body[0].parameters()]
            for name in (mover, other)
        }
        model.train(1, lr=frozen | {mover: 1e-2}, **CPU)
        moved = {
            name: any(
                (p - old).abs().max() > 1e-6
                for p, old in zip(getattr(module, name).body[0].parameters(), values, strict=True)
            )
            for name, values in before.items()
        }
        assert moved == {mover: True, other: share}


def test_blobs_are_found():
    adata = blobs(600)
    MPCC.setup_anndata(adata, pixel_range=(-1, 1))
    kwargs = {"backbone": "mlp", "backbone_kwargs": {"n_hidden": 64}, "conditioning": "copy"}
    model = MPCC(adata, 3, 4, d_steps=2, e_steps=2, ema_decay=None, **kwargs)
    model.train(30, lr=4e-3, prior_lr=1.6e-2, **CPU)
    found = model.get_cluster_assignments()
    assert hungarian_accuracy(found, adata.obs["kind"]) > 0.97
    # images of a cluster lie where its points do
    for k in model.clusters:
        centre = adata.obsm["image"][found == k].mean((0, 2, 3))
        np.testing.assert_allclose(model.sample(200, cluster=k).mean((0, 2, 3)), centre, atol=0.25)
    assert (model.get_prior_parameters()[2] > 0.5).all()
    for name in ("critic_loss", "generator_loss", "prior_loss", "encoder_loss", "cluster_nll"):
        assert len(model.history[f"{name}_train"]) == 30


def test_leiden_clusters_are_taught_first(monkeypatch):
    seen = []
    step = MPCCModule.critic_step

    def noted(self, x, y=None):
        seen.append((type(self.image_critic), y is not None))
        return step(self, x, y)

    monkeypatch.setattr(MPCCModule, "critic_step", noted)
    adata = blobs(600)
    kinds = adata.obs.pop("kind")
    MPCC.setup_anndata(adata, pixel_range=(-1, 1))
    kwargs = {"backbone": "mlp", "backbone_kwargs": {"n_hidden": 64}}
    model = MPCC(adata, 3, 4, d_steps=1, e_steps=1, ema_decay=None, **kwargs)
    model.train(4, init="leiden", teach_epochs=6, lr=4e-3, prior_lr=1.6e-2, **CPU)
    # twelve minibatches an epoch
    assert seen == [(ProjectionCritic, True)] * 72 + [(Critic, False)] * 48
    assert hungarian_accuracy(model.get_cluster_assignments(), kinds) > 0.97
    assert len(model.history["critic_loss_train"]) == 4
    assert len(model.start_history["critic_loss_train"]) == 6
    # a trained model goes on without a teacher
    model.train(1, init="leiden", **CPU)
    assert seen[120:] == [(Critic, False)] * 12


@pytest.mark.parametrize("n_losses", [14, 38])
def test_resume_with_a_teacher(n_losses, images, tmp_path, monkeypatch):
    """Stopped in the second epoch of a part; each has two of three minibatches of four losses."""

    def run(directory, **more):
        torch.manual_seed(0)
        MPCC.setup_anndata(images)
        model = MPCC(images, 3, d_steps=1, e_steps=1, **SMALL)
        model.train(2, init="leiden", teach_epochs=2, checkpoint_dir=directory, **CPU, **more)
        return model

    assert_resumes(run, tmp_path, monkeypatch, n_losses)


def test_teaching_that_cannot_be(images, monkeypatch):
    MPCC.setup_anndata(images)
    model = MPCC(images, 3, d_steps=1, **SMALL)
    with pytest.raises(ValueError, match="init='kmeans' is not known"):
        model.train(1, init="kmeans", **CPU)
    with pytest.raises(ValueError, match="teach_epochs must be a positive"):
        model.train(1, init="leiden", teach_epochs=0, **CPU)
    with pytest.raises(ValueError, match="n_clusters=193"):
        MPCC(images, 193, **SMALL).train(1, init="leiden", **CPU)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match="mixvi\\[leiden\\]"):
            model.train(1, init="leiden", **CPU)
    monkeypatch.setattr(MPCCModule, "critic_step", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train(1, init="leiden", **CPU)
    assert type(model.module.image_critic) is Critic and model._further_rows() is None
    images.obs["label"] = np.resize(["x", "y", "z"], 192)
    ConditionalMPCC.setup_anndata(images, labels_key="label")
    with pytest.raises(TypeError, match="train has no argument 'init'"):
        ConditionalMPCC(images, conditioning="class_norm", **SMALL).train(1, init="leiden", **CPU)


def test_aim_mpcc_is_mpcc_with_one_fixed_component(images):
    """Its losses are those of the objective "aim" on the same networks."""
    AIMMPCC.setup_anndata(images)
    model = AIMMPCC(images, conditioning="copy", **SMALL)
    module = model.module.eval()
    assert "prior" not in module.network_names
    torch.testing.assert_close(module.prior.sigma, torch.ones(1, 6))
    GenerativeInference.setup_anndata(images)
    aim = GenerativeInference(images, "aim", **SMALL, objective_kwargs={"e_steps": 4}).module.eval()
    for name in aim.network_names:
        setattr(aim, name, getattr(module, name))
    torch.manual_seed(0)
    z = module.draw_prior(5000)
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(6), atol=0.06, rtol=0)
    aim.draw_prior = module.draw_prior
    for ours, theirs in zip(module.steps(), aim.steps(), strict=True):
        turns = [(step.updates, step.times, step.every) for step in (ours, theirs)]
        assert turns[0] == turns[1]
        losses = []
        for nets, step in ((module, ours), (aim, theirs)):
            torch.manual_seed(3)
            losses.append(nets.loss(step, X)[0])
        # MPCC divides L_q by the number of values of an image
        torch.testing.assert_close(losses[0] * (64 if ours.name == "encoder" else 1), losses[1])


def test_aim_mpcc_user_path(images, tmp_path):
    AIMMPCC.setup_anndata(images)
    model = AIMMPCC(images, d_steps=1, e_steps=2, share=False, **SMALL)
    model.train(2, lr=1e-3, **CPU)
    assert (model.module.prior.mu == 0).all()
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert model.get_reconstruction().shape == (192, 1, 8, 8)
    assert model.get_discriminator_score().shape == (192,)
    assert np.isfinite(model.get_latent_mse(100))
    model.annotate()
    assert images.obsm["X_aim_mpcc"].shape == (192, 6)
    model.save(tmp_path / "model")
    loaded = AIMMPCC.load(tmp_path / "model", images)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )


def test_conditional_mpcc():
    adata = blobs(600)
    ConditionalMPCC.setup_anndata(adata, labels_key="kind", pixel_range=(-1, 1))
    options = {"backbone": "mlp", "backbone_kwargs": {"n_hidden": 64}, "conditioning": "class_norm"}
    model = ConditionalMPCC(adata, 4, d_steps=2, e_steps=2, ema_decay=None, **options)
    assert model.clusters == ["a", "b", "c"]
    model.train(25, lr=4e-3, prior_lr=1.6e-2, **CPU)
    for label in model.clusters:
        centre = adata.obsm["image"][adata.obs["kind"] == label].mean((0, 2, 3))
        made = model.sample(200, cluster=label).mean((0, 2, 3))
        np.testing.assert_allclose(made, centre, atol=0.3)
    # images of no label get one
    query = blobs(50, seed=1)
    del query.obs["kind"]
    assert set(model.get_cluster_assignments(query)) <= {"a", "b", "c"}
    assert model.get_discriminator_score(query).shape == (50,)
    model.annotate(query)
    assert query.obs["conditional_mpcc_cluster"].cat.categories.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="cluster='d' is not a cluster.*'a', 'b', 'c'"):
        model.sample(2, cluster="d")


def test_conditional_critic_sees_the_class(images):
    images.obs["label"] = np.resize(["x", "y", "z"], 192)
    ConditionalMPCC.setup_anndata(images, labels_key="label")
    module = ConditionalMPCC(images, conditioning="class_norm", **SMALL).module.eval()
    critic, y = module.image_critic, torch.arange(32) % 3
    features = critic.features(X)
    expected = critic.head(features).squeeze(1) + (critic.embedding.weight.T[y] * features).sum(1)
    torch.testing.assert_close(module.score(X, y), expected)
    loss, _ = module.critic_step(X, y)
    assert "image_critic" in reached(module, loss) and critic.embedding.weight.any()


def test_labels_that_cannot_train(images):
    with pytest.raises(KeyError, match="labels_key='kind' is not in adata.obs"):
        ConditionalMPCC.setup_anndata(images, labels_key="kind")
    images.obs["kind"] = np.where(np.arange(192) % 2, "one", None)
    with pytest.raises(ValueError, match="labels_key.*96 missing values"):
        ConditionalMPCC.setup_anndata(images, labels_key="kind")
    images.obs["kind"] = "one"
    with pytest.raises(ValueError, match="has one label alone"):
        ConditionalMPCC.setup_anndata(images, labels_key="kind")


def test_recipes(images):
    recipe = mpcc_recipe("mnist")
    assert recipe.train_kwargs == {
        "max_epochs": 358,
        "lr": 2e-4,
        "prior_lr": 1.6e-3,
        "batch_size": 50,
    }
    assert mpcc_recipe("cifar10").train_kwargs["prior_lr"] == 6e-4
    adata = type(images)(obsm={"image": bars(60, size=32)})
    MPCC.setup_anndata(adata)
    settings = recipe.model_kwargs | {"backbone_kwargs": {"n_channels": 1}}
    model = MPCC(adata, **settings)
    assert model.module.ema_decay == 0.9999 and model._default_epochs(1000) == 300
    model.train(4, batch_size=50, **CPU)
    assert model.sample(2, cluster=9).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="name='minst' is not known.*'mnist'"):
        mpcc_recipe("minst")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be a positive"),
        ({"conditioning": "concat"}, "conditioning='concat' is not known"),
        ({"conditioning": "split", "n_latent": 7}, "3 equal parts, but n_latent is 7.*such as 9"),
        ({"lambda_p": -1.0}, "lambda_p must be a number of at least 0"),
        ({"sigma_floor": "wide"}, "sigma_floor must be a number of at least 0"),
        ({"e_steps": 0}, "e_steps must be a positive"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"backbone": "resnet", "backbone_kwargs": None}, "multiples of 16, but are 8 x 8"),
    ],
)
def test_unusable_settings(options, message, images):
    MPCC.setup_anndata(images)
    with pytest.raises(ValueError, match=message):
        MPCC(images, **(SMALL | options))


def test_settings_that_need_clusters(images):
    AIMMPCC.setup_anndata(images)
    with pytest.raises(ValueError, match="'class_norm' needs clusters"):
        AIMMPCC(images, conditioning="class_norm", **SMALL)


def test_backbones_of_ones_own_have_no_cluster_networks(images):
    class Own(MLPBackbone):
        name = "own"

    try:
        assert issubclass(Own, Backbone)
        MPCC.setup_anndata(images)
        with pytest.raises(ValueError, match="backbone='own' has no generator that sees clusters"):
            MPCC(images, backbone="own")
    finally:
        del BACKBONES["own"]
