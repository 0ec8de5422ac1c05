"""Predicted and real cells are compared on one scale, or not at all."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import mixvi
from mixvi import metrics
from mixvi.core.model.counterfactual import predicted_adata

PAIRS = {
    "r2": metrics.mean_expression_r2,
    "energy": metrics.energy_distance,
    "mmd": metrics.mmd,
    "variance": lambda *sides, **options: metrics.variance_ratio(*sides, **options).mean(),
}


def cells(seed):
    x = np.random.default_rng(seed).negative_binomial(2, 0.2, (40, 12)).astype(np.float32)
    x[:, 0] += 60
    return x


@pytest.fixture
def real():
    """Log-normalised in X, counts in a layer."""
    adata = AnnData(cells(0), layers={"counts": cells(0)})
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def predicted(layer, scale, x=None):
    x = cells(1) if x is None else x
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(len(x))])
    var = pd.DataFrame(index=[str(i) for i in range(x.shape[1])])
    return predicted_adata(x, obs, var, source="GMVAE", layer=layer, scale=scale)


@pytest.mark.parametrize("metric", PAIRS.values(), ids=PAIRS)
def test_the_layer_that_was_predicted_is_compared(real, metric):
    ours = predicted("counts", "count")
    expected = metric(cells(1), cells(0))
    assert metric(ours, real) == pytest.approx(expected)
    assert metric(real, ours) == pytest.approx(metric(cells(0), cells(1)))
    assert metric(ours[:30], real, layer="counts") == pytest.approx(metric(cells(1)[:30], cells(0)))


def test_markers_tables_and_neighbours_read_it_too(real):
    ours = predicted("counts", "count")
    found = metrics.marker_overlap(ours, real, real[:, :].copy(), n_genes=3, layer="counts")
    assert found == metrics.marker_overlap(ours, real, real, n_genes=3)
    groups = ["a"] * 40
    table = metrics.mean_expression_table(ours, real, groups, groups)
    assert table.loc["all", "r2"] == metrics.mean_expression_r2(cells(1), cells(0))
    labels = list("ab") * 20
    expected = metrics.knn_agreement(cells(1), cells(0), labels, labels)
    assert metrics.knn_agreement(ours, real, labels, labels) == expected
    means = metrics.class_mean_baseline(real, groups, groups, "a", layer="counts")
    np.testing.assert_allclose(means["a"], cells(0).mean(axis=0))
    real.obs["kind"] = labels
    assert metrics.top_de_genes(real, "kind", "a", "b", 3, layer="counts")


@pytest.mark.parametrize("metric", PAIRS.values(), ids=PAIRS)
def test_a_side_without_the_layer_is_refused(real, metric):
    del real.layers["counts"]
    with pytest.raises(ValueError, match=r"real has no such layer"):
        metric(predicted("counts", "count"), real)
    with pytest.raises(KeyError, match="layer='counts' is not in adata.layers"):
        metric(predicted("counts", "count"), real, layer="counts")


def test_another_scale_is_refused(real):
    # a model that reads X, where the counts were then
    with pytest.raises(ValueError, match="count values.* real has fractional values in X"):
        metrics.energy_distance(predicted(None, "count"), real)
    with pytest.raises(ValueError, match="has count values"):
        metrics.energy_distance(predicted("counts", "count"), real, layer=None)
    counts = AnnData(cells(0))
    with pytest.raises(ValueError, match="has non-negative values.* real has count values"):
        metrics.energy_distance(predicted(None, "non-negative"), counts)
    sc.pp.scale(real)
    with pytest.raises(ValueError, match="real has negative values"):
        metrics.energy_distance(predicted(None, "non-negative"), real)
    with pytest.raises(ValueError, match="has real values, .* real has count values"):
        metrics.knn_agreement(predicted(None, "real"), predicted(None, "count"), [1] * 40, [1] * 40)


def test_models_of_different_matrices_are_not_compared():
    with pytest.raises(ValueError, match=r"predicted lies in X, real lies in layers\['counts'\]"):
        metrics.mean_expression_r2(predicted(None, "count"), predicted("counts", "count"))


def test_predictions_that_were_normalised_since_need_a_word(real):
    ours = predicted("counts", "count")
    sc.pp.normalize_total(ours, target_sum=1e4)
    with pytest.raises(ValueError, match=r"predicted\.X was changed"):
        metrics.mean_expression_r2(ours, real)
    counts = metrics.mean_expression_r2(cells(1), cells(0))
    assert metrics.mean_expression_r2(ours, real, layer="counts") == counts
    sc.pp.log1p(ours)
    logs = metrics.mean_expression_r2(ours.X, real.X)
    assert metrics.mean_expression_r2(ours, real, layer=None) == logs != counts
    # a model that reads X has no other copy; scanpy leaves a word
    alone = predicted(None, "count")
    sc.pp.normalize_total(alone, target_sum=1e4)
    sc.pp.log1p(alone)
    assert metrics.mean_expression_r2(alone, real) == pytest.approx(logs)


def test_matrices_are_taken_as_they_are(real):
    ours = predicted("counts", "count")
    assert metrics.mean_expression_r2(ours.X, real.X) != metrics.mean_expression_r2(ours, real)
    mean = real.layers["counts"].mean(axis=0, keepdims=True)
    expected = pytest.approx(metrics.mean_expression_r2(ours, real))
    assert metrics.mean_expression_r2(ours, mean) == expected


def test_a_third_side_of_another_scale_is_refused(real):
    """Two sides that say nothing of their scale, beside one that does."""
    ours, bare = predicted(None, "count"), AnnData(cells(0))
    for compare in (metrics.change_pearson, metrics.change_cosine, metrics.change_norm_ratio):
        assert np.isfinite(compare(ours, bare, AnnData(cells(2))))
        with pytest.raises(ValueError, match="reference has fractional values in X"):
            compare(ours, bare, AnnData(real.X))
    with pytest.raises(ValueError, match="treated has fractional values in X"):
        metrics.responding_genes(bare, AnnData(real.X), ours)


def test_predictions_on_disk_are_read(real, tmp_path):
    ours = predicted("counts", "count")
    ours.write_h5ad(tmp_path / "ours.h5ad")
    stored = mixvi.read_backed(tmp_path / "ours.h5ad")
    expected = metrics.mean_expression_r2(ours, real)
    assert metrics.mean_expression_r2(stored, real) == pytest.approx(expected)
    sparse_x = AnnData(sparse.csr_matrix(cells(0)))
    sparse_x.write_h5ad(tmp_path / "sparse.h5ad")
    found = metrics.change_rmse(mixvi.read_backed(tmp_path / "sparse.h5ad"), cells(1))
    assert found == pytest.approx(metrics.change_rmse(cells(0), cells(1)))
