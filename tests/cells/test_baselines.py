import numpy as np
import pytest
from conftest import CPU

import mixvi
from mixvi.cells import (
    predict_class_means,
    predict_label_condition_cvae,
    predict_latent_shift,
    train_label_condition_cvae,
)
from mixvi.metrics import mean_expression_table

KEYS = {"labels_key": "cell_type", "condition_key": "condition"}
SMALL = {"n_hidden": 64, "n_layers": 1, "n_latent": 6, "likelihood": "mse", "dropout_rate": 0.0}
TRAIN = {"max_epochs": 60, "lr": 5e-3, "batch_size": 50} | CPU


@pytest.fixture
def sides(toy):
    here, there = toy.obs["condition"].cat.categories
    return (
        toy[toy.obs["condition"] == here].copy(),
        toy[toy.obs["condition"] == there].copy(),
        there,
    )


def r2(predicted, real):
    types = predicted.obs["cell_type"].astype(str), real.obs["cell_type"].astype(str)
    return mean_expression_table(predicted, real, *types)["r2"]


def test_class_means(toy, sides):
    here, there, to = sides
    cells = predict_class_means(toy, here, to=to, **KEYS)
    assert r2(cells, there).min() > 0.999999
    assert (cells.obs["target_condition"] == to).all()
    lacking = toy[~((toy.obs["cell_type"] == "type 0") & (toy.obs["condition"] == to))].copy()
    cells = predict_class_means(lacking, here, to=to, **KEYS)
    first = cells[cells.obs["cell_type"] == "type 0"].X[0]
    assert np.allclose(first, there[there.obs["cell_type"] != "type 0"].X.mean(axis=0), atol=1e-4)


def test_latent_shift(toy, sides):
    here, there, to = sides
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, **SMALL)
    model.train(**TRAIN)
    cells = predict_latent_shift(model, here, to=to, **KEYS)
    assert r2(cells, there).min() > 0.9
    assert r2(cells, there)["all"] > r2(here, there)["all"]
    with pytest.raises(ValueError, match="several conditions"):
        predict_latent_shift(model, toy, to=to, **KEYS)
    with pytest.raises(ValueError, match="'nowhere'"):
        predict_latent_shift(model, here, to="nowhere", **KEYS)
    with pytest.raises(ValueError, match="Reorder"):
        predict_latent_shift(model, here[:, ::-1].copy(), to=to, **KEYS)
    elsewhere = here.copy()
    elsewhere.obs["condition"] = "elsewhere"
    with pytest.raises(ValueError, match="'elsewhere', which no training cell has"):
        predict_latent_shift(model, elsewhere, to=to, balance=False, **KEYS)
    with pytest.raises(ValueError, match="cells is empty"):
        predict_latent_shift(model, here[:0], to=to, **KEYS)
    # labels that lie apart by condition
    toy.obs["by condition"] = toy.obs["condition"].astype(str) + " type"
    here.obs["by condition"] = "any"
    with pytest.raises(ValueError, match="No label has training cells both .* balance=False"):
        predict_latent_shift(model, here, to=to, **(KEYS | {"labels_key": "by condition"}))


def test_label_condition_cvae(toy, sides):
    here, there, to = sides
    model = train_label_condition_cvae(toy, **KEYS, model_kwargs=SMALL, **TRAIN)
    assert "label_and_condition" not in toy.obs
    cells = predict_label_condition_cvae(model, here, to=to, **KEYS)
    assert r2(cells, there).min() > 0.98
    here.obs["cell_type"] = "new"
    with pytest.raises(ValueError, match="new"):
        predict_label_condition_cvae(model, here, to=to, **KEYS)
