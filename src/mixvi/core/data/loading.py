"""From AnnData to minibatches: rows of the registered fields, and samplers of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.strategies import Strategy
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from torch import Tensor
from torch.utils.data import Sampler

from mixvi.core.data.backed import BackedMatrix, BackedRows, is_backed
from mixvi.core.data.resident import ResidentRows
from mixvi.core.data.splitting import Split

DATA_ON = ("auto", "disk", "host", "device")


def registered_fields(
    manager: AnnDataManager, extra: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Registry key to matrix, as it is registered.

    ``extra`` are further arrays ``(n_obs, ...)``, which stand for a field of the same key. Only
    ``X`` may be on disk.
    """
    fields = {}
    # read by the fields themselves: the registry is built anew for each key it is asked for
    for field in manager.fields:
        if field.is_empty:
            continue
        values = field.get_field_data(manager.adata)
        if isinstance(values, pd.DataFrame):
            values = values.to_numpy()
        if isinstance(values, np.ndarray) and values.ndim == 1:
            values = values.reshape(-1, 1)
        fields[field.registry_key] = values
    return fields | (extra or {})


class Minibatches:
    """One minibatch for each list of row numbers that ``batches`` gives, anew at every pass."""

    def __init__(
        self, rows: ResidentRows | BackedRows, batches: Iterable[np.ndarray], dense_x: bool = True
    ):
        self._rows = rows
        self._batches = batches
        self._dense_x = dense_x

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self._rows.minibatches(self._batches, self._dense_x)


def place_rows(
    fields: dict[str, np.ndarray], device: torch.device, data_on: str = "auto"
) -> ResidentRows | BackedRows:
    """The fields where minibatches find them: on disk, on the host or on the device.

    ``"auto"`` leaves data on disk if they take more than one window of
    ``mixvi.settings.backed_memory``, and puts others on an accelerator if they take no more than
    40 % of its free memory. ``"host"`` and ``"device"`` read data on disk into memory.

    Raises
    ------
    ValueError
        If data in memory are to be on disk.
    """
    if is_backed(fields[REGISTRY_KEYS.X_KEY]):
        matrix = BackedMatrix(fields[REGISTRY_KEYS.X_KEY])
        everything = np.arange(matrix.shape[0])
        too_large = matrix.n_bytes(everything) > matrix.window_bytes
        if data_on == "disk" or (data_on == "auto" and too_large):
            return BackedRows(fields, matrix, device)
        fields = fields | {REGISTRY_KEYS.X_KEY: matrix.read(everything)}
    elif data_on == "disk":
        raise ValueError(
            "data_on='disk', but the data are in memory. Open the file with mixvi.read_backed, or "
            "leave data_on out."
        )
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
    groups
        Codes of all rows that there are, of classes say, below zero of rows in none. An epoch draws
        those in groups with replacement, each group alike, and as many as there are; others come
        once.
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
        groups: np.ndarray | None = None,
    ):
        self.indices = np.asarray(indices)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._rank, self._n_ranks = rank, n_ranks
        self._generator = generator
        self._groups = groups
        self._labelled = self._unlabelled = None
        if labelled_fraction is not None:
            self._labelled = self.indices[labelled]
            self._unlabelled = self.indices[~labelled]
            if len(self._labelled) == 0 or len(self._unlabelled) == 0:
                raise ValueError(
                    f"labelled_fraction={labelled_fraction!r} needs labelled and unlabelled rows, "
                    f"but {len(self._labelled)} of {len(self.indices)} training rows are "
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
        shuffled = self.indices if self._labelled is None else self._unlabelled
        yield from self._cut(self._share(self._order(shuffled)))

    def _cut(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """Minibatches from an order of the rows, or of the unlabelled ones where shares are set."""
        if self._labelled is None:
            for i in range(len(self)):
                last = i == len(self) - 1
                stop = len(order) if last else (i + 1) * self.batch_size
                yield order[i * self.batch_size : stop]
            return
        step = self.batch_size - self._n_labelled
        labelled = self._share(self._recycled(len(self) * self._n_labelled * self._n_ranks))
        for i in range(len(self)):
            ours = labelled[i * self._n_labelled : (i + 1) * self._n_labelled]
            last = i == len(self) - 1
            stop = len(order) if last else (i + 1) * step
            yield np.concatenate([ours, order[i * step : stop]])

    def _share(self, order: np.ndarray) -> np.ndarray:
        return order[self._rank :: self._n_ranks]

    def _order(self, indices: np.ndarray) -> np.ndarray:
        if not self.shuffle:
            return indices
        if self._groups is not None:
            indices = self._balanced(indices)
        return indices[torch.randperm(len(indices), generator=self._generator).numpy()]

    def _balanced(self, indices: np.ndarray) -> np.ndarray:
        """As many rows, of which each group has about as many."""
        codes = self._groups[indices]
        grouped = codes >= 0
        if not grouped.any():
            return indices
        _, places, counts = np.unique(codes[grouped], return_inverse=True, return_counts=True)
        weights = torch.from_numpy(1.0 / counts[places])
        drawn = torch.multinomial(weights, len(places), True, generator=self._generator)
        return np.concatenate([indices[~grouped], indices[grouped][drawn.numpy()]])

    def _recycled(self, n: int) -> np.ndarray:
        rounds = -(-n // len(self._labelled))
        return np.concatenate([self._order(self._labelled) for _ in range(rounds)])[:n]


class ChunkedSampler(MinibatchSampler):
    """Shuffled minibatches of a matrix on disk, in windows that are read at once.

    The order is that of :meth:`mixvi.core.data.backed.BackedMatrix.shuffled`. With
    ``labelled_fraction``, labelled rows have their share of each window.

    Parameters
    ----------
    matrix
        The matrix on disk.
    **options
        See :class:`MinibatchSampler`.
    """

    def __init__(self, matrix: BackedMatrix, **options):
        super().__init__(**options)
        self._matrix = matrix
        self._main, self._step = self.indices, self.batch_size
        if self._labelled is not None:
            self._main, self._step = self._unlabelled, self.batch_size - self._n_labelled

    def __iter__(self) -> Iterator[np.ndarray]:
        for window in self.windows():
            yield from window

    def windows(self) -> Iterator[list[np.ndarray]]:
        """The epoch's minibatches, in lists whose rows lie in the same chunks."""
        # a window that the labelled rows make too large would be read in two parts
        share = 1.0 if self._labelled is None else 0.95 * self._step / self.batch_size
        groups = self._matrix.shuffled(self._main, self._step, share)
        batches = list(self._cut(np.concatenate(groups)))
        ends = np.cumsum([len(group) // self._step for group in groups])[:-1].tolist()
        for start, stop in pairwise([0, *ends, len(batches)]):
            if stop > start:
                yield batches[start:stop]

    def _order(self, indices: np.ndarray) -> np.ndarray:
        share = 1.0 - self._step / self.batch_size
        return np.concatenate(self._matrix.shuffled(indices, 1, share))


def _n_batches(n_rows: int, batch_size: int) -> int:
    full, rest = divmod(n_rows, batch_size)
    # batch norm has no variance for one row
    return max(1, full + (rest > 1))


def inference_loader(
    manager: AnnDataManager,
    indices: np.ndarray,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Minibatches:
    """Minibatches of the rows in the order given, sparse data as entries alone."""
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    fields = registered_fields(manager)
    # each row is read once: moving all of them first would gain nothing
    where = "disk" if is_backed(fields[REGISTRY_KEYS.X_KEY]) else "host"
    return Minibatches(place_rows(fields, torch.device(device), where), batches, dense_x=False)


class MinibatchModule(pl.LightningDataModule):
    """Training and validation minibatches of one registered AnnData.

    Parameters
    ----------
    manager
        The model's AnnData manager.
    split
        Which rows train and which are validated.
    batch_size, labelled, labelled_fraction, groups
        See :class:`MinibatchSampler`; ``labelled`` is a mask over all rows of the AnnData.
    extra
        Further arrays ``(n_obs, ...)`` to read beside the fields or in their place.
    data_on
        ``"auto"``, ``"disk"``, ``"host"`` or ``"device"``; see :func:`place_rows`.
    """

    def __init__(
        self,
        manager: AnnDataManager,
        split: Split,
        batch_size: int,
        labelled: np.ndarray | None = None,
        labelled_fraction: float | None = None,
        extra: dict[str, np.ndarray] | None = None,
        data_on: str = "auto",
        groups: np.ndarray | None = None,
    ):
        super().__init__()
        self._manager = manager
        self._extra = extra
        self._data_on = data_on
        self._rows: ResidentRows | BackedRows | None = None
        self.batch_size = batch_size
        self._labelled = labelled
        self._labelled_fraction = labelled_fraction
        self._groups = groups
        self._rank, self._n_ranks = 0, 1
        self._generator: torch.Generator | None = None
        self.split = split

    @property
    def n_train(self) -> int:
        """Number of training rows, under scvi-tools' name."""
        return len(self.split.train)

    @property
    def n_val(self) -> int:
        """Number of validation rows, under scvi-tools' name."""
        return len(self.split.validation)

    @property
    def data_loader_kwargs(self) -> dict[str, int]:
        """What scvi-tools' tracking records of minibatches."""
        return {"batch_size": self.batch_size}

    def setup(self, stage: str | None = None) -> None:
        """Agree with the other processes (called by lightning)."""
        if self.trainer is not None and self.trainer.world_size > 1:
            self._agree(self.trainer.strategy)
        self._rows = None

    def _agree(self, strategy: Strategy) -> None:
        """Split and extra arrays as the first process has them, one order, and noise of its own."""
        seed = int(torch.randint(2**62, ()))
        self.split, self._extra, seed = strategy.broadcast((self.split, self._extra, seed))
        self._rank, self._n_ranks = strategy.global_rank, strategy.world_size
        self._generator = torch.Generator().manual_seed(seed)
        if self._rank > 0:
            # processes that were seeded alike would draw the same dropout and latents
            torch.manual_seed(seed + self._rank)

    def state_dict(self) -> dict:
        """Split, extra arrays and order, for a checkpoint (called by lightning)."""
        return {
            "split": {name: torch.from_numpy(rows) for name, rows in self.split._asdict().items()},
            "extra": {key: torch.from_numpy(rows) for key, rows in (self._extra or {}).items()},
            "order": None if self._generator is None else self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Take back what :meth:`state_dict` gave (called by lightning after ``setup``)."""
        self.split = Split(**{name: rows.numpy() for name, rows in state_dict["split"].items()})
        if state_dict["extra"]:
            self._extra = {key: rows.numpy() for key, rows in state_dict["extra"].items()}
            self._rows = None
        if self._generator is not None:
            self._generator.set_state(state_dict["order"])

    def train_dataloader(self) -> Minibatches:
        """Shuffled minibatches of the training rows."""
        options = {
            "indices": self.split.train,
            "batch_size": self.batch_size,
            "labelled": None if self._labelled is None else self._labelled[self.split.train],
            "labelled_fraction": self._labelled_fraction,
            "groups": self._groups,
        }
        rows = self._placed()
        if isinstance(rows, BackedRows):
            return Minibatches(rows, ChunkedSampler(rows.matrix, **options))
        ranks = {"rank": self._rank, "n_ranks": self._n_ranks, "generator": self._generator}
        return Minibatches(rows, MinibatchSampler(**options, **ranks))

    def val_dataloader(self) -> Minibatches | list:
        """Minibatches of the validation rows, in order."""
        if self.n_val == 0:
            return []
        batches = MinibatchSampler(
            self.split.validation,
            self.batch_size,
            shuffle=False,
            rank=self._rank,
            n_ranks=self._n_ranks,
        )
        return Minibatches(self._placed(), batches)

    def _placed(self) -> ResidentRows | BackedRows:
        """The fields where they are read, once it is known which: a checkpoint may bring others."""
        if self._rows is not None:
            return self._rows
        device, n_devices = torch.device("cpu"), 1
        if self.trainer is not None:
            device, n_devices = self.trainer.strategy.root_device, self.trainer.world_size
        fields = registered_fields(self._manager, self._extra)
        rows = place_rows(fields, device, self._data_on)
        if isinstance(rows, BackedRows) and n_devices > 1:
            raise ValueError(
                f"devices: data on disk train on one device, but there are {n_devices}. Pass "
                "devices=1, or data_on='host'."
            )
        self._rows = rows
        return rows
