"""How many components: found by default, and merged into groups afterwards."""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scvi
from conftest import CPU
from scipy import sparse

import mixvi
from mixvi.cells import ComponentTree, component_tree
from mixvi.cells.separation import Merge

TRAIN = CPU | {"init_epochs": 60, "max_epochs": 15, "batch_size": 32}
SIZES = {"a": 150, "b": 100, "rare": 15}


def populations(n_genes: int = 120) -> anndata.AnnData:
    """Counts of two large types and a rare one, of 20 markers each; within a type only noise."""
    rng = np.random.default_rng(0)
    kind = np.repeat(list(SIZES), list(SIZES.values()))
    rates = np.tile(rng.gamma(2, 0.5, n_genes), (3, 1))
    for i in range(3):
        rates[i, 20 * i : 20 * (i + 1)] += 4
    x = rng.poisson(rates[np.searchsorted(list(SIZES), kind)]).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(x))
    cells.obs["kind"] = kind
    return cells


def built(cells, **options):
    mixvi.GMVAE.setup_anndata(cells)
    return mixvi.GMVAE(cells, n_hidden=32, n_layers=1, n_latent_z=4, n_latent_w=2, **options)


@pytest.fixture(scope="module")
def found():
    """A model by defaults, and what it was trained on."""
    scvi.settings.seed = 0
    cells = populations()
    model = built(cells)
    model.train(**TRAIN)
    return model, cells


def test_as_many_as_there_are_by_default(found):
    model, cells = found
    assert model.n_components == model.init_params_["n_components"] == 3
    assert "with 3 components" in repr(model)
    assert model.assign_components("kind").accuracy > 0.98
    path = model.component_path
    assert path["n_components"].iloc[0] > 10 and path["n_components"].iloc[-1] == 1
    assert path.loc[path["chosen"], "n_components"].tolist() == [3]
    # three are told apart, four are not
    by_number = path.set_index("n_components")["agreement"]
    assert by_number[3] > 0.9 and by_number[4] < 0.6


def test_auto_by_kmeans_and_of_logged_values():
    cells = populations()
    cells.X = np.log1p(cells.X.toarray())
    model = built(cells, n_components="auto", likelihood="mse")
    model.train(init="kmeans", **TRAIN)
    assert model.n_components == 3


def test_kept_in_files_and_for_queries(found, tmp_path):
    model, cells = found
    model.save(tmp_path / "model")
    loaded = mixvi.GMVAE.load(tmp_path / "model", cells)
    np.testing.assert_array_equal(loaded.predict(), model.predict())
    assert loaded.component_path.equals(model.component_path)
    query = mixvi.GMVAE.load_query_data(cells[::2].copy(), model)
    assert query.n_components == 3
    assert mixvi.pl.component_path(model.component_path).get_xlabel() == "components"
    model.annotate(cells)
    assert cells.uns["gmvae"]["component_path"].equals(model.component_path)
    cells.write_h5ad(tmp_path / "cells.h5ad")


def test_a_stopped_run_goes_on_with_its_number(tmp_path):
    def run(directory, **more):
        cells = populations()
        model = built(cells)
        model.train(checkpoint_dir=directory, **TRAIN, **more)
        return model

    whole = run(tmp_path)
    (tmp_path / "training.ckpt").unlink()
    again = run(tmp_path, resume=True)
    assert again.n_components == whole.n_components == 3
    assert again.component_path.equals(whole.component_path)


def test_groups_of_too_many_components(tmp_path):
    cells = populations()
    model = built(cells, n_components=9)
    model.train(**TRAIN)
    tree = model.merge_components()
    groups, kind = cells.obs["gmvae_group"], cells.obs["kind"]
    assert list(groups.cat.categories) == ["0", "1", "2"]
    assert (groups.groupby(kind).nunique() == 1).all() and groups.nunique() == 3
    assert cells.obs["gmvae_group_confidence"].mean() > 0.9
    genes = model.differential_expression(groupby="gmvae_group")
    of_a = groups[kind == "a"].iloc[0]
    first = genes[genes["group1"] == of_a].index[:10].astype(int)
    assert (first < 20).all()

    rows = np.flatnonzero(kind != "rare")
    model.merge_components(indices=rows, n_groups=2, key_added="two")
    assert cells.obs["two_group"].nunique() == 2
    assert (
        cells.obs["two_group"].isna().sum() == cells.obs["two_group_confidence"].isna().sum() == 15
    )
    ax = mixvi.pl.component_tree(tree)
    assert len(ax.get_xticklabels()) == len(tree.components)
    with pytest.raises(ValueError, match="n_groups=10, but there are"):
        model.merge_components(n_groups=10)
    with pytest.raises(ValueError, match="min_agreement must be at most 1"):
        model.merge_components(min_agreement=2)
    plt.close("all")


def test_trees_are_cut_where_nothing_below_is_told_apart():
    """A merge after one of a higher agreement takes its level down with it."""
    merges = (Merge(0, 3, 0.1), Merge(1, 2, 0.9), Merge(0, 1, 0.5), Merge(0, 4, 0.95))
    tree = ComponentTree((0, 1, 2, 3, 4), merges)
    np.testing.assert_array_equal(tree.levels, [0.1, 0.5, 0.5, 0.95])
    assert tree.cut() == {0: 0, 1: 0, 2: 0, 3: 0, 4: 1}
    assert tree.cut(min_agreement=0.3) == {0: 0, 1: 1, 2: 2, 3: 0, 4: 3}
    assert tree.cut(n_groups=1) == dict.fromkeys(range(5), 0)
    assert tree.table["n_groups"].tolist() == [4, 3, 2, 1]
    np.testing.assert_array_equal(
        tree.linkage(), [[0, 3, 0.1, 2], [1, 2, 0.5, 2], [5, 6, 0.5, 4], [4, 7, 0.95, 5]]
    )


def test_one_population_is_not_told_apart():
    """However it is cut; nor are batches, within which genes are centred."""
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(2, 1, 80), (300, 80)).astype(np.float32)
    cut = (x[:, :40].sum(axis=1) > np.median(x[:, :40].sum(axis=1))).astype(int)
    tree = component_tree(x, cut, is_count=True, seed=0)
    assert abs(tree.merges[0].agreement) < 0.25
    batch = np.arange(300) % 2
    x[batch == 1, :20] *= 4
    assert component_tree(x, batch, is_count=False, seed=0).merges[0].agreement > 0.75
    centred = component_tree(x, batch, is_count=False, seed=0, batches=batch)
    assert abs(centred.merges[0].agreement) < 0.25


def test_of_many_cells_the_rare_stay(monkeypatch):
    monkeypatch.setattr("mixvi.cells.separation._MAX_CELLS", 90)
    cells = populations()
    kind = np.searchsorted(list(SIZES), cells.obs["kind"])
    # the first type cut in two
    cut = np.where((kind == 0) & (np.arange(len(kind)) % 2 == 0), 3, kind)
    tree = component_tree(cells.X, cut, is_count=True, seed=0)
    assert tree.cut() == {0: 0, 1: 1, 2: 2, 3: 0}


def test_a_mixture_of_one(lines):
    """Noise alone is one component, which trains."""
    x = np.random.default_rng(0).poisson(3, (120, 60)).astype(np.float32)
    cells = anndata.AnnData(x)
    model = built(cells)
    with pytest.warns(UserWarning, match="Halves of the 60 genes tell no two clusters apart"):
        model.train(**TRAIN | {"init_epochs": 2, "max_epochs": 2})
    assert model.n_components == 1 and (model.predict() == 0).all()
    assert lines()[-1].startswith("n_components=1: of ")
    assert model.merge_components().merges == ()
    with pytest.raises(ValueError, match="one component alone"):
        mixvi.pl.component_tree(model.merge_components())


def test_bad_input(toy, counts):
    with pytest.raises(ValueError, match="'auto' needs 50 cells.*but there are 49"):
        built(toy[:49].copy(), n_components="auto")
    model = built(toy, n_components="auto")
    for options in ({"init": None}, {"mode": "guided", "clusters": "cell_type"}):
        with pytest.raises(ValueError, match="'auto' is found where components start"):
            model.train(**TRAIN | options)
    with pytest.raises(ValueError, match="'auto' needs 50 cells.*but there are 30"):
        model.train(indices=np.arange(30), **TRAIN)
    with pytest.raises(ValueError, match="n_components"):
        built(toy, n_components="many")
    mixvi.GMVAE.setup_anndata(counts, layer="counts", labels_key="kind")
    with pytest.raises(ValueError, match="no halves"):
        component_tree(np.zeros((60, 1)), np.arange(60) % 2, is_count=False, seed=0)
    with pytest.raises(ValueError, match="labels own their"):
        mixvi.GMVAE(counts, n_components="auto")


def test_few_cells_or_random_starts_keep_the_number(toy):
    model = built(toy)
    model.train(1, init=None, **CPU)
    assert model.n_components == 20 and model.component_path is None
