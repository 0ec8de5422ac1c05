from __future__ import annotations

import numpy as np
import pytest

from mixvi import datasets


@pytest.fixture(scope="module")
def small():
    if datasets.find(datasets.OMNIGLOT) is None:
        pytest.skip("omniglot_small.npz is not on this machine")
    return datasets.omniglot()


def test_twenty_drawings_of_each_character(small):
    assert small.shape == (4840, 784) and small.obsm["image"].shape == (4840, 1, 28, 28)
    assert (small.obs["character"].value_counts() == 20).all()
    assert small.obs["character"].nunique() == 242
    of_alphabet = small.obs["character"].str.split("/").str[0]
    assert (of_alphabet == small.obs["alphabet"].astype(str)).all()
    assert small.X.min() == 0 and small.X.max() == 1
    # ink is light, and there is little of it
    assert 0.02 < small.X.mean() < 0.2


def test_small_images_are_the_large_ones_shrunk(small):
    large = datasets.omniglot(105)
    assert large.obsm["image"].shape == (4840, 1, 105, 105)
    assert set(np.unique(large.X)) == {0, 1}
    assert large.obs.equals(small.obs)
    assert large.X.mean() == pytest.approx(small.X.mean(), rel=0.02)
    ink = [np.corrcoef(x.X.mean(1), small.X.mean(1))[0, 1] for x in (large, small)]
    assert ink[0] > 0.99
    prepared = datasets.prepare_images(large[:5], 32)
    assert prepared.obsm["image"].shape == (5, 1, 32, 32)


def test_one_shot_tasks_have_a_drawing_of_each_character():
    if datasets.find(datasets.OMNIGLOT_ONE_SHOT) is None:
        pytest.skip("omniglot_oneshot_runs.npz is not on this machine")
    runs = datasets.omniglot_one_shot()
    assert runs.shape == (800, 105**2)
    table = runs.obs.groupby(["run", "split"], observed=True)["item"].nunique()
    assert (table == 20).all() and len(table) == 40
    # Lake's baseline, the modified Hausdorff distance, errs in 38.8 %; pixels in more, chance in 95
    blurred = datasets.prepare_images(runs, 20).X
    hits = []
    for run in range(20):
        of_run = (runs.obs["run"] == run).to_numpy()
        train = of_run & (runs.obs["split"] == "train").to_numpy()
        test = of_run & ~train
        distance = ((blurred[test][:, None] - blurred[train]) ** 2).sum(-1)
        found = runs.obs["item"].to_numpy()[train][distance.argmin(1)]
        hits.append((found == runs.obs["item"].to_numpy()[test]).mean())
    assert 0.15 < np.mean(hits) < 0.6


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="size must be 28 or 105, but is 32"):
        datasets.omniglot(32)
