"""From AnnData to minibatches: rows of the registered fields, splits and samplers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import h5py
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse
from scvi.data import AnnDataManager
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mixvi.core.resident import ResidentRows, is_code

DATA_ON = ("auto", "host", "device")
_BACKED = (h5py.Dataset, CSRDataset, CSCDataset)


def registered_fields(
    manager: AnnDataManager, extra: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Registry key to matrix; CSC is converted, so that a minibatch costs its own rows alone."""
    fields = dict(extra or {})
    for key in manager.data_registry:
        values = manager.get_from_registry(key)
        if sparse.issparse(values):
            values = values.tocsr()
        elif isinstance(values, pd.DataFrame):
            values = values.to_numpy()
        if isinstance(values, np.ndarray) and values.ndim == 1:
            values = values.reshape(-1, 1)
        fields[key] = values
    return fields


class BackedRows(Dataset):
    """Registered fields of an AnnData on disk, read by lists of row numbers.

    Rows are read in ascending order, then put back into the order asked for.

    Parameters
    ----------
    fields
        Of :func:`registered_fields`.
    """

    def __init__(self, fields: dict[str, np.ndarray]):
        self._fields = fields

    def __getitem__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of the rows, in the order given: floats as float32, codes as int64."""
        rows = np.asarray(rows)
        return {key: self._read(key, values, rows) for key, values in self._fields.items()}

    @staticmethod
    def _read(key: str, values, rows: np.ndarray) -> Tensor:
        if isinstance(values, _BACKED):
            unique, back = np.unique(rows, return_inverse=True)
            block = values[unique]
            block = (block.toarray() if sparse.issparse(block) else block)[back]
        else:
            block = values[rows]
        dtype = np.int64 if is_code(key, values) else np.float32
        return torch.from_numpy(np.ascontiguousarray(block, dtype))


class Minibatches:
    """One minibatch for each list of row numbers that ``batches`` gives, anew at every pass."""

    def __init__(self, rows: ResidentRows, batches: Iterable[np.ndarray], dense_x: bool = True):
        self._rows = rows
        self._batches = batches
        self._dense_x = dense_x

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self._rows.minibatches(self._batches, self._dense_x)


def make_loader(
    fields: dict[str, np.ndarray],
    batches: Iterable[np.ndarray],
    rows: ResidentRows | None,
    dense_x: bool = True,
) -> Minibatches | DataLoader:
    """Minibatches from memory, or from disk where ``rows`` is None."""
    if rows is None:
        return DataLoader(BackedRows(fields), sampler=batches, batch_size=None)
    return Minibatches(rows, batches, dense_x)


def resident_rows(
    fields: dict[str, np.ndarray], device: torch.device, data_on: str = "auto"
) -> ResidentRows | None:
    """The fields as tensors on the host or the device; None if the data are backed.

    ``"auto"`` puts them on an accelerator if they take no more than 40 % of its free memory.
    """
    if any(isinstance(values, _BACKED) for values in fields.values()):
        return None
    on_device = data_on == "device"
    if data_on == "auto" and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        on_device = ResidentRows.n_bytes(fields) <= 0.4 * free
    return ResidentRows(fields, device if on_device else "cpu", device)


class MinibatchSampler(Sampler[np.ndarray]):
    """Arrays of row numbers for one epoch; no minibatch of a single row.

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

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._labelled is None:
            order = self._order(self.indices)
            for i in range(len(self)):
                last = i == len(self) - 1
                stop = len(order) if last else (i + 1) * self.batch_size
                yield order[i * self.batch_size : stop]
            return
        unlabelled = self._order(self._unlabelled)
        step = self.batch_size - self._n_labelled
        labelled = self._recycled(len(self) * self._n_labelled)
        for i in range(len(self)):
            ours = labelled[i * self._n_labelled : (i + 1) * self._n_labelled]
            yield np.concatenate([ours, unlabelled[i * step : (i + 1) * step]])

    def _order(self, indices: np.ndarray) -> np.ndarray:
        return indices[torch.randperm(len(indices)).numpy()] if self.shuffle else indices

    def _recycled(self, n: int) -> np.ndarray:
        rounds = -(-n // len(self._labelled))
        return np.concatenate([self._order(self._labelled) for _ in range(rounds)])[:n]


def _n_batches(n_rows: int, batch_size: int) -> int:
    full, rest = divmod(n_rows, batch_size)
    # batch norm has no variance for one row
    return max(1, full + (rest > 1))


def inference_loader(
    manager: AnnDataManager,
    indices: np.ndarray,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Minibatches | DataLoader:
    """Minibatches of the rows in the order given, sparse data as entries alone."""
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    fields = registered_fields(manager)
    # each row is read once: moving all of them first would gain nothing
    rows = resident_rows(fields, torch.device(device), "host")
    return make_loader(fields, batches, rows, dense_x=False)


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
        Further arrays ``(n_obs, ...)`` to read beside the fields.
    data_on
        ``"host"``, ``"device"`` or ``"auto"``; see :func:`resident_rows`.
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
        data_on: str = "auto",
    ):
        super().__init__()
        self._manager = manager
        self._extra = extra
        self._data_on = data_on
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
        """Find the fields and bring them where they are read (called by lightning)."""
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        self._fields = registered_fields(self._manager, self._extra)
        self._rows = resident_rows(self._fields, device, self._data_on)

    def train_dataloader(self) -> Minibatches | DataLoader:
        """Shuffled minibatches of the training rows."""
        batches = MinibatchSampler(
            self.train_idx,
            self.batch_size,
            labelled=None if self._labelled is None else self._labelled[self.train_idx],
            labelled_fraction=self._labelled_fraction,
        )
        return make_loader(self._fields, batches, self._rows)

    def val_dataloader(self) -> Minibatches | DataLoader | list:
        """Minibatches of the validation rows, in order."""
        if self.n_val == 0:
            return []
        batches = MinibatchSampler(self.val_idx, self.batch_size, shuffle=False)
        return make_loader(self._fields, batches, self._rows)
