"""Cells a second on a device: GMVAE beside SCVI, where its data lie, precision, compilation.

Models of a case take turns, in the other order in every other round; ratios to SCVI are those of
the same round. A training runs a number of minibatches after a warm-up, by the model's own
``train``, and is timed from the end of one step to the end of another, the device waited for at
both. Half precision and compilation are measured beside plain training in the same way.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from anndata import AnnData
from benchmarks.device.equality import RESNET, pictures
from benchmarks.device.part import Part, Row, peak, reset_peak
from benchmarks.record import TRAINER
from benchmarks.speed import (
    N_HIDDEN,
    N_LATENT,
    N_LAYERS,
    Clock,
    bare_loop,
    loading,
    minibatches,
    now,
    synthetic,
)
from torch._dynamo.utils import counters

import mixvi
from mixvi.images import MPCC

BLOCK_CELLS = 10_000
N_INFERRED = 20_000
# minibatches timed: whole blocks of those that the loader gathers at once
FULL = {"sizes": (50_000, 500_000), "steps": {128: 192, 1024: 96}, "warm_up": 24, "rounds": 3}
TOY = {"sizes": (600,), "steps": {64: 4}, "warm_up": 2, "rounds": 1}
COMPONENTS = (10, 100)
NETWORKS = {"n_hidden": N_HIDDEN, "n_layers": N_LAYERS}


def settings(toy: bool) -> dict:
    """Sizes of a run."""
    return TOY if toy else FULL


@lru_cache(maxsize=2)
def tiled(n_cells: int) -> AnnData:
    """Synthetic counts of at most 10,000 cells, drawn again and again: made in seconds."""
    block = synthetic(min(n_cells, BLOCK_CELLS)).X
    rows = np.random.default_rng(0).integers(0, block.shape[0], n_cells)
    return AnnData(block if n_cells == block.shape[0] else block[rows])


def gmvae(cells: AnnData, n_components: int) -> mixvi.GMVAE:
    """GMVAE of SCVI's sizes."""
    mixvi.GMVAE.setup_anndata(cells)
    return mixvi.GMVAE(
        cells,
        n_components=n_components,
        likelihood="nb",
        n_latent_z=N_LATENT,
        n_latent_w=N_LATENT,
        **NETWORKS,
    )


def scvi_model(cells: AnnData) -> scvi.model.SCVI:
    """SCVI of the same sizes."""
    scvi.model.SCVI.setup_anndata(cells)
    return scvi.model.SCVI(cells, gene_likelihood="nb", n_latent=N_LATENT, **NETWORKS)


class FirstStep(pl.Callback):
    """Seconds from the call of ``train`` to the end of its first step: data placed, compiled."""

    def __init__(self):
        self.begin = now()
        self.seconds = 0.0

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == 1:
            self.seconds = now() - self.begin


def trained(
    model, batch_size: int, toy: bool, callbacks: tuple[pl.Callback, ...] = (), **options
) -> Row:
    """Cells a second of ``train``, what its first step took, and the GPU's memory."""
    sizes = settings(toy)
    steps, warm_up = sizes["steps"][batch_size], sizes["warm_up"]
    reset_peak()
    first, clock = FirstStep(), Clock(steps, warm_up)
    model.train(
        max_epochs=-(-(warm_up + steps) * batch_size // model.adata.n_obs) + 1,
        max_steps=warm_up + steps,
        batch_size=batch_size,
        train_size=1.0,
        callbacks=[first, clock, *callbacks],
        **options,
        **TRAINER,
    )
    return {
        "training": steps * batch_size / clock.seconds,
        "step_ms": 1e3 * clock.seconds / steps,
        "first_step_s": first.seconds,
        **peak(),
    }


def inferred(model, batch_size: int) -> float:
    """Cells a second of ``get_latent_representation``."""
    rows = np.arange(min(N_INFERRED, model.adata.n_obs))
    model.get_latent_representation(indices=rows[: 4 * batch_size], batch_size=batch_size)
    start = now()
    model.get_latent_representation(indices=rows, batch_size=batch_size)
    return len(rows) / (now() - start)


def speed(part: Part) -> None:
    """Rounds over all sizes while there is time; the first takes what it needs."""
    sizes = settings(part.toy)
    models: dict[int, dict] = {}
    _load_kernels(part)
    for turn in range(sizes["rounds"]):
        for n_cells in sizes["sizes"]:
            if n_cells not in models:
                models[n_cells] = _models(tiled(n_cells))
            for batch_size in sizes["steps"]:
                # half a minute: what a case takes at most
                if turn and part.left() < 30:
                    return
                for row in _case(models[n_cells], batch_size, turn, part):
                    case = f"{n_cells} cells, minibatch {batch_size}"
                    part.send({"part": "speed", "case": case, "seed": turn, **row})


def _load_kernels(part: Part) -> None:
    """A short training of each: kernels are loaded when they are first used."""
    sizes = settings(part.toy)
    models = _models(tiled(sizes["sizes"][0]))
    for method in _methods(models, min(sizes["steps"]), part.toy).values():
        method()


def _models(cells: AnnData) -> dict[int | str, Any]:
    return {k: gmvae(cells, k) for k in COMPONENTS} | {"SCVI": scvi_model(cells)}


def _methods(models: dict, batch_size: int, toy: bool) -> dict[str, Callable[[], Row]]:
    def measured(model, infers: bool, options: dict) -> Row:
        row = trained(model, batch_size, toy, **options)
        return row | ({"inference": inferred(model, batch_size)} if infers else {})

    methods = {
        "SCVI": partial(measured, models["SCVI"], True, {}),
        "SCVI, load_sparse_tensor": partial(
            measured, models["SCVI"], False, {"load_sparse_tensor": True}
        ),
    }
    for k in COMPONENTS:
        for where in ("host", "device"):
            options = {"init": None, "data_on": where}
            methods[f"GMVAE nb K={k}, data on {where}"] = partial(
                measured, models[k], where == "host", options
            )
    return methods


def _case(models: dict, batch_size: int, turn: int, part: Part) -> list[Row]:
    """One round of one case, with ratios to SCVI; in the first, the loader's share and limits."""
    methods = _methods(models, batch_size, part.toy)
    found = {name: methods[name]() for name in sorted(methods, reverse=bool(turn % 2))}
    peer = found["SCVI"]
    for row in found.values():
        for verb in ("training", "inference"):
            if verb in row:
                row[f"{verb}_over_scvi"] = row[verb] / peer[verb]
    if turn == 0:
        for k in COMPONENTS:
            _add_limits(models[k], found, k, batch_size, part)
    return [{"method": name} | found[name] for name in methods]


def _add_limits(model, found: dict[str, Row], k: int, batch_size: int, part: Part) -> None:
    steps = settings(part.toy)["steps"][batch_size]
    batches = list(minibatches(model, batch_size, min(steps, 8192 // batch_size), "host"))
    limit = bare_loop(model, batches, steps)
    for where in ("host", "device"):
        row = found[f"GMVAE nb K={k}, data on {where}"]
        loader_ms = 1e3 * loading(model, batch_size, steps, where)
        row |= {
            "loader_ms": loader_ms,
            "loader_share": loader_ms / row["step_ms"],
            "limit": limit,
            "limit_over_training": limit / row["training"],
        }


def precision(part: Part) -> None:
    """Training in single precision, with TF32 products, and in half precision, in turns."""
    sizes = settings(part.toy)
    cells = tiled(sizes["sizes"][0])
    variants: dict[str, tuple[str, dict]] = {
        "single": ("highest", {}),
        "single, TF32 products": ("high", {}),
        "bf16-mixed": ("highest", {"precision": "bf16-mixed"}),
    }
    models = {f"GMVAE nb K={k}": gmvae(cells, k) for k in COMPONENTS}
    for turn in range(sizes["rounds"]):
        for batch_size in sizes["steps"]:
            for name, model in models.items():
                if turn and part.left() < 10:
                    return
                for variant in sorted(variants, reverse=bool(turn % 2)):
                    products, options = variants[variant]
                    torch.set_float32_matmul_precision(products)
                    row = trained(
                        model, batch_size, part.toy, init=None, data_on="device", **options
                    )
                    torch.set_float32_matmul_precision("highest")
                    case = f"{name}, minibatch {batch_size}"
                    head = {"part": "precision", "case": case, "method": variant, "seed": turn}
                    part.send(head | row)


def compiled(part: Part) -> None:
    """Training of compiled modules beside plain ones; the first step has the compilation.

    One case alone, of large minibatches: a compilation takes a minute or so.
    """
    sizes = settings(part.toy)
    batch_size = max(sizes["steps"])
    cells = tiled(sizes["sizes"][0])
    # a shorter minibatch at the end of an epoch would be compiled anew
    cells = cells[: cells.n_obs // batch_size * batch_size].copy()
    modes: dict[str, dict] = {
        "plain": {},
        "compiled": {"compile": True},
        "compiled, reduce-overhead": {
            "compile": True,
            "compile_kwargs": {"mode": "reduce-overhead"},
        },
    }
    if part.toy:
        # compiling takes a minute on a CPU
        modes = {"plain": {}}
    case = f"GMVAE nb K={COMPONENTS[0]}, minibatch {batch_size}"
    for mode, options in modes.items():
        head = {"part": "compile", "case": case, "method": mode, "seed": 0}
        late = head | {"failed": f"Not done in the {part.left():.0f} s that were left."}
        # the process is ended soon after its deadline, whatever it does
        alarm = threading.Timer(part.left(), part.send, [late])
        alarm.start()
        row = _compiled(part, cells, batch_size, options)
        alarm.cancel()
        part.send(head | row)


def _compiled(part: Part, cells: AnnData, batch_size: int, options: dict) -> Row:
    torch.compiler.reset()
    counters.clear()
    model = gmvae(cells, COMPONENTS[0])
    start = time.perf_counter()
    try:
        row = trained(model, batch_size, part.toy, init=None, data_on="device", plan_kwargs=options)
    except Exception as error:  # noqa: BLE001, a mode that fails is a finding
        row = {"failed": f"{type(error).__name__}: {error}"[:400]}
    return row | {
        "seconds": time.perf_counter() - start,
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


class Waits(pl.Callback):
    """Lets torch warn of each wait for the GPU in some steps after the warm-up; then training ends.

    What comes before and after the steps, such as moving the weights, is not counted.
    """

    def __init__(self, warm_up: int, n_steps: int):
        self._first, self._last = warm_up, warm_up + n_steps
        self._n = 0

    def on_train_batch_end(self, trainer, *args) -> None:
        self._n += 1
        if self._n == self._first:
            _warn_of_waits("warn")
        elif self._n == self._last:
            _warn_of_waits("default")
            trainer.should_stop = True
            trainer.limit_train_batches = 0


def _warn_of_waits(mode: str) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.set_sync_debug_mode(mode)


def waits_of(train: Callable[..., None], warm_up: int, n_steps: int) -> Row:
    """Waits a step of ``train(callbacks=...)``, and where they are, by file and line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            train(callbacks=[Waits(warm_up, n_steps)])
        finally:
            _warn_of_waits("default")
    where = Counter(
        f"{'/'.join(each.filename.split('/')[-3:])}:{each.lineno}"
        for each in caught
        if "synchroniz" in str(each.message)
    )
    return {"waits_a_step": where.total() / n_steps, "where": dict(where.most_common(12))}


def waits(part: Part) -> None:
    """How often a step waits for the device."""
    sizes = settings(part.toy)
    cells = tiled(sizes["sizes"][0])
    batch_size, n_steps = next(iter(sizes["steps"].items()))
    models = {
        "GMVAE nb K=10, data on device": (gmvae(cells, 10), {"init": None, "data_on": "device"}),
        "GMVAE nb K=10, data on host": (gmvae(cells, 10), {"init": None, "data_on": "host"}),
        "SCVI": (scvi_model(cells), {}),
    }
    for name, (model, options) in models.items():
        train = partial(model.train, 2, batch_size=batch_size, train_size=1.0, **options, **TRAINER)
        row = waits_of(train, sizes["warm_up"], min(64, n_steps))
        case = f"minibatch {batch_size}"
        part.send({"part": "waits", "case": case, "method": name, "seed": 0, **row})
    images = pictures()
    MPCC.setup_anndata(images)
    model = MPCC(images, n_clusters=2, **RESNET)
    # two updates of all networks; its steps are many times those of cells
    n_steps = 2 * model.module.d_steps
    train = partial(model.train, 4, batch_size=50, **TRAINER)
    row = waits_of(train, model.module.d_steps, n_steps)
    part.send({"part": "waits", "case": "minibatch 50", "method": "MPCC", "seed": 0, **row})
