"""Moving averages of weights, and batch norm that does not move."""

from __future__ import annotations

import torch
from torch import nn

from mixvi.core.maths.averaging import move_average, still_statistics, warmed_decay


def test_one_update_of_the_average_by_hand():
    """Parameters and float buffers by beta and 1 - beta; counts are copied."""
    torch.manual_seed(0)
    before, present = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    present(torch.randn(5, 3))
    old = {name: value.clone() for name, value in before.state_dict().items()}
    move_average(before, present, torch.tensor(0.999))
    for name, value in before.state_dict().items():
        new = present.state_dict()[name]
        expected = 0.999 * old[name] + 0.001 * new if value.is_floating_point() else new
        torch.testing.assert_close(value, expected, msg=name)


def test_the_decay_is_warmed_up():
    decays = [float(warmed_decay(torch.tensor(n), 0.9)) for n in (1, 8, 1000)]
    torch.testing.assert_close(torch.tensor(decays), torch.tensor([2 / 11, 0.5, 0.9]))


def test_statistics_stay_and_outputs_are_those_of_training():
    norm = nn.BatchNorm1d(3).train()
    x = 2 + torch.randn(16, 3)
    with still_statistics(norm):
        still = norm(x)
    assert norm.running_mean.abs().max() == 0 and norm.num_batches_tracked == 0
    torch.testing.assert_close(norm(x), still)
    assert norm.running_mean.abs().min() > 0
