"""The property tests of the models' mathematics, numbered as in the specification (section 15)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch.distributions import (
    Categorical,
    Dirichlet,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

import mixvi
from mixvi.cells.cvae import CVAEModule
from mixvi.cells.gmvae_module import TERMS, GMVAEModule
from mixvi.cells.vae import VAEModule
from mixvi.core.maths import mixture
from mixvi.core.maths.likelihoods import make_likelihood
from mixvi.core.maths.networks import soft_clip

B, G, K, D = 12, 7, 4, 3


def make_module(n_classes=3, dropout_rate=0.0, **options):
    torch.manual_seed(0)
    defaults = {"n_components": K, "n_latent_z": D, "n_latent_w": 2, "n_hidden": 16, "n_layers": 1}
    module = GMVAEModule(
        G, n_classes=n_classes, dropout_rate=dropout_rate, **(defaults | options)
    ).double()
    return module.eval()


def make_tensors(labels=None, n=B, n_conditions=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3 if labels is None else labels
    return {
        "X": torch.randn(n, G, generator=generator, dtype=torch.float64),
        "batch": torch.zeros(n, 1, dtype=torch.long),
        "condition": (torch.arange(n) % n_conditions).view(-1, 1),
        "labels": labels.view(-1, 1),
    }


def make_outputs(module, tensors, seed=2):
    torch.manual_seed(seed)
    inference = module.inference(module.rows(tensors))
    generative = module.generative(inference["rows"], inference["w"], inference["z"])
    return inference, generative


def terms_of(module, tensors, use_labels=True, z_kl="analytic"):
    return module.terms(*make_outputs(module, tensors), use_labels, z_kl)


def random_simplex(n, k, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.dirichlet(np.full(k, 0.7), n))


UNLABELLED = torch.full((B,), 3)


def test_01_gaussian_kl():
    """Both forms agree; zero for equal arguments; Monte Carlo converges to it."""
    torch.manual_seed(0)
    mu, lv, mu_p, lv_p = torch.randn(4, 5, D, dtype=torch.float64)
    ours = mixture.gaussian_kl(mu, lv, mu_p, lv_p)
    q, p = Normal(mu, (lv / 2).exp()), Normal(mu_p, (lv_p / 2).exp())
    torch.testing.assert_close(ours, kl_divergence(q, p).sum(-1), atol=1e-6, rtol=0)
    sigma, sigma_p = (lv / 2).exp(), (lv_p / 2).exp()
    other = -0.5 + (sigma_p / sigma).log() + (sigma**2 + (mu - mu_p) ** 2) / (2 * sigma_p**2)
    torch.testing.assert_close(ours, other.sum(-1), atol=1e-6, rtol=0)
    assert mixture.gaussian_kl(mu, lv, mu, lv).abs().max() < 1e-12
    z = q.sample((200_000,))
    sampled = mixture.gaussian_log_prob(z, mu, lv) - mixture.gaussian_log_prob(z, mu_p, lv_p)
    torch.testing.assert_close(sampled.mean(0), ours, rtol=0.03, atol=0.03)
    standard = mixture.standard_gaussian_kl_per_dim(mu, lv).sum(-1)
    zero = torch.zeros_like(mu)
    torch.testing.assert_close(standard, mixture.gaussian_kl(mu, lv, zero, zero))


def test_02_dirichlet_kl():
    """Matches torch, is zero at a = b, and has finite gradients over its whole range."""
    a = torch.rand(6, K, dtype=torch.float64) * 5 + 0.1
    expected = kl_divergence(Dirichlet(a), Dirichlet(torch.full_like(a, 0.7)))
    torch.testing.assert_close(mixture.dirichlet_kl(a, 0.7), expected)
    assert mixture.dirichlet_kl(torch.full((1, K), 0.7, dtype=torch.float64), 0.7).abs() < 1e-12
    wide = torch.logspace(-2, 3, 8).view(2, 4).requires_grad_()
    mixture.dirichlet_kl(wide, 1.0).sum().backward()
    assert torch.isfinite(wide.grad).all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 5.0, 100.0])
def test_03_collapsed(alpha):
    """Y + D >= F_alpha(pi), with equality at a = alpha + pi; one-hot pi costs log K."""
    pi = random_simplex(50, 10)
    bound = mixture.collapsed_dirichlet(pi, alpha) + mixture.negative_entropy(pi.log())

    def y_plus_d(a):
        y = (pi * (pi.log() - mixture.expected_log_dirichlet(a))).sum(-1)
        return y + mixture.dirichlet_kl(a, alpha)

    a = torch.rand(50, 10, dtype=torch.float64) * 3 + 0.05
    assert (y_plus_d(a) >= bound - 1e-9).all()
    torch.testing.assert_close(y_plus_d(alpha + pi), bound, atol=1e-6, rtol=0)
    one_hot = torch.eye(10, dtype=torch.float64)
    costs = mixture.collapsed_dirichlet(one_hot, alpha)
    torch.testing.assert_close(costs, torch.full_like(costs, math.log(10)), atol=1e-6, rtol=0)
    assert (bound >= (pi * (pi * 10).log()).sum(-1) - 1e-9).all()
    uniform = torch.full((1, 10), 0.1, dtype=torch.float64)
    cost = mixture.collapsed_dirichlet(uniform, alpha) + mixture.negative_entropy(uniform.log())
    printed = {100.0: "0.005", 5.0: "0.092", 1.0: "0.499", 0.5: "1.048", 0.1: "4.98"}[alpha]
    assert f"{float(cost):.{len(printed) - 2}f}" == printed


def test_04_analytic_y_term_is_the_mean_of_sampled_ones():
    torch.manual_seed(0)
    a = torch.rand(5, K, dtype=torch.float64) * 4 + 1.0
    pi = random_simplex(5, K)
    analytic = (pi * (pi.log() - mixture.expected_log_dirichlet(a))).sum(-1)
    many = torch.stack([mixture.sampled_log_dirichlet(a) for _ in range(20_000)])
    sampled = (pi * (pi.log() - many)).sum(-1).mean(0)
    torch.testing.assert_close(sampled, analytic, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
def test_05_mixed_batches(d_term):
    """m = 0 and m = 1 give the pure losses; a mixed batch the weighted sum of its halves."""
    module = make_module(d_term=d_term)
    labels = torch.arange(B) % 3
    mixed = labels.clone()
    mixed[B // 2 :] = 3
    with torch.no_grad():
        sup = terms_of(module, make_tensors(labels))
        unsup = terms_of(module, make_tensors(UNLABELLED))
        ignored = terms_of(module, make_tensors(labels), use_labels=False)
        both = terms_of(module, make_tensors(mixed))
    half = B // 2
    for name in TERMS:
        torch.testing.assert_close(ignored[name], unsup[name])
        torch.testing.assert_close(both[name][:half], sup[name][:half])
        torch.testing.assert_close(both[name][half:], unsup[name][half:])


def test_05_pure_losses_are_the_formulas():
    """Spec 5.1 and 5.3 written out by hand."""
    module = make_module()
    labels = torch.arange(B) % 3
    inference, generative = make_outputs(module, make_tensors(labels))
    log_pi, a = generative["log_pi"], generative["a"]
    kl = mixture.component_kl(
        inference["mu_z"], inference["lv_z"], generative["means"], generative["log_vars"]
    )
    log_d = torch.digamma(a) - torch.digamma(a.sum(-1, keepdim=True))
    row = torch.arange(B)
    sup = module.terms(inference, generative, True, "analytic")
    torch.testing.assert_close(sup["Z"], kl[row, labels])
    torch.testing.assert_close(sup["Y"], -log_pi[row, labels] - log_d[row, labels])
    unsup = module.terms(inference, generative, False, "analytic")
    pi = log_pi.exp()
    torch.testing.assert_close(unsup["Z"], (pi * kl).sum(-1))
    torch.testing.assert_close(unsup["Y"], (pi * (log_pi - log_d)).sum(-1))


def test_05_unlabelled_rows_have_no_gradient_to_their_labels():
    module = make_module()
    inference, generative = make_outputs(module, make_tensors(UNLABELLED))
    labels = torch.full((B, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    inference["rows"] = inference["rows"]._replace(labels=labels)
    total = sum(module.terms(inference, generative, True, "analytic").values()).sum()
    (gradient,) = torch.autograd.grad(total, labels)
    assert (gradient == 0).all()


def test_06_raising_the_true_class_lowers_the_supervised_loss():
    module = make_module()
    labels = torch.arange(B) % 3
    inference, generative = make_outputs(module, make_tensors(labels))
    raised = dict(generative)
    bump = torch.nn.functional.one_hot(labels, K) * 0.5
    raised["log_pi"] = torch.log_softmax(generative["log_pi"] + bump, -1)
    before = module.loss({}, inference, generative).loss
    assert module.loss({}, inference, raised).loss < before


def test_07_reductions():
    """Doubling the rows leaves the loss; doubling the genes doubles R."""
    module = make_module()
    inference, generative = make_outputs(module, make_tensors())
    loss = module.loss({}, inference, generative).loss

    def twice(value):
        if isinstance(value, tuple):
            return type(value)(*[twice(v) for v in value])
        return None if value is None else torch.cat([value, value])

    doubled = module.loss(
        {},
        {k: twice(v) for k, v in inference.items()},
        {k: twice(v) for k, v in generative.items()},
    ).loss
    torch.testing.assert_close(doubled, loss)
    x, raw = torch.randn(2, B, G, dtype=torch.float64)
    for name in ("gaussian", "mse"):
        once = make_likelihood(name, G).neg_log_prob(x, raw, None)
        both = make_likelihood(name, 2 * G).neg_log_prob(
            torch.cat([x, x], -1), torch.cat([raw, raw], -1), None
        )
        torch.testing.assert_close(both, 2 * once)


def test_08_component_permutation():
    """Permuting components everywhere, labels included, leaves the loss."""
    module = make_module(n_classes=K)
    labels = torch.arange(B) % K
    inference, generative = make_outputs(module, make_tensors(labels))
    loss = module.loss({}, inference, generative).loss
    order = torch.tensor([2, 0, 3, 1])
    permuted = {k: v if k == "raw" else v[:, order] for k, v in generative.items()}
    rows = inference["rows"]
    moved = {**inference, "rows": rows._replace(labels=rows.labels[:, order])}
    torch.testing.assert_close(module.loss({}, moved, permuted).loss, loss)


@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
def test_09_one_component_is_the_two_level_vae(d_term):
    module = make_module(n_classes=0, n_components=1, d_term=d_term)
    inference, generative = make_outputs(module, make_tensors())
    terms = module.terms(inference, generative, True, "analytic")
    assert terms["Y"].abs().max() < 1e-9
    assert terms["D"].abs().max() < 1e-9
    expected = mixture.gaussian_kl(
        inference["mu_z"],
        inference["lv_z"],
        generative["means"][:, 0],
        generative["log_vars"][:, 0],
    )
    torch.testing.assert_close(terms["Z"], expected)


def test_10_bayes_posterior():
    """It normalises and equals the responsibilities of torch's mixture."""
    module = make_module(y_prior="categorical", y_posterior="bayes")
    inference, generative = make_outputs(module, make_tensors())
    log_pi = generative["log_pi"]
    torch.testing.assert_close(log_pi.exp().sum(-1), torch.ones(B, dtype=torch.float64))
    parts = Independent(Normal(generative["means"], (generative["log_vars"] / 2).exp()), 1)
    whole = MixtureSameFamily(Categorical(logits=torch.zeros(B, K, dtype=torch.float64)), parts)
    z = inference["z"]
    joint = parts.log_prob(z.unsqueeze(1)) - math.log(K)
    torch.testing.assert_close(log_pi, joint - whole.log_prob(z).unsqueeze(-1))


def _copy_but_condition(source, target):
    """Weights of ``source`` into ``target``; the constant condition column gets none."""
    state = target.state_dict()
    known = source.state_dict()
    for name, value in state.items():
        if name in known and known[name].shape == value.shape:
            value.copy_(known[name])
        else:
            value.zero_()
    target.load_state_dict(state)


def test_11_one_condition_is_no_condition():
    """M3b = M1 and M6b = M5 up to a constant input; M6a pinned to (0, 0) = M6b."""
    tensors = make_tensors()
    options = {"n_latent": D, "n_hidden": 16, "n_layers": 1, "dropout_rate": 0.0}
    vae = VAEModule(G, **options).double().eval()
    cvae = CVAEModule(G, n_conditions=1, **options).double().eval()
    _copy_but_condition(vae, cvae)
    for module in (vae, cvae):
        torch.manual_seed(0)
        module.result = module(tensors)[2].loss
    torch.testing.assert_close(vae.result, cvae.result)

    plain = make_module()
    conditional = make_module(n_conditions=1, w_prior="standard")
    _copy_but_condition(plain, conditional)
    left, right = terms_of(plain, tensors), terms_of(conditional, tensors)
    for name in TERMS:
        torch.testing.assert_close(left[name], right[name])

    two = make_tensors(n_conditions=2)
    fixed = make_module(n_conditions=2, w_prior="standard")
    learned = make_module(n_conditions=2, w_prior="learned")
    _copy_but_condition(fixed, learned)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    learned.w_table.forward = lambda condition: (zero, zero)
    left, right = terms_of(fixed, two), terms_of(learned, two)
    for name in TERMS:
        torch.testing.assert_close(left[name], right[name])


def test_12_sigma_vae():
    """Analytic variance is the mean squared error; mse is twice gaussian less its constants."""
    torch.manual_seed(0)
    x, raw = torch.randn(2, 40, G, dtype=torch.float64)
    analytic = make_likelihood("gaussian_sigma", G, sigma="analytic").double().train()
    loss = analytic.neg_log_prob(x, raw, None)
    mse = (x - raw).square().mean()
    torch.testing.assert_close((2 * analytic.log_sigma()).exp(), mse)
    expected = 0.5 * G * (1 + math.log(2 * math.pi) + mse.log())
    torch.testing.assert_close(loss.mean(), expected)
    gaussian = make_likelihood("gaussian", G).neg_log_prob(x, raw, None)
    squares = make_likelihood("mse", G).neg_log_prob(x, raw, None)
    torch.testing.assert_close(squares, 2 * gaussian - G * math.log(2 * math.pi))
    for sigma in ("shared", "feature"):
        learned = make_likelihood("gaussian_sigma", G, sigma=sigma).double()
        scale = learned.log_sigma().exp().expand(G)
        density = -Normal(raw, scale).log_prob(x).sum(-1)
        torch.testing.assert_close(learned.neg_log_prob(x, raw, None), density)


def test_13_linear_autoencoder_spans_the_principal_subspace():
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(2, 6)) * np.array([[4.0], [2.0]])
    x = rng.normal(size=(400, 2)) @ loadings + 0.1 * rng.normal(size=(400, 6))
    x = (x - x.mean(0)).astype(np.float32)
    adata = mixvi.datasets.toy_conditional_blobs(n_per_group=40, n_genes=6, effect=0.2)
    adata.X = x
    mixvi.AE.setup_anndata(adata)
    model = mixvi.AE(adata, n_latent=2, n_layers=0)
    model.train(
        stages=[(1e-2, 40), (1e-3, 40)],
        batch_size=50,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    decoder = model.module.decoder.linears[0].weight.detach().numpy()
    principal = PCA(2).fit(x).components_.T
    assert subspace_angles(decoder, principal).max() < 1e-2


def test_14_soft_clip():
    """Within its bounds, monotone, finite gradients far outside; zero maps to -0.313."""
    t = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    y = soft_clip(t, -9.0, 1.0)
    # the lower bound is high - softplus(high - low), a hair below low
    assert y.min() >= -9 - 5e-5 and y.max() <= 1
    assert (y.diff() >= 0).all()
    far = torch.tensor([-1e3, 1e3], requires_grad=True)
    soft_clip(far, -5.0, 5.0).sum().backward()
    assert torch.isfinite(far.grad).all()
    assert float(soft_clip(torch.tensor(0.0), -9.0, 1.0)) == pytest.approx(-0.313, abs=1e-3)


def test_15_counterfactual_identity_and_sample_rows(toy, fit):
    """To its own condition by route z, a cell is its reconstruction; sample gives n K C rows."""
    model = fit(mixvi.CGMVAE, toy, setup={"condition_key": "condition"}, n_components=4)
    ours = toy.obs["condition"] == "condition 0"
    same = model.counterfactual(to="condition 0", indices=ours.to_numpy(), route="z")
    reconstruction = model.get_reconstruction(indices=ours.to_numpy())
    np.testing.assert_allclose(same.X, reconstruction, rtol=1e-5, atol=1e-5)
    assert model.sample(3).n_obs == 3 * 4 * 2


def test_16_round_trip_and_determinism(toy, fit, tmp_path):
    model = fit(mixvi.GMVAE, toy, n_components=4)
    latent = model.get_latent_representation()
    np.testing.assert_array_equal(latent, model.get_latent_representation())
    model.save(tmp_path / "model")
    again = mixvi.GMVAE.load(tmp_path / "model", toy.copy())
    np.testing.assert_array_equal(latent, again.get_latent_representation())


@pytest.mark.parametrize("y_prior", ["dirichlet", "categorical"])
@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
def test_terms_are_never_negative(y_prior, d_term):
    module = make_module(y_prior=y_prior, d_term=d_term)
    for labels in (None, UNLABELLED):
        terms = terms_of(module, make_tensors(labels))
        for name in ("Z", "W", "Y", "D"):
            assert terms[name].min() > -1e-9, name


def test_group_weights_share_evenly():
    module = make_module()
    labels = torch.arange(B) % 3
    labels[3:] = 3
    inference, generative = make_outputs(module, make_tensors(labels))
    total = sum(module.terms(inference, generative, True, "analytic").values())
    loss = module.loss({}, inference, generative, label_weighting="groups").loss
    torch.testing.assert_close(loss, 0.5 * total[:3].mean() + 0.5 * total[3:].mean())
    alone = make_outputs(module, make_tensors(UNLABELLED))
    torch.testing.assert_close(
        module.loss({}, *alone, label_weighting="groups").loss, module.loss({}, *alone).loss
    )


def test_several_components_per_class():
    """The class's probability is the sum over its components; their split is q's own."""
    module = make_module(n_classes=2, components_per_class=2)
    labels = torch.arange(B) % 2
    inference, generative = make_outputs(module, make_tensors(labels))
    log_pi = generative["log_pi"]
    terms = module.terms(inference, generative, True, "analytic")
    pair = torch.stack([log_pi[:, :2].logsumexp(-1), log_pi[:, 2:].logsumexp(-1)], -1)
    row = torch.arange(B)
    kl = mixture.component_kl(
        inference["mu_z"], inference["lv_z"], generative["means"], generative["log_vars"]
    )
    within = torch.stack([log_pi[:, :2].softmax(-1), log_pi[:, 2:].softmax(-1)], 1)[row, labels]
    owned = torch.stack([kl[:, :2], kl[:, 2:]], 1)[row, labels]
    torch.testing.assert_close(terms["Z"], (within * owned).sum(-1))
    log_d = mixture.expected_log_dirichlet(generative["a"])
    log_d = torch.stack([log_d[:, :2], log_d[:, 2:]], 1)[row, labels]
    expected = -pair[row, labels] + (within * (within.log() - log_d)).sum(-1)
    torch.testing.assert_close(terms["Y"], expected)


def test_y_regularisers():
    module = make_module(n_classes=0, y_prior="categorical", y_regulariser="batch_mean")
    inference, generative = make_outputs(module, make_tensors())
    usage = generative["log_pi"].exp().mean(0)
    expected = (usage * (usage * K).log()).sum()
    y = module.terms(inference, generative, True, "analytic", in_training=True)["Y"]
    torch.testing.assert_close(y, expected.expand(B))
    floored = make_module(n_classes=0, y_regulariser="floor", y_floor=50.0)
    y = floored.terms(*make_outputs(floored, make_tensors()), True, "analytic", in_training=True)
    assert (y["Y"] == 50.0).all()


def test_counts_match_scvi_and_torch():
    from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

    torch.manual_seed(0)
    x = torch.poisson(torch.full((B, G), 3.0, dtype=torch.float64))
    library = x.sum(-1, keepdim=True)
    raw = torch.randn(B, 2 * G, dtype=torch.float64)
    rate = torch.softmax(raw[:, :G], -1) * library
    poisson = make_likelihood("poisson", G).neg_log_prob(x, raw[:, :G], library)
    torch.testing.assert_close(poisson, -torch.distributions.Poisson(rate).log_prob(x).sum(-1))
    nb = make_likelihood("nb", G).double()
    theta = nb.log_theta.exp()
    expected = -NegativeBinomial(mu=rate, theta=theta).log_prob(x).sum(-1)
    torch.testing.assert_close(nb.neg_log_prob(x, raw[:, :G], library), expected)
    zinb = make_likelihood("zinb", G).double()
    expected = (
        -ZeroInflatedNegativeBinomial(mu=rate, theta=zinb.log_theta.exp(), zi_logits=raw[:, G:])
        .log_prob(x)
        .sum(-1)
    )
    torch.testing.assert_close(zinb.neg_log_prob(x, raw, library), expected)
