"""Draws of all latents of a hierarchy, and what is told of several of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from mixvi.core.maths.exponential_families import Bernoulli, Family, summed
from mixvi.satellite.map_prior import Maps


@dataclass
class Path:
    """One draw of all latents of a minibatch.

    Attributes
    ----------
    z
        Draws by name: ``"segmentation"`` (B, L, 1 or T, H, W), one-hot; ``"code"`` (B, n);
        ``"date_code"`` (B, n, T); ``"place_code"`` (B, n, 1, H, W); ``"z1"``, ``"z2"``, ...
        (B, n, T, H', W').
    p
        What each is distributed as, given those before it; of a segmentation also learnt maps.
    q
        The same given the series; empty if they were drawn from ``p``.
    image
        Distribution of the series, ``(B, C, T, H, W)``.
    """

    z: dict[str, Tensor]
    p: dict[str, Family | Maps]
    q: dict[str, Family] = field(default_factory=dict)
    image: Family | None = None

    def log_p(self) -> dict[str, Tensor]:
        """Log density of each latent that has a prior, given those before it, ``(B,)``."""
        return {
            name: summed(self.p[name].log_prob(z)) for name, z in self.z.items() if name in self.p
        }

    def log_q(self) -> dict[str, Tensor]:
        """Log density of each latent given the series, ``(B,)``."""
        return {name: summed(self.q[name].log_prob(z)) for name, z in self.z.items()}

    def kl(self) -> dict[str, Tensor]:
        """KL divergence of the posterior of each latent to its prior, ``(B,)``.

        Of learnt maps, which have no closed one, log q - log p at the draw.
        """
        return {name: summed(self._divergence(name)) for name in self.z}

    def _divergence(self, name: str) -> Tensor:
        q, p, z = self.q[name], self.p[name], self.z[name]
        return q.log_prob(z) - p.log_prob(z) if isinstance(p, Maps) else q.kl(p)


def moments(paths: Iterable[Path]) -> tuple[Tensor, Tensor]:
    """Mean and variance of the values, over draws of the latents and given these."""
    n, first, second, within = 0, 0.0, 0.0, 0.0
    for path in paths:
        mean = path.image.mean
        n, first, second = n + 1, first + mean, second + mean.square()
        within = within + path.image.variance
    mean = first / n
    return mean, within / n + (second / n - mean.square()).clamp_min(0.0)


def layer_divergences(path: Path) -> dict[str, Tensor]:
    """Jensen-Shannon divergence of q and p of a unit, mean over each layer that is Bernoulli."""
    return {
        f"jsd_{name}": path.q[name].jensen_shannon(path.p[name]).mean()
        for name in path.z
        if isinstance(path.q.get(name), Bernoulli)
    }
