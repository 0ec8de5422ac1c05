"""Minibatches from matrices that are held in memory, of the host or of the accelerator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from mixvi.core.maths.sparse import SparseRows, distinct_entries

SPARSE_KEY = "X_sparse"


class ResidentRows:
    """Registered fields as tensors, from which lists of rows become minibatches.

    Matrices of the host are not copied, unless their memory order asks for it. A sparse ``X`` is
    gathered entry by entry; a minibatch has it dense under ``"X"``, as everywhere in scvi-tools,
    and its entries under ``"X_sparse"`` for what can use them.

    Parameters
    ----------
    fields
        Registry key to array ``(n_obs, ...)`` or sparse matrix. One that is not CSR, or repeats
        entries, is copied into that form, so that a minibatch costs its own rows alone.
    device
        Where the tensors lie.
    minibatch_device
        Where minibatches are made, if that is elsewhere: entries travel, not zeros.
    block_rows
        So many sparse rows are gathered at once: the cost of indexing is spread over their
        minibatches.
    """

    def __init__(
        self,
        fields: Mapping[str, np.ndarray],
        device: torch.device | str = "cpu",
        minibatch_device: torch.device | str | None = None,
        block_rows: int = 8192,
    ):
        self._device = torch.device(device)
        self._target = torch.device(device if minibatch_device is None else minibatch_device)
        self._block_rows = block_rows
        self._dense: dict[str, Tensor] = {}
        self._sparse: dict[str, tuple[Tensor, Tensor, Tensor, int]] = {}
        for key, values in fields.items():
            if sparse.issparse(values):
                values = distinct_entries(values).tocsr()
                parts = (values.indptr, values.indices, values.data)
                self._sparse[key] = (*(self._tensor(part) for part in parts), values.shape[1])
            elif is_code(key, values):
                self._dense[key] = self._tensor(values.astype(np.int64, copy=False))
            else:
                self._dense[key] = self._tensor(values)
        self._codes = {key for key, values in fields.items() if is_code(key, values)}

    def _tensor(self, values: np.ndarray) -> Tensor:
        values = np.asarray(values)
        if values.dtype.kind == "u" and values.itemsize > 1:
            # torch does not index these
            values = values.astype(np.int64)
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        if not values.flags.writeable or any(stride < 0 for stride in values.strides):
            values = values.copy()
        return torch.from_numpy(values).to(self._device)

    @staticmethod
    def n_bytes(fields: Mapping[str, np.ndarray]) -> int:
        """Memory that the fields take, in bytes."""
        total = 0
        for values in fields.values():
            parts = [values]
            if sparse.issparse(values):
                parts = [values.indptr, values.indices, values.data]
            total += sum(part.nbytes for part in parts)
        return total

    def minibatches(
        self, batches: Iterable[np.ndarray], dense_x: bool = True
    ) -> Iterator[dict[str, Tensor]]:
        """One minibatch for each list of row numbers, in order: floats as float32.

        Without ``dense_x``, an ``X`` of which the entries are given is not given as a matrix.
        """
        waiting, n_rows = [], 0
        for rows in batches:
            waiting.append(np.asarray(rows))
            n_rows += len(rows)
            # dense rows gain nothing from being gathered twice
            if n_rows >= (self._block_rows if self._sparse else 1):
                yield from self._cut(waiting, dense_x)
                waiting, n_rows = [], 0
        if waiting:
            yield from self._cut(waiting, dense_x)

    def _cut(self, batches: list[np.ndarray], dense_x: bool) -> Iterator[dict[str, Tensor]]:
        rows = torch.from_numpy(np.concatenate(batches)).to(self._device)
        dense = {key: self._picked(key, rows) for key in self._dense}
        parts = {
            key: _gather(*matrix, rows).to(self._target) for key, matrix in self._sparse.items()
        }
        # positions as numbers of the host, so that cutting waits for no device
        ends = {key: part.offsets.tolist() for key, part in parts.items()}
        start = 0
        for batch in batches:
            stop = start + len(batch)
            tensors = {key: values[start:stop] for key, values in dense.items()}
            for key, part in parts.items():
                own = _slice(part, start, stop, ends[key])
                is_x = key == REGISTRY_KEYS.X_KEY
                if is_x:
                    tensors[SPARSE_KEY] = own
                if dense_x or not is_x:
                    tensors[key] = own.dense()
            yield tensors
            start = stop

    def _picked(self, key: str, rows: Tensor) -> Tensor:
        block = self._dense[key].index_select(0, rows)
        return block.to(self._target, torch.int64 if key in self._codes else torch.float32)


def is_code(key: str, values: np.ndarray) -> bool:
    """Whether a field holds codes: a column of whole numbers that is not the data's one gene."""
    return (
        key != REGISTRY_KEYS.X_KEY and values.dtype.kind in "bui" and values.shape[1:] in ((1,), ())
    )


def _gather(
    indptr: Tensor, indices: Tensor, data: Tensor, n_columns: int, rows: Tensor
) -> SparseRows:
    """The rows of a CSR matrix, in the order given."""
    starts = indptr[rows]
    lengths = indptr[rows + 1] - starts
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    total = int(offsets[-1])
    picks = torch.arange(total, device=rows.device)
    picks += (starts - offsets[:-1]).repeat_interleave(lengths, output_size=total)
    columns = indices.index_select(0, picks)
    return SparseRows(offsets, columns, data.index_select(0, picks).float(), n_columns)


def _slice(part: SparseRows, start: int, stop: int, ends: list[int]) -> SparseRows:
    first, last = ends[start], ends[stop]
    return SparseRows(
        (part.offsets[start : stop + 1] - first).to(part.columns.dtype),
        part.columns[first:last],
        part.values[first:last],
        part.n_columns,
    )
