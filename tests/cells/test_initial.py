import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import mixvi
from mixvi.cells.initial import principal_components
from mixvi.core.maths.clustering import kmeans_clusters


def test_groups_are_not_clusters():
    """Centring within groups takes a shift between them away, in sparse counts as in dense data."""
    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(1, 0.6, (2, 40)))
    group = np.repeat([0, 1], 100)
    kind = np.tile([0, 1], 100)
    effect = np.exp(rng.normal(0, 0.8, 40))
    x = rng.poisson(rates[kind] * np.where(group, 1, 0)[:, None] * effect + rates[kind])
    points = principal_components(
        sparse.csr_matrix(x.astype(np.float32)), is_count=True, seed=0, groups=group
    )
    found = kmeans_clusters(points, 2, seed=0)
    assert adjusted_rand_score(found, kind) > 0.9
    assert adjusted_rand_score(found, group) < 0.1


def test_many_cells_are_projected_in_parts(monkeypatch):
    monkeypatch.setattr("mixvi.cells.initial._MAX_FITTED", 50)
    x = np.random.default_rng(0).normal(size=(170, 12)).astype(np.float32)
    points = principal_components(x, is_count=False, seed=0, indices=np.arange(10, 170))
    assert points.shape == (160, 12)
    again = principal_components(x, is_count=False, seed=0, indices=np.arange(10, 170))
    assert np.array_equal(points, again)


@pytest.mark.parametrize("init", ["kmeans", "leiden"])
def test_components_start_at_clusters(toy, fit, init):
    model = fit(
        mixvi.CGMVAE,
        toy,
        epochs=20,
        setup={"condition_key": "condition"},
        train={"init": init},
        n_components=5,
        likelihood="mse",
        n_hidden=64,
        n_latent_z=2,
        n_latent_w=2,
    )
    assert model.assign_components("cell_type").accuracy > 0.99


def test_few_labels_teach_discriminants_first(toy, fit):
    truth = toy.obs["cell_type"].astype(str).to_numpy()
    shown = np.array([np.flatnonzero(truth == t)[:2] for t in np.unique(truth)]).ravel()
    toy.obs["shown"] = "Unknown"
    toy.obs.loc[toy.obs_names[shown], "shown"] = truth[shown]
    setup = {"labels_key": "shown", "condition_key": "condition"}
    options = {"setup": setup, "epochs": 15, "likelihood": "mse", "n_hidden": 64}
    for components in (1, 2):
        model = fit(
            mixvi.CGMVAE,
            toy,
            train={"init": "discriminant", "labelled_fraction": 0.3},
            components_per_class=components,
            **options,
        )
        assert (model.predict(level="label") == truth).mean() > 0.97
    with pytest.raises(ValueError, match="init='discriminant'"):
        fit(mixvi.CGMVAE, toy, train={"init": "discriminant", "mode": "unsupervised"}, **options)
