"""From AnnData to minibatches: rows of the registered fields, splits and samplers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import h5py
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata.abc import CSCDataset, CSRDataset
from lightning.pytorch.strategies import Strategy
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
        # a generator of its own: making an iterator draws a seed, which a resumed epoch would miss
        generator = torch.Generator()
        return DataLoader(BackedRows(fields), sampler=batches, batch_size=None, generator=generator)
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
    rank, n_ranks
        Which of how many processes asks. All draw the same order and take rows of their own from
        it, in the same number of minibatches; their numbers of rows differ by one at most.
    generator
        What orders are drawn from; the same in every process. ``None``: torch's global one.

    Raises
    ------
    ValueError
        If ``labelled_fraction`` is given and either group has no rows, or if there are too few
        rows for the processes.
    """

    def __init__(
        self,
        indices: np.ndarray,
        batch_size: int,
        shuffle: bool = True,
        labelled: np.ndarray | None = None,
        labelled_fraction: float | None = None,
        rank: int = 0,
        n_ranks: int = 1,
        generator: torch.Generator | None = None,
    ):
        self.indices = np.asarray(indices)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._rank, self._n_ranks = rank, n_ranks
        self._generator = generator
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
        # batch norm has no variance for one row; labelled rows come with the unlabelled ones
        needed = n_ranks * (2 if shuffle and self._labelled is None else 1)
        rows = self.indices if self._labelled is None else self._unlabelled
        if n_ranks > 1 and len(rows) < needed:
            raise ValueError(
                f"devices: {len(rows)} rows are too few for {n_ranks} processes. Lower devices or "
                "num_nodes."
            )

    def __len__(self) -> int:
        # by the smallest share, so that no process waits for a minibatch of another
        if self._labelled is not None:
            n_unlabelled = len(self._unlabelled) // self._n_ranks
            return max(1, -(-n_unlabelled // (self.batch_size - self._n_labelled)))
        return _n_batches(len(self.indices) // self._n_ranks, self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._labelled is None:
            order = self._share(self._order(self.indices))
            for i in range(len(self)):
                last = i == len(self) - 1
                stop = len(order) if last else (i + 1) * self.batch_size
                yield order[i * self.batch_size : stop]
            return
        unlabelled = self._share(self._order(self._unlabelled))
        step = self.batch_size - self._n_labelled
        labelled = self._share(self._recycled(len(self) * self._n_labelled * self._n_ranks))
        for i in range(len(self)):
            ours = labelled[i * self._n_labelled : (i + 1) * self._n_labelled]
            last = i == len(self) - 1
            stop = len(unlabelled) if last else (i + 1) * step
            yield np.concatenate([ours, unlabelled[i * step : stop]])

    def _share(self, order: np.ndarray) -> np.ndarray:
        return order[self._rank :: self._n_ranks]

    def _order(self, indices: np.ndarray) -> np.ndarray:
        if not self.shuffle:
            return indices
        return indices[torch.randperm(len(indices), generator=self._generator).numpy()]

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
        self._fields: dict[str, np.ndarray] | None = None
        self.batch_size = batch_size
        self._labelled = labelled
        self._labelled_fraction = labelled_fraction
        self._rank, self._n_ranks = 0, 1
        self._generator: torch.Generator | None = None
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
        """Agree with the other processes (called by lightning)."""
        if self.trainer is not None and self.trainer.world_size > 1:
            self._agree(self.trainer.strategy)
        self._fields = None

    def _agree(self, strategy: Strategy) -> None:
        """Split and extra arrays as the first process has them, one order, and noise of its own."""
        seed = int(torch.randint(2**62, ()))
        drawn = (self.train_idx, self.val_idx, self.test_idx, self._extra, seed)
        self.train_idx, self.val_idx, self.test_idx, self._extra, seed = strategy.broadcast(drawn)
        self._rank, self._n_ranks = strategy.global_rank, strategy.world_size
        self._generator = torch.Generator().manual_seed(seed)
        if self._rank > 0:
            # processes that were seeded alike would draw the same dropout and latents
            torch.manual_seed(seed + self._rank)

    def state_dict(self) -> dict:
        """Split, extra arrays and order, for a checkpoint (called by lightning)."""
        arrays = {"train": self.train_idx, "validation": self.val_idx, "test": self.test_idx}
        return {
            "split": {name: torch.from_numpy(rows) for name, rows in arrays.items()},
            "extra": {key: torch.from_numpy(rows) for key, rows in (self._extra or {}).items()},
            "order": None if self._generator is None else self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Take back what :meth:`state_dict` gave (called by lightning after ``setup``)."""
        split = {name: rows.numpy() for name, rows in state_dict["split"].items()}
        self.train_idx, self.val_idx = split["train"], split["validation"]
        self.test_idx = split["test"]
        if state_dict["extra"]:
            self._extra = {key: rows.numpy() for key, rows in state_dict["extra"].items()}
            self._fields = None
        if self._generator is not None:
            self._generator.set_state(state_dict["order"])

    def train_dataloader(self) -> Minibatches | DataLoader:
        """Shuffled minibatches of the training rows."""
        batches = MinibatchSampler(
            self.train_idx,
            self.batch_size,
            labelled=None if self._labelled is None else self._labelled[self.train_idx],
            labelled_fraction=self._labelled_fraction,
            rank=self._rank,
            n_ranks=self._n_ranks,
            generator=self._generator,
        )
        return self._loader(batches)

    def val_dataloader(self) -> Minibatches | DataLoader | list:
        """Minibatches of the validation rows, in order."""
        if self.n_val == 0:
            return []
        batches = MinibatchSampler(
            self.val_idx, self.batch_size, shuffle=False, rank=self._rank, n_ranks=self._n_ranks
        )
        return self._loader(batches)

    def _loader(self, batches: MinibatchSampler) -> Minibatches | DataLoader:
        # fields go where they are read once it is known which: a checkpoint may bring others
        if self._fields is None:
            at_hand = self.trainer is not None
            device = self.trainer.strategy.root_device if at_hand else torch.device("cpu")
            self._fields = registered_fields(self._manager, self._extra)
            self._rows = resident_rows(self._fields, device, self._data_on)
        return make_loader(self._fields, batches, self._rows)
