import numpy as np
import pytest
import scvi
import torch

from mixvi import GMVAE


def test_the_mean_of_draws_is_less_sure_than_they_are(toy, fit):
    model = fit(GMVAE, toy, 10, n_components=5, dropout_rate=0.1, n_hidden=64)
    single = [model.predict(soft=True, n_samples=1) for _ in range(30)]
    averaged = model.predict(soft=True, n_samples=30).max(axis=1).mean()
    assert averaged < np.mean([probs.max(axis=1).mean() for probs in single])
    mean = sum(single) / len(single)
    assert averaged == pytest.approx(mean.max(axis=1).mean(), abs=0.01)


def test_averaged_probabilities(toy, fit):
    start = {"init": "kmeans", "init_epochs": 10}
    model = fit(GMVAE, toy, 10, train=start, n_components=5, dropout_rate=0.1, n_hidden=64)
    plain = model.predict(soft=True)
    scvi.settings.seed = 1
    averaged = model.predict(soft=True, n_samples=30)
    assert np.allclose(averaged.sum(axis=1), 1, atol=1e-5)
    # what a single network is sure of, thirty are less sure of
    assert averaged.max(axis=1).mean() < plain.max(axis=1).mean()
    assert (averaged.to_numpy().argmax(1) == plain.to_numpy().argmax(1)).mean() > 0.9
    assert plain.equals(model.predict(soft=True))
    assert not any(m.training for m in model.module.modules() if isinstance(m, torch.nn.Dropout))
    with pytest.raises(ValueError, match="n_samples"):
        model.predict(n_samples=0)
