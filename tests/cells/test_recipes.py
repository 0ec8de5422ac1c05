import inspect

import pytest

import mixvi
from mixvi.cells import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_settings_are_arguments_of_the_model(name):
    found = recipe(name)
    model = getattr(mixvi, found.model)
    assert set(found.model_kwargs) <= set(inspect.signature(model.__init__).parameters)
    train = set(inspect.signature(model.train).parameters)
    assert set(found.train_kwargs) <= train
    assert set(found.unknown) <= set(found.model_kwargs) | set(found.train_kwargs)
    assert found.source


def test_a_recipe_builds_and_trains(toy):
    found = recipe("toy")
    mixvi.CGMVAE.setup_anndata(toy, condition_key="condition")
    model = mixvi.CGMVAE(toy, **found.model_kwargs)
    settings = found.train_kwargs | {"stages": found.train_kwargs["stages"][:1]}
    settings["stages"] = [(lr, 1) for lr, _ in settings["stages"]]
    model.train(**settings, accelerator="cpu", enable_progress_bar=False)
    assert model.n_components == 5


def test_unknown_recipe():
    with pytest.raises(ValueError, match="mnist_semi"):
        recipe("mnist")
