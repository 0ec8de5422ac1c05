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
    model = fit(GMVAE, planted, epochs=1, likelihood="mse", n_components=2)
    with pytest.raises(ValueError, match="'mse'"):
        model.differential_expression(groupby="kind")
