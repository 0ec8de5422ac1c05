"""What a model of finite weights gives is finite, however extreme its outputs."""

import numpy as np
import pytest
import torch
from conftest import CPU

from mixvi import CGMVAE

COUNTS = ("poisson", "nb", "zinb")
SETUP = {"layer": "counts", "labels_key": "kind", "condition_key": "condition"}


@pytest.fixture
def extreme(counts):
    """A model whose probabilities of components and genes under- and overflow."""

    def build(likelihood, **options):
        if likelihood == "bernoulli":
            counts.layers["counts"] = (counts.layers["counts"] > 0).astype(np.float32)
        CGMVAE.setup_anndata(counts, **SETUP)
        model = CGMVAE(counts, likelihood=likelihood, n_hidden=8, n_layers=1, **options)
        model.train(1, **CPU)
        module = model.module
        networks = [module.decoder, module.components]
        networks += [module.classifier] if hasattr(module, "classifier") else []
        with torch.no_grad():
            for network in networks:
                list(network.parameters())[-2].mul_(3e3)
        return model

    return build


@pytest.mark.filterwarnings("ignore:.*holds whole numbers alone:UserWarning")
@pytest.mark.parametrize("y_posterior", ["network", "bayes"])
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_sigma", "bernoulli", *COUNTS])
def test_no_verb_gives_nan(extreme, likelihood, y_posterior):
    model = extreme(likelihood, y_posterior=y_posterior, components_per_class=2)
    probs = model.predict(soft=True)
    assert (probs == 0).any(axis=None)
    outputs = [
        probs,
        model.get_reconstruction(),
        model.get_normalized_expression(),
        model.get_elbo(use_labels=True),
        model.get_marginal_ll(n_mc_samples=2),
        model.sample(3, use_mean=False).X,
    ]
    for route in ("w", "z", "shift"):
        for keep in (False, True):
            converted = model.counterfactual(to="stim", route=route, keep_residual=keep)
            outputs.append(converted.X)
    for output in outputs:
        assert np.isfinite(np.asarray(output, dtype=float)).all()


def test_weights_within_a_class_survive_underflow(extreme):
    model = extreme("nb", components_per_class=2)
    module = model.module
    # both components of each cell's class have probability zero in single precision
    log_pi = torch.full((200, module.n_components), -400.0)
    log_pi[:, 1] = -401.0
    log_pi[:, -1] = 0.0
    (rows,) = model._batches(model.adata, None, 200)
    weights = module.labelled_responsibilities(rows, log_pi)
    torch.testing.assert_close(weights.sum(-1), torch.ones(200))
    first = rows.labels[:, 0] == 1
    expected = torch.tensor([1.0, np.exp(-1.0)]) / (1.0 + np.exp(-1.0))
    torch.testing.assert_close(weights[first][:, :2], expected.float().expand(int(first.sum()), 2))
