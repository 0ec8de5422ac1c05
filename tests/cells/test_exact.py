import pytest
import torch
from conftest import CPU

import mixvi
from mixvi.cells import train_exact

SMALL = {"n_hidden": 64, "n_layers": 1, "n_latent_z": 2, "n_latent_w": 2}


def test_trials_are_kept_only_if_better(toy):
    mixvi.CGMVAE.setup_anndata(toy, condition_key="condition")
    model = mixvi.CGMVAE(toy, n_components=5, **SMALL)
    states = train_exact(
        model,
        settle=[(5e-3, 15)],
        raised=(2e-2, 10.0),
        raised_epochs=2,
        anneal=[(1e-3, 2)],
        finish=[(1e-3, 2)],
        batch_size=50,
        **CPU,
    )
    assert list(states.columns) == ["lr", "elbo", "used_components", "kept"]
    assert len(states) == 4
    absurd = states.iloc[2]
    assert absurd["lr"] == 10.0 and not absurd["kept"]
    kept = states.iloc[:-1].query("kept")
    assert kept["elbo"].is_monotonic_increasing
    # the weights from before the absurd rate are back
    assert states["elbo"].iloc[-1] > absurd["elbo"]
    assert all(torch.isfinite(p).all() for p in model.module.parameters())


def test_no_elbo_no_judge(toy):
    mixvi.GMVAE.setup_anndata(toy)
    model = mixvi.GMVAE(toy, n_components=5, likelihood="mse", **SMALL)
    with pytest.raises(ValueError, match="mse"):
        train_exact(model, **CPU)
    assert not model.is_trained_
