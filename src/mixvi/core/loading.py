"""From AnnData to minibatches: rows of the registered fields, splits and samplers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import h5py
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

_BACKED = (h5py.Dataset, CSRDataset, CSCDataset)


class RowDataset(Dataset):
    """Registered fields of an AnnData, read by lists of row numbers.

    CSC matrices are converted to CSR once, so that a minibatch costs its own rows alone. Backed
    matrices stay on disk and are read in ascending order, then put back into the order asked for.

    Parameters
    ----------
    manager
        The AnnData manager.
    extra
        Further arrays ``(n_obs, ...)`` to read beside the fields.
    """

    def __init__(self, manager: AnnDataManager, extra: dict[str, np.ndarray] | None = None):
        self._fields = dict(extra or {})
        for key in manager.data_registry:
            values = manager.get_from_registry(key)
            if sparse.issparse(values):
                values = values.tocsr()
            elif isinstance(values, pd.DataFrame):
                values = values.to_numpy()
            if isinstance(values, np.ndarray) and values.ndim == 1:
                values = values.reshape(-1, 1)
            self._fields[key] = values
        self._n_obs = manager.adata.n_obs

    def __len__(self) -> int:
        return self._n_obs

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of the rows, in the order given: floats as float32, codes as int64."""
        rows = np.asarray(rows)
        tensors = {key: self._read(values, rows) for key, values in self._fields.items()}
        # integer columns are codes, unless they are the counts of a single gene
        tensors[REGISTRY_KEYS.X_KEY] = tensors[REGISTRY_KEYS.X_KEY].float()
        return tensors

    @staticmethod
    def _read(values, rows: np.ndarray) -> Tensor:
        if isinstance(values, _BACKED):
            unique, back = np.unique(rows, return_inverse=True)
            block = values[unique]
            block = (block.toarray() if sparse.issparse(block) else block)[back]
        else:
            block = values[rows]
            block = block.toarray() if sparse.issparse(block) else block
        whole = block.dtype.kind in "bui" and values.shape[-1] == 1
        return torch.from_numpy(np.ascontiguousarray(block, np.int64 if whole else np.float32))


class MinibatchSampler(Sampler[list[int]]):
    """Lists of row numbers for one epoch; no minibatch of a single row.

    Parameters
    ----------
    indices
        Rows to draw from.
    batch_size
        Rows a minibatch; a last minibatch of one row joins the one before.
    shuffle
        Whether the order is drawn anew each epoch.
    labelled
        Boolean mask over ``indices``, needed with ``labelled_fraction``.
    labelled_fraction
        Share of labelled rows in each minibatch. One epoch passes once over the unlabelled rows;
        labelled rows are recycled.

    Raises
    ------
    ValueError
        If ``labelled_fraction`` is given and either group has no rows.
    """

    def __init__(
        self,
        indices: np.ndarray,
        batch_size: int,
        shuffle: bool = True,
        labelled: np.ndarray | None = None,
        labelled_fraction: float | None = None,
    ):
        self.indices = np.asarray(indices)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._labelled = self._unlabelled = None
        if labelled_fraction is not None:
            self._labelled = self.indices[labelled]
            self._unlabelled = self.indices[~labelled]
            if len(self._labelled) == 0 or len(self._unlabelled) == 0:
                raise ValueError(
                    f"labelled_fraction={labelled_fraction!r} needs labelled and unlabelled cells, "
                    f"but {len(self._labelled)} of {len(self.indices)} training cells are "
                    "labelled. Raise train_size or leave labelled_fraction out."
                )
            share = round(labelled_fraction * batch_size)
            self._n_labelled = min(max(share, 1), batch_size - 1)

    def __len__(self) -> int:
        if self._labelled is not None:
            return max(1, -(-len(self._unlabelled) // (self.batch_size - self._n_labelled)))
        return _n_batches(len(self.indices), self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self._labelled is None:
            order = self._order(self.indices)
            for i in range(len(self)):
                last = i == len(self) - 1
                stop = len(order) if last else (i + 1) * self.batch_size
                yield order[i * self.batch_size : stop].tolist()
            return
        unlabelled = self._order(self._unlabelled)
        step = self.batch_size - self._n_labelled
        labelled = self._recycled(len(self) * self._n_labelled)
        for i in range(len(self)):
            ours = labelled[i * self._n_labelled : (i + 1) * self._n_labelled]
            yield np.concatenate([ours, unlabelled[i * step : (i + 1) * step]]).tolist()

    def _order(self, indices: np.ndarray) -> np.ndarray:
        return indices[torch.randperm(len(indices)).numpy()] if self.shuffle else indices

    def _recycled(self, n: int) -> np.ndarray:
        rounds = -(-n // len(self._labelled))
        return np.concatenate([self._order(self._labelled) for _ in range(rounds)])[:n]


def _n_batches(n_rows: int, batch_size: int) -> int:
    full, rest = divmod(n_rows, batch_size)
    # batch norm has no variance for one row
    return max(1, full + (rest > 1))


def inference_loader(manager: AnnDataManager, indices: np.ndarray, batch_size: int) -> DataLoader:
    """Minibatches of the rows in the order given."""
    sampler = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return DataLoader(RowDataset(manager), sampler=sampler, batch_size=None)


class MinibatchModule(pl.LightningDataModule):
    """Training and validation minibatches of one registered AnnData.

    Parameters
    ----------
    manager
        The model's AnnData manager.
    indices
        Rows that may be used.
    batch_size, labelled, labelled_fraction
        See :class:`MinibatchSampler`; ``labelled`` is a mask over all rows of the AnnData.
    train_size, validation_size
        Shares of ``indices``; what is left over is a test set.
    shuffle_set_split
        Whether rows are shuffled before the split.
    extra
        See :class:`RowDataset`.
    """

    def __init__(
        self,
        manager: AnnDataManager,
        indices: np.ndarray,
        batch_size: int,
        train_size: float,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        labelled: np.ndarray | None = None,
        labelled_fraction: float | None = None,
        extra: dict[str, np.ndarray] | None = None,
    ):
        super().__init__()
        self._manager = manager
        self._extra = extra
        self.batch_size = batch_size
        self._labelled = labelled
        self._labelled_fraction = labelled_fraction
        rest = 1.0 - train_size
        validation_size = rest if validation_size is None else validation_size
        self.n_train = int(np.ceil(train_size * len(indices)))
        self.n_val = min(int(validation_size * len(indices) + 1e-9), len(indices) - self.n_train)
        order = indices
        if shuffle_set_split:
            order = indices[torch.randperm(len(indices)).numpy()]
        self.train_idx = np.sort(order[: self.n_train])
        self.val_idx = np.sort(order[self.n_train : self.n_train + self.n_val])
        self.test_idx = np.sort(order[self.n_train + self.n_val :])

    def setup(self, stage: str | None = None) -> None:
        """Read the fields once (called by lightning)."""
        self._dataset = RowDataset(self._manager, self._extra)

    def train_dataloader(self) -> DataLoader:
        """Shuffled minibatches of the training rows."""
        sampler = MinibatchSampler(
            self.train_idx,
            self.batch_size,
            labelled=None if self._labelled is None else self._labelled[self.train_idx],
            labelled_fraction=self._labelled_fraction,
        )
        return DataLoader(self._dataset, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader | list:
        """Minibatches of the validation rows, in order."""
        if self.n_val == 0:
            return []
        sampler = MinibatchSampler(self.val_idx, self.batch_size, shuffle=False)
        return DataLoader(self._dataset, sampler=sampler, batch_size=None)
