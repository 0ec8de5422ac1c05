import numpy as np
import pytest
import scvi
from conftest import CPU

import mixvi
from mixvi.cells import join_studies, transfer_labels

SMALL = {"n_hidden": 64, "n_layers": 1, "n_latent_z": 2, "n_latent_w": 2, "likelihood": "mse"}


@pytest.fixture
def studies(toy):
    """Two studies of the same five types, the second shifted; genes overlap in another order."""
    first = toy[toy.obs["condition"] == toy.obs["condition"].iloc[0]].copy()
    second = first[:, ::-1].copy()
    second.X = second.X + np.random.default_rng(0).normal(0, 0.3, second.n_vars)
    return first[:, :14].copy(), second


def test_joined_on_common_genes(studies):
    source, target = studies
    joint = join_studies(source, target, "cell_type")
    assert joint.shape == (500, 14)
    assert list(joint.var_names) == list(source.var_names)
    ours = joint[joint.obs["study"] == "target"]
    assert set(ours.obs["cell_type"]) == {"Unknown"}
    assert np.allclose(ours.X, target[:, source.var_names].X)
    assert joint.obs_names.is_unique
    assert list(joint.obs["cell_type"][:250]) == list(source.obs["cell_type"])


@pytest.mark.parametrize("study_as_batch", [True, False])
def test_labels_arrive(studies, study_as_batch):
    source, target = studies
    truth = target.obs["cell_type"].astype(str)
    del target.obs["cell_type"]
    shares = []
    # a start in a hundred loses a type
    for seed in range(3):
        scvi.settings.seed = seed
        result = transfer_labels(
            source,
            target,
            "cell_type",
            study_as_batch=study_as_batch,
            n_per_label=60,
            model_kwargs=SMALL,
            max_epochs=15,
            lr=5e-3,
            batch_size=50,
            **CPU,
        )
        shares.append((result.labels == truth).mean())
    assert np.median(shares) > 0.97
    assert result.probs.index.equals(target.obs_names)
    assert np.allclose(result.probs.sum(axis=1), 1, atol=1e-5)
    assert "gmvae_prediction" in result.adata.obs
    assert isinstance(result.model, mixvi.GMVAE)


def test_a_layer_is_read_where_it_is_named(studies):
    for study in studies:
        study.layers["scaled"] = study.X.copy()
        study.X = None
    source, target = studies
    joint = join_studies(source, target, "cell_type", layer="scaled")
    assert np.allclose(joint.X[:250], source.layers["scaled"])
    assert np.allclose(joint.X[250:], target[:, source.var_names].layers["scaled"])
    with pytest.raises(ValueError, match=r"source.X is empty \(None\)"):
        transfer_labels(source, target, "cell_type")
    source.X = source.layers["scaled"]
    with pytest.raises(ValueError, match="target.X is empty"):
        transfer_labels(source, target, "cell_type")
    with pytest.raises(KeyError, match="'scaled'"):
        transfer_labels(source, target, "cell_type", layer="scled")
    target.X = target.layers["scaled"] * np.nan
    with pytest.raises(ValueError, match="target.X has NaN"):
        transfer_labels(source, target, "cell_type")


def test_labels_keep_their_type_and_may_be_missing(studies):
    source, target = studies
    numbers = source.obs["cell_type"].cat.codes.astype(int)
    source.obs["number"] = numbers.where(np.arange(source.n_obs) % 5 > 0)
    joint = join_studies(source, target, "number")
    assert set(joint.obs["number"]) == {"0", "1", "2", "3", "4", "Unknown"}
    result = transfer_labels(
        source,
        target,
        "number",
        n_per_label=40,
        model_kwargs=SMALL,
        max_epochs=15,
        lr=5e-3,
        batch_size=50,
        **CPU,
    )
    assert result.model.n_components == 5
    assert sorted(result.probs.columns) == [0, 1, 2, 3, 4]
    assert (result.labels == target.obs["cell_type"].cat.codes).mean() > 0.8


def test_few_genes_in_common_and_other_values_are_told(studies):
    source, target = studies
    other = target.copy()
    other.var_names = [*(f"ENSG{i:05d}" for i in range(target.n_vars - 5)), *target.var_names[-5:]]
    with pytest.warns(UserWarning, match="share 5 gene names alone.* has 14 genes") as told:
        join_studies(source, other, "cell_type")
    ours = [one for one in told if "gene names alone" in str(one.message)]
    assert [warning.filename for warning in ours] == [__file__]
    target.layers["raw"] = np.round(np.abs(target.X))
    source.layers["raw"] = source.X
    with pytest.warns(UserWarning, match=r"target.layers\['raw'\] holds whole.* source.layers"):
        join_studies(source, target, "cell_type", layer="raw")
    source.layers["raw"] = np.round(np.abs(source.X))
    join_studies(source, target, "cell_type", layer="raw")


def test_bad_input(studies):
    source, target = studies
    with pytest.raises(KeyError, match="kind"):
        transfer_labels(source, target, "kind")
    target.var_names = [f"ENSG{i:05d}" for i in range(target.n_vars)]
    with pytest.raises(ValueError, match="share no gene names.*ENSG00000"):
        transfer_labels(source, target, "cell_type")
    target.var_names = ["same"] * target.n_vars
    with pytest.raises(ValueError, match="names of target repeat"):
        join_studies(source, target, "cell_type")
