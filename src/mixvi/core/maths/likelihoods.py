"""Likelihoods p(x | z) by name. Each maps raw decoder outputs to means, densities and samples.

``raw`` is the decoder's output ``(B, n_outputs)``; ``library`` is ``(B, 1)`` and read by the count
likelihoods alone; ``batch`` holds batch codes ``(B,)`` for batch-wise dispersion.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.arguments import check_choice
from mixvi.core.maths.counts import (
    negative_binomial_loss,
    poisson_loss,
    scaled_rates,
    zero_inflated_loss,
)
from mixvi.core.maths.mixture import LOG_2PI
from mixvi.core.maths.networks import soft_clip
from mixvi.core.maths.residuals import carried_counts, rate_excess

OUTPUT_ACTIVATIONS = {"relu": F.relu, "softplus": F.softplus}
SIGMA_MODES = ("shared", "feature", "analytic")
LOG_SIGMA_BOUNDS = (-6.0, 8.0)
_TINY = 1e-20


class Likelihood(nn.Module):
    """Base: unit-variance Gaussian scale of one raw output per gene.

    Parameters
    ----------
    n_genes
        Number of features G.
    output_activation
        ``None``, ``"relu"`` or ``"softplus"`` on the mean, for data that are never negative.
    """

    name: ClassVar[str]
    is_count: ClassVar[bool] = False
    has_elbo: ClassVar[bool] = True
    outputs_per_gene: ClassVar[int] = 1
    largest_mean: ClassVar[float] = math.inf

    def __init__(self, n_genes: int, output_activation: str | None = None):
        super().__init__()
        self.n_genes = n_genes
        self.output_activation = output_activation

    def floored_share(self) -> float:
        """Share of the scales that have sunk to their floor, in [0, 1]."""
        return 0.0

    @property
    def n_outputs(self) -> int:
        """Width of the raw decoder output."""
        return self.n_genes * self.outputs_per_gene

    def proportions(self, raw: Tensor) -> Tensor:
        """Mean on a scale that does not depend on the library size, ``(B, G)``."""
        return self.mean(raw, None)

    def mean(self, raw: Tensor, library: Tensor | None) -> Tensor:
        """Mean of p(x | z) on the scale of the data, ``(B, G)``."""
        activation = OUTPUT_ACTIVATIONS.get(self.output_activation)
        return raw if activation is None else activation(raw)

    def distribution_parameters(
        self, raw: Tensor, library: Tensor | None, batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Parameters of p(x | z) by scvi-tools' names, each ``(B, G)``."""
        return {"mean": self.mean(raw, library)}

    @abstractmethod
    def neg_log_prob(
        self, x: Tensor, raw: Tensor, library: Tensor | None, batch: Tensor | None = None
    ) -> Tensor:
        """Minus log p(x | z) summed over genes, ``(B,)``."""

    @abstractmethod
    def sample(self, raw: Tensor, library: Tensor | None, batch: Tensor | None = None) -> Tensor:
        """One draw of x, ``(B, G)``."""

    def carry_over(
        self,
        x: Tensor,
        raw: Tensor,
        raw_there: Tensor,
        library: Tensor | None,
        batch: Tensor | None = None,
        added: tuple[Tensor | float, Tensor | float] = (0.0, 0.0),
    ) -> Tensor:
        """``x`` as it would be had the decoder given ``raw_there`` instead of ``raw``, ``(B, G)``.

        ``added`` corrects both means, each ``(B, G)``.

        What the decoder leaves unexplained of a cell is its own and stays (abduction, action,
        prediction: Pearl 2009, section 7.1). The difference of the means is added; where the data
        are never negative (an output activation), a decrease scales instead.
        """
        here, there = self._means(raw, raw_there, library, added)
        if self.output_activation is None:
            return x + there - here
        here, there = here.clamp_min(0.0), there.clamp_min(0.0)
        return torch.where(there < here, x * there / here.clamp_min(_TINY), x + there - here)

    def _means(
        self,
        raw: Tensor,
        raw_there: Tensor,
        library: Tensor | None,
        added: tuple[Tensor | float, Tensor | float],
    ) -> tuple[Tensor, Tensor]:
        """Corrected means, each ``(B, G)``."""
        return tuple(
            self.mean(of, library) + more for of, more in zip((raw, raw_there), added, strict=True)
        )


class Gaussian(Likelihood):
    """Unit variance: ``0.5 ||x - mu||^2 + G/2 log 2 pi`` (Kolb 2022, eq. 4.14 with sigma = 1)."""

    name = "gaussian"

    def distribution_parameters(self, raw, library, batch=None):
        """See :meth:`Likelihood.distribution_parameters`; ``"scale"`` is the standard deviation."""
        mean = self.mean(raw, library)
        return {"mean": mean, "scale": torch.ones_like(mean)}

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        squares = (x - self.mean(raw, library)).square().sum(-1)
        return 0.5 * squares + 0.5 * self.n_genes * LOG_2PI

    def sample(self, raw, library, batch=None):
        """See :meth:`Likelihood.sample`."""
        mean = self.mean(raw, library)
        return mean + torch.randn_like(mean)


class SquaredError(Likelihood):
    """``||x - mu||^2``: a Gaussian with variance 1/2 up to its constant.

    The thesis's published runs use it; it has no ELBO of its own.
    """

    name = "mse"
    has_elbo = False

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        return (x - self.mean(raw, library)).square().sum(-1)

    def sample(self, raw, library, batch=None):
        """See :meth:`Likelihood.sample`."""
        mean = self.mean(raw, library)
        return mean + math.sqrt(0.5) * torch.randn_like(mean)


class GaussianSigma(Likelihood):
    """Gaussian with a learned scale that does not depend on z (Kolb 2022, eq. 4.14).

    Parameters
    ----------
    sigma
        ``"shared"``: one scalar; ``"feature"``: one per gene; ``"analytic"``: the variance is the
        minibatch's mean squared error (Rybkin et al. 2021), kept as a running mean for inference.
    """

    name = "gaussian_sigma"
    MOMENTUM = 0.1

    def __init__(self, n_genes: int, output_activation: str | None = None, sigma: str = "feature"):
        super().__init__(n_genes, output_activation)
        self.sigma = sigma
        if sigma == "analytic":
            self.register_buffer("running_log_sigma", torch.zeros(()))
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        else:
            self.raw_log_sigma = nn.Parameter(torch.zeros(1 if sigma == "shared" else n_genes))

    def log_sigma(self, x: Tensor | None = None, mean: Tensor | None = None) -> Tensor:
        """Log standard deviation, ``()``, ``(1,)`` or ``(G,)``, floored at -6.

        Given data in training mode, the analytic form is computed from them.
        """
        if self.sigma != "analytic":
            return soft_clip(self.raw_log_sigma, *LOG_SIGMA_BOUNDS)
        if not self.training or x is None:
            return self.running_log_sigma
        log_sigma = 0.5 * (x - mean).square().mean().clamp_min(1e-30).log()
        log_sigma = log_sigma.clamp(*LOG_SIGMA_BOUNDS)
        # the first update replaces the starting value, later ones are averaged in
        momentum = torch.where(self.updates == 0, 1.0, self.MOMENTUM)
        self.running_log_sigma.lerp_(log_sigma.detach(), momentum)
        self.updates += 1
        return log_sigma

    def distribution_parameters(self, raw, library, batch=None):
        """See :meth:`Likelihood.distribution_parameters`; ``"scale"`` is the standard deviation."""
        mean = self.mean(raw, library)
        return {"mean": mean, "scale": self.log_sigma().exp().expand_as(mean)}

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        mean = self.mean(raw, library)
        log_sigma = self.log_sigma(x, mean)
        scaled = (x - mean).square() * (-2.0 * log_sigma).exp()
        return (0.5 * scaled + log_sigma + 0.5 * LOG_2PI).sum(-1)

    def floored_share(self) -> float:
        """See :meth:`Likelihood.floored_share`."""
        sunk = self.log_sigma().detach() < LOG_SIGMA_BOUNDS[0] + 0.1
        return float(sunk.float().mean())

    def sample(self, raw, library, batch=None):
        """See :meth:`Likelihood.sample`."""
        mean = self.mean(raw, library)
        return mean + self.log_sigma().exp() * torch.randn_like(mean)


class Bernoulli(Likelihood):
    """Binary cross-entropy with logits against values in [0, 1] (Kolb 2022, section 9.1)."""

    name = "bernoulli"
    largest_mean = 1.0

    def mean(self, raw, library):
        """See :meth:`Likelihood.mean`."""
        return torch.sigmoid(raw)

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        return F.binary_cross_entropy_with_logits(raw, x, reduction="none").sum(-1)

    def sample(self, raw, library, batch=None):
        """See :meth:`Likelihood.sample`."""
        return torch.bernoulli(self.mean(raw, library))

    def carry_over(self, x, raw, raw_there, library, batch=None, added=(0.0, 0.0)):
        """As :meth:`Likelihood.carry_over`; an increase scales the distance to one."""
        means = self._means(raw, raw_there, library, added)
        here, there = (mean.clamp(_TINY, 1.0) for mean in means)
        return torch.where(
            there < here,
            x * there / here,
            1.0 - (1.0 - x) * (1.0 - there) / (1.0 - here).clamp_min(_TINY),
        )


class _Count(Likelihood):
    """Counts with rate ``library * activation(raw)``, after scVI (Lopez et al. 2018).

    Parameters
    ----------
    scale_activation
        ``"softmax"``: proportions, which share out the library size; ``"softplus"``: rates at a
        size factor of one, whatever they sum to.
    """

    is_count = True

    def __init__(self, n_genes: int, scale_activation: str = "softmax"):
        super().__init__(n_genes)
        self.scale_activation = scale_activation

    def proportions(self, raw):
        """Proportions, whose rows sum to one, or rates at a size factor of one, ``(B, G)``."""
        return scaled_rates(raw, self.scale_activation)

    def rate(self, raw: Tensor, library: Tensor) -> Tensor:
        """Mean of the counts before any are lost to dropout, ``(B, G)``."""
        return self.proportions(raw) * library

    def mean(self, raw, library):
        """See :meth:`Likelihood.mean`."""
        return self.rate(raw, library)

    def carry_over(self, x, raw, raw_there, library, batch=None, added=(0.0, 0.0)):
        """Whole counts, see :func:`mixvi.core.maths.residuals.carried_counts`.

        The cell's own rate is its mean times what :meth:`_excess` draws from the posterior given
        its count, so that a cell above its mean stays above it.
        """
        here, there = (
            (self.rate(of, library) + more).clamp_min(0.0)
            for of, more in zip((raw, raw_there), added, strict=True)
        )
        return carried_counts(x, here, there, self._excess(x, raw, library, batch))

    def _excess(
        self, x: Tensor, raw: Tensor, library: Tensor, batch: Tensor | None
    ) -> Tensor | float:
        """A draw of the cell's rate over its mean given its counts, ``(B, G)``; Poisson: 1."""
        return 1.0


class Poisson(_Count):
    """Poisson counts."""

    name = "poisson"

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        return poisson_loss(x, raw, library, self.scale_activation)

    def sample(self, raw, library, batch=None):
        """See :meth:`Likelihood.sample`."""
        return torch.poisson(self.rate(raw, library))


class NegativeBinomialCounts(_Count):
    """Negative binomial counts with inverse dispersion per gene, or per gene and batch.

    Parameters
    ----------
    scale_activation
        Of the rates, as above.
    dispersion
        ``"gene"`` or ``"gene-batch"``.
    n_batch
        Number of batches for ``"gene-batch"``.
    """

    name = "nb"

    def __init__(
        self,
        n_genes: int,
        scale_activation: str = "softmax",
        dispersion: str = "gene",
        n_batch: int = 1,
    ):
        super().__init__(n_genes, scale_activation)
        self.dispersion = dispersion
        rows = n_batch if dispersion == "gene-batch" else 1
        self.log_theta = nn.Parameter(torch.zeros(rows, n_genes))

    def _log_theta(self, batch: Tensor | None) -> Tensor:
        return self.log_theta[batch] if self.dispersion == "gene-batch" else self.log_theta

    def _theta(self, batch: Tensor | None) -> Tensor:
        return self._log_theta(batch).exp()

    def distribution(self, raw: Tensor, library: Tensor, batch: Tensor | None):
        """The count distribution with event axis ``(B, G)``."""
        return NegativeBinomial(mu=self.rate(raw, library), theta=self._theta(batch))

    def distribution_parameters(self, raw, library, batch=None):
        """See :meth:`Likelihood.distribution_parameters`; the mean is the rate before dropout."""
        counts = self.distribution(raw, library, batch)
        return {"mean": counts.mu, "dispersions": counts.theta.expand_as(counts.mu)}

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        log_theta = self._log_theta(batch)
        return negative_binomial_loss(x, raw, library, log_theta, self.scale_activation)

    def sample(self, raw, library, batch=None):
        """See :meth:`Likelihood.sample`."""
        return self.distribution(raw, library, batch).sample()

    def _excess(self, x, raw, library, batch):
        return rate_excess(x, self.rate(raw, library), self._theta(batch))


class ZeroInflatedNegativeBinomialCounts(NegativeBinomialCounts):
    """Negative binomial counts with extra zeros, whose logits the decoder also gives."""

    name = "zinb"
    outputs_per_gene = 2

    def proportions(self, raw):
        """Those of the negative binomial part, dropout left out as in scVI, ``(B, G)``."""
        return super().proportions(raw[..., : self.n_genes])

    def mean(self, raw, library):
        """Mean of p(x | z), extra zeros included, ``(B, G)``."""
        return torch.sigmoid(-raw[..., self.n_genes :]) * self.rate(raw, library)

    def neg_log_prob(self, x, raw, library, batch=None):
        """See :meth:`Likelihood.neg_log_prob`."""
        rate, zi_logits = raw.split(self.n_genes, dim=-1)
        log_theta = self._log_theta(batch)
        return zero_inflated_loss(x, rate, library, log_theta, zi_logits, self.scale_activation)

    def distribution(self, raw, library, batch):
        """The count distribution with event axis ``(B, G)``."""
        return ZeroInflatedNegativeBinomial(
            mu=self.rate(raw, library),
            theta=self._theta(batch),
            zi_logits=raw[..., self.n_genes :],
        )

    def distribution_parameters(self, raw, library, batch=None):
        """As of the negative binomial; ``"dropout"`` is the probability of extra zeros."""
        dropout = torch.sigmoid(raw[..., self.n_genes :])
        return super().distribution_parameters(raw, library, batch) | {"dropout": dropout}

    def _excess(self, x, raw, library, batch):
        # a count lost to dropout stays lost
        theta, rate = self._theta(batch), self.rate(raw, library)
        log_zero = theta * (theta.log() - (theta + rate).log())
        lost = torch.sigmoid(raw[..., self.n_genes :] - log_zero)
        stays = (x > 0) | (torch.rand_like(x) >= lost)
        return stays * super()._excess(x, raw, library, batch)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls
    for cls in (
        Gaussian,
        SquaredError,
        GaussianSigma,
        Bernoulli,
        Poisson,
        NegativeBinomialCounts,
        ZeroInflatedNegativeBinomialCounts,
    )
}


def make_likelihood(
    name: str,
    n_genes: int,
    *,
    output_activation: str | None = None,
    sigma: str = "feature",
    dispersion: str = "gene",
    n_batch: int = 1,
    has_size_factor: bool = False,
) -> Likelihood:
    """Build the likelihood called ``name``.

    Counts with a size factor have rates by softplus: a factor near one says nothing of a cell's
    total, which proportions would have to sum to.

    Raises
    ------
    ValueError
        If a name is unknown, or an output activation is asked of a likelihood that has its own.
    """
    check_choice("likelihood", name, LIKELIHOODS)
    if output_activation is not None:
        check_choice("output_activation", output_activation, OUTPUT_ACTIVATIONS)
    cls = LIKELIHOODS[name]
    if cls is GaussianSigma:
        check_choice("sigma", sigma, SIGMA_MODES)
        return cls(n_genes, output_activation, sigma)
    if output_activation is not None and (cls.is_count or cls is Bernoulli):
        raise ValueError(
            f"output_activation={output_activation!r} has no effect with likelihood={name!r}, "
            "which has an output function of its own. Leave output_activation=None."
        )
    activation = "softplus" if has_size_factor else "softmax"
    if issubclass(cls, NegativeBinomialCounts):
        check_choice("dispersion", dispersion, ("gene", "gene-batch"))
        return cls(n_genes, activation, dispersion, n_batch)
    return cls(n_genes, activation if cls.is_count else output_activation)
