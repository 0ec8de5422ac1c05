"""Adversarial losses as terms to minimise (Astorga 2021, eqs. 2.1 and 2.2, with hinge signs).

A critic gives high scores to real inputs. Scores are ``(B,)``, losses are means over them.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

ADVERSARIAL = ("hinge", "vanilla")


def critic_loss(real: Tensor, fake: Tensor, kind: str = "hinge") -> Tensor:
    """What a critic minimises.

    ``"hinge"``: ``E relu(1 - real) + E relu(1 + fake)``; ``"vanilla"``:
    ``E softplus(-real) + E softplus(fake)``, minus the log likelihood of telling them apart.
    """
    if kind == "hinge":
        return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, kind: str = "hinge") -> Tensor:
    """What makes fakes look real: ``-E fake``, or ``-E softplus(fake)`` of the minimax game."""
    return -fake.mean() if kind == "hinge" else -F.softplus(fake).mean()


def joint_loss(real: Tensor, fake: Tensor, kind: str = "hinge") -> Tensor:
    """What makes real and fake pairs alike where both can move (Astorga 2021, eq. 4.1).

    ``"hinge"``: ``E real - E fake``; ``"vanilla"``: ``E softplus(real) - E softplus(fake)``, of
    which the gradient to real pairs does not vanish where the critic knows them.
    """
    return generator_loss(fake, kind) - generator_loss(real, kind)
