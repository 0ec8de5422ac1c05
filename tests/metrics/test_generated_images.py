from __future__ import annotations

import importlib.util
from urllib.error import URLError

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy.linalg import sqrtm
from torch import nn

from mixvi import metrics
from mixvi.metrics import image_features

# small values, of which the range cannot be told
SIGNED = {"pixel_range": (-1, 1)}


def with_moments(n, mean, cov, seed):
    """Flat images whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x = x - x.mean(axis=0)
    sample = np.atleast_2d(np.cov(x.T))
    x = x @ np.linalg.inv(np.linalg.cholesky(sample)).T @ np.linalg.cholesky(cov).T + mean
    return x.reshape(n, 1, 1, -1).astype(np.float32)


def pixels(images):
    return images.flatten(1)


def test_fid_of_gaussians_is_the_formula():
    rng = np.random.default_rng(0)
    means = 0.1 * rng.normal(size=(2, 4))
    roots = 0.05 * rng.normal(size=(2, 4, 4))
    covs = [root @ root.T + 0.001 * np.eye(4) for root in roots]
    real, generated = (
        with_moments(n, m, c, i)
        for i, (n, m, c) in enumerate(zip((300, 500), means, covs, strict=True))
    )
    expected = (
        np.square(means[0] - means[1]).sum()
        + np.trace(covs[0] + covs[1])
        - 2 * np.trace(sqrtm(covs[0] @ covs[1]).real)
    )
    for batch_size in (500, 64):
        found = metrics.fid(real, generated, pixels, batch_size=batch_size, **SIGNED)
        assert found == pytest.approx(expected, rel=1e-5)
    assert metrics.fid(generated, real, nn.Flatten(), **SIGNED) == pytest.approx(expected, rel=1e-5)


def test_fid_of_one_dimension_by_hand():
    # (m1 - m2)^2 + (s1 - s2)^2
    real = with_moments(100, np.array([0.2]), np.array([[0.04]]), 0)
    generated = with_moments(200, np.array([-0.1]), np.array([[0.01]]), 1)
    assert metrics.fid(real, generated, pixels, **SIGNED) == pytest.approx(
        0.3**2 + 0.1**2, rel=1e-5
    )
    # only means differ
    assert metrics.fid(real, real - 0.3, pixels, **SIGNED) == pytest.approx(0.09, rel=1e-4)
    assert metrics.fid(real, real, pixels, **SIGNED) == pytest.approx(0, abs=1e-9)


def levels(classes):
    """Bytes of one level each, which :func:`sure` reads."""
    x = 50 * np.asarray(classes, dtype=np.uint8)
    return np.broadcast_to(x[:, None, None, None], (len(x), 1, 2, 2)).copy()


def sure(images):
    """Logits that leave no doubt: double precision cannot hold the other probabilities."""
    return 1000.0 * nn.functional.one_hot(((images[:, 0, 0, 0] + 1) * 2.55).round().long(), 5)


def test_is_of_a_sure_classifier_counts_the_classes():
    for n_classes in (1, 3, 5):
        images = levels(np.tile(np.arange(n_classes), 12))
        score = metrics.inception_score(images, sure, splits=1)
        assert score.mean == pytest.approx(n_classes)
        assert np.isnan(score.std)


def test_is_of_uneven_classes_and_of_no_knowledge():
    # a sure classifier's score is the exponential of the classes' entropy
    share = np.array([0.75, 0.25])
    images = levels([0] * 30 + [1] * 10)
    expected = np.exp(-(share * np.log(share)).sum())
    assert metrics.inception_score(images, sure, 1).mean == pytest.approx(expected)

    def ignorant(images):
        return torch.zeros(len(images), 5)

    assert metrics.inception_score(images, ignorant, 4) == pytest.approx((1, 0))


def test_is_of_a_doubtful_classifier_by_hand():
    # p(y | x) = (0.9, 0.1) or (0.1, 0.9), p(y) even: KL = ln 2 - H(0.9)
    def doubtful(images):
        odds = np.log(9.0) * (2 * (images[:, 0, 0, 0] > -0.8) - 1.0)
        return torch.stack([torch.zeros_like(odds), odds], dim=1)

    expected = 2 * np.exp(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    found = metrics.inception_score(levels([0, 1] * 10), doubtful, 1, batch_size=7)
    assert found.mean == pytest.approx(expected)


def test_splits_are_of_one_size_and_repeat():
    images = levels(np.arange(5).repeat(9))
    first = metrics.inception_score(images, sure, splits=4, seed=3)
    assert first == metrics.inception_score(images, sure, splits=4, seed=3)
    assert first != metrics.inception_score(images, sure, splits=4, seed=4)
    assert first.std > 0 and first.mean < 5
    before = torch.random.get_rng_state()
    metrics.inception_score(images, sure)
    assert torch.equal(before, torch.random.get_rng_state())


def test_images_may_be_bytes_tensors_or_an_anndata():
    x = np.random.default_rng(0).integers(0, 256, (50, 1, 2, 2), dtype=np.uint8)
    signed = x.astype(np.float32) / 127.5 - 1
    other = signed[:, :, ::-1] * 0.5
    expected = metrics.fid(signed, other, pixels)
    assert expected > 0
    assert metrics.fid(x, torch.tensor(other.copy()), pixels) == pytest.approx(expected)
    # a model of bytes returns floats from 0 to 255
    assert metrics.fid(x, (other + 1) * 127.5, pixels, pixel_range=(0, 255)) == pytest.approx(
        expected, rel=1e-4
    )
    rows = AnnData(signed.reshape(50, -1), uns={"image_shape": (1, 2, 2)})
    stacked = AnnData(obsm={"image": other})
    assert metrics.fid(rows, stacked, pixels) == pytest.approx(expected)


def test_scores_follow_the_range():
    images = levels(np.arange(5).repeat(4))
    expected = metrics.inception_score(images, sure, 2)
    for range_, values in (((0, 1), images / 255), ((-1, 1), images / 127.5 - 1)):
        assert metrics.inception_score(values, sure, 2, pixel_range=range_) == expected
        assert metrics.inception_score(values, sure, 2) == expected
    with pytest.raises(ValueError, match=r"pixel_range must be .* \(1, 0\)"):
        metrics.inception_score(images, sure, 2, pixel_range=(1, 0))


def test_fid_is_the_same_on_every_scale():
    """Bytes, [0, 1], [-1, 1] or 0 to 255, as far as it can be told."""
    x, y = np.random.default_rng(0).integers(0, 256, (2, 60, 1, 2, 2), dtype=np.uint8)
    expected = metrics.fid(x, y, pixels)
    assert expected > 0
    zero_one, signed, wide = (lambda b: b / 255), (lambda b: b / 127.5 - 1), np.float32
    for of_x, of_y in (
        (zero_one, zero_one),
        (signed, signed),
        (None, zero_one),
        (None, signed),
        (None, wide),
        (zero_one, None),
    ):
        pair = (of_x(x) if of_x else x), (of_y(y) if of_y else y)
        assert metrics.fid(*pair, pixels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("real", "generated", "words"),
    [
        ("signed", "zero_one", "generated has values from 0 to 1, but others are in"),
        ("zero_one", "signed", "real has values from 0 to 1, but others are in"),
        ("dim", "dim", "real with generated has values from -0.2 .*cannot be told.*pixel_range"),
        ("bytes", "mask", "generated has values from 0 to 1 as uint8.*pixel_range"),
        ("wide", "wide", "floats are expected in.*pixel_range"),
    ],
)
def test_scales_that_cannot_be_told_are_asked_for(real, generated, words):
    unit = np.linspace(0, 1, 80).reshape(20, 1, 2, 2)
    images = {
        "zero_one": unit,
        "signed": 2 * unit - 1,
        "dim": 0.5 * unit - 0.2,
        "wide": 255 * unit,
        "bytes": (255 * unit).astype(np.uint8),
        "mask": unit.round().astype(np.uint8),
    }
    with pytest.raises(ValueError, match=words):
        metrics.fid(images[real], images[generated], pixels)


def test_a_module_is_evaluated_and_left_as_it_was():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5))
    x = np.random.default_rng(0).uniform(-1, 1, (60, 1, 2, 2)).astype(np.float32)
    assert metrics.fid(x, x, module) == pytest.approx(0, abs=1e-9)
    assert module.training and module[1].num_batches_tracked == 0
    # a frozen part stays frozen
    module[1].eval()
    metrics.inception_score(x, module, 2)
    assert module[2].training and not module[1].training


def test_too_few_images_for_the_features_are_told():
    x = np.random.default_rng(0).uniform(-1, 1, (4, 1, 2, 2)).astype(np.float32)
    with pytest.warns(UserWarning, match="real has 4 images for 4 features"):
        metrics.fid(x, np.tile(x, (9, 1, 1, 1)), pixels)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((5, 4)), r"must be \(n, channels, height, width\) .* \(5, 4\)"),
        (np.zeros((0, 1, 2, 2)), "n > 0"),
        (np.full((5, 1, 2, 2), 3.0), r"from 0 to 3, but floats are expected in \[-1, 1\]"),
        (np.full((5, 1, 2, 2), np.nan), "NaN or infinite"),
        (np.full((5, 1, 2, 2), 7), "has the dtype int64; pass bytes"),
        (np.full((5, 1, 2, 2), True), "must be numbers"),
        (np.zeros((5, 1, 2, 3)), r"\(1, 2, 3\), generated ones \(1, 2, 2\)"),
        (np.zeros((1, 1, 2, 2)), "two images each"),
    ],
)
def test_bad_images(images, words):
    with pytest.raises(ValueError, match=words):
        metrics.fid(images, np.zeros((5, 1, 2, 2)), pixels)


def test_bad_networks_and_splits():
    x = np.zeros((6, 1, 2, 2), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"one row an image, \(2, n\), but returned \(2, 1, 2, 2\)"
    ):
        metrics.fid(x, x, lambda images: images)
    with pytest.raises(ValueError, match="returned a NoneType"):
        metrics.inception_score(x, lambda images: None, 2)
    with pytest.raises(ValueError, match="features returned NaN"):
        metrics.fid(x, x, lambda images: pixels(images) * np.nan)
    with pytest.raises(ValueError, match="'resnet'"):
        metrics.fid(x, x, "resnet")
    with pytest.raises(ValueError, match="6 images cannot be divided into splits=10"):
        metrics.inception_score(x, pixels)
    with pytest.raises(ValueError, match="splits must be a positive"):
        metrics.inception_score(x, pixels, 0)


def test_the_standard_network_needs_colours_and_its_package(monkeypatch):
    grey, colour = np.zeros((6, 1, 2, 2)) - 1, np.zeros((6, 3, 2, 2)) - 1
    with pytest.raises(ValueError, match="three channels, but real have 1"):
        metrics.fid(grey, grey, "inception")
    find = importlib.util.find_spec
    absent = {"torch_fidelity"}
    monkeypatch.setattr(
        image_features, "find_spec", lambda name: None if name in absent else find(name)
    )
    with pytest.raises(ImportError, match=r"torch-fidelity: pip install 'mixvi\[inception\]'"):
        metrics.inception_score(colour, "inception", 2)
    absent.add("torchmetrics")
    with pytest.raises(ImportError, match=r"torchmetrics: pip install 'mixvi\[images\]'"):
        metrics.fid(grey, grey, pixels)


def test_the_standard_network_gets_bytes(monkeypatch):
    taken = []

    class Standard(nn.Module):
        def __init__(self, name, layers):
            super().__init__()
            taken.append(layers)

        def forward(self, images):
            taken.append(images)
            return pixels(images).float()

    monkeypatch.setattr(image_features, "find_spec", lambda name: True)
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Standard)
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 2), dtype=np.uint8)
    assert metrics.fid(x, x, "inception", device="cpu") == pytest.approx(0, abs=1e-6)
    assert taken[0] == ["2048"] and taken[-1].dtype == torch.uint8
    assert torch.equal(taken[-1], torch.from_numpy(x))
    metrics.inception_score(x, "inception", 2, device="cpu")
    assert taken[4] == ["logits_unbiased"]

    def unreachable(name, layers):
        raise URLError("no route")

    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", unreachable)
    with pytest.raises(FileNotFoundError, match="no route.*checkpoints"):
        metrics.fid(x, x, "inception")


def test_kid_is_the_unbiased_mmd_of_its_kernel():
    rng = np.random.default_rng(0)
    real, generated = rng.uniform(-1, 1, (2, 12, 1, 1, 3)).astype(np.float32)
    generated *= 0.5
    x, y = (side.reshape(12, 3).astype(float) for side in (real, generated))

    def kernel(a, b):
        return (a @ b.T / 3 + 1) ** 3

    within = sum((kernel(a, a).sum() - np.trace(kernel(a, a))) / (12 * 11) for a in (x, y))
    expected = within - 2 * kernel(x, y).mean()
    found = metrics.kid(real, generated, pixels, n_subsets=3, subset_size=12, **SIGNED)
    assert found.mean == pytest.approx(expected, abs=1e-6)
    assert found.std == pytest.approx(0, abs=1e-6)
    few = [
        metrics.kid(real, generated, pixels, 5, 4, batch_size=b, seed=1, **SIGNED) for b in (3, 12)
    ]
    assert few[0] == few[1] and few[0].std > 0


def test_kid_of_one_distribution_is_zero_on_average():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 600, 1, 2, 2)).astype(np.float32)
    found = metrics.kid(*x, pixels, n_subsets=50, subset_size=100, **SIGNED)
    assert abs(found.mean) < 3 * found.std / np.sqrt(50) + 0.01
    with pytest.raises(ValueError, match="subset_size=601 must be from 2 to 600"):
        metrics.kid(*x, pixels, 5, 601, **SIGNED)
