"""Matrices that stay on disk: large reads of bounded memory, minibatches in a shuffled order.

Own code, because others' loaders fall short of what ``train`` promises for any file. scvi-tools'
``DataSplitter`` and anndata's ``AnnLoader`` ask the file for the scattered rows of each minibatch
and wait for them (how slow that is: ``benchmarks/backed.py``). annbatch 0.3 reads as is done here
and takes a sampler of one's own, but reads sparse matrices from zarr alone, so that an h5ad file
would have to be written anew first, and its minibatches in scvi-tools 1.5 have no condition. What
is left to do here is thus: windows of an HDF5 file, chosen and repeated rows, and the condition.
Where that suffices, ``train(datamodule=scvi.dataloaders.AnnbatchDataModule(...))`` takes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import read_elem, sparse_dataset
from scipy import sparse
from scvi import REGISTRY_KEYS

from mixvi.core.data.resident import ResidentRows
from mixvi.core.maths.sparse import distinct_entries
from mixvi.core.settings import settings

# rows that nobody asked for are read if there are no more than this between two that are wanted
_MAX_GAP = 64
# two windows are held at once, and beside them what is being read or cut into minibatches
_WINDOW_SHARE = 0.4
# of fewer, a window of a sorted file would have too few types
_MIN_CHUNKS = 64
_IN_MEMORY = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")


def is_backed(x: object) -> bool:
    """Whether a matrix lies in an HDF5 file or a zarr store."""
    if isinstance(x, h5py.Dataset | CSRDataset | CSCDataset):
        return True
    # whoever holds a zarr array has imported zarr
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(x, zarr.Array)


def read_backed(path: str | Path) -> AnnData:
    """An AnnData of which ``X`` and the layers stay on disk, all else but ``raw`` in memory.

    For h5ad files and zarr stores (a directory). Unlike ``anndata.read_h5ad(backed="r")`` it leaves
    layers on disk, too, and what is written into the AnnData stays in memory: save it with
    ``anndata.AnnData(obs=adata.obs, obsm=dict(adata.obsm)).write_h5ad(...)`` or the like.

    Parameters
    ----------
    path
        A file as ``AnnData.write_h5ad`` writes it, or a directory of ``AnnData.write_zarr``.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r} does not exist.")
    if path.is_dir():
        import zarr

        store = zarr.open_group(str(path), mode="r")
    else:
        store = h5py.File(path, "r")
    in_memory = {slot: read_elem(store[slot]) for slot in _IN_MEMORY if slot in store}
    layers = store["layers"] if "layers" in store else {}
    return AnnData(
        _left_on_disk(store["X"]) if "X" in store else None,
        layers={name: _left_on_disk(layers[name]) for name in layers},
        **in_memory,
    )


def _left_on_disk(element):
    # an array is a leaf, a sparse matrix a group of three
    return element if hasattr(element, "dtype") else sparse_dataset(element)


def row_sums(x) -> np.ndarray:
    """Sum of each row of a matrix, in memory or on disk, in double precision, ``(n_obs,)``."""
    if is_backed(x):
        return BackedMatrix(x).row_sums()
    if isinstance(x, pd.DataFrame):
        x = x.to_numpy()
    if sparse.issparse(x):
        x = distinct_entries(x)
        if x.format == "csr":
            # scipy would make a copy of all values in double precision
            sums, filled = np.zeros(x.shape[0]), np.diff(x.indptr) > 0
            if filled.any():
                sums[filled] = np.add.reduceat(x.data, x.indptr[:-1][filled], dtype=np.float64)
            return sums
    # the matrix's own type may be too small for sums: half precision ends at 65,504
    return np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()


class BackedMatrix:
    """Rows of a matrix on disk, in memory as float32.

    Parameters
    ----------
    x
        HDF5 or zarr array ``(n_obs, n_vars)``, or anndata's CSR on either.
    name
        How messages call it, e.g. ``"adata.X"``.

    Raises
    ------
    ValueError
        For CSC: a row of it is spread over the whole file.
    """

    def __init__(self, x, name: str = "The matrix"):
        if isinstance(x, CSCDataset):
            raise ValueError(
                f"{name} is stored by columns (CSC), so that every minibatch would read the whole "
                "file. Write it by rows once, on a machine that holds it: adata = "
                "anndata.read_h5ad(path); adata.X = adata.X.tocsr(); adata.write_h5ad(new_path)."
            )
        self.shape = tuple(x.shape)
        self._starts = None
        if isinstance(x, CSRDataset):
            self._values, self._columns = x.group["data"], x.group["indices"]
            self._starts = x.group["indptr"][...].astype(np.int64, copy=False)
            stored = self._values.dtype.itemsize + self._columns.dtype.itemsize
            row_bytes = stored * int(self._starts[-1]) / max(1, self.shape[0])
        else:
            self._values = x
            row_bytes = x.dtype.itemsize * self.shape[1]
        self.window_bytes = int(_WINDOW_SHARE * settings.backed_memory)
        most = int(self.window_bytes / max(1.0, row_bytes) / _MIN_CHUNKS)
        self.chunk_rows = max(1, min(settings.backed_chunk_rows, most))

    def _row_bytes(self, rows: np.ndarray) -> np.ndarray:
        """Memory that each row takes once it is read: float32, and int32 columns if sparse."""
        if self._starts is None:
            return np.full(len(rows), 4 * self.shape[1])
        return 8 * (self._starts[rows + 1] - self._starts[rows] + 1)

    def n_bytes(self, rows: np.ndarray) -> int:
        """Memory that these rows take once they are read."""
        return int(self._row_bytes(rows).sum())

    def read(self, rows: np.ndarray) -> sparse.csr_matrix | np.ndarray:
        """Rows, in ascending order and each once, by as few reads as the gaps allow."""
        if self._starts is None:
            out = np.empty((len(rows), self.shape[1]), dtype=np.float32)
            for start, stop, first, last in self._spans(rows):
                block = self._values[start:stop]
                out[first:last] = (
                    block if len(block) == last - first else block[rows[first:last] - start]
                )
            return out
        ends = np.cumsum(self._starts[rows + 1] - self._starts[rows])
        values = np.empty(int(ends[-1]) if len(rows) else 0, dtype=np.float32)
        columns = np.empty(len(values), dtype=np.int32)
        indptr = np.concatenate([[0], ends])
        for start, stop, first, last in self._spans(rows):
            low, high = int(self._starts[start]), int(self._starts[stop])
            # single precision at once: scipy takes no rows of half
            block = self._values[low:high].astype(np.float32), self._columns[low:high]
            if last - first < stop - start:
                found = self._starts[start : stop + 1] - low
                block = sparse.csr_matrix((*block, found), shape=(stop - start, self.shape[1]))
                block = block[rows[first:last] - start]
                block = block.data, block.indices
            values[indptr[first] : indptr[last]] = block[0]
            columns[indptr[first] : indptr[last]] = block[1]
        out = sparse.csr_matrix((values, columns, indptr), shape=(len(rows), self.shape[1]))
        # in place, for the copy is our own; nothing if no entry repeats
        out.sum_duplicates()
        return out

    def _spans(self, rows: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
        """First row and end of each stretch to read, and where its rows begin and end in ``rows``.

        A stretch has no large gap and is no longer than a chunk.
        """
        if len(rows) == 0:
            return
        far = np.diff(rows) > _MAX_GAP
        run = np.concatenate([[0], np.cumsum(far)])
        run_starts = rows[np.concatenate([[0], np.flatnonzero(far) + 1])]
        chunk = (rows - run_starts[run]) // self.chunk_rows
        cuts = np.flatnonzero(far | (np.diff(chunk) != 0)) + 1
        for first, last in pairwise([0, *cuts.tolist(), len(rows)]):
            yield int(rows[first]), int(rows[last - 1]) + 1, first, last

    def stored_blocks(self) -> Iterator[np.ndarray]:
        """Stored values as they are on disk, block by block; zeros only if dense."""
        if self._starts is None:
            for start in range(0, self.shape[0], self.chunk_rows):
                yield self._values[start : start + self.chunk_rows]
            return
        for rows in self.parts(np.arange(self.shape[0])):
            yield self._values[int(self._starts[rows[0]]) : int(self._starts[rows[-1] + 1])]

    def distinct_blocks(self) -> Iterator[np.ndarray]:
        """As :meth:`stored_blocks`, with the sums of repeated entries where they may tell more.

        Where stored values are whole, none is negative and one is above 1, so it is of their sums.
        """
        blocks = self.stored_blocks()
        if self._starts is None:
            yield from blocks
            return
        for rows, values in zip(self.parts(np.arange(self.shape[0])), blocks, strict=True):
            told = values.size and values.min() >= 0 and values.max() > 1
            if told and (values.dtype.kind != "f" or not (values % 1).any()):
                yield values
            else:
                yield self.read(rows).data

    def parts(
        self, rows: np.ndarray, row_bytes: int = 0, multiple: int = 1, share: float = 1.0
    ) -> Iterator[np.ndarray]:
        """Rows in their order, cut so that none of the parts takes more than a window.

        Parameters
        ----------
        rows
            Row numbers.
        row_bytes
            What the caller needs for a row beside its stored values.
        multiple
            The number of rows of every part but the last is a multiple of this.
        share
            Part of a window that a part may take.
        """
        total = np.cumsum(self._row_bytes(rows) + row_bytes)
        start = 0
        while start < len(rows):
            held = total[start - 1] if start else 0
            stop = int(np.searchsorted(total, held + share * self.window_bytes, side="right"))
            if stop < len(rows):
                stop = start + max(1, (stop - start) // multiple) * multiple
            yield rows[start:stop]
            start = stop

    def row_sums(self) -> np.ndarray:
        """Sum of each row in double precision, ``(n_obs,)``."""
        everything = np.arange(self.shape[0])
        return np.concatenate([row_sums(self.read(part)) for part in self.parts(everything)])

    def shuffled(self, rows: np.ndarray, multiple: int, share: float = 1.0) -> list[np.ndarray]:
        """Rows in a random order that is read in large stretches.

        Chunks of neighbouring rows are drawn at random and gathered into groups, and rows are
        shuffled within their group. Where chunks begin is drawn anew, too.

        Parameters
        ----------
        rows
            Row numbers in ascending order.
        multiple, share
            Of the groups, as in :meth:`parts`.

        Returns
        -------
        The groups; together they hold every row once.
        """
        rows = np.roll(rows, int(torch.randint(len(rows), ())))
        chunks = [rows[i : i + self.chunk_rows] for i in range(0, len(rows), self.chunk_rows)]
        order = np.concatenate([chunks[i] for i in torch.randperm(len(chunks)).tolist()])
        groups = self.parts(order, multiple=multiple, share=share)
        return [group[torch.randperm(len(group)).numpy()] for group in groups]


class BackedRows:
    """Registered fields of which ``X`` is on disk; a window of it is read while another trains.

    Parameters
    ----------
    fields
        Registry key to values ``(n_obs, ...)``; ``X`` is backed, the others are in memory.
    matrix
        Reads ``X``.
    minibatch_device
        Where minibatches are made.
    """

    def __init__(
        self,
        fields: Mapping[str, np.ndarray],
        matrix: BackedMatrix,
        minibatch_device: torch.device | str = "cpu",
    ):
        self._others = {k: v for k, v in fields.items() if k != REGISTRY_KEYS.X_KEY}
        self._device = minibatch_device
        self.matrix = matrix

    def minibatches(
        self, batches: Iterable[np.ndarray], dense_x: bool = True
    ) -> Iterator[dict[str, torch.Tensor]]:
        """As :meth:`mixvi.core.data.resident.ResidentRows.minibatches`, window by window.

        ``batches`` may have ``windows()``, lists of minibatches to be read together; what takes
        more than the memory allows is read in parts.
        """
        windows = self._bounded(batches.windows() if hasattr(batches, "windows") else [batches])
        # leaving the block, at the end or early, waits for the read under way
        with ThreadPoolExecutor(1, thread_name_prefix="mixvi-reader") as reader:
            window = next(windows, None)
            ahead = reader.submit(self._read, window) if window else None
            while ahead is not None:
                # an error of the thread is raised here
                rows, own = ahead.result()
                window = next(windows, None)
                ahead = reader.submit(self._read, window) if window else None
                yield from rows.minibatches(own, dense_x)
                # not held any longer once a third window is read
                del rows, own

    def _bounded(self, windows: Iterable[Iterable[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """Lists of minibatches whose rows fit into a window."""
        for together in windows:
            window, held = [], 0
            for rows in together:
                n_bytes = self.matrix.n_bytes(rows)
                if window and held + n_bytes > self.matrix.window_bytes:
                    yield window
                    window, held = [], 0
                window.append(rows)
                held += n_bytes
            if window:
                yield window

    def _read(self, batches: list[np.ndarray]) -> tuple[ResidentRows, list[np.ndarray]]:
        """The window's rows in memory, and where its minibatches are in them."""
        rows = np.unique(np.concatenate(batches))
        fields = {key: values[rows] for key, values in self._others.items()}
        fields[REGISTRY_KEYS.X_KEY] = self.matrix.read(rows)
        # no more at once than is read at once
        window = ResidentRows(fields, "cpu", self._device, block_rows=self.matrix.chunk_rows)
        return window, [np.searchsorted(rows, batch) for batch in batches]
