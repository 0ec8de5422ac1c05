"""Training that goes on after it was stopped.

``train(checkpoint_dir=...)`` keeps a directory with ``run.json`` (what is trained, on which data,
with which settings) and one ``<phase>.ckpt`` for each phase of training. A checkpoint is written
before each epoch and after the last. It holds what lightning's do (weights, optimizer, counters,
callbacks) and what else the next epoch depends on: the states of the random generators, the epoch
records and the split. Nothing in the directory is executed on reading.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from mixvi.core.data.files import from_json, to_json
from mixvi.core.maths.sparse import distinct_entries
from mixvi.core.training.records import records, take_back, to_plain

FORMAT_VERSION = 2
RUN_NAME = "run.json"
_STATE_KEY = "mixvi"
_CHUNK_ROWS = 4096
# what a stopped run may be resumed without: where it runs and what it shows
_FREE_SETTINGS = {
    "accelerator",
    "callbacks",
    "data_on",
    "default_root_dir",
    "devices",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "log_save_dir",
    "logger",
    "num_nodes",
    "plugins",
    "profiler",
    "progress_bar_refresh_rate",
    "simple_progress_bar",
    "strategy",
}


class TrainingRun:
    """The directory of one call of ``train``.

    Parameters
    ----------
    directory
        Where checkpoints are; made if it is missing.
    resume
        Whether to go on with what is there.
    described
        Name to value of everything that must not differ when the run is resumed.
    before
        The model's state before training (JSON can hold it).

    Raises
    ------
    ValueError
        If the directory holds a run and ``resume`` is false, a run of other data or settings, or
        damaged files.
    """

    def __init__(self, directory: str | Path, resume: bool, described: dict, before: dict):
        self._directory = Path(directory)
        self.before = before
        if self._directory.exists() and not self._directory.is_dir():
            raise ValueError(f"checkpoint_dir: {self._directory} is a file; a directory is needed.")
        begun = any(self._directory.glob("*.ckpt"))
        if resume and begun:
            record = _read_run(self._directory)
            self._check_same(record["described"], described)
            self.before = from_json(record["before"])
        elif rank_zero_only.rank == 0:
            # other processes come when this one may have begun already
            if begun:
                raise ValueError(
                    f"checkpoint_dir: {self._directory} holds a run already. Pass resume=True to "
                    "go on with it, or choose another directory."
                )
            record = {"format_version": FORMAT_VERSION, "described": described, "before": before}
            self._directory.mkdir(parents=True, exist_ok=True)
            with whole_file(self._directory / RUN_NAME) as file:
                file.write(json.dumps(to_json(record)).encode())

    def phase(self, name: str) -> Checkpoints:
        """The checkpoints of one phase, such as ``"start"`` and ``"training"``."""
        return Checkpoints(self._directory / f"{name}.ckpt")

    def note(self, name: str, value: Any) -> None:
        """Keep what the run has found beside its weights (JSON can hold it)."""
        if rank_zero_only.rank == 0:
            with whole_file(self._directory / f"{name}.json") as file:
                file.write(json.dumps(to_json(value)).encode())

    def noted(self, name: str) -> Any:
        """What :meth:`note` kept, or None."""
        path = self._directory / f"{name}.json"
        return from_json(json.loads(path.read_text())) if path.is_file() else None

    def _check_same(self, then: dict, described: dict) -> None:
        # through JSON once, as what was stored
        now = json.loads(json.dumps(to_json(described)))
        parts = []
        for name in sorted(now.keys() | then.keys()):
            old, new = then.get(name), now.get(name)
            if not _alike(old, new):
                parts.append(f"{name} (was {_shown(old)}, now {_shown(new)})")
        if parts:
            raise ValueError(
                f"checkpoint_dir: {self._directory} holds a run of other data or settings. "
                f"These differ: {'; '.join(parts)}. Pass what the stopped call of train was given, "
                "or choose another directory."
            )


class Checkpoints(pl.Callback):
    """Writes one phase's checkpoint and restores what lightning leaves out.

    Lightning's ModelCheckpoint writes before an epoch's records and learning-rate schedulers are
    done, and without random states: hence this callback. The file itself is lightning's.

    Attributes
    ----------
    writing
        Whether it is this callback's checkpoint that lightning is making.
    """

    def __init__(self, path: Path):
        self._path = path
        self.writing = self._finished = self._checked = False
        self._random: dict | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self._path.is_file()

    def joined(self, trainer_kwargs: dict) -> dict:
        """The trainer's arguments with this callback, safe files and where to go on from."""
        plugins = trainer_kwargs.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        return trainer_kwargs | {
            # first, so that other callbacks' draws belong to the epoch
            "callbacks": [self, *(trainer_kwargs.get("callbacks") or [])],
            "plugins": [*plugins, WholeFiles()],
            "ckpt_path": str(self._path) if self.exists else None,
        }

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the stored random states, or store what this epoch starts from."""
        if self._random is None:
            self._write(trainer)
        else:
            self._take_random_states(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the end."""
        self._finished = True
        self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave random states as training left them, where it had ended already."""
        if self._random is not None:
            self._take_random_states(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Add to lightning's checkpoint."""
        if not self.writing:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for count in (progress["total"], progress["current"]):
            # lightning has counted the epoch that is about to start
            count["ready"] = count["completed"]
        ours = random_states(trainer.strategy.root_device)
        ranks = range(trainer.world_size)
        checkpoint[_STATE_KEY] = {
            "finished": self._finished,
            "random": [trainer.strategy.broadcast(ours, src=rank) for rank in ranks],
            "records": to_plain(records(trainer)),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Take back what :meth:`on_save_checkpoint` added."""
        state = checkpoint[_STATE_KEY]
        if len(state["random"]) != trainer.world_size:
            raise ValueError(
                f"devices: the run in {self._path.parent} had {len(state['random'])} process(es), "
                f"now there are {trainer.world_size}. Pass devices, num_nodes and strategy as the "
                "stopped call of train had them."
            )
        self._random = state["random"][trainer.global_rank]
        # early stopping ends a run before its last epoch, and lightning does not remember that
        trainer.should_stop = state["finished"]
        take_back(trainer, state["records"])

    def _write(self, trainer: pl.Trainer) -> None:
        self.writing = True
        try:
            trainer.save_checkpoint(self._path, weights_only=False)
        finally:
            self.writing = False
        if not self._checked and trainer.is_global_zero:
            # a callback's or an optimizer's state may be more than tensors and numbers
            read_checkpoint(self._path)
        self._checked = True

    def _take_random_states(self, trainer: pl.Trainer) -> None:
        set_random_states(self._random, trainer.strategy.root_device)
        self._random = None


class WholeFiles(TorchCheckpointIO):
    """Checkpoint files that appear whole or not at all, and execute nothing when they are read.

    Lightning's own writer puts its temporary file where no rename may be atomic and does not wait
    for the disk; its reader unpickles.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options=None) -> None:
        """Write the file, then put it in the place of the last."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location=None, weights_only=None) -> dict:
        """Read tensors, numbers and names, and nothing else."""
        return read_checkpoint(path)


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` when it is whole and on the disk."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    if hasattr(os, "O_DIRECTORY"):
        # the new name is on the disk once its directory is
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint; nothing in it is executed.

    Raises
    ------
    ValueError
        If the file is damaged or holds more than tensors, numbers and names.
    """
    try:
        # torch checks no checksums, but writes them
        with zipfile.ZipFile(path) as parts:
            if (part := parts.testzip()) is not None:
                raise ValueError(f"the checksum of {part} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint_dir: {path} is damaged, or holds more than tensors, numbers and names "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); it was not "
            "read further. Leave out callbacks and optimizers with a state of other kinds, or "
            "choose another directory and start anew."
        ) from error


def random_states(device: torch.device) -> dict:
    """States of the random generators of torch, numpy and Python, as tensors and numbers."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, next_gauss = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), next_gauss],
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict, device: torch.device) -> None:
    """Inverse of :func:`random_states`."""
    torch.set_rng_state(states["torch"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    version, numbers, next_gauss = states["python"]
    random.setstate((version, tuple(numbers), next_gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def describe(manager: AnnDataManager, settings: dict[str, Any]) -> dict[str, Any]:
    """Name to value of what a run depends on: the data by sums and hashes, and the settings.

    Sums are compared with a tolerance, because another machine may add in another order.
    """
    named = {name: value for name, value in settings.items() if name != "trainer_kwargs"}
    named |= settings["trainer_kwargs"]
    described = {
        name: _described(value) for name, value in named.items() if name not in _FREE_SETTINGS
    }
    for key in manager.data_registry:
        values = manager.get_from_registry(key)
        if key == REGISTRY_KEYS.X_KEY:
            described |= {f"data {name}": value for name, value in _sums(values).items()}
        else:
            described[f"data of {key!r}"] = _described(np.asarray(values))
    for key, field in manager.registry["field_registries"].items():
        described[f"names of {key!r}"] = _digest(
            json.dumps(to_json(field["state_registry"])).encode()
        )
    return described


def _sums(x) -> dict[str, Any]:
    """Shape, total, total weighted by row number, and number of values that are not 0."""
    if sparse.issparse(x):
        # blocks of rows of a CSC matrix cost the whole matrix each
        x = distinct_entries(x).tocsr()
    total = weighted = 0.0
    filled = 0
    for start in range(0, x.shape[0], _CHUNK_ROWS):
        block = x[start : start + _CHUNK_ROWS]
        block = block.to_numpy() if isinstance(block, pd.DataFrame) else block
        filled += block.count_nonzero() if sparse.issparse(block) else np.count_nonzero(block)
        rows = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        total += float(rows.sum())
        weighted += float(rows @ np.arange(start + 1, start + 1 + len(rows)))
    return {
        "shape": list(x.shape),
        "total": total,
        "total weighted by row": weighted,
        "number of values other than 0": int(filled),
    }


def _described(value: Any) -> Any:
    if isinstance(value, np.ndarray | pd.Series | pd.Index) or (
        isinstance(value, list | tuple) and len(value) > 20
    ):
        values = np.asarray(value)
        plain = values.astype(str) if values.dtype == object else values
        return f"{values.shape} {_digest(np.ascontiguousarray(plain).tobytes())}"
    if isinstance(value, dict):
        return {str(name): _described(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_described(part) for part in value]
    try:
        return to_json(value)
    except TypeError:
        # objects have no value to compare, only a kind
        return f"{type(value).__module__}.{type(value).__qualname__}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _alike(old: Any, new: Any) -> bool:
    numbers = isinstance(old, float) and isinstance(new, float)
    return math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-9) if numbers else old == new


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_run(directory: Path) -> dict:
    path = directory / RUN_NAME
    try:
        record = json.loads(path.read_text())
        version = record["format_version"]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint_dir: {path} is missing or damaged ({error}), but there are checkpoints "
            "beside it. Copy the directory again, or choose another and start anew."
        ) from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint_dir: {directory} has format version {version!r}; this mixvi reads version "
            f"{FORMAT_VERSION}. Finish the run with the mixvi version that began it."
        )
    return record
