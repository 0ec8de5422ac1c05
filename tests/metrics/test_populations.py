from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats
from scipy.spatial.distance import cdist, pdist
from sklearn.decomposition import PCA

from mixvi import metrics


def draws(seed, n=300, n_genes=5, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (n, n_genes))


def unbiased_mmd(x, y, widths):
    """Gretton et al. (2012), equation 3, pair by pair."""

    def kernel(a, b):
        return np.mean([np.exp(-((a - b) ** 2).sum() / (2 * w * w)) for w in widths])

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    between = sum(kernel(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


def test_energy_distance_by_brute_force():
    x, y = draws(0, 12), draws(1, 17, shift=0.5)
    # pdist holds each pair of different cells once
    expected = 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()
    assert metrics.energy_distance(x, y) == pytest.approx(expected)
    assert metrics.energy_distance(AnnData(x), sparse.csr_matrix(y)) == pytest.approx(expected)


def test_energy_distance_on_a_line_is_scipys():
    x, y = draws(0, 40, 1), draws(1, 30, 1, shift=1)
    # scipy's keeps the zeros of a cell with itself, and has a root over it
    with_zeros = stats.energy_distance(x.ravel(), y.ravel()) ** 2
    zeros = pdist(x).mean() / 40 + pdist(y).mean() / 30
    assert metrics.energy_distance(x, y) == pytest.approx(with_zeros - zeros)


def test_mmd_by_hand():
    x, y = draws(0, 7), draws(1, 9, shift=1)
    assert metrics.mmd(x, y, 1.5) == pytest.approx(unbiased_mmd(x, y, [1.5]))
    several = metrics.mmd(AnnData(x), sparse.csr_matrix(y), [1, 2.5])
    assert several == pytest.approx(unbiased_mmd(x, y, [1, 2.5]))
    median = np.median(pdist(np.vstack([x, y])))
    heuristic = unbiased_mmd(x, y, [median / 2, median, 2 * median])
    assert metrics.mmd(x, y) == pytest.approx(heuristic)


@pytest.mark.parametrize("distance", [metrics.energy_distance, metrics.mmd])
def test_distances_tell_equal_from_shifted(distance):
    equal = [distance(draws(i, 60), draws(i + 100, 60)) for i in range(40)]
    # without bias, so both signs occur and zero lies within three standard errors
    assert min(equal) < 0 < max(equal)
    assert abs(np.mean(equal)) < 3 * np.std(equal) / np.sqrt(len(equal))
    near, far = (distance(draws(0), draws(1, shift=s)) for s in (0.3, 1))
    assert max(equal) < far
    assert 0 < near < far


@pytest.mark.parametrize("distance", [metrics.energy_distance, metrics.mmd])
def test_subsets_are_random_and_repeat(distance):
    x, y = draws(0, 500), draws(1, 500, shift=1)
    # the order of cells must not decide which are seen
    y = y[np.argsort(y[:, 0])]
    seeds = [distance(x, y, n_cells=100, seed=s) for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[0] == pytest.approx(distance(x, y), rel=0.3)
    assert distance(x, y, n_cells=500) == distance(x, y, n_cells=501, seed=1)


@pytest.mark.parametrize("distance", [metrics.energy_distance, metrics.mmd])
def test_distances_bad_input(distance):
    x = draws(0, 6)
    with pytest.raises(ValueError, match="predicted has 4 genes, real has 5"):
        distance(x[:, :4], x)
    with pytest.raises(ValueError, match="another order"):
        distance(AnnData(x), AnnData(x)[:, ::-1])
    with pytest.raises(ValueError, match="real needs two cells"):
        distance(x, x[:1])
    with pytest.raises(ValueError, match="n_cells two or more"):
        distance(x, x, n_cells=1)
    with pytest.raises(ValueError, match="n_cells must be a positive"):
        distance(x, x, n_cells=0)
    with pytest.raises(ValueError, match="predicted has NaN or infinite values in 2 cells"):
        distance(np.where(np.arange(6)[:, None] < 2, np.nan, x), x)


def test_mmd_bad_bandwidths():
    x = draws(0, 6)
    for bandwidths in (0, [1, -1], [], [[1.0]], np.nan):
        with pytest.raises(ValueError, match="bandwidths must be positive numbers"):
            metrics.mmd(x, x, bandwidths)
    with pytest.raises(ValueError, match="median distance is zero"):
        metrics.mmd(np.ones((4, 2)), np.ones((4, 2)))
    assert metrics.mmd(np.ones((4, 2)), np.ones((4, 2)), 1) == pytest.approx(0)


def planted(seed, raised, lowered=(), n=80):
    """Cells by 30 genes; gene g of ``raised`` lies (its place from the end) / 2 higher."""
    x = np.random.default_rng(seed).normal(5, 1, (n, 30))
    for place, gene in enumerate(raised):
        x[:, gene] += 0.5 * (len(raised) - place)
    x[:, list(lowered)] -= 3
    return AnnData(x, var=pd.DataFrame(index=[f"g{i}" for i in range(30)]))


def test_marker_overlap_finds_planted_markers():
    control = planted(0, [])
    real = planted(1, [3, 7, 1, 9], lowered=[20])
    predicted = planted(2, [7, 3, 11, 12], lowered=[21])
    found = metrics.marker_overlap(predicted, real, control, n_genes=4, method="t-test")
    assert set(found.real) == {"g3", "g7", "g1", "g9"}
    assert set(found.predicted) == {"g7", "g3", "g11", "g12"}
    assert found.real[0] == "g3" and found.predicted[0] == "g7"
    assert found.shared == ["g3", "g7"] and found.n_shared == 2
    same = metrics.marker_overlap(real, real, control, n_genes=4)
    assert same.n_shared == 4 and set(same.real) == set(found.real)


def test_marker_overlap_keeps_raised_genes_only():
    control = planted(0, [])
    shifted = control.copy()
    shifted.X[:, [2, 5]] += 1
    shifted.X[:, 8] -= 1
    found = metrics.marker_overlap(control, shifted, control, n_genes=10)
    assert set(found.real) == {"g2", "g5"}
    assert found.predicted == [] and found.n_shared == 0


def test_marker_overlap_of_matrices_names_columns():
    control, real = planted(0, []), planted(1, [4])
    plain = metrics.marker_overlap(sparse.csr_matrix(real.X), real.X, control.X, n_genes=1)
    assert plain.real == plain.predicted == ["4"]
    mixed = metrics.marker_overlap(real.X, real.X, control, n_genes=1)
    assert mixed.real == ["g4"]


def test_negative_predictions_give_no_warning(recwarn):
    control, real = planted(0, []), planted(1, [4])
    control.X -= 5
    real.X -= 5
    assert metrics.marker_overlap(real, real, control, n_genes=1).shared == ["g4"]
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_marker_overlap_bad_input():
    cells = planted(0, [1])
    with pytest.raises(ValueError, match="predicted has 29 genes, real has 30"):
        metrics.marker_overlap(cells.X[:, 1:], cells, cells)
    with pytest.raises(ValueError, match="real and control name their genes differently"):
        metrics.marker_overlap(cells, cells, cells[:, ::-1])
    with pytest.raises(ValueError, match="method='wilcox' is not known.*'wilcoxon'"):
        metrics.marker_overlap(cells, cells, cells, method="wilcox")
    with pytest.raises(ValueError, match="n_genes=31, but there are 30 genes"):
        metrics.marker_overlap(cells, cells, cells, n_genes=31)
    with pytest.raises(ValueError, match="n_genes must be a positive"):
        metrics.marker_overlap(cells, cells, cells, n_genes=0)
    with pytest.raises(ValueError, match="predicted needs two cells"):
        metrics.marker_overlap(cells[:1], cells, cells)


@pytest.fixture
def treated():
    """80 controls, 80 stimulated with genes 3, 7, 1 raised and 20 lowered, 80 of a third kind."""
    parts = [planted(0, []), planted(1, [3, 7, 1], lowered=[20]), planted(2, [25, 26, 27])]
    adata = AnnData(sparse.csr_matrix(np.vstack([p.X for p in parts])), var=parts[0].var)
    adata.obs["condition"] = pd.Categorical(np.repeat(["ctrl", "stim", "other"], 80))
    return adata


def test_top_de_genes_rank_as_the_rank_sum_test(treated):
    before = treated.copy()
    genes = metrics.top_de_genes(treated, "condition", "stim", "ctrl", n_genes=30)
    x = treated.X.toarray()
    kind = treated.obs["condition"].to_numpy()
    z = stats.ranksums(x[kind == "stim"], x[kind == "ctrl"]).statistic
    # by score, since two genes may tie
    np.testing.assert_allclose(z[treated.var_names.get_indexer(genes)], -np.sort(-z))
    assert set(genes[:3]) == {"g3", "g7", "g1"} and genes[-1] == "g20"
    assert metrics.top_de_genes(treated, "condition", "stim", "ctrl", n_genes=2) == genes[:2]
    assert not treated.uns and list(treated.obs) == ["condition"]
    np.testing.assert_array_equal(treated.X.toarray(), before.X.toarray())


def test_top_de_genes_does_not_look_at_raw(treated):
    raw = treated.copy()
    raw.X = np.random.default_rng(0).random(raw.shape)
    treated.raw = raw
    assert metrics.top_de_genes(treated, "condition", "stim", "ctrl", 1) == ["g3"]


def test_top_de_genes_of_entries_that_repeat(treated):
    x = treated.X.tocsr()
    expected = metrics.top_de_genes(treated, "condition", "stim", "ctrl", 30, "t-test")
    parts = np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), 2 * x.indptr
    treated.X = sparse.csr_matrix(parts, x.shape)
    assert metrics.top_de_genes(treated, "condition", "stim", "ctrl", 30, "t-test") == expected


def test_top_de_genes_of_missing_values(treated):
    treated.X = treated.X.astype(float)
    treated.X.data[0] = np.nan
    with pytest.raises(ValueError, match="'(stim|ctrl)' has NaN or infinite values"):
        metrics.top_de_genes(treated, "condition", "stim", "ctrl", 3)


def test_top_de_genes_bad_input(treated):
    with pytest.raises(KeyError, match="condition_key='conditions'.*'condition'"):
        metrics.top_de_genes(treated, "conditions", "stim", "ctrl")
    with pytest.raises(ValueError, match="target='stimm'.*'stim'"):
        metrics.top_de_genes(treated, "condition", "stimm", "ctrl")
    with pytest.raises(ValueError, match="reference='control'"):
        metrics.top_de_genes(treated, "condition", "stim", "control")
    with pytest.raises(ValueError, match="compare two conditions"):
        metrics.top_de_genes(treated, "condition", "stim", "stim")
    with pytest.raises(ValueError, match="n_genes=100, but there are 30"):
        metrics.top_de_genes(treated, "condition", "stim", "ctrl")
    with pytest.raises(ValueError, match="target='stim' needs two cells"):
        metrics.top_de_genes(treated[79:81], "condition", "stim", "ctrl", 3)


def test_knn_agreement_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    labels = list("aabbbb")
    # nearest three: a a b, a a b, b b b, b b b
    generated = np.array([[0.9], [0.2], [9.0], [13.0]])
    assert metrics.knn_agreement(generated, real, list("aabb"), labels, n_neighbors=3) == 1
    assert metrics.knn_agreement(generated, real, list("abba"), labels, n_neighbors=3) == 0.5
    sides = AnnData(generated), sparse.csr_matrix(real)
    assert metrics.knn_agreement(*sides, list("bbbb"), labels, n_neighbors=3) == 0.5
    # as text: obs may hold components as text and models give numbers
    assert metrics.knn_agreement(real, real, [0, 0, 1, 1, 1, 1], list("001111"), 1) == 1


def test_knn_agreement_on_components_of_the_real_cells():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[rng.integers(0, 3, 90)]
    real = rng.normal(0, 1, (90, 40)) + 0.5 * (labels == "a")[:, None]
    generated = rng.normal(0, 1, (30, 40))
    own = np.array(["a", "b", "c"])[rng.integers(0, 3, 30)]
    pca = PCA(4, svd_solver="full").fit(real)
    near = cdist(pca.transform(generated), pca.transform(real)).argsort(axis=1)[:, :7]
    # np.unique sorts, so argmax gives ties to the label that sorts first
    votes = []
    for row in near:
        names, counts = np.unique(labels[row], return_counts=True)
        votes.append(names[counts.argmax()])
    expected = (np.array(votes) == own).mean()
    threads = torch.get_num_threads()
    assert metrics.knn_agreement(generated, real, own, labels, 7, n_pcs=4) == pytest.approx(
        expected
    )
    assert torch.get_num_threads() == threads


def test_ranking_leaves_torch_its_threads():
    cells = planted(0, [1])
    threads = torch.get_num_threads()
    metrics.marker_overlap(cells, cells, planted(1, []), n_genes=2)
    assert torch.get_num_threads() == threads


def test_knn_agreement_bad_input():
    x = draws(0, 20)
    labels = ["a"] * 20
    with pytest.raises(ValueError, match="generated has 4 genes, real has 5"):
        metrics.knn_agreement(x[:, :4], x, labels, labels)
    with pytest.raises(ValueError, match="generated_labels must have one entry a cell"):
        metrics.knn_agreement(x, x, labels[1:], labels)
    with pytest.raises(ValueError, match="real_labels has missing"):
        metrics.knn_agreement(x, x, labels, [None, *labels[1:]])
    with pytest.raises(ValueError, match="n_neighbors=21, but there are 20 real cells"):
        metrics.knn_agreement(x, x, labels, labels, 21)
    with pytest.raises(ValueError, match="n_pcs must be a positive"):
        metrics.knn_agreement(x, x, labels, labels, n_pcs=0)
    with pytest.raises(ValueError, match="real has NaN"):
        metrics.knn_agreement(x, np.full_like(x, np.nan), labels, labels)
