"""Query mapping: the reference stays, the query's own batches learn, labels are kept."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU
from scipy import sparse

import mixvi
from mixvi import CGMVAE, GMVAE, VAE

SETUP = {"labels_key": "cell_type", "batch_key": "batch"}
TRAINING = {"lr": 1e-2, "batch_size": 50} | CPU


@pytest.fixture
def reference(toy, fit):
    """A labelled reference of two batches."""
    toy.obs["batch"] = np.where(np.arange(toy.n_obs) % 2, "one", "two")
    return fit(GMVAE, toy, setup=SETUP, epochs=12, n_latent_z=4, n_latent_w=2)


@pytest.fixture
def query():
    """Unlabelled cells of a batch whose genes are shifted."""
    cells = mixvi.datasets.toy_conditional_blobs(n_per_group=20)
    shift = np.random.default_rng(0).normal(0, 1.5, cells.n_vars)
    cells.X = (cells.X + shift).astype(np.float32)
    cells.obs["batch"] = "new"
    cells.obs["truth"] = cells.obs.pop("cell_type").astype(str)
    return cells


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_a_new_batch_learns_and_the_reference_stays(toy, query, fit, use_batch_norm):
    toy.obs["batch"] = np.where(np.arange(toy.n_obs) % 2, "one", "two")
    reference = fit(GMVAE, toy, setup=SETUP, epochs=12, use_batch_norm=use_batch_norm)
    latents, before = reference.get_latent_representation(), weights(reference)
    mapped = GMVAE.load_query_data(query, reference)
    torch.manual_seed(0)
    at_first = mapped.get_elbo()
    mapped.train(25, **TRAINING)
    torch.manual_seed(0)
    assert mapped.get_elbo() > at_first + 2
    after = mapped.module.state_dict()
    for name, old in before.items():
        if not name.startswith("typical_"):
            block = after[name][tuple(slice(n) for n in old.shape)]
            assert torch.equal(block, old), name
    np.testing.assert_allclose(mapped.get_latent_representation(toy), latents, atol=1e-5, rtol=1e-4)
    for name, old in reference.module.state_dict().items():
        assert torch.equal(old, before[name]), name


def test_labels_are_those_of_the_reference(reference, query):
    mapped = GMVAE.load_query_data(query, reference)
    before = mapped.predict(level="label")
    assert set(before) <= set(reference.classes)
    mapped.train(25, **TRAINING)
    assert mapped.component_labels == reference.component_labels
    assert mapped.trained_with_labels_
    found = mapped.predict(level="label")
    accuracy = (found == query.obs["truth"]).mean()
    assert accuracy > 0.9 and accuracy >= (before == query.obs["truth"]).mean()


def test_assigned_labels_stay(toy, query, fit):
    toy.obs["batch"] = np.where(np.arange(toy.n_obs) % 2, "one", "two")
    reference = fit(GMVAE, toy, setup={"batch_key": "batch"}, epochs=3, n_components=5)
    reference.assign_components("cell_type")
    mapped = GMVAE.load_query_data(query, reference)
    mapped.train(2, **TRAINING)
    assert mapped.component_labels == reference.component_labels
    assert not mapped.trained_with_labels_
    labelled = query.copy()
    labelled.obs["cell_type"] = labelled.obs["truth"]
    reference = fit(
        GMVAE, toy, setup=SETUP, train={"mode": "unsupervised"}, epochs=3, n_components=5
    )
    mapped = GMVAE.load_query_data(labelled, reference)
    mapped.train(2, **TRAINING)
    assert mapped.component_labels is None and not mapped.trained_with_labels_


def test_known_batches_leave_nothing_to_train(reference, query):
    before = weights(reference)
    for batch in ("one", "two"):
        query.obs["batch"] = batch
        mapped = GMVAE.load_query_data(query, reference)
        assert mapped.is_trained
        mapped.predict(level="label")
        with pytest.raises(ValueError, match="nothing to train.*freeze=False"):
            mapped.train(1, **TRAINING)
        for name, old in before.items():
            assert torch.equal(mapped.module.state_dict()[name], old), name


def test_a_reference_without_batches(toy, fit):
    reference = fit(GMVAE, toy, epochs=2, n_components=5)
    mapped = GMVAE.load_query_data(toy[:50].copy(), reference)
    with pytest.raises(ValueError, match="nothing to train"):
        mapped.train(1, **TRAINING)
    free = GMVAE.load_query_data(toy[:50].copy(), reference, freeze=False)
    free.train(1, **TRAINING)
    assert not torch.equal(
        free.module.decoder.linears[0].weight, reference.module.decoder.linears[0].weight
    )


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_a_reference_of_one_batch(counts, fit, dispersion):
    """Its batch is no covariate; beside a new one it becomes one, which stays zero."""
    counts.obs["batch"] = "one"
    reference = fit(
        VAE, counts, setup={"batch_key": "batch"}, likelihood="nb", dispersion=dispersion
    )
    before = weights(reference)
    latents = reference.get_latent_representation()
    both = counts.copy()
    both.obs["batch"] = np.where(np.arange(both.n_obs) % 2, "one", "new")
    mapped = VAE.load_query_data(both, reference)
    mapped.train(5, **TRAINING)
    after = weights(mapped)
    columns = after["encoder.covariates.0.weight"]
    assert columns.shape[1] == 2 and not columns[:, 0].any() and columns[:, 1].any()
    np.testing.assert_allclose(mapped.get_latent_representation(counts), latents, atol=1e-5)
    if dispersion == "gene-batch":
        assert torch.equal(after["likelihood.log_theta"][:1], before["likelihood.log_theta"])
        assert not torch.equal(after["likelihood.log_theta"][1:], before["likelihood.log_theta"])


def test_a_saved_query_stays_frozen(reference, query, tmp_path):
    mapped = GMVAE.load_query_data(query, reference)
    mapped.train(2, **TRAINING)
    mapped.save(tmp_path / "mapped")
    again = GMVAE.load(tmp_path / "mapped", query)
    again.train(2, **TRAINING)
    before, after = weights(reference), weights(again)
    for name, old in before.items():
        if not name.startswith("typical_"):
            assert torch.equal(after[name][tuple(slice(n) for n in old.shape)], old), name
    assert not torch.equal(
        after["decoder.covariates.0.weight"], weights(mapped)["decoder.covariates.0.weight"]
    )
    assert again.component_labels == reference.component_labels


def test_a_query_of_a_query(reference, query):
    mapped = GMVAE.load_query_data(query, reference)
    mapped.train(2, **TRAINING)
    newer = query.copy()
    newer.obs["batch"] = "newer"
    second = GMVAE.load_query_data(newer, mapped)
    assert second.batches == ["one", "two", "new", "newer"]
    second.train(2, **TRAINING)
    old, new = (weights(m)["encoder.covariates.0.weight"] for m in (mapped, second))
    assert torch.equal(new[:, :3], old) and new[:, 3].any()


def test_weight_decay_would_shrink_the_reference(reference, query):
    mapped = GMVAE.load_query_data(query, reference)
    for options in ({"weight_decay": 1e-3}, {"plan_kwargs": {"weight_decay": 1e-3}}):
        with pytest.raises(ValueError, match="weight_decay.*frozen"):
            mapped.train(1, **options, **CPU)


def test_the_history_is_the_querys_own(reference, query):
    mapped = GMVAE.load_query_data(query, reference)
    assert mapped.history is None and mapped.train_indices is None
    mapped.train(3, **TRAINING)
    assert len(mapped.history["elbo_train"]) == 3
    assert len(mapped.train_indices) == query.n_obs


@pytest.mark.parametrize("freeze", [True, False])
def test_components_of_a_reference_do_not_start_anew(toy, query, fit, freeze):
    """Clusters of the query would be taught under numbers that mean something else."""
    reference = fit(GMVAE, toy, setup={"batch_key": "condition"}, n_components=5)
    # some 500 updates of 10 minibatches an epoch
    assert len(reference.start_history["elbo_train"]) == 50
    query.obs["condition"] = "a new one"
    mapped = GMVAE.load_query_data(query, reference, freeze=freeze)
    mapped.train(1, **TRAINING)
    assert mapped.start_history is None and len(mapped.history["elbo_train"]) == 1


def test_a_query_of_an_untrained_reference_is_untrained(toy, query):
    toy.obs["batch"] = "one"
    GMVAE.setup_anndata(toy, **SETUP)
    mapped = GMVAE.load_query_data(query, GMVAE(toy, n_hidden=8))
    assert not mapped.is_trained
    with pytest.raises(RuntimeError, match="not trained yet"):
        mapped.predict()


def test_images_have_no_batches(fit_images, images):
    reference = fit_images(epochs=1)
    mapped = type(reference).load_query_data(images[:20].copy(), reference)
    with pytest.raises(ValueError, match="nothing to train"):
        mapped.train(1, **CPU)
    free = type(reference).load_query_data(images.copy(), reference, freeze=False)
    free.train(1, **CPU)


FORMATS = {
    "dense": np.asarray,
    "csr matrix": sparse.csr_matrix,
    "csc matrix": sparse.csc_matrix,
    "csr array": sparse.csr_array,
}


@pytest.fixture
def named(counts, fit):
    """Counts with named genes, and a model of them."""
    counts.var_names = [f"gene_{i}" for i in range(counts.n_vars)]
    model = fit(GMVAE, counts, setup={"layer": "counts"}, likelihood="nb", n_components=3)
    return counts, model


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_genes_are_put_in_order(named, make):
    cells, model = named
    dense = cells.X.toarray()
    more = np.hstack([dense[:, ::-1], np.ones((cells.n_obs, 2), np.float32)])
    names = [*cells.var_names[::-1], "another", "gene_999"]
    other = anndata.AnnData(make(more), obs=cells.obs, var=pd.DataFrame(index=names))
    other.layers["counts"] = make(more)
    prepared = GMVAE.prepare_query_anndata(other, model, inplace=False)
    assert list(other.var_names) == names
    assert type(prepared.layers["counts"]) is type(other.layers["counts"])
    np.testing.assert_array_equal(model.predict(prepared), model.predict())
    assert GMVAE.prepare_query_anndata(other, model) is None
    assert list(other.var_names) == list(cells.var_names)
    np.testing.assert_array_equal(model.predict(other), model.predict())


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_missing_genes_are_zeros_and_named(named, make, tmp_path):
    cells, model = named
    model.save(tmp_path / "model")
    kept = [i for i in range(30) if i not in (3, 17, 29)][::-1]
    dense = cells.X.toarray()
    other = anndata.AnnData(
        make(dense[:, kept]), obs=cells.obs, var=pd.DataFrame(index=cells.var_names[kept])
    )
    other.layers["counts"] = make(dense[:, kept].astype(np.int32))
    other.obsm["X_pca"] = dense[:, :2]
    other.uns["note"] = "kept"
    other.raw = other.copy()
    zeroed = cells.copy()
    dense[:, [3, 17, 29]] = 0
    zeroed.layers["counts"] = make(dense)
    for reference in (model, tmp_path / "model", str(tmp_path / "model")):
        with pytest.warns(UserWarning, match=r"lacks 3 of the model's 30 genes \(10.0%\)"):
            prepared = GMVAE.prepare_query_anndata(other, reference, inplace=False)
        assert list(prepared.var_names) == list(cells.var_names)
        assert type(prepared.X) is type(other.X) and prepared.X.dtype == other.X.dtype
        assert prepared.layers["counts"].dtype == np.int32
        np.testing.assert_array_equal(model.predict(prepared), model.predict(zeroed))
    assert prepared.obs.equals(other.obs) and prepared.uns["note"] == "kept"
    np.testing.assert_array_equal(prepared.obsm["X_pca"], other.obsm["X_pca"])
    assert prepared.raw.shape == other.raw.shape
    with pytest.warns(UserWarning, match="3 of the model's"):
        GMVAE.prepare_query_anndata(other, model)
    assert other.n_vars == 30
    mapped = GMVAE.load_query_data(other, model)
    np.testing.assert_array_equal(mapped.predict(), model.predict(zeroed))


@pytest.mark.filterwarnings("error::UserWarning")
def test_symbols_meet_ensembl_identifiers(named):
    cells, model = named
    identifiers = [f"ENSG{i:05d}" for i in range(cells.n_vars)]
    by_column = cells[:, ::-1].copy()
    by_column.var["symbol"] = by_column.var_names
    by_column.var_names = [f"{name}.3" for name in identifiers[::-1]]
    bare = by_column.copy()
    del bare.var["symbol"]
    expected = model.predict()
    prepared = GMVAE.prepare_query_anndata(by_column, model, inplace=False)
    assert list(prepared.var_names) == list(cells.var_names)
    np.testing.assert_array_equal(model.predict(prepared), expected)
    with pytest.raises(ValueError, match="lacks 30 .*a column of adata.var may have"):
        GMVAE.prepare_query_anndata(bare, model)
    twice = by_column.copy()
    twice.var.iloc[1, 0] = twice.var.iloc[2, 0]
    with pytest.raises(
        ValueError, match=r"several genes called 'gene_27' by adata.var\['symbol'\]"
    ):
        GMVAE.prepare_query_anndata(twice, model)
    # the reference's own columns, too
    cells.var["gene_ids"] = identifiers
    prepared = GMVAE.prepare_query_anndata(bare, model, inplace=False)
    np.testing.assert_array_equal(model.predict(prepared), expected)


def test_copies_of_genes_on_y_are_genes_of_their_own(counts, fit):
    counts.var_names = [f"ENSG{i // 2:05d}.{i // 2}" + "_PAR_Y" * (i % 2) for i in range(30)]
    model = fit(GMVAE, counts, likelihood="nb", n_components=3, epochs=1, train={"init": None})
    query = counts[:, ::-1].copy()
    # another release has other versions
    query.var_names = query.var_names.str.replace(r"\.\d+", ".99", regex=True)
    prepared = GMVAE.prepare_query_anndata(query, model, inplace=False)
    assert list(prepared.var_names) == list(counts.var_names)
    np.testing.assert_array_equal(prepared.X.toarray(), counts.X.toarray())


def test_missing_genes_are_found_by_a_column(named):
    cells, model = named
    query = cells[:, :27].copy()
    query.var["symbol"] = pd.Categorical(query.var_names)
    query.var_names = [f"ENSG{i:05d}" for i in range(27)]
    with pytest.warns(UserWarning, match=r"lacks 3 .*'gene_29' by adata.var\['symbol'\]"):
        prepared = GMVAE.prepare_query_anndata(query, model, inplace=False)
    assert list(prepared.var["symbol"][:27]) == list(cells.var_names[:27])
    np.testing.assert_array_equal(prepared.X[:, :27].toarray(), query.X.toarray())
    assert not prepared.X[:, 27:].sum()


@pytest.mark.parametrize("missing", [np.nan, None, "Unknown", "absent"])
def test_query_labels_that_are_missing_count_as_unlabelled(reference, query, missing):
    if missing != "absent":
        query.obs["cell_type"] = query.obs["truth"].where(np.arange(query.n_obs) % 2 == 0, missing)
    mapped = GMVAE.load_query_data(query, reference)
    mapped.train(25, **TRAINING)
    found = mapped.predict(level="label")
    assert set(found) <= set(reference.classes)
    assert (found == query.obs["truth"]).mean() > 0.9


def test_a_label_that_only_the_query_has_is_told(reference, query):
    query.obs["cell_type"] = "plasmablast"
    with pytest.warns(UserWarning, match="'cell_type'.*not know .'plasmablast'.. .*unlabelled"):
        mapped = GMVAE.load_query_data(query, reference)
    assert set(mapped.predict(level="label")) <= set(reference.classes)


def test_too_few_genes_are_refused(named):
    cells, model = named
    half = cells[:, :15].copy()
    with pytest.raises(ValueError, match=r"lacks 15 of .* 30 genes \(50.0%\).*80% are needed"):
        GMVAE.prepare_query_anndata(half, model)
    assert half.n_vars == 15
    with pytest.warns(UserWarning, match="15 of the model's"):
        GMVAE.prepare_query_anndata(half, model, min_overlap=0.5)
    half.var_names = [f"ENSG{i:05d}" for i in range(half.n_vars)]
    with pytest.raises(ValueError, match="'gene_0', those of adata 'ENSG00000'"):
        GMVAE.prepare_query_anndata(half, model, min_overlap=1e-9)
    half.var_names = ["same"] * half.n_vars
    with pytest.raises(ValueError, match="names of adata repeat, e.g. 'same'"):
        GMVAE.prepare_query_anndata(half, model)


def test_names_of_the_references_genes(named, tmp_path):
    cells, model = named
    model.save(tmp_path / "model")
    for reference in (model, tmp_path / "model"):
        names = GMVAE.prepare_query_anndata(cells, reference, return_reference_var_names=True)
        assert list(names) == list(cells.var_names)


def test_views_are_prepared_as_their_own_cells(named):
    cells, model = named
    view = cells[:50, ::-1]
    GMVAE.prepare_query_anndata(view, model)
    assert not view.is_view and list(cells.var_names) == list(view.var_names)
    assert cells.n_obs == 200
    np.testing.assert_array_equal(model.predict(view), model.predict(indices=range(50)))


def test_conditions_are_the_references(toy, fit):
    """A frozen conditional model, too, keeps every weight but those of new batches."""
    toy.obs["batch"] = np.where(np.arange(toy.n_obs) % 2, "one", "two")
    setup = SETUP | {"condition_key": "condition"}
    reference = fit(CGMVAE, toy, setup=setup, epochs=2, inject_covariates=True)
    query = toy[::3].copy()
    query.obs["batch"] = "new"
    mapped = CGMVAE.load_query_data(query, reference)
    mapped.train(2, **TRAINING)
    expected = reference.counterfactual(toy, to="condition 1").X
    np.testing.assert_allclose(mapped.counterfactual(toy, to="condition 1").X, expected, atol=1e-5)
