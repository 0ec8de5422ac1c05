"""What a GPU gives, in under eight minutes: equality with the CPU, speed, and MPCC on MNIST.

Parts run in order, each in a process of its own with a share of the time budget; what a part has
found is in the record at once, so that a run that is cut off leaves what it has:

equality
    Every model class: latents, reconstructions, losses and gradients on the device and on the CPU.
speed
    Training and inference of GMVAE beside SCVI at two sizes of data and of minibatches, with the
    data on the host and on the device; the loader's share; a bare loop as limit.
precision
    The same trainings with TF32 products and in half precision.
waits
    How often a step makes the host wait for the device, and where.
compile
    One of these trainings compiled, and with CUDA graphs.
mpcc
    The thesis's networks on MNIST in the time that is left, with its curve.

``--toy`` makes all of it small, to try the script; the record says so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.compare import summary, table
from benchmarks.device.cells import COMPONENTS, compiled, precision, settings, speed, tiled, waits
from benchmarks.device.clustering import mpcc
from benchmarks.device.equality import TOLERANCE, equality
from benchmarks.device.part import Part, Row
from benchmarks.record import RESULTS, add_device, quiet, use_device, write, write_whole
from benchmarks.speed import DENSITY, N_GENES, N_HIDDEN, N_LATENT, N_LAYERS

# by part: what runs, and its share of the budget among those that run; the last has what is left
PARTS: dict[str, tuple[Callable[[Part], None], float]] = {
    "equality": (equality, 0.15),
    "speed": (speed, 0.4),
    "precision": (precision, 0.1),
    "waits": (waits, 0.05),
    "compile": (compiled, 0.15),
    "mpcc": (mpcc, 0.15),
}
# what MPCC has at least, of the budget; a part that passes its deadline by GRACE is ended
FOR_MPCC, GRACE = 0.2, 8.0
# of the host: its tensors are small
THREADS = min(4, torch.get_num_threads())


def _work(pipe: Any, run: Callable[[Part], None], options: dict[str, Any]) -> None:
    """A part in a process of its own: rows, then ``None`` or what went wrong."""
    quiet(THREADS)
    use_device(options["device"])
    try:
        if options["device"] == "cuda":
            torch.cuda.init()
        run(Part(**options, send=pipe.send))
        pipe.send(None)
    except BaseException:  # noqa: BLE001, it goes into the record
        pipe.send(traceback.format_exc())


def rows_of(name: str, options: dict[str, Any], method: str) -> Iterator[Row]:
    """Rows of a part as they come; at its deadline and some grace its process is ended."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(theirs, PARTS[name][0], options))
    begin = time.monotonic()
    child.start()
    theirs.close()
    end = {"part": "parts", "case": name, "method": "process", "seed": 0}
    problem: str | None = "It ran out of time."
    try:
        while ours.poll(max(0.0, options["deadline"] + GRACE - time.monotonic())):
            row = ours.recv()
            if not isinstance(row, dict):
                problem = row
                break
            yield row
    except EOFError:
        problem = "The process ended without a word."
    if child.is_alive() and problem is not None:
        child.kill()
    child.join()
    failed = {} if problem is None else {"failed": problem}
    yield end | {"seconds": time.monotonic() - begin, **failed}


def start_method(device: str) -> str:
    """``"fork"``, which has the data and all imports at once, unless CUDA cannot be begun there."""
    if device == "cpu":
        return "fork"
    # a CUDA that is asked for by its library alone is not begun in this process
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    child = multiprocessing.get_context("fork").Process(target=_product)
    child.start()
    child.join(30)
    if child.exitcode == 0:
        return "fork"
    child.kill()
    return "spawn"


def _product() -> None:
    """One on the host with its threads, one on the GPU."""
    torch.set_num_threads(THREADS)
    x = torch.ones(512, 512)
    print(float((x @ x).sum()), float((x.cuda() @ x.cuda()).sum().cpu()))


def run(
    device: str, budget: float, folder: Path, toy: bool = False, parts: Sequence[str] = tuple(PARTS)
) -> list[Row]:
    """Run parts and write the record after each row; all rows.

    Parameters
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    budget
        Seconds.
    folder
        Where ``gpu.json`` and ``gpu.md`` go.
    toy
        Whether sizes are small.
    parts
        Names in order.
    """
    use_device(device)
    begin = time.monotonic()
    end = begin + budget
    described = {
        "device": device,
        "toy": toy,
        "budget_seconds": budget,
        "n_genes": N_GENES,
        "density": DENSITY,
        "counts": "at most 10,000 synthetic cells, drawn again and again",
        "n_components": COMPONENTS,
        "n_hidden": N_HIDDEN,
        "n_layers": N_LAYERS,
        "n_latent": N_LATENT,
        "tolerance": TOLERANCE,
        "threads_of_the_host": THREADS,
        **settings(toy),
    }
    rows: list[Row] = []
    method = start_method(device)
    if method == "fork" and {"speed", "precision", "waits", "compile"} & set(parts):
        for n_cells in settings(toy)["sizes"]:
            tiled(n_cells)
    whole = sum(PARTS[name][1] for name in parts)
    for name in parts:
        share = 1.0 if name == parts[-1] else PARTS[name][1] / whole
        last = end - (FOR_MPCC * budget if "mpcc" in parts and name != "mpcc" else GRACE)
        deadline = min(last, time.monotonic() + share * budget)
        options = {"device": device, "toy": toy, "deadline": deadline}
        for row in rows_of(name, options, method):
            rows.append(row)
            _record(described, rows, folder)
            print(round(time.monotonic() - begin), _shown(row), flush=True)
    return rows


def _shown(row: Row) -> dict[str, Any]:
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}


def _record(described: dict[str, Any], rows: list[Row], folder: Path) -> None:
    """The record, and a table for each part."""
    by_part = {name: [r for r in rows if r["part"] == name] for name in (*PARTS, "parts")}
    by_part = {name: own for name, own in by_part.items() if own}
    found = {name: summary(own) for name, own in by_part.items()}
    write("gpu", described, rows, found, echo=False, folder=folder)
    note = "Median of the rounds, range in brackets."
    if described["toy"]:
        note += " Small sizes, to try the script: no figures to quote."
    if described["device"] == "cpu":
        note += " On a CPU."
    tables = [table(name, own, note) for name, own in by_part.items()]
    failed = [
        f"- {r['part']}, {r['case']}, {r['method']}: {r['failed']}" for r in rows if "failed" in r
    ]
    if failed:
        tables.append("\n".join(["# failed", "", *failed, ""]))
    write_whole(folder / "gpu.md", "\n".join(tables))


def main() -> None:
    """Run and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_device(parser)
    parser.add_argument("--budget", type=float, default=440.0, help="seconds after the imports")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--toy", action="store_true", help="small sizes, to try the script")
    given = parser.parse_args()
    run(given.device, given.budget, given.out, given.toy, given.parts)


if __name__ == "__main__":
    main()
