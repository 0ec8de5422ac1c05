"""Exponential families by their natural parameters: densities, divergences, products.

``p(x | eta) = h(x) exp(T(x) . eta - A(eta))``. Products of two members with one h and T, counted
once, are sums of natural parameters; Hruška 2023, section 2.5 and table 2.1 (with the Gaussian's h
and the categorical's A as they should be).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_VAR_BOUNDS = (-7.0, 3.0)
# rates and odds beyond these have no float32 gradient
_LARGEST_LOG_RATE = 15.0
_SMALLEST = 1e-6


def summed(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over all axes but the first, to ``(B,)``, of what a mask ``True`` chooses."""
    if mask is not None:
        values = torch.where(mask, values, 0.0)
    return values.reshape(len(values), -1).sum(1)


class Family(ABC):
    """Independent members of one family.

    Parameters
    ----------
    *eta
        Natural parameters, one tensor for each statistic.
    """

    n_parameters: ClassVar[int] = 1

    def __init__(self, *eta: Tensor):
        self.eta = eta

    @classmethod
    def from_raw(cls, raw: Tensor) -> Family:
        """Of unconstrained ``(B, n_parameters * n, ...)``, such as a network gives."""
        return cls(raw)

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """T(x), one tensor for each natural parameter; mostly x itself."""
        return (x,)

    @abstractmethod
    def expected_statistics(self) -> tuple[Tensor, ...]:
        """The gradient of A: what T(x) is on average."""

    @abstractmethod
    def log_normaliser(self) -> Tensor:
        """A(eta)."""

    @abstractmethod
    def sample(self) -> Tensor:
        """A draw, through which no gradient flows."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of x."""

    @property
    def mean(self) -> Tensor:
        """Mean of x."""
        return self.expected_statistics()[0]

    def log_base(self, x: Tensor) -> Tensor:
        """Log h(x)."""
        return torch.zeros((), dtype=x.dtype, device=x.device)

    def project(self) -> Family:
        """The nearest member where parameters are out of their domain."""
        return self

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of each x."""
        return self.log_base(x) + self._dot(self.statistics(x), self.eta) - self.log_normaliser()

    def log_likelihood(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log density ``(B,)`` of each row, of what a mask ``True`` chooses.

        Values elsewhere may be NaN: they reach neither the sum nor a gradient.
        """
        if mask is not None:
            x = torch.where(mask, x, 0.0)
        return summed(self.log_prob(x), mask)

    def kl(self, other: Family) -> Tensor:
        """KL divergence to another member, of each x, in nats."""
        self._check_same(other)
        differences = tuple(a - b for a, b in zip(self.eta, other.eta, strict=True))
        moved = self._dot(differences, self.expected_statistics())
        return moved - self.log_normaliser() + other.log_normaliser()

    def merge(self, other: Family) -> Family:
        """The normalised product of the two densities, h counted once: parameters are added.

        For Gaussians this weights means by precision, for Bernoulli variables it adds logits.

        Raises
        ------
        ValueError
            If the other is of another family, or has another h.
        """
        self._check_same(other)
        eta = (a + b for a, b in zip(self.eta, other.eta, strict=True))
        return self._like(*eta).project()

    def detach(self) -> Family:
        """The same member, whose parameters receive no gradient."""
        return self._like(*(eta.detach() for eta in self.eta))

    def _like(self, *eta: Tensor) -> Family:
        return type(self)(*eta)

    def _dot(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def _check_same(self, other: Family) -> None:
        if type(other) is not type(self):
            raise ValueError(
                f"A {type(self).__name__} and a {type(other).__name__} are of two families: their "
                "parameters have no sum, and there is no closed KL divergence."
            )


class Bernoulli(Family):
    """Zero or one; the natural parameter is the logit."""

    def expected_statistics(self) -> tuple[Tensor, ...]:
        """Probability of one."""
        return (self.eta[0].sigmoid(),)

    def log_normaliser(self) -> Tensor:
        """Log(1 + exp(eta))."""
        return F.softplus(self.eta[0])

    @property
    def variance(self) -> Tensor:
        """Of zero or one."""
        return self.mean * (1 - self.mean)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Zeros and ones in the dtype of the logits."""
        return torch.bernoulli(self.mean)

    def jensen_shannon(self, other: Bernoulli) -> Tensor:
        """Jensen-Shannon divergence of each variable, from 0 to log 2 nats."""
        self._check_same(other)
        middle = Bernoulli(torch.logit((self.mean + other.mean) / 2, eps=_SMALLEST))
        return (self.kl(middle) + other.kl(middle)) / 2


class Categorical(Family):
    """One of several classes along axis 1, as a one-hot vector; parameters are logits.

    Densities and divergences have the axis no longer.
    """

    def expected_statistics(self) -> tuple[Tensor, ...]:
        """Probabilities."""
        return (self.eta[0].softmax(1),)

    def log_normaliser(self) -> Tensor:
        """Logarithm of the sum of exponentials."""
        return self.eta[0].logsumexp(1)

    @property
    def variance(self) -> Tensor:
        """Of each component of the one-hot vector."""
        return self.mean * (1 - self.mean)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """One-hot vectors."""
        noise = -torch.empty_like(self.eta[0]).exponential_().log()
        chosen = (self.eta[0] + noise).argmax(1, keepdim=True)
        return torch.zeros_like(self.eta[0]).scatter_(1, chosen, 1.0)

    def project(self) -> Categorical:
        """The same with normalised logits, log probabilities."""
        return Categorical(self.eta[0].log_softmax(1))

    def _dot(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
        return (a[0] * b[0]).sum(1)


class Gaussian(Family):
    """A real number; parameters are mean / variance and -1 / (2 variance)."""

    n_parameters = 2

    @classmethod
    def from_moments(cls, mean: Tensor, variance: Tensor) -> Gaussian:
        """Of mean and variance."""
        return cls(mean / variance, -0.5 / variance)

    @classmethod
    def from_raw(cls, raw: Tensor) -> Gaussian:
        """Of mean and log-variance along axis 1, the latter clamped."""
        mean, log_var = raw.chunk(2, dim=1)
        return cls.from_moments(mean, log_var.clamp(*LOG_VAR_BOUNDS).exp())

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """The value and its square."""
        return x, x.square()

    def expected_statistics(self) -> tuple[Tensor, ...]:
        """Mean, and mean of the square."""
        return self.mean, self.mean.square() + self.variance

    def log_normaliser(self) -> Tensor:
        """mean² / (2 variance) + log(sd)."""
        return -self.eta[0].square() / (4 * self.eta[1]) - 0.5 * torch.log(-2 * self.eta[1])

    def log_base(self, x: Tensor) -> Tensor:
        """Log((2 pi)^-1/2)."""
        return torch.full_like(x, -0.5 * math.log(2 * math.pi))

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return -0.5 * self.eta[0] / self.eta[1]

    @property
    def variance(self) -> Tensor:
        """Variance."""
        return -0.5 / self.eta[1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, without differences of large numbers where the variance is small."""
        error = self.eta[1] * (x - self.mean).square()
        return error + 0.5 * torch.log(-self.eta[1] / math.pi)

    def kl(self, other: Gaussian) -> Tensor:
        """KL divergence, without differences of large numbers."""
        self._check_same(other)
        ratio = other.eta[1] / self.eta[1]
        distance = -2 * other.eta[1] * (self.mean - other.mean).square()
        return 0.5 * (ratio - 1 - ratio.log() + distance)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """A draw."""
        return self.rsample()

    def rsample(self) -> Tensor:
        """A draw through which gradients reach the parameters."""
        return self.mean + self.variance.sqrt() * torch.randn_like(self.eta[0])

    def project(self) -> Gaussian:
        """The same with a precision above zero."""
        return Gaussian(self.eta[0], self.eta[1].clamp_max(-_SMALLEST))


class Poisson(Family):
    """A count; the natural parameter is the logarithm of the rate."""

    @classmethod
    def from_raw(cls, raw: Tensor) -> Poisson:
        """Of log rates, from above clamped."""
        return cls(raw.clamp_max(_LARGEST_LOG_RATE))

    def expected_statistics(self) -> tuple[Tensor, ...]:
        """The rate."""
        return (self.eta[0].exp(),)

    def log_normaliser(self) -> Tensor:
        """The rate."""
        return self.eta[0].exp()

    def log_base(self, x: Tensor) -> Tensor:
        """-log(x!)."""
        return -torch.lgamma(x + 1)

    @property
    def variance(self) -> Tensor:
        """The rate."""
        return self.mean

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Counts."""
        return torch.poisson(self.mean)


class NegativeBinomial(Family):
    """A count before ``dispersion`` failures; the parameter is the log probability of a success.

    Parameters
    ----------
    eta
        Log probabilities, below zero.
    dispersion
        Fixed, above zero: the variance is mean + mean² / dispersion.
    """

    def __init__(self, eta: Tensor, dispersion: float = 1.0):
        super().__init__(eta)
        self.dispersion = dispersion

    @classmethod
    def from_raw(cls, raw: Tensor) -> NegativeBinomial:
        """Of log odds, with a dispersion of 1."""
        return cls(F.logsigmoid(raw)).project()

    def expected_statistics(self) -> tuple[Tensor, ...]:
        """The mean count."""
        return (self.dispersion * self.eta[0].exp() / -torch.expm1(self.eta[0]),)

    def log_normaliser(self) -> Tensor:
        """-dispersion log(1 - exp(eta))."""
        return -self.dispersion * torch.log(-torch.expm1(self.eta[0]))

    def log_base(self, x: Tensor) -> Tensor:
        """Log of the binomial coefficient of x + dispersion - 1 and x."""
        r = self.dispersion
        return torch.lgamma(x + r) - torch.lgamma(x + 1) - math.lgamma(r)

    @property
    def variance(self) -> Tensor:
        """The mean, and its square over the dispersion."""
        return self.mean + self.mean.square() / self.dispersion

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Counts."""
        shape = torch.full_like(self.eta[0], self.dispersion)
        odds = self.eta[0].exp() / -torch.expm1(self.eta[0])
        return torch.poisson(torch.distributions.Gamma(shape, 1 / odds).sample())

    def project(self) -> NegativeBinomial:
        """The same with probabilities below one."""
        return self._like(self.eta[0].clamp_max(-_SMALLEST))

    def _like(self, *eta: Tensor) -> NegativeBinomial:
        return NegativeBinomial(*eta, self.dispersion)

    def _check_same(self, other: Family) -> None:
        super()._check_same(other)
        if other.dispersion != self.dispersion:
            raise ValueError(
                f"Negative binomials of dispersion {self.dispersion} and {other.dispersion} are of "
                "two families: their parameters have no sum."
            )


FAMILIES: dict[str, type[Family]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "gaussian": Gaussian,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}
