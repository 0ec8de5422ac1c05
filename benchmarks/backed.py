"""Training from a file far larger than memory: memory over time, speed, and the shuffle's quality.

The file holds synthetic counts in CSR, about 11 % nonzero, cells sorted by type. ``large``: a pass
over it, or ``max_steps`` of one, in a process that may have 2 GiB of private memory (RLIMIT_DATA:
heap and anonymous mappings, reserved or used; RLIMIT_AS would count libraries and torch's unused
address space, too). Resident memory is noted every two seconds; the system's page cache is not part
of it. ``memory``: the same model on the file's first cells, held in memory. ``loading``: cells a
second of minibatches alone, beside loaders that read every minibatch by itself. ``shuffle``: the
ELBO after training from a small sorted file, of which a window holds a part, and from memory.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import anndata as ad
import h5py
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scvi
import torch
from anndata.experimental import AnnLoader
from anndata.io import sparse_dataset, write_elem
from benchmarks.compare import in_child
from benchmarks.record import TRAINER, quiet, write
from scipy import sparse
from scvi.dataloaders import AnnDataLoader

import mixvi
from mixvi.core.data.backed import BackedMatrix
from mixvi.core.data.loading import MinibatchModule
from mixvi.core.data.splitting import split_rows

N_GENES = 2000
N_TYPES = 10
N_READS = 260
MODEL = {"likelihood": "nb", "n_components": N_TYPES, "n_hidden": 128, "n_layers": 1}
MODEL |= {"n_latent_z": 10, "n_latent_w": 10}
BLOCK = 20_000
WARM_UP = 50


def write_cells(path: Path, n_cells: int, seed: int = 0) -> dict:
    """A file of counts in pieces, sorted by type; its size and density."""
    rng = np.random.default_rng(seed)
    common = rng.lognormal(0.0, 1.0, N_GENES)
    ends = np.cumsum(common * rng.lognormal(0.0, 0.5, (N_TYPES, N_GENES)), axis=1)
    types = np.sort(rng.integers(0, N_TYPES, n_cells))
    with h5py.File(path, "w") as file:
        for start in range(0, n_cells, BLOCK):
            own = types[start : start + BLOCK]
            draws = np.empty((len(own), N_READS), dtype=np.int64)
            for kind in np.unique(own):
                rows = own == kind
                places = ends[kind, -1] * rng.random((rows.sum(), N_READS))
                draws[rows] = np.searchsorted(ends[kind], places)
            draws += N_GENES * np.arange(len(own))[:, None]
            cells, reads = np.unique(draws, return_counts=True)
            entries = (reads.astype(np.float32), np.divmod(cells, N_GENES))
            block = sparse.csr_matrix(entries, shape=(len(own), N_GENES))
            if start:
                sparse_dataset(file["X"]).append(block)
            else:
                write_elem(file, "X", block)
        names = pd.Index([f"cell {i}" for i in range(n_cells)])
        kinds = pd.Categorical.from_codes(types, [f"type {i}" for i in range(N_TYPES)])
        write_elem(file, "obs", pd.DataFrame({"type": kinds}, index=names))
        write_elem(file, "var", pd.DataFrame(index=[f"gene {i}" for i in range(N_GENES)]))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        n_entries = file["X/data"].shape[0]
    return {
        "n_cells": n_cells,
        "density": n_entries / n_cells / N_GENES,
        "file_gb": path.stat().st_size / 1e9,
        "dense_gb": 4e-9 * n_cells * N_GENES,
    }


class _Watch(threading.Thread):
    """Seconds and resident megabytes, every two seconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen: list[tuple[float, float]] = []
        self._start = time.perf_counter()

    def run(self) -> None:
        while True:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            megabytes = pages * resource.getpagesize() / 2**20
            self.seen.append((round(time.perf_counter() - self._start, 1), round(megabytes, 1)))
            time.sleep(2.0)

    def seconds(self) -> float:
        return time.perf_counter() - self._start


class _Clock(pl.Callback):
    """Cells a second after the warm-up: of the clock, and of the process's time on all cores."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size

    def on_train_batch_end(self, trainer, *args) -> None:
        step = trainer.global_step
        if step == WARM_UP:
            self._start = time.perf_counter(), time.process_time()
        elif step > WARM_UP:
            cells = (step - WARM_UP) * self._batch_size
            self.figures = {
                "cells_per_second": cells / (time.perf_counter() - self._start[0]),
                "cells_per_cpu_second": cells / (time.process_time() - self._start[1]),
            }


def _model(cells: ad.AnnData) -> mixvi.GMVAE:
    scvi.settings.seed = 0
    mixvi.GMVAE.setup_anndata(cells)
    return mixvi.GMVAE(cells, **MODEL)


def _train(cells: ad.AnnData, batch_size: int, max_steps: int) -> tuple[dict, mixvi.GMVAE]:
    clock = _Clock(batch_size)
    model = _model(cells)
    options = {"init": None, "batch_size": batch_size, "callbacks": [clock], **TRAINER}
    model.train(1, max_steps=max_steps, **options)
    return clock.figures, model


def large(path: Path, limit: int, batch_size: int, max_steps: int) -> dict:
    """One pass under the limit, or ``max_steps`` of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    watch = _Watch()
    watch.start()
    figures, model = _train(mixvi.read_backed(path), batch_size, max_steps)
    trained = watch.seconds()
    model.get_latent_representation(indices=np.arange(100_000))
    inferred = watch.seconds() - trained
    # the pass alone: before it, checks read the file
    steps = model.trainer.global_step
    began = trained - steps * batch_size / figures["cells_per_second"]
    memory = [megabytes for second, megabytes in watch.seen if began < second < trained]
    third = len(memory) // 3
    return {
        **figures,
        "steps": steps,
        "seconds_before_training": began,
        "cells_per_second_latents": 100_000 / inferred,
        "peak_rss_mb": max(megabytes for _, megabytes in watch.seen),
        "rss_first_third_mb": float(np.mean(memory[:third])),
        "rss_last_third_mb": float(np.mean(memory[-third:])),
        "growth_mb": float(np.mean(memory[-third:]) - np.mean(memory[:third])),
        "rss_mb": watch.seen[:: max(1, len(watch.seen) // 150)],
    }


def memory(path: Path, n_cells: int, batch_size: int) -> dict:
    """The file's first cells, held in memory: the same training without a disk."""
    with h5py.File(path) as file:
        cells = ad.AnnData(sparse_dataset(file["X"])[:n_cells])
    return {**_train(cells, batch_size, -1)[0], "n_cells": n_cells}


def _rate(batches: Iterable, n_batches: int, batch_size: int) -> float:
    batches = iter(batches)
    next(batches)
    start = time.perf_counter()
    n = sum(1 for _ in itertools.islice(batches, n_batches))
    return n * batch_size / (time.perf_counter() - start)


def loading(path: Path, limit: int, batch_size: int) -> dict:
    """Minibatches a second of three loaders, shuffled."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    cells = ad.read_h5ad(path, backed="r")
    manager = _model(cells).adata_manager
    data = MinibatchModule(manager, split_rows(np.arange(cells.n_obs), 1.0), batch_size)
    data.setup()
    plain = AnnDataLoader(manager, batch_size=batch_size, shuffle=True)
    lazy = AnnLoader(cells, batch_size=batch_size, shuffle=True)
    return {
        # several windows, of which the first is read before the clock starts
        "mixvi": _rate(data.train_dataloader(), 6000, batch_size),
        "scvi.dataloaders.AnnDataLoader": _rate(plain, 20, batch_size),
        # its minibatches read X when asked for it
        "anndata.experimental.AnnLoader": _rate((part.X for part in lazy), 20, batch_size),
    }


def shuffle(path: Path, n_windows: int | None, epochs: int, seed: int) -> dict:
    """The ELBO after training from disk in so many windows an epoch, or from memory."""
    cells = mixvi.read_backed(path)
    if n_windows is not None:
        matrix = BackedMatrix(cells.X)
        share = matrix.n_bytes(np.arange(cells.n_obs)) / n_windows / matrix.window_bytes
        mixvi.settings.backed_memory = int(share * mixvi.settings.backed_memory)
    model = _model(cells)
    scvi.settings.seed = seed
    model.train(epochs, init=None, data_on="host" if n_windows is None else "disk", **TRAINER)
    torch.manual_seed(0)
    return {"elbo": model.get_elbo()}


def main() -> None:
    """Write the files, run all and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=2_700_000)
    parser.add_argument("--limit-gib", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--memory-cells", type=int, default=200_000)
    parser.add_argument("--shuffle-cells", type=int, default=20_000)
    parser.add_argument("--shuffle-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    quiet()
    limit, size = int(args.limit_gib * 2**30), args.batch_size
    settings = {
        "n_genes": N_GENES,
        "model": MODEL,
        "backed_memory": mixvi.settings.backed_memory,
        "backed_chunk_rows": mixvi.settings.backed_chunk_rows,
        **vars(args),
    }
    runs: list[dict] = []
    summary: dict = {}

    def note(case: str, method: str, figures: dict, seed: int = 0) -> None:
        runs.append({"case": case, "method": method, "seed": seed, **figures})
        print(case, method, {k: v for k, v in figures.items() if k != "rss_mb"}, flush=True)
        write("backed", settings, runs, summary, echo=False)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.h5ad"
        summary["file"] = in_child(write_cells, path, args.cells)
        note("large", "disk", in_child(large, path, limit, size, args.max_steps))
        note("large", "memory", in_child(memory, path, args.memory_cells, size))
        note("loading", "cells a second", in_child(loading, path, limit, size))
        path.unlink()
        small = Path(folder) / "small.h5ad"
        write_cells(small, args.shuffle_cells, seed=1)
        ways = {"memory": None, "20 windows": 20, "100 windows": 100}
        for seed, (way, n_windows) in itertools.product(range(args.seeds), ways.items()):
            figures = in_child(shuffle, small, n_windows, args.shuffle_epochs, seed)
            note("shuffle", way, figures, seed)
    disk, held = runs[0], runs[1]
    shown = ("cells_per_second", "peak_rss_mb", "rss_first_third_mb", "rss_last_third_mb")
    summary["large"] = {key: disk[key] for key in (*shown, "growth_mb", "steps")}
    for key in ("cells_per_second", "cells_per_cpu_second"):
        summary[f"{key}_over_memory"] = disk[key] / held[key]
    elbos = {way: [r["elbo"] for r in runs if r["method"] == way and "elbo" in r] for way in ways}
    summary["elbo"] = {way: float(np.mean(values)) for way, values in elbos.items()}
    summary["elbo_range"] = {way: float(np.ptp(values)) for way, values in elbos.items()}
    write("backed", settings, runs, summary)


if __name__ == "__main__":
    main()
