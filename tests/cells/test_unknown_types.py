"""Cells of no known type: their score, ``predict(reject=...)`` and sets of labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CPU
from sklearn.metrics import roc_auc_score

from mixvi import CGMVAE, GMVAE
from mixvi.cells.novelty import LabelDistance

SETUP = {"labels_key": "known"}


@pytest.fixture
def partly(toy):
    """Blobs of which a third are unlabelled, and all cells of type 4."""
    types = toy.obs["cell_type"].astype(str)
    hidden = (types == "type 4") | (np.arange(toy.n_obs) % 3 == 0)
    toy.obs["known"] = types.where(~hidden, "Unknown")
    toy.obs["novel"] = types == "type 4"
    return toy


@pytest.mark.parametrize("sees_them", [True, False])
def test_cells_of_no_label_are_rejected(partly, fit, tmp_path, sees_them):
    rows = np.flatnonzero(~partly.obs["novel"] | sees_them)
    model = fit(GMVAE, partly, 20, SETUP, {"indices": rows}, n_components=5)
    score = model.get_novelty_score()
    assert list(score.index) == list(partly.obs_names)
    assert roc_auc_score(partly.obs["novel"], score) > 0.95
    found = model.predict(reject=0.1)
    assert found.name == "label"
    rejected = found == "Unknown"
    assert rejected[partly.obs["novel"]].mean() > 0.8
    assert rejected[~partly.obs["novel"]].mean() < 0.2
    kept = model.predict(level="label")[~rejected]
    assert found[~rejected].equals(kept)
    model.annotate(partly, reject=0.1)
    assert (partly.obs["gmvae_novelty"] == score).all()
    assert list(partly.obs["gmvae_prediction"].astype(str)) == list(found)
    model.save(tmp_path / "model")
    again = GMVAE.load(tmp_path / "model", partly)
    assert again.get_novelty_score().equals(score)
    assert again.predict(reject=0.1).equals(found)


@pytest.mark.parametrize("key", ["condition_key", "batch_key"])
def test_a_group_that_is_rejected_as_a_whole_is_warned_of(partly, fit, key):
    """Labels in one group alone, and all genes of the other changed alike."""
    partly.obs["group"] = np.where(np.arange(partly.n_obs) % 2, "treated", "plain")
    treated = (partly.obs["group"] == "treated").to_numpy()
    partly.obs["known"] = partly.obs["cell_type"].astype(str).where(~treated, "Unknown")
    partly.X[treated] += 4.0
    cls = CGMVAE if key == "condition_key" else GMVAE
    model = fit(cls, partly, 5, SETUP | {key: "group"}, n_components=5)
    with pytest.warns(UserWarning, match="of 250 cells of group 'treated' 'Unknown'.*Label some"):
        found = model.predict(reject=0.1)
    assert (found[treated] == "Unknown").mean() > 0.9
    with pytest.warns(UserWarning, match="of 250 cells of group 'treated'"):
        model.predict(partly[treated].copy(), reject=0.1)
    model.predict(partly[~treated].copy(), reject=0.1)


@pytest.mark.filterwarnings("ignore:.*fewer than 5")
def test_a_batch_is_not_blamed_for_its_conditions(partly, fit):
    """Of two condition columns; batches are dealt out by chance."""
    n = np.arange(partly.n_obs)
    partly.obs["group"] = np.where(n % 2, "treated", "plain")
    partly.obs["hour"] = np.where(n // 2 % 2, "1", "2")
    partly.obs["batch"] = np.random.default_rng(0).choice(["a", "b"], partly.n_obs)
    treated = (partly.obs["group"] == "treated").to_numpy()
    partly.obs["known"] = partly.obs["cell_type"].astype(str).where(~treated, "Unknown")
    partly.X[treated] += 4.0
    setup = SETUP | {"condition_key": ["group", "hour"], "batch_key": "batch"}
    model = fit(CGMVAE, partly, 5, setup, n_components=5)
    with pytest.warns(UserWarning) as record:
        found = model.predict(reject=0.1)
    assert (found[treated] == "Unknown").mean() > 0.9
    (warning,) = (str(each.message) for each in record)
    assert "cells of group and hour 'treated +" in warning


def test_counts_are_brought_to_one_library_size(counts, fit):
    setup = {"labels_key": "kind", "layer": "counts"}
    model = fit(CGMVAE, counts, 2, setup | {"condition_key": "condition"}, likelihood="nb")
    score = model.get_novelty_score()
    deeper = counts.copy()
    deeper.layers["counts"] = counts.layers["counts"] * 3
    np.testing.assert_allclose(model.get_novelty_score(deeper), score, rtol=1e-3)
    turned = counts.copy()
    turned.layers["counts"] = counts.layers["counts"][:, ::-1]
    assert (
        roc_auc_score(np.repeat([0, 1], 200), np.r_[score, model.get_novelty_score(turned)]) > 0.7
    )


@pytest.mark.parametrize("coverage", [0.6, 0.8])
def test_sets_hold_the_true_label_as_often_as_stated(toy, fit, coverage):
    """A third of the labels are wrong and as good as the right ones: they are to be covered."""
    rng = np.random.default_rng(0)
    types = toy.obs["cell_type"].astype(str).to_numpy()
    truth = np.where(rng.random(toy.n_obs) < 0.5, rng.permutation(types), types)
    unseen = np.arange(toy.n_obs) % 2 == 0
    toy.obs["known"] = np.where(unseen, "Unknown", truth)
    model = fit(GMVAE, toy, 20, SETUP, n_components=5)
    model.calibrate(indices=np.flatnonzero(~unseen)[::3])
    sets = model.predict_sets(indices=unseen, coverage=coverage)
    columns = sets.columns.get_indexer(truth[unseen])
    covered = sets.to_numpy()[np.arange(len(sets)), columns].mean()
    assert coverage - 0.07 < covered
    assert (sets.sum(axis=1) >= 1).all()
    smallest = model.predict(indices=unseen, level="label", soft=True).max(axis=1).mean()
    assert smallest < 0.8


def test_without_labels_there_is_nothing_to_be_far_from(partly, fit):
    model = fit(GMVAE, partly, 1, n_components=5)
    with pytest.raises(ValueError, match="no labels to be far from.*Train it with labels"):
        model.get_novelty_score()
    model.assign_components("cell_type")
    with pytest.raises(ValueError, match="reject=0.05 needs at least 19 .* there are 0"):
        model.predict(reject=0.05)
    with pytest.raises(ValueError, match="coverage=0.9 needs at least 9 .* there are 0"):
        model.predict_sets()


def test_messages(partly, fit):
    model = fit(GMVAE, partly, 1, SETUP, n_components=5)
    for reject in (0, 1, -0.1, 5, True, "0.05"):
        with pytest.raises(ValueError, match="reject must lie between 0 and 1, but is"):
            model.predict(reject=reject)
    for options in ({"soft": True}, {"level": "component"}):
        with pytest.raises(ValueError, match="level='label' and soft=False"):
            model.predict(reject=0.1, **options)
    with pytest.raises(ValueError, match="coverage must lie between 0 and 1, but is 90"):
        model.predict_sets(coverage=90)
    with pytest.raises(ValueError, match=r"reject=0.01 needs at least 99 .* there are \d+\."):
        model.predict(reject=0.01)
    model.train(1, mode="unsupervised", **CPU)
    with pytest.raises(ValueError, match="no labels yet"):
        model.predict(reject=0.1)


def _lack(codes: np.ndarray, x: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """What the labels around cells add to the scores of the cells themselves."""
    groups = torch.as_tensor(np.stack([batch, 0 * batch], axis=1))
    x = torch.as_tensor(x)
    rows = SimpleNamespace(dense_x=x, batch=groups[:, 0], condition=groups[:, 1])
    distance = LabelDistance(x.shape[1], int(codes.max()) + 1, 2, 0, is_count=False)
    distance.fit(x, torch.as_tensor(codes), groups)
    score = distance(rows)
    distance.is_labelled[: len(x)] = True
    for name in ("usual_lack", "usual_lack_of_group", "usual_lack_of_label"):
        getattr(distance, name).zero_()
    return (score - distance(rows)).numpy()


def test_who_has_no_label_around_is_novel():
    rng = np.random.default_rng(0)
    kind, batch = np.repeat([0, 1, 2], 200), np.zeros(600, dtype=int)
    x = (rng.normal(size=(600, 20)) + 8 * np.eye(20)[kind]).astype(np.float32)
    known = kind < 2
    codes = np.where(known & (rng.random(600) < 0.5), kind, -1)
    score = _lack(codes, x, batch)
    assert np.median(score[~known]) > 1.5
    assert score[known].mean() < 0.2
    # three labels in all: to have none near tells nothing
    few = np.full(600, -1)
    few[[0, 1, 200]] = kind[[0, 1, 200]]
    assert _lack(few, x, batch).max() < 0.2


def test_a_batch_without_labels_is_not_novel():
    rng = np.random.default_rng(0)
    kind, batch = np.repeat([0, 1, 2], 200), np.tile([0, 1], 300)
    x = (rng.normal(size=(600, 20)) + 8 * np.eye(20)[kind]).astype(np.float32)
    # batches differ, and nobody has labelled the second
    x[:, 5:15] += 5 * batch[:, None]
    score = _lack(np.where(batch == 0, kind, -1), x, batch)
    assert np.median(score) == 0
    assert score.max() < 1


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_type_with_few_labels_is_not_novel(share):
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], [400, 600, 200])
    x = (rng.normal(size=(1200, 20)) + 8 * np.eye(20)[kind]).astype(np.float32)
    shown = rng.random(1200) < np.where(kind == 1, share, 0.9)
    codes = np.where(shown & (kind < 2), kind, -1)
    score = _lack(codes, x, np.zeros(1200, dtype=int))
    assert np.quantile(score[kind < 2], 0.95) < 0.5
    assert roc_auc_score(kind == 2, score) > 0.95


def test_scores_do_not_depend_on_where_the_origin_is(partly, fit):
    partly.X = partly.X + 1000
    model = fit(GMVAE, partly, 1, SETUP, n_components=5)
    score = model.get_novelty_score()
    np.testing.assert_allclose(model.get_novelty_score(batch_size=1), score, atol=2e-3)


@pytest.mark.parametrize("n_each", [20, 60])
def test_as_many_labels_of_each_type_are_as_good_as_a_share(n_each):
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2, 3], [1500, 300, 300, 300])
    x = (rng.normal(size=(2400, 20)) + 8 * np.eye(20)[kind]).astype(np.float32)
    codes = np.full(2400, -1)
    for k in range(3):
        codes[rng.permutation(np.flatnonzero(kind == k))[:n_each]] = k
    score = _lack(codes, x, np.zeros(2400, dtype=int))
    # of the common type hardly more than of others
    assert all(np.mean(score[kind == k] > 0.5) < 0.1 for k in range(3))
