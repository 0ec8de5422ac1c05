"""Densities of counts that visit each nonzero entry once: a zero needs no gamma function.

A rate is the library size times what the decoder gives: proportions (``"softmax"`` over genes), or,
where a size factor stands for the library size, any positive number (``"softplus"``), as in scVI.

With rate ``mu``, inverse dispersion ``theta`` and ``s = theta + mu``, minus the log density of the
negative binomial is

    theta (log s - log theta)                                                    for every gene, and
    x (log s - log mu) - lgamma(x + theta) + lgamma(theta) + lgamma(x + 1)       where x > 0.

Single-cell counts are mostly zeros, and the second line is what costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mixvi.core.maths.sparse import SparseRows

# below this, softplus is the exponential in single precision
_LINEAR = -15.0


@dataclass(frozen=True)
class Entries:
    """The entries of a data matrix that a count likelihood has to visit one by one.

    Parameters
    ----------
    flat
        Position of each entry in the flattened matrix ``(nnz,)``; ``None``: all entries in order.
    values
        ``(nnz,)``, or ``(B, G)`` where all entries are visited.
    rows, columns
        Row and column of each entry, ``(nnz,)``; ``None`` where all are visited.
    shape
        (B, G).
    """

    flat: Tensor | None
    values: Tensor
    rows: Tensor | None
    columns: Tensor | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor | SparseRows) -> Entries:
        """Of ``x`` ``(B, G)``: the nonzero ones, except where their number must not matter.

        An accelerator would have to wait for it, ``torch.compile`` to compile anew.
        """
        if isinstance(x, SparseRows):
            rows, columns = x.row_numbers(), x.columns
            flat = rows * x.n_columns + columns
            return cls(flat, x.values, rows, columns, (len(x), x.n_columns))
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return cls(None, x, None, None, tuple(x.shape))
        rows, columns = x.nonzero(as_tuple=True)
        flat = rows * x.shape[1] + columns
        return cls(flat, x.reshape(-1).index_select(0, flat), rows, columns, tuple(x.shape))

    def pick(self, dense: Tensor) -> Tensor:
        """Of ``dense`` ``(B, G)``, ``(1, G)`` or ``(B, 1)``, what stands at the entries."""
        if self.flat is None:
            return dense
        if len(dense) == 1 and self.shape[0] != 1:
            return dense.view(-1).index_select(0, self.columns)
        if dense.shape[-1] == 1:
            return dense.view(-1).index_select(0, self.rows)
        return dense.reshape(-1).index_select(0, self.flat)

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums over each row's entries, ``(B,)``."""
        if self.flat is None:
            return values.sum(-1)
        return values.new_zeros(self.shape[0]).index_add(0, self.rows, values)

    def column_sums(self, values: Tensor) -> Tensor:
        """Sums over each column's entries, ``(G,)``."""
        if self.flat is None:
            return values.sum(0)
        return values.new_zeros(self.shape[1]).index_add(0, self.columns, values)

    def add_to(self, dense: Tensor, values: Tensor) -> Tensor:
        """``dense`` ``(B, G)`` with ``values`` added at the entries, in place."""
        if self.flat is None:
            return dense.add_(values)
        dense.view(-1).scatter_add_(0, self.flat, values)
        return dense


def scaled_rates(raw: Tensor, activation: str) -> Tensor:
    """Rates at a library size of one, ``(B, G)``, of outputs ``raw`` of the decoder."""
    return torch.softmax(raw, dim=-1) if activation == "softmax" else F.softplus(raw)


def log_scaled_rates(raw: Tensor, activation: str) -> Tensor:
    """Logs of :func:`scaled_rates`, finite where rates underflow."""
    if activation == "softmax":
        return torch.log_softmax(raw, dim=-1)
    # log(1 + exp(raw)) is exp(raw) from there on, and its logarithm raw
    return torch.where(raw < _LINEAR, raw, F.softplus(raw.clamp_min(_LINEAR)).log())


def poisson_loss(
    x: Tensor | SparseRows, raw: Tensor, library: Tensor, activation: str = "softmax"
) -> Tensor:
    """Minus log density of Poisson counts with rate ``library * activation(raw)``, ``(B,)``."""
    entries = Entries.of(x)
    log_rate = entries.pick(log_scaled_rates(raw, activation)) + entries.pick(library.log())
    inside = torch.lgamma(entries.values + 1.0) - entries.values * log_rate
    total = library.squeeze(-1)
    if activation != "softmax":
        # proportions sum to one
        total = total * scaled_rates(raw, activation).sum(-1)
    return total + entries.row_sums(inside)


def negative_binomial_loss(
    x: Tensor | SparseRows,
    raw: Tensor,
    library: Tensor,
    log_theta: Tensor,
    activation: str = "softmax",
) -> Tensor:
    """Minus log density of negative binomial counts with mean ``library * activation(raw)``.

    Parameters
    ----------
    x
        Counts ``(B, G)``.
    raw
        Outputs of the decoder, ``(B, G)``.
    library
        ``(B, 1)``; a constant, to which no gradient flows.
    log_theta
        Log inverse dispersion, ``(1, G)`` or ``(B, G)``.
    activation
        ``"softmax"`` or ``"softplus"``.

    Returns
    -------
    Tensor ``(B,)`` in nats. Source: Lopez et al. 2018 (scVI), in the form of this module's head.
    """
    return _NegativeBinomial.apply(raw, log_theta, library, Entries.of(x), activation)


class _NegativeBinomial(torch.autograd.Function):
    """Value and both derivatives in one pass over ``(B, G)``, with two matrices kept, not ten."""

    @staticmethod
    def forward(
        ctx, raw: Tensor, log_theta: Tensor, library: Tensor, entries: Entries, activation: str
    ) -> Tensor:
        # raw, p, mean, ratio, log_ratio, shrunk (B, G)  theta (1 or B, G)  x and *_x (nnz,)
        theta = log_theta.exp()
        p = scaled_rates(raw, activation)
        # log p at the entries alone
        if activation == "softmax":
            # the largest p gives what the softmax divided by
            log_sum = raw.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
            log_mean_x = entries.pick(raw) + entries.pick(library.log() - log_sum)
        else:
            log_mean_x = log_scaled_rates(entries.pick(raw), activation)
            log_mean_x = log_mean_x + entries.pick(library.log())
        # from here on in place where it can be: these matrices are what costs
        mean = p * library
        ratio = mean / theta
        # log s - log theta
        log_ratio = ratio.log1p()
        x, theta_x = entries.values, entries.pick(theta)
        inside = (
            x * (entries.pick(log_ratio) + entries.pick(log_theta) - log_mean_x)
            - torch.lgamma(x + theta_x)
            + entries.pick(torch.lgamma(theta))
            + torch.lgamma(x + 1.0)
        )
        value = (log_ratio * theta).sum(-1) + entries.row_sums(inside)
        if any(ctx.needs_input_grad[:2]):
            # theta / s
            shrunk = ratio.add_(1.0).reciprocal_()
            shrunk_x = entries.pick(shrunk)
            # by log mean, then through the softmax or the softplus
            slope = entries.add_to(mean.mul_(shrunk), -x * shrunk_x)
            if activation == "softmax":
                slope.addcmul_(p, slope.sum(-1, keepdim=True), value=-1.0)
            else:
                slope.mul_(torch.where(raw < _LINEAR, 1.0, torch.sigmoid(raw) / p))
            # by theta, the entries apart
            by_theta = log_ratio.add_(shrunk).sub_(1.0)
            by_theta_x = x * shrunk_x / theta_x - torch.digamma(x + theta_x)
            by_theta_x += entries.pick(torch.digamma(theta))
            ctx.save_for_backward(slope, by_theta, by_theta_x, theta)
            ctx.entries = entries
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, weight: Tensor) -> tuple[Tensor | None, ...]:
        slope, by_theta, by_theta_x, theta = ctx.saved_tensors
        entries = ctx.entries
        weight = weight.unsqueeze(-1)
        of_raw = weight * slope if ctx.needs_input_grad[0] else None
        of_theta = None
        if ctx.needs_input_grad[1] and len(theta) == 1:
            by_column = weight.T @ by_theta
            by_theta_x = by_theta_x * entries.pick(weight)
            of_theta = theta * (by_column + entries.column_sums(by_theta_x))
        elif ctx.needs_input_grad[1]:
            of_theta = weight * theta * entries.add_to(by_theta.clone(), by_theta_x)
        return of_raw, of_theta, None, None, None


def zero_inflated_loss(
    x: Tensor | SparseRows,
    raw: Tensor,
    library: Tensor,
    log_theta: Tensor,
    zi_logits: Tensor,
    activation: str = "softmax",
) -> Tensor:
    """As :func:`negative_binomial_loss`, with extra zeros of logits ``zi_logits`` ``(B, G)``."""
    entries = Entries.of(x)
    theta = log_theta.exp()
    log_mean = log_scaled_rates(raw, activation) + library.log()
    log_s = torch.logaddexp(log_mean, log_theta)
    log_zero = theta * (log_theta - log_s)
    # as if every count were zero
    whole = F.softplus(-zi_logits) - F.softplus(log_zero - zi_logits)
    x, theta_x, zi_x = entries.values, entries.pick(theta), entries.pick(zi_logits)
    inside = (
        x * (entries.pick(log_s) - entries.pick(log_mean))
        - torch.lgamma(x + theta_x)
        + entries.pick(torch.lgamma(theta))
        + torch.lgamma(x + 1.0)
    )
    at_zero = entries.pick(log_zero)
    correction = zi_x - at_zero + inside + F.softplus(at_zero - zi_x)
    # zeros may be among the entries: dense ones, and those that a sparse matrix stores
    correction = torch.where(x > 0, correction, 0.0)
    return whole.sum(-1) + entries.row_sums(correction)
