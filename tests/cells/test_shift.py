"""Route "shift": what it needs of the training cells is the model's own."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import scvi
import torch
from conftest import CPU

from mixvi import CGMVAE
from mixvi.cells.shifting import ConditionMeans

SETUP = {"labels_key": "cell_type", "condition_key": "condition"}


@pytest.fixture
def model(toy, fit):
    return fit(CGMVAE, toy, epochs=10, setup=SETUP, n_components=5, likelihood="mse")


@pytest.fixture
def control(toy):
    """Other cells than the model's, of one condition."""
    return toy[toy.obs["condition"] == "condition 0"][::2].copy()


@pytest.mark.parametrize("labels", ["observed", "predicted"])
def test_a_loaded_model_shifts_as_the_trained_one(model, control, tmp_path, labels):
    options = {"to": "condition 1", "labels": labels}
    expected = model.counterfactual(control.copy(), **options).X
    by_z = model.counterfactual(control.copy(), route="z", keep_residual=True, **options).X
    assert np.abs(expected - by_z).max() > 0.05
    model.save(tmp_path / "model")
    bare = CGMVAE.load(tmp_path / "model", adata=False)
    other = CGMVAE.load(tmp_path / "model", control)
    few = CGMVAE.load(tmp_path / "model", control[:7].copy())
    for loaded in (bare, other, few):
        got = loaded.counterfactual(control.copy(), **options).X
        np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(other.counterfactual(**options).X, expected, atol=1e-4)
    few.save(tmp_path / "again")
    again = CGMVAE.load(tmp_path / "again", adata=False)
    np.testing.assert_allclose(
        again.counterfactual(control.copy(), **options).X, expected, atol=1e-4
    )


def test_training_on_moves_the_means(model, control, tmp_path):
    model.counterfactual(control, to="condition 1")
    model.train(5, lr=5e-2, **CPU)
    trained = model.counterfactual(control, to="condition 1").X
    model.save(tmp_path / "model")
    loaded = CGMVAE.load(tmp_path / "model", adata=False)
    np.testing.assert_allclose(
        loaded.counterfactual(control, to="condition 1").X, trained, atol=1e-4
    )
    fresh = model._means_of_training_cells()
    torch.testing.assert_close(model._condition_means.total, fresh.total)


# what was kept after the first epoch is not that of the weights after the second
@pytest.mark.filterwarnings("ignore:.*% of the converted cells")
def test_a_checkpoint_within_training_is_not_remembered(toy, control):
    from lightning.pytorch.callbacks import Callback

    class Peek(Callback):
        def on_train_epoch_end(self, trainer, plan):
            model.is_trained_ = True
            model.counterfactual(control, to="condition 1")
            plan.module.train()

    CGMVAE.setup_anndata(toy, **SETUP)
    model = CGMVAE(toy, n_hidden=16, n_layers=1, n_components=5)
    model.train(3, lr=5e-2, callbacks=[Peek()], **CPU)
    model.counterfactual(control, to="condition 1")
    kept, fresh = model._condition_means, model._means_of_training_cells()
    torch.testing.assert_close(kept.total, fresh.total)


def test_directories_without_means_are_read_and_say_so(model, control, tmp_path):
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "mixvi.json"
    record = json.loads(path.read_text())
    for name in ("condition_means", "support", "hurdle"):
        del record["state"][name]
    path.write_text(json.dumps(record))
    weights = tmp_path / "model" / "weights.pt"
    kept = torch.load(weights)
    torch.save({k: v for k, v in kept.items() if not k.startswith("training_cells.")}, weights)
    record["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_text(json.dumps(record))
    old = CGMVAE.load(tmp_path / "model", control)
    with pytest.raises(ValueError, match="saved by a version that did not keep them"):
        old.counterfactual(to="condition 1")
    with pytest.raises(ValueError, match="did not keep them"):
        old.get_mean_change(to="condition 1")
    expected = model.counterfactual(control.copy(), to="condition 1", route="w").X
    np.testing.assert_allclose(
        old.counterfactual(to="condition 1", route="w").X, expected, atol=1e-5
    )


def test_queries_take_the_shift_of_their_reference(toy, control, fit):
    toy.obs["donor"] = np.where(np.arange(toy.n_obs) % 2, "one", "two")
    setup = SETUP | {"batch_key": "donor"}
    model = fit(CGMVAE, toy, epochs=10, setup=setup, n_components=5, likelihood="mse")
    control.obs["donor"] = "three"
    mapped = CGMVAE.load_query_data(control, model)
    mapped.train(2, **CPU)
    kept, theirs = mapped._training_means(), model._training_means()
    torch.testing.assert_close(kept.total, theirs.total)
    by_z = mapped.counterfactual(to="condition 1", route="z", keep_residual=False).X
    moved = mapped.counterfactual(to="condition 1", keep_residual=False).X
    assert np.abs(moved - by_z).max() > 0.05


def test_means_of_components_by_hand():
    z = torch.tensor([[0.0], [2.0], [10.0], [20.0]]).repeat_interleave(5, dim=0)
    condition = torch.tensor([0, 1, 0, 1]).repeat_interleave(5)
    weights = torch.eye(3)[torch.tensor([0, 0, 1, 1]).repeat_interleave(5)]
    means = ConditionMeans.of(z, weights, condition, n_conditions=2)
    torch.testing.assert_close(means.cells, torch.tensor([[5.0, 5, 0], [5, 5, 0]]))
    shifts = means.shifts(1)
    # the third component has no cells: it moves as the others do on average
    torch.testing.assert_close(shifts[0].squeeze(), torch.tensor([2.0, 10.0, 6.0]))
    torch.testing.assert_close(shifts[1], torch.zeros(3, 1))


def test_a_target_without_training_cells_is_refused(toy, fit):
    """A shift of zero would pass for no effect."""
    cells = np.flatnonzero(toy.obs["condition"] == "condition 0")
    model = fit(CGMVAE, toy, epochs=1, setup=SETUP, n_components=5, train={"indices": cells})
    with pytest.raises(ValueError, match="5 training cells of a component"):
        model.counterfactual(to="condition 1")


def test_shifts_are_of_the_training_cells_alone(toy, fit):
    cells = np.arange(toy.n_obs)[::2]
    model = fit(CGMVAE, toy, epochs=2, setup=SETUP, n_components=5, train={"indices": cells})
    assert float(model._training_means().cells.sum()) == pytest.approx(len(cells))


@pytest.mark.parametrize("n_conditions", [2, 4])
def test_group_means_are_those_of_the_decoder(fit, n_conditions):
    """However many conditions: what is off is what the decoder itself has not learned."""
    import mixvi

    cells = mixvi.datasets.toy_conditional_blobs(
        n_conditions=n_conditions, effect=0.5, n_per_group=40
    )
    scvi.settings.seed = 0
    model = fit(
        CGMVAE, cells, epochs=150, setup=SETUP, n_components=5, n_hidden=64, dropout_rate=0.0
    )
    decoded = model.get_reconstruction()
    of_type, of_condition = cells.obs["cell_type"], cells.obs["condition"]
    for to in cells.obs["condition"].cat.categories:
        converted = model.counterfactual(to=to, keep_residual=False).X
        for name in of_type.cat.categories:
            real = ((of_type == name) & (of_condition == to)).to_numpy()
            for origin in of_condition.cat.categories:
                ours = ((of_type == name) & (of_condition == origin)).to_numpy()
                np.testing.assert_allclose(
                    converted[ours].mean(axis=0), decoded[real].mean(axis=0), atol=0.1
                )
                np.testing.assert_allclose(
                    converted[ours].mean(axis=0), cells.X[real].mean(axis=0), atol=0.5
                )
