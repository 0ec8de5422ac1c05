"""A prior of K Gaussians over codes, and the cluster of a code by Bayes' rule on it.

``p(y) = Cat(phi)``, ``p(z | y = k) = N(mu_k, diag sigma_k^2)`` (Astorga 2021, section 7.2; Jiang et
al. 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixvi.core import arguments
from mixvi.core.maths.mixture import LOG_2PI, component_kl, component_log_prob


class GaussianMixturePrior(nn.Module):
    """Means, scales and weights of the components.

    Means start as orthonormal rows, log variances at 1 (before the floor), weights alike.

    Parameters
    ----------
    n_clusters, n_latent
        K and J.
    floor
        Least standard deviation: ``sigma = floor + exp(raw / 2)``.
    learn_weights
        Whether phi is learned, or stays 1 / K.
    legacy_sigma
        Take ``exp(raw) + floor^2`` as variance in the membership and ``exp(raw)`` in the entropy,
        as the code of Astorga's MPCC does, while draws have ``sigma``.
    """

    def __init__(
        self,
        n_clusters: int,
        n_latent: int,
        floor: float = 0.0,
        learn_weights: bool = False,
        legacy_sigma: bool = False,
    ):
        super().__init__()
        arguments.check_weight("sigma_floor", floor)
        self.n_clusters = n_clusters
        self.floor = floor
        self.legacy_sigma = legacy_sigma
        self.mu = nn.Parameter(nn.init.orthogonal_(torch.empty(n_clusters, n_latent)))
        self.raw = nn.Parameter(torch.ones(n_clusters, n_latent))
        logits = torch.zeros(n_clusters)
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    @property
    def log_phi(self) -> Tensor:
        """Log weights ``(K,)``."""
        return torch.log_softmax(self.logits, dim=-1)

    @property
    def sigma(self) -> Tensor:
        """Standard deviations ``(K, J)``."""
        return self.floor + (0.5 * self.raw).exp()

    @property
    def log_var(self) -> Tensor:
        """Log variances ``(K, J)`` that densities have."""
        if self.legacy_sigma:
            return (self.raw.exp() + self.floor**2).log()
        return 2.0 * self.sigma.log()

    def draw(self, n: int, cluster: int | None = None) -> tuple[Tensor, Tensor]:
        """Codes z ``(n, J)``, with gradients to means and scales, and y ``(n,)``, if not given."""
        if cluster is None:
            y = torch.multinomial(self.log_phi.detach().exp(), n, replacement=True)
        else:
            y = torch.full((n,), cluster, dtype=torch.long, device=self.mu.device)
        mu = self.mu[y]
        return mu + self.sigma[y] * torch.randn_like(mu), y

    def log_joint(self, z: Tensor) -> Tensor:
        """``log p(y) + log p(z | y)`` of codes ``(B, J)``: ``(B, K)``."""
        return self.log_phi + component_log_prob(z, self.mu, self.log_var)

    def log_membership(self, z: Tensor) -> Tensor:
        """``log q(y | z)`` by Bayes' rule, ``(B, K)`` (Astorga 2021, eq. 7.15)."""
        return torch.log_softmax(self.log_joint(z), dim=-1)

    def assign(self, z: Tensor) -> Tensor:
        """The most probable component of each code, ``(B,)``."""
        return self.log_joint(z).argmax(-1)

    def component_kls(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """KL of N(mu, exp(log_var)), each ``(B, J)``, to every component, ``(B, K)`` in nats."""
        shape = (len(mu), *self.mu.shape)
        return component_kl(mu, log_var, self.mu.expand(shape), self.log_var.expand(shape))

    def negative_entropy(self) -> Tensor:
        """L_p: minus the entropy of p(y, z), that of z divided by J (Astorga 2021, eq. 7.16)."""
        log_var = self.raw if self.legacy_sigma else self.log_var
        per_dimension = 0.5 * (1.0 + LOG_2PI + log_var).mean(-1)
        return (self.log_phi.exp() * (self.log_phi - per_dimension)).sum()

    def distance(self, z: Tensor, y: Tensor) -> Tensor:
        """Squared Mahalanobis distance of codes to components ``y``, divided by J, ``(B,)``."""
        return ((z - self.mu[y]) / self.sigma[y]).square().mean(-1)

    @torch.no_grad()
    def start_at(self, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        """Take weights ``(K,)``, means and variances ``(K, J)`` of a mixture fitted elsewhere."""
        self.mu.copy_(means)
        # a scale at the floor would have no way back
        self.raw.copy_(2.0 * (variances.sqrt() - self.floor).clamp_min(1e-3).log())
        self.logits.copy_(weights.log())
