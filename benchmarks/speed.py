"""Cells a second of training and of inference: GMVAE beside SCVI and SCANVI, and its own limit.

Synthetic counts in CSR, about 7 % nonzero, 2,000 genes. Equal hidden sizes, latent size, minibatch
and threads; every run in a process of its own, methods in turn within each repeat, and ratios to
SCVI are those of the same repeat. Training is timed over as many minibatches as hold ``timed``
cells, after a warm-up, loading included. The limit is a bare loop over
the same module, optimizer and clipping, on minibatches made beforehand: as mixvi's loader makes
them, and as dense matrices alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from anndata import AnnData
from benchmarks.compare import in_child, summary, table
from benchmarks.record import RESULTS, TRAINER, add_device, quiet, use_device, write
from scipy import sparse

import mixvi
from mixvi.core.data.loading import Minibatches, MinibatchSampler, place_rows, registered_fields
from mixvi.core.data.resident import SPARSE_KEY

N_GENES = 2000
DENSITY = 0.07
N_HIDDEN, N_LAYERS, N_LATENT = 128, 1, 10
WARM_UP = 15
N_INFERRED = 20_000


def synthetic(n_cells: int, seed: int = 0) -> AnnData:
    """Counts with genes of unequal abundance, ten labels that mean nothing."""
    rng = np.random.default_rng(seed)
    popularity = rng.lognormal(0.0, 1.0, N_GENES)
    order = np.argsort(-popularity)
    n_entries = rng.binomial(N_GENES, DENSITY, n_cells)
    indptr = np.concatenate([[0], np.cumsum(n_entries)])
    indices = np.empty(indptr[-1], dtype=np.int32)
    for start, stop in zip(indptr[:-1], indptr[1:], strict=True):
        # squares crowd the first ranks: a few genes are found in most cells
        ranks = np.unique((N_GENES * rng.random(3 * (stop - start)) ** 1.5).astype(np.int64))
        picked = rng.choice(ranks, min(stop - start, len(ranks)), replace=False)
        rest = stop - start - len(picked)
        if rest:
            others = np.setdiff1d(np.arange(N_GENES), picked)
            picked = np.concatenate([picked, rng.choice(others, rest, replace=False)])
        indices[start:stop] = np.sort(order[picked])
    data = 1.0 + rng.geometric(0.6, len(indices)).astype(np.float32) - 1.0
    cells = AnnData(sparse.csr_matrix((data, indices, indptr), shape=(n_cells, N_GENES)))
    cells.obs["label"] = rng.choice([f"type {i}" for i in range(10)] + ["Unknown"], n_cells)
    return cells


def now() -> float:
    """Seconds on a clock, once all that was asked of a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock(pl.Callback):
    """Seconds of the steps after the warm-up, from the end of one step to the end of another."""

    def __init__(self, steps: int, warm_up: int = WARM_UP):
        self.steps, self.warm_up = steps, warm_up
        self.seconds = 0.0

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.warm_up:
            self.begin = now()
        if trainer.global_step == self.warm_up + self.steps:
            self.seconds = now() - self.begin
            trainer.should_stop = True
            trainer.limit_train_batches = 0


def _timed_training(model, cells: AnnData, batch_size: int, steps: int, **options) -> float:
    clock = Clock(steps)
    n_epochs = -(-(WARM_UP + steps) * batch_size // cells.n_obs) + 1
    model.train(
        max_epochs=n_epochs,
        max_steps=WARM_UP + steps,
        batch_size=batch_size,
        train_size=1.0,
        callbacks=[clock],
        **options,
        **TRAINER,
    )
    return steps * batch_size / clock.seconds


def _timed_inference(model, cells: AnnData, batch_size: int) -> float:
    rows = np.arange(min(N_INFERRED, cells.n_obs))
    model.get_latent_representation(indices=rows[: 4 * batch_size], batch_size=batch_size)
    start = now()
    model.get_latent_representation(indices=rows, batch_size=batch_size)
    return len(rows) / (now() - start)


def _scvi(cells: AnnData, batch_size: int, steps: int) -> dict[str, float]:
    scvi.model.SCVI.setup_anndata(cells)
    model = scvi.model.SCVI(
        cells,
        n_hidden=N_HIDDEN,
        n_layers=N_LAYERS,
        n_latent=N_LATENT,
        gene_likelihood="nb",
    )
    return {
        "training": _timed_training(model, cells, batch_size, steps),
        "inference": _timed_inference(model, cells, batch_size),
    }


def _scanvi(cells: AnnData, batch_size: int, steps: int) -> dict[str, float]:
    scvi.model.SCANVI.setup_anndata(cells, labels_key="label", unlabeled_category="Unknown")
    model = scvi.model.SCANVI(
        cells,
        n_hidden=N_HIDDEN,
        n_layers=N_LAYERS,
        n_latent=N_LATENT,
        gene_likelihood="nb",
    )
    return {
        "training": _timed_training(model, cells, batch_size, steps),
        "inference": _timed_inference(model, cells, batch_size),
    }


def _gmvae(
    cells: AnnData,
    batch_size: int,
    steps: int,
    *,
    n_components: int,
    likelihood: str,
    labels_key: str | None = None,
) -> dict[str, float]:
    mixvi.GMVAE.setup_anndata(cells, labels_key=labels_key)
    model = mixvi.GMVAE(
        cells,
        n_components=n_components,
        likelihood=likelihood,
        n_hidden=N_HIDDEN,
        n_layers=N_LAYERS,
        n_latent_z=N_LATENT,
        n_latent_w=N_LATENT,
    )
    rate = _timed_training(model, cells, batch_size, steps, init=None)
    out = {"training": rate, "inference": _timed_inference(model, cells, batch_size)}
    if labels_key is None:
        out["loader_share"] = loading(model, batch_size, steps) * rate / batch_size
        batches = list(minibatches(model, batch_size, min(64, WARM_UP + steps)))
        dense = [{k: v for k, v in batch.items() if k != SPARSE_KEY} for batch in batches]
        out["limit"] = bare_loop(model, batches, steps)
        out["limit_dense"] = bare_loop(model, dense, steps)
        out["training_over_limit"] = max(out["limit"], out["limit_dense"]) / rate
    return out


def minibatches(
    model: mixvi.GMVAE, batch_size: int, n: int, data_on: str = "auto"
) -> Iterator[dict]:
    """Shuffled minibatches as training has them, on the model's device."""
    fields = registered_fields(model.adata_manager)
    rows = np.random.default_rng(0).permutation(model.adata.n_obs)[: n * batch_size]
    sampler = MinibatchSampler(np.sort(rows), batch_size)
    return iter(Minibatches(place_rows(fields, model.device, data_on), sampler))


def loading(model: mixvi.GMVAE, batch_size: int, steps: int, data_on: str = "auto") -> float:
    """Seconds a minibatch, each let go before the next as in training."""
    batches = minibatches(model, batch_size, steps, data_on)
    start = now()
    n = sum(1 for _ in batches)
    return (now() - start) / n


def bare_loop(model: mixvi.GMVAE, batches: list[dict], steps: int) -> float:
    """Cells a second of the module alone, on minibatches that are there."""
    module = model.module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    n_cells = 0
    for i in range(WARM_UP + steps):
        if i == WARM_UP:
            start = now()
        batch = batches[i % len(batches)]
        optimizer.zero_grad()
        module(batch)[2].loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 100.0)
        optimizer.step()
        n_cells += (i >= WARM_UP) * len(batch["labels"])
    return n_cells / (now() - start)


METHODS: dict[str, Callable[..., dict[str, float]]] = {
    "SCVI": _scvi,
    "GMVAE nb K=10": partial(_gmvae, n_components=10, likelihood="nb"),
    "GMVAE nb K=30": partial(_gmvae, n_components=30, likelihood="nb"),
    "GMVAE nb K=100": partial(_gmvae, n_components=100, likelihood="nb"),
    "GMVAE gaussian K=10": partial(_gmvae, n_components=10, likelihood="gaussian"),
    "GMVAE gaussian K=30": partial(_gmvae, n_components=30, likelihood="gaussian"),
    "SCANVI": _scanvi,
    "GMVAE nb K=10, semi-supervised": partial(
        _gmvae, n_components=10, likelihood="nb", labels_key="label"
    ),
}


def _run(cells: AnnData, method: str, batch_size: int, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    if "gaussian" in method:
        cells.X.data = np.log1p(cells.X.data)
    return METHODS[method](cells, batch_size, steps)


def main() -> None:
    """Run all sizes and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--timed", type=int, default=20_000)
    add_device(parser)
    args = parser.parse_args()
    quiet()
    use_device(args.device)
    settings = {
        "n_genes": N_GENES,
        "density": DENSITY,
        "n_hidden": N_HIDDEN,
        "n_layers": N_LAYERS,
        "n_latent": N_LATENT,
        "threads": 1,
        "warm_up_steps": WARM_UP,
        **vars(args),
    }
    runs = []
    for n_cells in args.sizes:
        cells = synthetic(n_cells)
        for repeat in range(args.repeats):
            for batch_size in args.batch_sizes:
                case = f"{n_cells} cells, minibatch {batch_size}"
                peer = {}
                for method in METHODS:
                    figures = in_child(_run, cells, method, batch_size, args.timed // batch_size)
                    peer = peer or figures
                    for verb in ("training", "inference"):
                        figures[f"{verb}_over_scvi"] = figures[verb] / peer[verb]
                    runs.append({"case": case, "method": method, "seed": repeat, **figures})
                    shown = {k: round(v, 3) for k, v in figures.items()}
                    print(repeat, case, method, shown, flush=True)
            write("speed", settings, runs, summary(runs), echo=False)
            (RESULTS / "speed.md").write_text(table("speed", runs))


if __name__ == "__main__":
    main()
