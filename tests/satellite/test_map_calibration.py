"""The temperature of a map's probabilities: what it is fitted to, and what it changes."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from made_up import fitted, toy

from mixvi.core.data.keys import UNLABELLED
from mixvi.metrics import pixel_calibration
from mixvi.satellite import MixMatchSegmenter, SymmetricHVAE, UNetSegmenter


def test_too_sure_a_model_becomes_less_so_and_maps_stay(tmp_path):
    scvi.settings.seed = 0
    model, other = fitted(UNetSegmenter, toy(n_tiles=6), epochs=4), toy(n_tiles=6, seed=5)
    factor = 6 / model.calibrate(other)
    with torch.no_grad():
        for head in (model.module.unet.classes, model.module.unet.of_pixels):
            head.weight *= factor
            head.bias *= factor
    model.module.temperature.fill_(1.0)
    before, maps = model.predict(other, soft=True), model.predict(other)
    # logits that are so many times as large are so many times as sure
    assert model.calibrate(other) == pytest.approx(6, rel=0.01)
    after = model.predict(other, soft=True)
    truth = other.obsm["labels"]
    assert pixel_calibration(after, truth).ece < 0.6 * pixel_calibration(before, truth).ece
    np.testing.assert_array_equal(model.predict(other), maps)
    entropy = -(after * np.log(after.clip(1e-12))).sum(1)
    np.testing.assert_allclose(model.get_uncertainty(other), entropy, atol=1e-4)
    # the temperature is that of the least cross-entropy
    logits = np.log(before.clip(1e-30))
    own = float(model.module.temperature)

    def loss(temperature):
        scaled = torch.as_tensor(logits / temperature)
        return float(torch.nn.functional.cross_entropy(scaled, torch.as_tensor(truth).long()))

    assert loss(own) <= min(loss(0.9 * own), loss(1.1 * own))
    model.save(tmp_path / "model")
    again = UNetSegmenter.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(again.predict(other, soft=True), after)


def test_training_that_sets_tiles_aside_needs_none_named(tmp_path):
    adata = toy(n_tiles=8)
    model = fitted(MixMatchSegmenter, adata, epochs=1, train={"train_size": 0.5})
    own = model.calibrate()
    assert own == model.calibrate(indices=model.validation_indices)
    model.save(tmp_path / "model")
    # other tiles may stand at those row numbers
    again = MixMatchSegmenter.load(tmp_path / "model", adata=adata[::-1].copy())
    with pytest.raises(ValueError, match="No tiles are known that training set aside"):
        again.calibrate()
    model.train(1, train_size=0.5, enable_progress_bar=False)
    assert float(model.module.temperature) == 1


def test_models_of_latents_are_calibrated_too():
    adata = toy(n_tiles=6)
    SymmetricHVAE.setup_anndata(adata)
    model = SymmetricHVAE(adata, width=0.25)
    model.train(1, batch_size=4, enable_progress_bar=False)
    before = model.predict(soft=True)
    temperature = model.calibrate(indices=[0, 1])
    scaled = before ** (1 / temperature)
    expected = scaled / scaled.sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict(soft=True), expected, rtol=2e-3)


def test_messages():
    adata = toy(n_tiles=6)
    adata.obsm["labels"][3:] = UNLABELLED
    model = fitted(UNetSegmenter, adata, epochs=1)
    with pytest.raises(ValueError, match="No tiles are known"):
        model.calibrate()
    with pytest.raises(ValueError, match="no labelled pixel"):
        model.calibrate(indices=[3, 4])
