"""Registering: what is registered, of which columns, and what is said of others."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import CPU

import mixvi
from mixvi import CGMVAE, GMVAE, VAE
from mixvi.core.data import checks

SMALL = {"n_hidden": 16, "n_layers": 1, "n_latent_z": 3, "n_latent_w": 2}


@pytest.fixture
def numbered(toy):
    """Types and conditions as text and as numbers."""
    toy.obs["number"] = toy.obs["cell_type"].cat.codes.astype(int)
    toy.obs["dose"] = toy.obs["condition"].cat.codes.astype(int)
    return toy


def labels_of(model):
    codes = np.asarray(model.adata_manager.get_from_registry("labels")).ravel()
    return [model.classes[code] if code < len(model.classes) else None for code in codes]


def test_arguments_after_the_data_are_named(toy):
    """scvi-tools has them in another order: by position batches would become labels."""
    told = r"GMVAE.setup_anndata takes adata by position and no more. .* layer=..., labels_key=..."
    with pytest.raises(TypeError, match=f"^{told}"):
        GMVAE.setup_anndata(toy, None, "condition")
    with pytest.raises(TypeError, match=r"^CVAE.setup_anndata has no .* mean 'labels_key'"):
        mixvi.CVAE.setup_anndata(toy, labels_kye="cell_type")
    with pytest.raises(TypeError, match=r"^VAE.load has no argument 'prefx'"):
        mixvi.VAE.load("nowhere", prefx="one_")
    for cls in (mixvi.images.GenerativeInference, mixvi.images.ConditionalMPCC):
        with pytest.raises(TypeError, match=rf"^{cls.__name__}.setup_anndata takes adata by"):
            cls.setup_anndata(toy, "image")


@pytest.mark.parametrize("kind", [str, int, float, bool, "category"])
def test_labels_of_any_type(numbered, fit, kind):
    labels = numbered.obs["number"] % 2 if kind is bool else numbered.obs["number"]
    numbered.obs["label"] = labels.astype(kind)
    model = fit(GMVAE, numbered, setup={"labels_key": "label"}, epochs=15)
    predicted = model.predict(level="label")
    assert (predicted.to_numpy() == numbered.obs["label"].to_numpy()).mean() > 0.9
    model.annotate()
    annotated = numbered.obs["gmvae_prediction"].to_numpy()
    np.testing.assert_array_equal(annotated, predicted.to_numpy())
    for method in ("overlap", "hungarian"):
        assignment = model.assign_components("label", method=method)
        assert assignment.accuracy > 0.9
        assert set(assignment.table.columns) == set(numbered.obs["label"])
        assert set(model.component_labels.values()) == set(numbered.obs["label"])


def test_labels_of_any_type_can_be_saved(numbered, fit, tmp_path):
    for kind in (int, bool):
        numbered.obs["label"] = (numbered.obs["number"] % 2).astype(kind)
        model = fit(GMVAE, numbered, setup={"labels_key": "label"}, epochs=1, n_components=5)
        model.annotate()
        numbered.write_h5ad(tmp_path / "cells.h5ad")
        model.save(tmp_path / kind.__name__)
        again = GMVAE.load(tmp_path / kind.__name__, anndata.read_h5ad(tmp_path / "cells.h5ad"))
        assert again.classes == model.classes
        assert again.predict(level="label").equals(model.predict(level="label"))


@pytest.mark.parametrize(
    ("hide", "unlabelled"),
    [(-1, -1), (-2, "-2"), (np.nan, "Unknown"), (np.nan, np.nan), (99, np.int64(99))],
)
def test_cells_without_a_label(numbered, hide, unlabelled):
    hidden = np.arange(numbered.n_obs) % 3 == 0
    numbered.obs["partly"] = numbered.obs["number"].where(~hidden, hide)
    GMVAE.setup_anndata(numbered, labels_key="partly", unlabeled_category=unlabelled)
    model = GMVAE(numbered, **SMALL)
    assert model.classes == [0, 1, 2, 3, 4]
    shown = [None if h else n for h, n in zip(hidden, numbered.obs["number"], strict=True)]
    assert labels_of(model) == shown


def test_missing_labels_of_every_type(toy):
    hidden = np.arange(toy.n_obs) % 2 == 0
    for column in (toy.obs["cell_type"], toy.obs["cell_type"].astype(object)):
        toy.obs["partly"] = column.where(~hidden)
        GMVAE.setup_anndata(toy, labels_key="partly")
        assert len(GMVAE(toy, **SMALL).classes) == 5
    toy.obs["partly"] = np.nan
    with pytest.raises(ValueError, match="Every cell.*or NaN"):
        GMVAE.setup_anndata(toy, labels_key="partly")
    with pytest.raises(TypeError, match="one value"):
        GMVAE.setup_anndata(toy, labels_key="cell_type", unlabeled_category=["a", "b"])


def test_labels_are_in_order_whatever_the_unlabelled_are_called(toy):
    for name in ("Unknown", "aaa", "zzz"):
        toy.obs["partly"] = np.where(np.arange(toy.n_obs) % 2, toy.obs["cell_type"], name)
        GMVAE.setup_anndata(toy, labels_key="partly", unlabeled_category=name)
        assert GMVAE(toy, **SMALL).classes == [f"type {i}" for i in range(5)]


AS_OTHERS = {"text": str, "integers": int, "floats": float, "categories": "category"}


@pytest.mark.parametrize("built", ["text", "integers"])
def test_a_query_of_another_type_is_the_same_query(numbered, fit, built):
    kind = AS_OTHERS[built]
    numbered.obs["site"] = (np.arange(numbered.n_obs) % 3).astype(int)
    setup = {
        "labels_key": "number",
        "condition_key": "dose",
        "categorical_covariate_keys": ["site"],
    }
    columns = ["number", "dose", "site"]
    numbers = numbered.obs[columns].astype(int)
    numbered.obs[columns] = numbers.astype(kind)
    model = fit(CGMVAE, numbered, setup=setup, epochs=2)
    expected = model.counterfactual(to=1, labels="observed").X
    assert model.counterfactual(to="1", labels="observed").X == pytest.approx(expected)
    for kind in AS_OTHERS.values():
        query = anndata.AnnData(numbered.X, obs=numbers.astype(kind), var=numbered.var)
        got = model.counterfactual(query, to="1", labels="observed").X
        np.testing.assert_array_equal(got, expected)
        extended = CGMVAE.load_query_data(query, model)
        np.testing.assert_array_equal(extended.predict(), model.predict())


def test_a_counterfactual_of_numbered_conditions_goes_back_into_the_model(numbered, fit):
    model = fit(CGMVAE, numbered, setup={"condition_key": "dose"}, epochs=1, n_components=5)
    model.predict(model.counterfactual(to=1))


def test_text_and_number_of_one_name_are_refused(toy):
    toy.obs["mixed"] = [1, "1"] * (toy.n_obs // 2)
    with pytest.raises(ValueError, match="'1' both as text and as a number"):
        CGMVAE.setup_anndata(toy, condition_key="mixed")


def test_levels_without_cells_are_none(toy, fit):
    for key, extra in (("condition", "drug X"), ("cell_type", "Mast cells")):
        toy.obs[key] = toy.obs[key].cat.add_categories(extra)
    toy.obs["site"] = pd.Categorical(np.where(np.arange(toy.n_obs) % 2, "x", "y"), list("wxyz"))
    toy.obsm["soft"] = pd.get_dummies(toy.obs["cell_type"]).astype(float)
    setup = {
        "condition_key": "condition",
        "batch_key": "site",
        "categorical_covariate_keys": ["site"],
    }
    model = fit(CGMVAE, toy, setup=setup | {"labels_key": "cell_type"}, epochs=1)
    assert model.conditions == ["condition 0", "condition 1"]
    assert model.classes == [f"type {i}" for i in range(5)]
    assert model.batches == ["x", "y"] and model.module.n_cats_per_cov == (2,)
    assert "Mast cells" not in set(model.sample(1).obs["label"])
    with pytest.raises(ValueError, match="'drug X' is not known"):
        model.counterfactual(to="drug X")
    CGMVAE.setup_anndata(toy, soft_labels_key="soft", **setup)
    soft = CGMVAE(toy, **SMALL)
    assert soft.classes == model.classes
    fewer = toy[toy.obs["cell_type"] == "type 1"].copy()
    assert len(model.predict(fewer)) == len(fewer)


@pytest.mark.parametrize("make", [pd.cut, pd.to_datetime])
def test_conditions_that_are_intervals_or_dates(toy, fit, tmp_path, make):
    even = np.arange(toy.n_obs) % 2
    column = pd.cut(even, [-1, 0, 1]) if make is pd.cut else pd.to_datetime(even * 10**18)
    toy.obs["when"] = column
    model = fit(CGMVAE, toy, setup={"condition_key": "when"}, epochs=1, n_components=5)
    model.save(tmp_path / "model")
    again = CGMVAE.load(tmp_path / "model", toy)
    assert again.conditions == model.conditions and all(
        isinstance(c, str) for c in again.conditions
    )
    flipped = again.counterfactual(to=model.conditions[1])
    np.testing.assert_array_equal(flipped.X, model.counterfactual(to=model.conditions[1]).X)
    np.testing.assert_array_equal(
        np.asarray(again.adata_manager.get_from_registry("condition")).ravel(), even
    )


def test_batches_that_are_confounded_with_conditions(counts):
    counts.obs["donor"] = counts.obs["condition"].astype(str) + counts.obs["site"].astype(str)
    with pytest.warns(UserWarning, match=r"\['donor'\] \(batch_key\): no category"):
        CGMVAE.setup_anndata(counts, condition_key="condition", batch_key="donor")
    with pytest.warns(UserWarning, match=r"\(categorical_covariate_keys\): no category"):
        CGMVAE.setup_anndata(
            counts, condition_key="condition", categorical_covariate_keys=["donor"]
        )


def test_conditions_that_are_partly_confounded_are_named(counts):
    """Two of three share batches, and nothing tells the third from a batch of its own."""
    counts.obs["dose"] = np.resize(["none", "low", "high"], counts.n_obs)
    day = np.where(counts.obs["dose"] == "high", "day 3", np.resize(["day 1", "day 2"], 200))
    counts.obs["day"] = day
    before = counts.copy()
    with pytest.warns(UserWarning, match=r"\['day'\].* groups: ('low', 'none'; 'high'|'high'; 'l)"):
        CGMVAE.setup_anndata(counts, condition_key="dose", batch_key="day")
    np.testing.assert_array_equal(counts.X.toarray(), before.X.toarray())
    own = [name for name in counts.obs if not name.startswith("_scvi_")]
    pd.testing.assert_frame_equal(counts.obs[own], before.obs)
    # one day with all of them is a link
    counts.obs.iloc[:3, counts.obs.columns.get_loc("day")] = "day 4"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        CGMVAE.setup_anndata(counts, condition_key="dose", batch_key="day")


def test_layers_are_named_without_x(counts):
    counts.layers["raw"] = counts.X.copy()
    with pytest.raises(KeyError, match="not in adata.layers. Known: 'counts', 'raw'."):
        GMVAE.setup_anndata(counts, layer="spliced")


@pytest.mark.filterwarnings("error::UserWarning")
def test_batches_that_are_not(counts):
    CGMVAE.setup_anndata(counts, condition_key="condition", batch_key="batch")
    VAE.setup_anndata(counts, batch_key="batch")
    counts.obs["one"] = "one"
    CGMVAE.setup_anndata(counts, condition_key="condition", batch_key="one")
    GMVAE.setup_anndata(counts, condition_key="one", batch_key="batch")


def test_batches_of_single_cells(counts, fit):
    """One warning that names them, and no other in training."""
    counts.obs["cell"] = counts.obs_names
    with pytest.warns(UserWarning, match="200 of its 200 categories have fewer than 3 cells"):
        GMVAE.setup_anndata(counts, batch_key="cell")
    model = GMVAE(counts, n_components=3, likelihood="nb", **SMALL)
    with np.errstate(all="raise"):
        model.train(1, init_epochs=1, **CPU)
    assert np.isfinite(model.get_latent_representation()).all()


def test_messages_show_plain_numbers(numbered, fit):
    model = fit(CGMVAE, numbered, setup={"condition_key": "dose"}, epochs=1, n_components=5)
    assert model.conditions == [0, 1] and type(model.conditions[0]) is int
    with pytest.raises(ValueError, match=r"to=7 is not known. Known: '0', '1'"):
        model.counterfactual(to=np.int64(7))
    with pytest.raises(ValueError, match=r"one of \[0, 1\]"):
        model.counterfactual()
    with pytest.raises(ValueError, match="max_epochs must be a positive whole number, but is 0"):
        model.train(np.int64(0))
    query = numbered.copy()
    query.obs["dose"] = np.int64(7)
    with pytest.raises(ValueError, match="'7'. It knows '0', '1'"):
        model.predict(query)


@pytest.mark.filterwarnings("ignore:.*not unique", "ignore:The inplace keyword")
def test_other_containers(toy, fit):
    from mudata import MuData

    model = fit(GMVAE, toy, epochs=1, n_components=5)
    both = MuData({"rna": toy.copy(), "atac": toy.copy()})
    for verb in (GMVAE.setup_anndata, model.predict, mixvi.images.VaDE.setup_anndata):
        with pytest.raises(TypeError, match=r"MuData.*mdata\['rna'\].*'rna', 'atac'"):
            verb(both)


def test_arrays_of_dask(toy):
    # dask is no dependency: its type, as AnnData passes it on
    array = type("Array", (), {"__module__": "dask.array.core"})
    with pytest.raises(TypeError, match=r"adata.layers\['lazy'\] = adata.layers\['lazy'\].compute"):
        checks.check_matrix(array(), "adata.layers['lazy']")
    dask = pytest.importorskip("dask.array")
    toy.layers["lazy"] = dask.from_array(toy.X)
    with pytest.raises(TypeError, match="compute"):
        GMVAE.setup_anndata(toy, layer="lazy")


@pytest.mark.parametrize(
    ("cls", "option", "here"),
    [
        (GMVAE, "n_latent", "It is called 'n_latent_z' here"),
        (CGMVAE, "n_latent", "It is called 'n_latent_z' here"),
        (VAE, "n_latent_z", "It is called 'n_latent' here"),
        (VAE, "gene_likelihood", "It is called 'likelihood' here"),
        (mixvi.AE, "gene_likelihood", "It is called 'likelihood' here"),
        (GMVAE, "n_component", "Did you mean 'n_components'"),
        (mixvi.images.VaDE, "n_cluster", "Did you mean 'n_clusters'"),
        (mixvi.images.MPCC, "gene_likelihood", "Known"),
    ],
)
def test_arguments_of_other_names(toy, cls, option, here):
    with pytest.raises(TypeError, match=f"{cls.__name__} has no argument '{option}'. {here}"):
        cls(toy, **{option: 4})
