"""The moving average of a generator: its weights, and who uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from conftest import CPU, bars
from torch import nn

from mixvi.images import MPCC, GenerativeInference
from mixvi.images.backbones import make_backbone
from mixvi.images.generative_inference import GenerativeInferenceModule
from mixvi.images.objectives import AIM

SMALL = {"n_latent": 3, "backbone": "mlp", "backbone_kwargs": {"n_hidden": 64}}


def module_of(backbone: str = "mlp", **average) -> GenerativeInferenceModule:
    options = {"n_hidden": 8} if backbone == "mlp" else {"n_channels": 2}
    made = make_backbone(backbone, (1, 16, 16), 3, options)
    return GenerativeInferenceModule(made, AIM(), (-1.0, 1.0), **average)


def first_weight(network: nn.Module) -> torch.Tensor:
    return next(network.parameters()).detach().clone()


@torch.no_grad()
def test_the_decay_is_warmed_up():
    """By hand: a copy until the start, then min(d, (1 + n) / (10 + n)) of the average stays."""
    module = module_of(ema_decay=0.3, ema_start=2)
    weight = next(module.generator.parameters())
    expected = None
    for update in range(1, 9):
        weight.add_(1.0)
        n = update - 2
        decay = 0.0 if n <= 0 else min(0.3, (1 + n) / (10 + n))
        present = weight.clone()
        expected = present if decay == 0 else decay * expected + (1 - decay) * present
        module.update_average()
        torch.testing.assert_close(first_weight(module.averaged_generator), expected)
    # at the second update of the average 3 / 12 stay, from the fourth on the decay itself
    assert [round(min(0.3, (1 + n) / (10 + n)), 3) for n in (1, 2, 3, 4)] == [0.182, 0.25, 0.3, 0.3]


@torch.no_grad()
def test_a_slow_decay_forgets_the_beginning_of_a_short_run():
    """With 0.9999 alone a hundred updates would leave the average where it was."""
    module = module_of(ema_decay=0.9999, ema_start=1)
    weight = next(module.generator.parameters())
    weight.zero_()
    for _ in range(100):
        weight.add_(0.01)
        module.update_average()
    assert first_weight(module.averaged_generator).mean() > 0.85


@torch.no_grad()
def test_batch_norm_and_spectral_norm_are_those_of_the_average():
    torch.manual_seed(0)
    module = module_of("resnet", ema_decay=0.9, ema_start=1).train()
    for _ in range(40):
        for values in module.generator.parameters():
            values.add_(0.02 * torch.randn_like(values))
        module.generator(torch.randn(8, 3))
        module.update_average()
    present, average = module.generator.eval(), module.averaged_generator.eval()
    gap = (present.norm.running_mean - average.norm.running_mean).abs().max()
    assert 0 < gap < present.norm.running_mean.abs().max()
    assert average.norm.num_batches_tracked == present.norm.num_batches_tracked
    layers = [m for m in average.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) == pytest.approx(1.0, abs=0.05)


def averaged_model(cls):
    adata = AnnData(obsm={"image": bars(96)})
    cls.setup_anndata(adata)
    average = {"ema_decay": 0.999, "ema_start": 1}
    if cls is MPCC:
        model = MPCC(adata, 3, d_steps=1, **SMALL, **average)
    else:
        model = GenerativeInference(adata, "vae", **SMALL, **average)
    model.train(8, lr=5e-3, batch_size=32, **CPU)
    return model


@pytest.mark.parametrize("cls", [GenerativeInference, MPCC])
def test_all_verbs_show_images_of_one_generator(cls):
    """Those of the average; the present generator makes others."""
    model = averaged_model(cls)
    module = model.module

    def shown() -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        z = model.get_latent_representation()
        images = {
            "reconstruction": model.get_reconstruction(),
            "error": model.get_reconstruction_error(return_mean=False),
            "sample": model.sample(4),
            "decoded": model.decode_latent(z[:4]),
            "latent_mse": np.array(model.get_latent_mse(50)),
        }
        if cls is GenerativeInference:
            images["elbo"] = model.get_elbo(return_terms=True).to_numpy()
        return images

    ours = shown()
    present, module.generator = module.generator, None
    without = shown()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, without[name], err_msg=name)
    module.generator = module.averaged_generator = present
    for name, values in shown().items():
        assert np.abs(values - ours[name]).max() > 1e-4, name
