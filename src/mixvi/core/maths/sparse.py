"""Minibatches with few nonzero entries: their entries, and products that visit nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

# denser than this, a dense product is as fast on a CPU
MAX_DENSITY = 0.25


def distinct_entries(x):
    """A sparse matrix with every entry stored once, of a type that scipy computes in.

    scipy allows entries that repeat, which stand for their sum; much of it sums them in place.

    Parameters
    ----------
    x
        CSR or CSC matrix or array of scipy; not changed.

    Returns
    -------
    ``x`` itself if it is that already, else a copy.
    """
    if x.dtype == np.float16:
        # scipy stores these, but takes no rows of them
        x = x.astype(np.float32)
    if x.has_canonical_format:
        return x
    # sums of small integers would overflow in their own type
    x = x.astype(np.float64)
    x.sum_duplicates()
    return x


@dataclass(frozen=True)
class SparseRows:
    """Rows of a CSR matrix, beside their dense form in a minibatch.

    Parameters
    ----------
    offsets
        Where each row's entries begin, ``(B + 1,)``.
    columns, values
        Column and value of each entry, ``(nnz,)``: no column twice in a row; values may be zero.
    n_columns
        Width of the matrix.
    """

    offsets: Tensor
    columns: Tensor
    values: Tensor
    n_columns: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseRows:
        """The same rows on another device."""
        return replace(
            self,
            offsets=self.offsets.to(device, non_blocking=non_blocking),
            columns=self.columns.to(device, non_blocking=non_blocking),
            values=self.values.to(device, non_blocking=non_blocking),
        )

    def type_as(self, other: Tensor) -> SparseRows:
        """The same rows with values of another precision."""
        return replace(self, values=self.values.type_as(other))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the values."""
        return self.values.dtype

    def row_sums(self) -> Tensor:
        """Sums over each row's entries, ``(B,)``."""
        return torch.segment_reduce(self.values, "sum", offsets=self.offsets.long())

    def row_numbers(self) -> Tensor:
        """Row of each entry, ``(nnz,)``."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return rows.repeat_interleave(self.offsets.diff(), output_size=len(self.values))

    def log1p(self) -> SparseRows:
        """The rows with ``log(1 + x)`` of every entry; zeros stay zero."""
        return replace(self, values=self.values.log1p())

    def dense(self) -> Tensor:
        """``(B, n_columns)``."""
        flat = self.row_numbers() * self.n_columns + self.columns
        out = self.values.new_zeros(len(self) * self.n_columns)
        return out.scatter_(0, flat, self.values).view(len(self), self.n_columns)

    def pays(self) -> bool:
        """Whether a sparse product is faster than a dense one: on CPUs, with few entries."""
        n_entries = len(self) * self.n_columns
        return self.device.type == "cpu" and len(self.values) <= MAX_DENSITY * n_entries


def linear(x: Tensor | SparseRows, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` for ``x`` ``(B, G)`` and ``weight`` ``(H, G)``: ``(B, H)``."""
    if not isinstance(x, SparseRows):
        return F.linear(x, weight, bias)
    out = _SparseProduct.apply(weight, x.type_as(weight))
    return out if bias is None else out + bias


class _SparseProduct(torch.autograd.Function):
    """``x @ weight.T`` as weighted sums of the rows of ``weight.T`` that the entries name.

    ``weight`` is best stored column by column, so that its transpose need not be copied.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, x: SparseRows) -> Tensor:
        ctx.x = x
        return _weighted_sums(weight.t().contiguous(), x.columns, x.offsets, x.values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x = ctx.x
        shape = (len(x), x.n_columns)
        parts = (x.values.numpy(), x.columns.numpy(), x.offsets.numpy())
        by_column = sparse.csr_matrix(parts, shape).tocsc()
        entries = (by_column.indices, by_column.indptr, by_column.data)
        sums = _weighted_sums(grad.contiguous(), *(torch.from_numpy(part) for part in entries))
        return sums.t(), None


def _weighted_sums(table: Tensor, picks: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Per bag of ``picks``: the sum of those rows of ``table`` times ``weights``."""
    offsets = offsets[:-1].to(picks.dtype)
    return F.embedding_bag(picks, table, offsets, mode="sum", per_sample_weights=weights)
