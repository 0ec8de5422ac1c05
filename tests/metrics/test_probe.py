from __future__ import annotations

import numpy as np
import pytest
import torch

from mixvi import metrics

# four corners, which a plane through each pair of classes separates
CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


def test_separable_codes_are_read_without_an_error():
    codes = np.repeat(CORNERS, 10, axis=0) + np.random.default_rng(0).normal(0, 0.1, (40, 2))
    labels = np.repeat(list("abcd"), 10)
    # scale and offset do not matter: codes are standardised
    scale = np.array([1e-3, 1e3])
    assert metrics.linear_probe(codes * scale + 5, labels, CORNERS * scale + 5, list("abcd")) == 1
    assert metrics.linear_probe(torch.tensor(codes), labels, torch.tensor(CORNERS), labels[::10])


def test_accuracy_is_that_of_the_test():
    codes = np.linspace(-1, 1, 20)[:, None]
    labels = (codes[:, 0] > 0).astype(int)
    test = np.array([[-0.9], [-0.8], [0.8], [0.9]])
    assert metrics.linear_probe(codes, labels, test, [0, 0, 1, 0]) == 0.75


def test_a_line_does_not_read_exclusive_or():
    codes = np.tile(CORNERS, (10, 1))
    labels = np.tile([0, 1, 1, 0], 10)
    assert metrics.linear_probe(codes, labels, CORNERS, [0, 1, 1, 0]) <= 0.75


def test_probe_bad_input():
    codes, labels = np.eye(4), [0, 1, 0, 1]
    with pytest.raises(ValueError, match="4 dimensions, test_latents 3"):
        metrics.linear_probe(codes, labels, codes[:, :3], labels)
    with pytest.raises(ValueError, match=r"test_latents must be \(n, J\)"):
        metrics.linear_probe(codes, labels, codes[0], labels)
    with pytest.raises(ValueError, match="train_labels must have one entry"):
        metrics.linear_probe(codes, labels[:3], codes, labels)
    with pytest.raises(ValueError, match="lacks: 2, 3"):
        metrics.linear_probe(codes, labels, codes, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="at least two different"):
        metrics.linear_probe(codes, [0] * 4, codes, [0] * 4)
    with pytest.raises(ValueError, match="train_latents has NaN"):
        metrics.linear_probe(codes * np.nan, labels, codes, labels)
