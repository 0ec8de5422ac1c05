"""Networks shared by the models: MLP with covariates, bounded outputs, prior tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.maths import sparse
from mixvi.core.maths.additive import combination_levels
from mixvi.core.maths.sparse import SparseRows

MEAN_BOUNDS = (-5.0, 5.0)
LOG_VAR_BOUNDS = (-9.0, 1.0)


def soft_clip(t: Tensor, low: float, high: float) -> Tensor:
    """Squash ``t`` smoothly and monotonically into ``(low, high)``; near identity inside.

    The lower bound is ``high - softplus(high - low)``, below ``low`` by ``exp(low - high)``.

    Source: Kolb 2022, the bounded latent domain of section 11 (form after its author's code).
    """
    # filled where t lies: a number sent there would have to be waited for
    return _SoftClip.apply(t, t.new_full((), low), t.new_full((), high))


class _SoftClip(torch.autograd.Function):
    """``high - softplus(high - low - softplus(t - low))`` by one sigmoid and one logarithm."""

    @staticmethod
    def forward(ctx, t: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # with u = exp(t - low): below is 1 / (1 + u), and clipped is high - log1p(pressed)
        below = (low - t).sigmoid_()
        pressed = below * (high - low).exp()
        clipped = high - pressed.log1p()
        if ctx.needs_input_grad[0]:
            slope = (1.0 - below).mul_(pressed)
            ctx.save_for_backward(slope.div_(pressed.add_(1.0)))
        return clipped

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def bounded_gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Split the last axis in two halves: bounded means and log-variances, float32 or better."""
    raw = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
    low, high = _gaussian_bounds(raw.shape[-1] // 2, raw.dtype, raw.device)
    mean, log_var = _SoftClip.apply(raw, low, high).chunk(2, dim=-1)
    return mean, log_var


@lru_cache(maxsize=64)
def _gaussian_bounds(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of ``n`` means and as many log-variances, each ``(2 n,)``."""
    # a cached inference tensor could not be used in training
    with torch.inference_mode(False):
        pairs = zip(MEAN_BOUNDS, LOG_VAR_BOUNDS, strict=True)
        low, high = (torch.tensor([m] * n + [v] * n, dtype=dtype, device=device) for m, v in pairs)
    return low, high


class Dropout(nn.Dropout):
    """Dropout whose mask costs 16 random bits an element on a CPU; the rate holds to 1 / 65536."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`torch.nn.Dropout`."""
        ours = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not ours or not self.training or self.p == 0.0 or x.numel() == 0:
            return super().forward(x)
        n_words = -(-x.numel() // 4)
        words = torch.empty(n_words, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= round(self.p * 2**16) - 2**15
        return x * (kept.to(x.dtype) / (1.0 - self.p))


class MLP(nn.Module):
    """``n_layers`` x [Linear, Dropout, BatchNorm, LeakyReLU], then one Linear.

    Covariates enter by concatenation with the input: the first Linear is written as the sum of
    one matrix for the input and one for the covariates, so that query mapping can grow the latter
    alone. With ``inject=True`` they enter every hidden layer and the output layer.

    Parameters
    ----------
    n_in, n_out
        Width of input and output.
    n_covariates
        Width of the covariate matrix ``(B, n_covariates)``; 0 for none.
    n_layers, n_hidden
        Number and width of hidden layers; ``n_layers=0`` gives one linear map.
    dropout_rate
        Dropout before batch norm, as in the thesis.
    batch_norm
        Whether hidden layers have batch norm.
    inject
        Whether the covariates enter every layer instead of the first alone.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_covariates: int = 0,
        n_layers: int = 2,
        n_hidden: int = 256,
        dropout_rate: float = 0.15,
        batch_norm: bool = True,
        inject: bool = False,
    ):
        super().__init__()
        widths = [n_in] + [n_hidden] * n_layers + [n_out]
        self.linears = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        n_injected = len(self.linears) if inject else 1
        self.covariates = nn.ModuleList(
            nn.Linear(n_covariates, linear.out_features, bias=False)
            for linear in self.linears[: n_injected if n_covariates else 0]
        )
        self.hidden = nn.ModuleList(
            nn.Sequential(
                Dropout(dropout_rate),
                nn.BatchNorm1d(n_hidden) if batch_norm else nn.Identity(),
                nn.LeakyReLU(0.01),
            )
            for _ in range(n_layers)
        )
        # stored by column, as a sparse product reads it
        first = self.linears[0].weight
        first.data = first.data.t().contiguous().t()
        for linear in [*self.linears, *self.covariates]:
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor | SparseRows, covariates: Tensor | None = None) -> Tensor:
        """Map ``(B, n_in)`` and ``(B, n_covariates)`` to ``(B, n_out)``."""
        for i, linear in enumerate(self.linears):
            x = sparse.linear(x, linear.weight, linear.bias)
            if i < len(self.covariates):
                x = x + self.covariates[i](covariates)
            if i < len(self.hidden):
                x = self.hidden[i](x)
        return x


@contextmanager
def active_dropout(module: nn.Module) -> Iterator[None]:
    """Dropout as in training, everything else as it is, for draws of networks."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Dropout)]
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.train(mode)


class ConditionalPrior(nn.Module):
    """Learned Gaussian prior p(latent | condition): a table of 2 x ``n_latent`` numbers a category.

    For one-hot conditions a table equals a network of the condition, without batch norm on
    one-hot rows (Kolb 2022, eqs. 4.16 and 5.19). Combinations of several columns have the sum of
    their categories' numbers.

    Parameters
    ----------
    n_conditions
        Number of categories, or of each column's.
    n_latent
        Size of the latent.
    """

    def __init__(self, n_conditions: int | Sequence[int], n_latent: int):
        super().__init__()
        sizes = (n_conditions,) if isinstance(n_conditions, int) else tuple(n_conditions)
        rows = combination_levels(sizes) + np.cumsum([0, *sizes[:-1]])
        self.register_buffer("rows", torch.as_tensor(rows), persistent=False)
        # means start apart: nothing in the loss would part them, and w is to tell conditions apart
        self.table = nn.Embedding(sum(sizes), 2 * n_latent)
        nn.init.zeros_(self.table.weight[:, n_latent:])

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Bounded mean and log-variance ``(B, n_latent)`` for codes ``(B,)``."""
        return bounded_gaussian(self.table(self.rows[condition]).sum(-2))


class DirichletHead(nn.Module):
    """Concentration of q(d | z): ``a_min + softplus(g)``, softly capped for lgamma's precision."""

    A_MIN = 1e-2
    A_MAX = 1e3

    def __init__(self, network: MLP):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Concentration ``(B, K)`` in ``(A_MIN, A_MAX)``."""
        raw = F.softplus(self.network(x, covariates))
        return self.A_MIN + self.A_MAX * torch.tanh(raw / self.A_MAX) * (
            1 - self.A_MIN / self.A_MAX
        )
