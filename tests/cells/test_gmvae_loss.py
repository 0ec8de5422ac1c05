"""The mixture module's loss: forms beside those of the specification's list of properties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_properties import B, D, G, K, make_module, make_outputs, make_tensors, terms_of
from torch.distributions import Independent, Normal, kl_divergence

from mixvi.cells.gmvae_module import TERMS
from mixvi.core.maths import mixture

D_TERMS = ("analytic", "sample", "collapsed")
LABELLED = torch.arange(B) % 3
UNLABELLED = torch.full((B,), 3)
MIXED = torch.where(torch.arange(B) < B // 3, LABELLED, UNLABELLED)


def total_of(module, inference, generative, **options):
    terms = module.terms(inference, generative, True, "analytic", **options)
    return sum(terms.values())


@pytest.mark.parametrize("labels", [LABELLED, MIXED, UNLABELLED], ids=["s", "ss", "u"])
@pytest.mark.parametrize("y_posterior", ["network", "bayes"])
@pytest.mark.parametrize(
    ("y_prior", "d_term"), [("categorical", "analytic"), *(("dirichlet", d) for d in D_TERMS)]
)
def test_no_term_is_negative(y_prior, d_term, y_posterior, labels):
    """Z, W, Y and D, for every prior, treatment of d, posterior, alpha and ownership."""
    for alpha, per_class, w_prior in itertools.product(
        (0.05, 1.0, 30.0), (1, 2), ("standard", "learned")
    ):
        module = make_module(
            n_components=7,
            y_prior=y_prior,
            y_posterior=y_posterior,
            d_term=d_term,
            alpha=alpha,
            components_per_class=per_class,
            w_prior=w_prior,
            n_conditions=2,
        )
        with torch.no_grad():
            terms = terms_of(module, make_tensors(labels, n_conditions=2))
        # samples of d are clamped, so that their sum may exceed one by K x 1e-6
        slack = 1e-5 if d_term == "sample" else 1e-9
        for name in ("Z", "W", "Y", "D"):
            assert terms[name].shape == (B,)
            assert terms[name].min() > -slack, (name, alpha, per_class, w_prior)


@pytest.mark.parametrize("labels", [LABELLED, MIXED, UNLABELLED], ids=["s", "ss", "u"])
@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
def test_05_mixed_loss_is_the_weighted_sum_of_its_parts(d_term, labels):
    """Line 5, on the loss itself."""
    module = make_module(d_term=d_term)
    inference, generative = make_outputs(module, make_tensors(labels))

    def loss_of(rows):
        def part(value):
            if isinstance(value, tuple):
                return type(value)(*map(part, value))
            return None if value is None else value[rows]

        return module.loss(
            {},
            {k: part(v) for k, v in inference.items()},
            {k: part(v) for k, v in generative.items()},
        ).loss

    third = B // 3
    parts = loss_of(slice(0, third)) / 3 + 2 * loss_of(slice(third, B)) / 3
    torch.testing.assert_close(loss_of(slice(None)), parts)


@pytest.mark.parametrize("per_class", [1, 2])
@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
def test_05_no_gradient_to_labels_of_unlabelled_rows(d_term, per_class):
    """Line 5, for every form of Y; labelled rows do have one."""
    module = make_module(d_term=d_term, components_per_class=per_class, n_components=6)
    inference, generative = make_outputs(module, make_tensors(MIXED))
    labels = inference["rows"].labels.clone()
    labels[B // 3 :] = 1 / 3
    labels.requires_grad_()
    inference["rows"] = inference["rows"]._replace(labels=labels)
    for weighting in ("rows", "groups"):
        loss = module.loss({}, inference, generative, label_weighting=weighting).loss
        (gradient,) = torch.autograd.grad(loss, labels, retain_graph=True)
        assert (gradient[B // 3 :] == 0).all()
        assert (gradient[: B // 3] != 0).any(-1).all()


def test_06_the_true_class_by_the_networks_own_logits():
    """Line 6: through the classifier's and the Dirichlet head's biases."""
    module = make_module()
    tensors = make_tensors(torch.full((B,), 1))
    logits = module.classifier.linears[-1].bias, module.dirichlet.network.linears[-1].bias
    inference, generative = make_outputs(module, tensors)
    y = module.terms(inference, generative, True, "analytic")["Y"].mean()
    for gradient in torch.autograd.grad(y, logits):
        assert gradient[1] < 0
        assert (gradient[[0, 2, 3]] > 0).all()
    before = module.loss({}, inference, generative).loss
    logits[0].data[1] += 0.5
    assert module.loss({}, *make_outputs(module, tensors)).loss < before


@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
@pytest.mark.parametrize("labels", [torch.arange(B) % K, torch.full((B,), K)], ids=["s", "u"])
def test_08_permuting_the_networks_outputs(d_term, labels):
    """Line 8: last layers of Pz, f and g permuted, and the labels with them."""
    module = make_module(n_classes=K, d_term=d_term)
    order = torch.tensor([2, 0, 3, 1])
    position = torch.cat([order.argsort(), torch.tensor([K])])
    with torch.no_grad():
        loss = module.loss({}, *make_outputs(module, make_tensors(labels))).loss
        layers = [module.components.linears[-1], module.classifier.linears[-1]]
        if d_term == "analytic":
            layers.append(module.dirichlet.network.linears[-1])
        for layer in layers:
            layer.weight.copy_(layer.weight.unflatten(0, (K, -1))[order].flatten(0, 1))
            layer.bias.copy_(layer.bias.unflatten(0, (K, -1))[order].flatten())
        again = module.loss({}, *make_outputs(module, make_tensors(position[labels]))).loss
    torch.testing.assert_close(again, loss)


def test_11_a_pinned_table_is_the_standard_prior():
    """Line 11: M6a equals M6b where the table's bounded outputs are 0, by its weights."""
    learned = make_module(n_conditions=2, w_prior="learned")
    fixed = make_module(n_conditions=2, w_prior="standard")
    fixed.load_state_dict({k: v for k, v in learned.state_dict().items() if "w_table" not in k})
    zeros = []
    for low, high in ((-5.0, 5.0), (-9.0, 1.0)):
        # the two softplus of soft_clip undone
        inner = high - math.log(math.expm1(high))
        zeros.append(low + math.log(math.expm1(inner - low)))
    pinned = torch.tensor(zeros, dtype=torch.float64).repeat_interleave(2)
    learned.w_table.table.weight.data = pinned.repeat(2, 1)
    tensors = make_tensors(n_conditions=2)
    left, right = terms_of(fixed, tensors), terms_of(learned, tensors)
    for name in TERMS:
        torch.testing.assert_close(left[name], right[name], atol=1e-9, rtol=0)


def test_the_learned_prior_enters_w():
    """W is the KL to the row's own condition's Gaussian (Kolb 2022, eq. 5.19)."""
    module = make_module(n_conditions=2, w_prior="learned")
    tensors = make_tensors(n_conditions=2)
    inference, generative = make_outputs(module, tensors)
    mu, log_var = module.w_table(tensors["condition"].view(-1))
    q = Independent(Normal(inference["mu_w"], (inference["lv_w"] / 2).exp()), 1)
    p = Independent(Normal(mu, (log_var / 2).exp()), 1)
    w = module.terms(inference, generative, True, "analytic")["W"]
    torch.testing.assert_close(w, kl_divergence(q, p))


@pytest.mark.parametrize("condition_in", ["all", "x_only"])
def test_where_the_condition_enters(condition_in):
    """The lean variant hides it from components, classifier and head, never from the decoder."""
    module = make_module(n_conditions=2, condition_in=condition_in)
    rows = module.rows(make_tensors(n_conditions=2))
    inference = module.inference(rows)
    other = module.with_condition(rows, 1 - rows.condition)
    here = module.generative(rows, inference["w"], inference["z"])
    there = module.generative(other, inference["w"], inference["z"])
    assert not torch.allclose(here["raw"], there["raw"])
    assert not torch.allclose(module.encode(rows)["mu_z"], module.encode(other)["mu_z"])
    for name in ("means", "log_vars", "log_pi", "a"):
        assert torch.allclose(here[name], there[name]) == (condition_in == "x_only"), name


@pytest.mark.parametrize("labels", [LABELLED, UNLABELLED], ids=["s", "u"])
def test_sampled_d_has_the_mean_of_the_analytic_form(labels):
    """Line 4, in the module."""
    module = make_module(d_term="sample")
    inference, generative = make_outputs(module, make_tensors(labels))
    generative["a"] = generative["a"].detach() + 0.5
    module.d_term = "analytic"
    exact = module.terms(inference, generative, True, "analytic")
    module.d_term = "sample"
    with torch.no_grad():
        draws = torch.stack(
            [module.terms(inference, generative, True, "analytic")["Y"] for _ in range(3_000)]
        )
    error = (draws.mean(0) - exact["Y"]).abs() / (draws.std(0) / math.sqrt(len(draws)))
    assert error.max() < 4.5
    assert draws.std() > 0.01


def test_mc_z_term_averages_to_the_closed_form():
    """With constant component probabilities, over many z at one w."""
    module = make_module()
    inference, generative = make_outputs(module, make_tensors(UNLABELLED[:4], n=4))
    exact = module.terms(inference, generative, True, "analytic")["Z"]
    n = 50_000
    torch.manual_seed(0)
    many = {
        "rows": inference["rows"],
        **{k: inference[k] for k in ("mu_z", "lv_z", "mu_w", "lv_w", "w")},
    }
    draws = []
    with torch.no_grad():
        for _ in range(n // 500):
            noise = torch.randn(500, 4, D, dtype=torch.float64)
            z = inference["mu_z"] + (inference["lv_z"] / 2).exp() * noise
            draws.append(module.terms({**many, "z": z}, generative, True, "mc")["Z"])
    draws = torch.cat(draws)
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / math.sqrt(n))
    assert error.max() < 4.5


def test_supervised_dirichlet_terms_at_their_optimum():
    """At a = alpha + y they add up to log K, which is what the collapsed form gives."""
    module = make_module(alpha=0.4)
    inference, generative = make_outputs(module, make_tensors(LABELLED))
    y = torch.nn.functional.one_hot(LABELLED, K).double()
    best = module.terms(inference, {**generative, "a": 0.4 + y}, True, "analytic")
    cross_entropy = -generative["log_pi"][torch.arange(B), LABELLED]
    expected = cross_entropy + math.log(K)
    torch.testing.assert_close(best["Y"] + best["D"], expected)
    collapsed = make_module(alpha=0.4, d_term="collapsed")
    terms = collapsed.terms(inference, {**generative, "a": None}, True, "analytic")
    torch.testing.assert_close(terms["Y"] + terms["D"], expected)
    plain = make_module(y_prior="categorical")
    terms = plain.terms(inference, generative, True, "analytic")
    torch.testing.assert_close(terms["Y"] + terms["D"], expected)


@pytest.mark.parametrize("labels", [LABELLED, MIXED, UNLABELLED], ids=["s", "ss", "u"])
def test_two_components_per_class_of_which_one_is_empty(labels):
    """They reduce to one component per class."""
    one = make_module(n_components=3, y_prior="categorical")
    two = make_module(n_components=6, y_prior="categorical", components_per_class=2)
    inference, generative = make_outputs(one, make_tensors(labels))

    def spread(value, filler):
        empty = torch.full_like(value, filler)
        return torch.stack([value, empty], dim=2).flatten(1, 2)

    doubled = {
        "raw": generative["raw"],
        "log_pi": spread(generative["log_pi"], -300.0),
        "means": spread(generative["means"], 1.0),
        "log_vars": spread(generative["log_vars"], 0.5),
    }
    left = one.terms(inference, generative, True, "analytic")
    right = two.terms(inference, doubled, True, "analytic")
    right["Y"] = right["Y"] - math.log(2)
    for name in TERMS:
        torch.testing.assert_close(left[name], right[name])


@pytest.mark.parametrize("d_term", ["analytic", "collapsed"])
def test_an_unlikely_class_stays_finite(d_term):
    """A label that the classifier all but excludes gives no NaN, in the loss or its gradient."""
    module = make_module(n_components=6, components_per_class=2, d_term=d_term)
    inference, generative = make_outputs(module, make_tensors(torch.zeros(B, dtype=torch.long)))
    logits = torch.zeros(B, 6, dtype=torch.float64)
    logits[:, :2] = -2_000.0
    logits.requires_grad_()
    outputs = {**generative, "log_pi": torch.log_softmax(logits, -1)}
    loss = module.loss({}, inference, outputs).loss
    assert math.isfinite(loss.item()) and loss > 1_900
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("per_class", [1, 2])
def test_relaxed_labels(per_class):
    """Rows of a relaxed label are sums over the classes; a certain one is the hard label."""
    module = make_module(components_per_class=per_class, n_components=6)
    inference, generative = make_outputs(module, make_tensors(LABELLED))
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

    def with_labels(labels):
        rows = inference["rows"]._replace(labels=labels.expand(B, 3))
        return module.terms({**inference, "rows": rows}, generative, True, "analytic")

    pure = [with_labels(row) for row in torch.eye(3, dtype=torch.float64)]
    relaxed = with_labels(weights)
    for name in ("Z", "Y"):
        expected = sum(w * terms[name] for w, terms in zip(weights, pure, strict=True))
        torch.testing.assert_close(relaxed[name], expected)
    rows = torch.arange(B)
    hard = module.terms(inference, generative, True, "analytic")
    for name in ("Z", "Y"):
        stacked = torch.stack([terms[name] for terms in pure])
        torch.testing.assert_close(hard[name], stacked[LABELLED, rows])


def test_classification_weight_multiplies_the_cross_entropy_alone():
    tensors = make_tensors(MIXED)
    light, heavy = make_module(), make_module(classification_weight=50.0)
    outputs = make_outputs(light, tensors)
    left = light.terms(*outputs, True, "analytic", in_training=True)
    right = heavy.terms(*outputs, True, "analytic", in_training=True)
    cross_entropy = -outputs[1]["log_pi"][torch.arange(B), MIXED.clamp_max(2)]
    extra = 49 * torch.where(MIXED < 3, cross_entropy, 0.0)
    torch.testing.assert_close(right["Y"] - left["Y"], extra)
    for name in ("R", "Z", "W", "D"):
        torch.testing.assert_close(left[name], right[name])
    # weighted, it would be no bound
    reported = (module.terms(*outputs, True, "analytic") for module in (light, heavy))
    torch.testing.assert_close(*reported)


@pytest.mark.parametrize("n_labelled", [0, 1, 5, B])
def test_group_weights_average_to_one(n_labelled):
    """Rows of equal loss leave the mean as it is, however they are split."""
    module = make_module(term_weights=dict.fromkeys(("Z", "W", "Y", "D"), 0.0))
    labels = torch.where(torch.arange(B) < n_labelled, LABELLED, UNLABELLED)
    inference, generative = make_outputs(module, make_tensors(labels))
    generative["raw"] = inference["rows"].x
    expected = torch.tensor(0.5 * G * math.log(2 * math.pi), dtype=torch.float64)
    for weighting in ("rows", "groups"):
        loss = module.loss({}, inference, generative, label_weighting=weighting).loss
        torch.testing.assert_close(loss, expected)


def test_group_weights_of_even_halves_are_row_weights():
    module = make_module()
    labels = torch.where(torch.arange(B) < B // 2, LABELLED, UNLABELLED)
    outputs = make_outputs(module, make_tensors(labels))
    rows = module.loss({}, *outputs, label_weighting="rows").loss
    torch.testing.assert_close(module.loss({}, *outputs, label_weighting="groups").loss, rows)


def test_floor_on_the_y_term():
    """Only unlabelled rows below it are lifted, and only in training."""
    module = make_module(y_regulariser="floor", y_floor=0.0)
    inference, generative = make_outputs(module, make_tensors(MIXED))
    y = module.terms(inference, generative, True, "analytic")["Y"]
    module.y_floor = float(y.detach()[B // 3 :].median())
    floored = module.terms(inference, generative, True, "analytic", in_training=True)["Y"]
    expected = y.clone()
    expected[B // 3 :] = y[B // 3 :].clamp_min(module.y_floor)
    torch.testing.assert_close(floored, expected)
    assert (floored != y).any() and (floored == y)[B // 3 :].any()
    torch.testing.assert_close(module.terms(inference, generative, True, "analytic")["Y"], y)


@pytest.mark.parametrize("y_prior", ["categorical", "dirichlet"])
@pytest.mark.parametrize("labels", [MIXED, UNLABELLED, LABELLED], ids=["ss", "u", "s"])
def test_batch_mean_of_the_y_term(y_prior, labels):
    """KL(mean of q(y | z) over unlabelled rows || 1/K): instead of the categorical per-cell term,
    on top of the Dirichlet one."""
    module = make_module(y_prior=y_prior, y_regulariser="batch_mean")
    inference, generative = make_outputs(module, make_tensors(labels))
    y = module.terms(inference, generative, True, "analytic")["Y"]
    got = module.terms(inference, generative, True, "analytic", in_training=True)["Y"]
    free = labels == 3
    torch.testing.assert_close(got[~free], y[~free])
    if free.any():
        usage = generative["log_pi"].exp()[free].mean(0)
        expected = (usage * (usage * K).log()).sum()
        expected = expected + (y[free] if y_prior == "dirichlet" else torch.zeros_like(y[free]))
        torch.testing.assert_close(got[free], expected)


def test_batch_mean_prefers_even_use_of_peaked_rows():
    module = make_module(n_classes=0, y_prior="categorical", y_regulariser="batch_mean")
    inference, generative = make_outputs(module, make_tensors())
    costs = []
    for component in (torch.arange(B) % K, torch.zeros(B, dtype=torch.long)):
        log_pi = torch.log_softmax(30.0 * torch.nn.functional.one_hot(component, K).double(), -1)
        outputs = {**generative, "log_pi": log_pi}
        terms = module.terms(inference, outputs, True, "analytic", in_training=True)
        costs.append(float(terms["Y"].mean()))
    assert costs == pytest.approx([0.0, math.log(K)], abs=1e-6)


def test_given_components():
    """While components are initialised they are labels: cross-entropy, their own KL and log d."""
    module = make_module(n_classes=0)
    tensors = make_tensors()
    codes = torch.arange(B) % K
    inference, generative = make_outputs(module, {**tensors, "components": codes.view(-1, 1)})
    terms = module.terms(inference, generative, False, "analytic")
    row = torch.arange(B)
    kl = mixture.component_kl(
        inference["mu_z"], inference["lv_z"], generative["means"], generative["log_vars"]
    )
    torch.testing.assert_close(terms["Z"], kl[row, codes])
    log_d = mixture.expected_log_dirichlet(generative["a"])
    torch.testing.assert_close(terms["Y"], -(generative["log_pi"] + log_d)[row, codes])


def test_term_weights_and_what_is_recorded():
    """The loss weighs the terms; records keep them unweighted."""
    weights = {"R": 0.5, "Z": 2.0, "W": 3.0, "Y": 0.0, "D": 0.25}
    module = make_module(term_weights=weights)
    inference, generative = make_outputs(module, make_tensors(MIXED))
    terms = module.terms(inference, generative, True, "analytic")
    out = module.loss({}, inference, generative)
    expected = sum(weights[name] * terms[name] for name in TERMS).mean()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(out.reconstruction_loss["reconstruction_loss"], terms["R"])
    for name in TERMS[1:]:
        torch.testing.assert_close(out.kl_local[name.lower()], terms[name])


def test_epoch_summary():
    """Used components, largest probability, active units, accuracy from what loss collects."""
    module = make_module()
    inference, generative = make_outputs(module, make_tensors(MIXED))
    extra = module.loss({}, inference, generative).extra_metrics
    summary = module.epoch_summary({name: value.detach() / B for name, value in extra.items()})
    pi = generative["log_pi"].exp()
    kl_w = mixture.standard_gaussian_kl_per_dim(inference["mu_w"], inference["lv_w"]).mean(0)
    hits = pi[: B // 3, :3].argmax(-1) == LABELLED[: B // 3]
    assert summary["used_components"] == int((pi.mean(0) > 0.5 / K).sum())
    assert summary["max_pi"] == pytest.approx(float(pi.detach().amax(-1).mean()))
    assert summary["active_w"] == int((kl_w > 0.01).sum())
    variances = inference["mu_z"].var(0, unbiased=False)
    assert summary["active_z"] == int((variances > 0.01).sum())
    assert summary["accuracy"] == pytest.approx(float(hits.double().mean()))


@pytest.mark.parametrize("d_term", D_TERMS)
def test_terms_of_half_precision_outputs(d_term):
    """Under mixed precision the terms are still computed, and given, in float32."""
    module = make_module(d_term=d_term).float()
    tensors = make_tensors(MIXED)
    inference, generative = make_outputs(module, {**tensors, "X": tensors["X"].float()})

    def cast(outputs, dtype):
        return {
            k: v.to(torch.bfloat16).to(dtype) if torch.is_tensor(v) else v
            for k, v in outputs.items()
        }

    results = []
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        terms = module.terms(cast(inference, dtype), cast(generative, dtype), True, "mc")
        results.append(terms)
    for name in TERMS:
        assert results[0][name].dtype == torch.float32
        torch.testing.assert_close(results[0][name], results[1][name])


def test_labels_are_ignored_on_demand():
    """Neither responsibilities, nor weights of groups, nor the accuracy see them."""
    module = make_module()
    outputs = make_outputs(module, make_tensors(MIXED))
    blind = make_outputs(module, make_tensors(UNLABELLED))
    for weighting in ("rows", "groups"):
        options = {"use_labels": False, "label_weighting": weighting}
        seen = module.loss({}, *outputs, **options)
        torch.testing.assert_close(seen.loss, module.loss({}, *blind).loss)
        assert "n_correct" not in seen.extra_metrics
