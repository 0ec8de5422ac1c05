import numpy as np
import pytest

from mixvi import CGMVAE, CVAE, GMVAE, VAE

GENES = [f"gene_{i}" for i in range(30)]


@pytest.fixture
def planted(counts):
    """Genes 0-9 mark type b; gene 20 rises under stimulation."""
    counts.var_names = GENES
    x = counts.layers["counts"].toarray()
    stimulated = (counts.obs["condition"] == "stim").to_numpy()
    x[stimulated, 20] += np.random.default_rng(0).poisson(8, stimulated.sum())
    counts.layers["counts"] = x
    return counts


def setup_of(cls):
    setup = {"layer": "counts", "labels_key": "kind"}
    return setup | ({"condition_key": "condition"} if cls in (CVAE, CGMVAE) else {})


@pytest.mark.parametrize("cls", [VAE, CVAE, GMVAE, CGMVAE])
def test_planted_genes_come_first(planted, fit, cls):
    options = {"n_components": 2} if cls in (GMVAE, CGMVAE) else {}
    setup = (
        setup_of(cls) if options else {k: v for k, v in setup_of(cls).items() if "labels" not in k}
    )
    model = fit(cls, planted, epochs=40, setup=setup, likelihood="nb", **options)
    before = planted.obs.copy()
    found = model.differential_expression(groupby="kind", group1="b", group2="a")
    # proportions of the other genes fall where these rise, so the sign tells them apart
    assert len(set(found["lfc_mean"].nlargest(10).index) & set(GENES[:10])) >= 9
    assert (found.loc[GENES[:10], "proba_de"] > 0.5).mean() >= 0.8
    assert {"proba_de", "bayes_factor", "scale1", "raw_mean1", "comparison"} <= set(found.columns)
    assert (found["comparison"] == "b vs a").all()
    assert planted.obs.equals(before) and list(planted.obs) == list(before)


def test_conditions_components_and_chosen_cells(planted, fit):
    setup = setup_of(CGMVAE) | {"batch_key": "batch"}
    model = fit(CGMVAE, planted, epochs=40, setup=setup, likelihood="nb", n_components=2)
    found = model.differential_expression(groupby="condition", group1="stim", group2="ctrl")
    assert found.index[0] == "gene_20"

    by_component = model.differential_expression(groupby="component")
    assert set(by_component["group1"]) == {"0", "1"}
    assert len(by_component) == 60
    assert "component" not in planted.obs

    mask = (planted.obs["kind"] == "b").to_numpy()
    chosen = model.differential_expression(idx1=mask, idx2="kind == 'a'")
    assert (chosen.loc[GENES[:10], "proba_de"] > 0.5).mean() > 0.7
    corrected = model.differential_expression(
        groupby="kind", group1="b", batch_correction=True, mode="vanilla"
    )
    assert len(set(corrected.index[:10]) & set(GENES[:10])) >= 8


def test_bad_input(planted, fit):
    model = fit(GMVAE, planted, epochs=1, setup=setup_of(GMVAE), likelihood="nb", n_components=2)
    with pytest.raises(ValueError, match="group1='c' is no group of 'kind'"):
        model.differential_expression(groupby="kind", group1="c")
    with pytest.raises(KeyError, match="kinds"):
        model.differential_expression(groupby="kinds")
    with pytest.raises(ValueError, match="either groupby"):
        model.differential_expression()
    with pytest.raises(TypeError, match="differential_expression has no argument 'gruop1'.*group1"):
        model.differential_expression(groupby="kind", gruop1="a")
    with pytest.raises(TypeError, match="no argument 'weights'"):
        model.differential_expression(groupby="kind", weights="importance")


@pytest.mark.parametrize(
    ("values", "group", "name"),
    [
        (np.array([0, 1]), 1, "1"),
        (np.array([0, 1]), "1", "1"),
        (np.array([0, 1]), [1], "1"),
        (np.array([1, 0]), 0, "0"),
        (np.array([0.0, 1.0]), 1, "1.0"),
        (np.array([False, True]), True, "True"),
        (np.array([False, True]), "True", "True"),
        (np.array(["a", "b"]), ("b",), "b"),
    ],
)
def test_groups_of_any_type(planted, fit, values, group, name):
    """A group may be given as it stands in the column or as text, alone or in a list."""
    model = fit(VAE, planted, epochs=20, setup={"layer": "counts"}, likelihood="nb")
    planted.obs["group"] = values[planted.obs["kind"].cat.codes]
    planted.obs["group as categories"] = planted.obs["group"].astype("category")
    for groupby in ("group", "group as categories"):
        found = model.differential_expression(groupby=groupby, group1=group)
        assert set(found["group1"]) == {name} and len(found) == 30
        assert len(set(found["lfc_mean"].nlargest(10).index) & set(GENES[:10])) >= 9
        other = next(value for value in values if str(value) != name)
        back = model.differential_expression(groupby=groupby, group1=other, group2=name)
        assert set(back["comparison"]) == {f"{other} vs {name}"}
        assert len(set(back["lfc_mean"].nsmallest(10).index) & set(GENES[:10])) >= 9
        assert set(model.differential_expression(groupby=groupby)["group1"]) == set(
            map(str, values)
        )
    assert (planted.obs["group"] == values[planted.obs["kind"].cat.codes]).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "mse", "gaussian_sigma"])
def test_decoded_means_compare_by_their_difference(planted, fit, likelihood):
    """Of logged data: natural log fold changes, as large as between the cells themselves."""
    x = planted.layers["counts"] * 20
    planted.layers["logged"] = np.log1p(x)
    setup = {"layer": "logged", "labels_key": "kind"}
    model = fit(GMVAE, planted, epochs=60, setup=setup, likelihood=likelihood, n_components=2)
    found = model.differential_expression(groupby="component", delta=0.5)
    found = found[found["group1"] == "1"]
    real = planted.layers["logged"][planted.obs["kind"] == "b"].mean(0)
    real -= planted.layers["logged"][planted.obs["kind"] == "a"].mean(0)
    change = found.loc[GENES, "lfc_mean"]
    assert np.corrcoef(change, real)[0, 1] > 0.98
    # decoders shrink towards the mean
    assert 0.75 < change @ real / (real @ real) < 1.1
    assert np.corrcoef(np.abs(real), found.loc[GENES, "proba_de"])[0, 1] > 0.7
    vanilla = model.differential_expression(groupby="kind", group1="b", mode="vanilla")
    assert np.corrcoef(real, vanilla.loc[GENES, "bayes_factor"])[0, 1] > 0.7


def test_statistics_of_the_data(planted, fit):
    """Those of scvi-tools, and finite where half precision would overflow."""
    from scvi.model._utils import scrna_raw_counts_properties

    model = fit(VAE, planted, epochs=1, setup={"layer": "counts"}, likelihood="nb")
    found = model.differential_expression(groupby="kind", group1="b").loc[GENES]
    mask = (planted.obs["kind"] == "b").to_numpy()
    for name, theirs in scrna_raw_counts_properties(model.adata_manager, mask, ~mask).items():
        np.testing.assert_allclose(found[name], theirs, rtol=1e-6)
    half = planted.copy()
    half.layers["counts"] = (planted.layers["counts"] * 1000).astype(np.float16)
    found = model.differential_expression(half, groupby="kind", group1="b").loc[GENES]
    np.testing.assert_allclose(found["raw_normalized_mean1"].sum(), 1e4, rtol=1e-3)


def test_outlying_cells_are_left_out(planted, fit):
    """Ten cells of type a that are called b blur the genes of b less where they are left out."""
    model = fit(VAE, planted, epochs=40, setup={"layer": "counts"}, likelihood="nb")
    kind = planted.obs["kind"].astype(str).to_numpy()
    kind[np.flatnonzero(kind == "a")[:10]] = "b"
    planted.obs["called"] = kind
    change = [
        model.differential_expression(
            groupby="called", group1="b", group2="a", filter_outlier_cells=leave_out
        )
        .loc[GENES[:10], "lfc_mean"]
        .mean()
        for leave_out in (False, True)
    ]
    assert change[1] > change[0] + 0.05


def test_masks_with_names_are_put_in_order(planted, fit):
    model = fit(VAE, planted, epochs=1, setup={"layer": "counts"}, likelihood="nb")
    mask = planted.obs["kind"] == "b"
    straight = model.differential_expression(idx1=mask, idx2=~mask).loc[GENES, "raw_mean1"]
    mixed = mask.sample(frac=1, random_state=0)
    found = model.differential_expression(idx1=mixed, idx2=~mixed.sample(frac=1, random_state=1))
    np.testing.assert_array_equal(found.loc[GENES, "raw_mean1"], straight)
    expected = model.get_latent_representation(indices=np.flatnonzero(mask))
    for chosen in (mask, mixed, planted.obs_names[mask], list(planted.obs_names[mask])):
        np.testing.assert_array_equal(model.get_latent_representation(indices=chosen), expected)
    with pytest.raises(ValueError, match="1 names that are not in adata.obs_names, e.g. 'cell'"):
        model.get_latent_representation(indices=["cell", "cell_0"])
    with pytest.raises(ValueError, match="none is 'cell_1'"):
        model.get_latent_representation(indices=mask.drop("cell_1"))
