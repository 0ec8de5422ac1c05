from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mixvi import datasets, metrics


def shapes(n=240, seed=0):
    """Bars that stand, lie or lean, on noise, and their names."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.1, (n, 1, 16, 16))
    kind = np.arange(n) % 3
    for image, k, place in zip(x[:, 0], kind, rng.integers(2, 12, n), strict=True):
        bar = (np.eye(16), slice(None), place)[k]
        if k == 0:
            image += bar
        elif k == 1:
            image[place] += 1
        else:
            image[:, place] += 1
    return (2 * x.clip(0, 1) - 1).astype(np.float32), np.array(["leans", "lies", "stands"])[kind]


QUICK = {"width": 8, "max_epochs": 8, "batch_size": 16, "lr": 5e-3, "device": "cpu"}


@pytest.fixture(scope="module")
def classifier():
    torch.set_num_threads(1)
    return metrics.train_image_classifier(*shapes(), **QUICK)


def test_it_learns_and_says_how_well(classifier):
    assert classifier.held_out_accuracy == 1
    assert classifier.settings["n_train"] == 216 and classifier.settings["n_held_out"] == 24
    assert not classifier.training
    x, labels = shapes(seed=1)
    assert (classifier.predict(x) == labels).mean() > 0.95
    probabilities = classifier.predict(x, soft=True, batch_size=100)
    assert probabilities.shape == (240, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    in_unit = classifier.predict((x + 1) / 2, soft=True, pixel_range=(0, 1))
    np.testing.assert_allclose(in_unit, probabilities, atol=1e-4)
    assert classifier.features(torch.tensor(x[:5])).shape == (5, classifier.n_features)


def test_scores_by_it_rank_images(classifier):
    x, _ = shapes(seed=1)
    rng = np.random.default_rng(0)
    worse = (x + rng.normal(0, 0.3, x.shape)).clip(-1, 1)
    noise = rng.uniform(-1, 1, x.shape).astype(np.float32)
    distances = [metrics.fid(shapes(seed=2)[0], y, classifier) for y in (x, worse, noise)]
    assert distances == sorted(distances) and distances[0] * 5 < distances[1]
    good = metrics.inception_score(x, classifier, 2).mean
    assert 2.5 < good <= 3
    assert metrics.inception_score(x[::3], classifier, 2).mean < 1.1


def test_the_thesis_size_by_hand():
    network = metrics.ImageClassifier((1, 32, 32), range(10), width=128)
    assert network.n_features == 4 * 128
    # the encoder of table 6.2 (1,389,588 with two heads of 10) with one head
    assert sum(p.numel() for p in network.parameters()) == 1_389_588 - 10 * 512 - 10


def test_the_same_seed_gives_the_same_weights(classifier):
    state = torch.random.get_rng_state()
    again = metrics.train_image_classifier(*shapes(), **QUICK)
    assert again.sha256 == classifier.sha256
    assert torch.equal(state, torch.random.get_rng_state())
    other = metrics.train_image_classifier(*shapes(), **(QUICK | {"max_epochs": 1, "seed": 1}))
    assert other.sha256 != classifier.sha256


def test_it_is_saved_with_its_hash(classifier, tmp_path):
    classifier.save(tmp_path / "digits")
    loaded = metrics.ImageClassifier.load(tmp_path / "digits")
    assert loaded.sha256 == classifier.sha256
    assert loaded.classes == classifier.classes == ["leans", "lies", "stands"]
    assert loaded.held_out_accuracy == classifier.held_out_accuracy
    assert loaded.settings == classifier.settings
    x = shapes()[0]
    np.testing.assert_array_equal(loaded.predict(x, soft=True), classifier.predict(x, soft=True))
    record = json.loads((tmp_path / "digits" / "mixvi.json").read_text())
    assert record["sha256"] == classifier.sha256
    with pytest.raises(FileExistsError):
        classifier.save(tmp_path / "digits")
    record["sha256"] = "0" * 64
    (tmp_path / "digits" / "mixvi.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="use an unchanged copy"):
        metrics.ImageClassifier.load(tmp_path / "digits")
    (tmp_path / "digits" / "weights.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="SHA-256"):
        metrics.ImageClassifier.load(tmp_path / "digits")


def test_labels_and_bytes_of_other_kinds():
    x, labels = shapes(60)
    as_bytes = np.round((x + 1) * 127.5).astype(np.uint8)
    numbers = np.unique(labels, return_inverse=True)[1]
    quick = QUICK | {"max_epochs": 1}
    given = metrics.train_image_classifier(
        as_bytes, numbers, held_out=(x[:7], numbers[:7]), **quick
    )
    assert given.classes == [0, 1, 2]
    assert given.settings["n_train"] == 60 and given.settings["n_held_out"] == 7
    assert given.predict(as_bytes).dtype.kind == "i"


def test_classifier_bad_input(classifier):
    x, labels = shapes(30)
    train = metrics.train_image_classifier
    with pytest.raises(ValueError, match="multiples of 16"):
        train(x[:, :, :15], labels)
    with pytest.raises(ValueError, match="labels must have one entry"):
        train(x, labels[:5])
    with pytest.raises(ValueError, match="two classes"):
        train(x, labels == "none", **QUICK)
    with pytest.raises(ValueError, match="held_out must be a share"):
        train(x, labels, held_out=1.0)
    with pytest.raises(ValueError, match="held_out=0.01 of 30 images"):
        train(x, labels, held_out=0.01)
    with pytest.raises(ValueError, match="max_epochs must be a positive"):
        train(x, labels, max_epochs=0)
    with pytest.raises(ValueError, match="held_out have the shape"):
        train(x, labels, held_out=(x.repeat(2, axis=2), labels), **QUICK)
    with pytest.warns(UserWarning, match="no value below 0 in the range"):
        train((x + 1) / 2, labels, pixel_range=(-1, 1), **(QUICK | {"max_epochs": 1}))
    with pytest.raises(ValueError, match=r"images have .* \(1, 16, 8\)"):
        classifier.predict(x[..., :8])
    with pytest.raises(ValueError, match=r"real have .* \(3, 16, 16\)"):
        metrics.fid(*[x.repeat(3, axis=1)] * 2, classifier)
    with pytest.warns(UserWarning, match="generated has no value below 0"):
        metrics.fid(x, (x + 1) / 2, classifier, pixel_range=(-1, 1))
    with pytest.warns(UserWarning, match="images has no value below 0"):
        classifier.predict((x + 1) / 2)


def test_digits_are_told_apart():
    if datasets.find(datasets.MNIST) is None:
        pytest.skip("mnist.npz is not on this machine")
    adata = datasets.mnist()
    few = adata[np.r_[0:2000, 60_000:60_500]].copy()
    images = datasets.prepare_images(few).obsm["image"]
    digits = few.obs["digit"].to_numpy()
    classifier = metrics.train_image_classifier(
        images[:2000],
        digits[:2000],
        held_out=(images[2000:], digits[2000:]),
        width=8,
        max_epochs=4,
        batch_size=32,
        device="cpu",
    )
    assert classifier.held_out_accuracy > 0.8
