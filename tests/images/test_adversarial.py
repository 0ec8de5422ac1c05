from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from mixvi.images.adversarial import critic_loss, generator_loss, joint_loss

REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.5])


def test_hinge():
    # relu(1 - real): 0, 0.5, 2; relu(1 + fake): 0, 1, 1.5
    assert float(critic_loss(REAL, FAKE)) == pytest.approx(5 / 3)
    assert float(generator_loss(FAKE)) == pytest.approx(2.5 / 3)
    assert float(joint_loss(REAL, FAKE)) == pytest.approx(1.5 / 3 + 2.5 / 3)


def test_vanilla():
    real, fake = torch.sigmoid(REAL).log(), (1 - torch.sigmoid(FAKE)).log()
    assert float(critic_loss(REAL, FAKE, "vanilla")) == pytest.approx(
        float(-real.mean() - fake.mean()), rel=1e-5
    )
    assert float(generator_loss(FAKE, "vanilla")) == pytest.approx(float(fake.mean()), rel=1e-5)
    # h is the same for both pairs, with the sign turned for real ones
    h_real, h_fake = (-scores - (1 + torch.exp(-scores)).log() for scores in (REAL, FAKE))
    assert float(joint_loss(REAL, FAKE, "vanilla")) == pytest.approx(
        float(h_fake.mean() - h_real.mean()), rel=1e-5
    )


def test_real_pairs_move_where_the_critic_is_sure_of_them():
    real = torch.tensor([5.0], requires_grad=True)
    joint_loss(real, torch.zeros(1), "vanilla").backward()
    assert float(real.grad) == pytest.approx(0.9933, abs=1e-4)


def test_vanilla_critic_finds_the_log_ratio():
    """Of N(1, 1) and N(-1, 1) it is 2 x: AVB rests on it."""
    torch.manual_seed(0)
    weights = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.05)
    real, fake = Normal(1.0, 1.0).sample((20_000,)), Normal(-1.0, 1.0).sample((20_000,))
    for _ in range(300):
        adam.zero_grad()
        scores = [weights[0] * x + weights[1] for x in (real, fake)]
        critic_loss(*scores, "vanilla").backward()
        adam.step()
    torch.testing.assert_close(weights.detach(), torch.tensor([2.0, 0.0]), atol=0.1, rtol=0.0)


def test_equal_scores_cannot_be_told_apart():
    scores = torch.zeros(4)
    assert float(critic_loss(scores, scores)) == 2.0
    assert float(joint_loss(scores, scores)) == 0.0
