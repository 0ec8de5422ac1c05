"""Methods side by side: each run in a process of its own, timed, with its peak memory."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from typing import Any

import numba
import numpy as np
import torch
from benchmarks.record import (
    COMMIT,
    RESULTS,
    TRAINER,
    add_device,
    as_text,
    quiet,
    use_device,
    write,
)

# numba's OpenMP threads do not survive a fork
numba.config.THREADING_LAYER = "workqueue"

Method = Callable[..., dict]
Derive = Callable[[dict[str, list[dict]]], dict]
_COSTS = ("seconds", "peak_mb")


def seeds(description: str) -> int:
    """``--seeds`` of a benchmark's command line; ``--device`` is taken, too."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=5)
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    return given.seeds


_FORKING = threading.Lock()


def in_child(method: Method, *args: Any) -> dict:
    """What ``method`` returns, with its ``seconds`` and the ``peak_mb`` of its process.

    The process is forked: data that the parent holds are there at once, and count in its peak.

    Raises
    ------
    RuntimeError
        If the method fails; with its traceback.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, method, args))
    # forks of several threads at once are refused by libraries that guard theirs (filelock)
    with _FORKING:
        child.start()
    theirs.close()
    try:
        ok, result = ours.recv()
    except EOFError:
        ok, result = False, "The process ended without a word (out of memory?)."
    child.join()
    if not ok:
        raise RuntimeError(result)
    return result


def _run(pipe: Any, method: Method, args: tuple) -> None:
    torch.set_num_threads(1)
    try:
        start = time.perf_counter()
        result = dict(method(*args))
        if result:
            result.setdefault("seconds", time.perf_counter() - start)
            result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send((True, result))
    except BaseException:  # noqa: BLE001, the parent process raises it anew
        pipe.send((False, traceback.format_exc()))


def compare(
    name: str,
    methods: Mapping[str, Method],
    cases: Sequence[Any],
    settings: Mapping[str, Any],
    n_seeds: int | Sequence[int],
    n_jobs: int = 1,
    derive: Derive | None = None,
    resume: bool = False,
) -> None:
    """Run every method on every case and seed; write the record and its table after each.

    Parameters
    ----------
    name
        Of the record.
    methods
        Name to a function of (case, seed) that returns figures (none if the case is not its own),
        or a dict of figures for each of several variants.
    cases
        What the figures are grouped by, such as the share of labels.
    settings
        Written into the record.
    n_seeds
        How many seeds, from 0, or which.
    n_jobs
        Runs at a time. Seconds of runs side by side are upper bounds.
    derive
        From the runs of a case, by method, to findings for the summary.
    resume
        Keep the record's runs, each with its commit, and run what is missing.

    Raises
    ------
    ValueError
        If the record to go on with has other settings.
    """
    quiet()
    kept = _recorded(name, settings) if resume else []
    settings = dict(settings) | {"runs_at_a_time": n_jobs}
    there = {(run["seed"], run["case"], run.get("variant_of", run["method"])) for run in kept}
    chosen = range(n_seeds) if isinstance(n_seeds, int) else n_seeds
    planned = [
        (seed, case, method)
        for seed, case, method in product(chosen, cases, methods)
        if (seed, str(case), method) not in there
    ]
    finished: dict[tuple, list[dict]] = {}
    with ThreadPoolExecutor(n_jobs) as pool:
        waiting = {
            pool.submit(in_child, methods[method], case, seed): (seed, case, method)
            for seed, case, method in planned
        }
        try:
            for done in as_completed(waiting):
                seed, case, method = waiting[done]
                rows = _variants(method, done.result())
                finished[seed, case, method] = [
                    {"case": str(case), "method": variant, "seed": seed}
                    | ({} if variant == method else {"variant_of": method})
                    | {**own, "commit": COMMIT}
                    for variant, own in rows.items()
                ]
                for variant, own in rows.items():
                    shown = {k: round(v, 3) for k, v in own.items() if isinstance(v, float)}
                    print(seed, case, variant, shown, flush=True)
                # in the order of the plan, whichever was ready first
                runs = [run for key in planned for run in finished.get(key, [])]
                _record(name, settings, kept + runs, derive)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _recorded(name: str, settings: Mapping[str, Any]) -> list[dict]:
    """Runs of a record of the same settings."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    ours = json.loads(json.dumps(settings, default=str))
    other = [key for key, value in ours.items() if record["settings"].get(key) != value]
    if other:
        raise ValueError(f"{path.name} has other settings ({', '.join(other)}): begin anew.")
    return [{"commit": record["commit"]} | run for run in record["runs"]]


def _record(name: str, settings: dict, runs: list[dict], derive: Derive | None) -> None:
    """Write the record and its table."""
    write(name, settings, runs, _summary(runs, derive), echo=False)
    (RESULTS / f"{name}.md").write_text(table(name, runs))


def derive_again(name: str, derive: Derive) -> None:
    """Write summary, findings and table of a record anew; its runs stay as they are."""
    path = RESULTS / f"{name}.json"
    record = json.loads(path.read_text())
    record["summary"] = _summary(record["runs"], derive)
    path.write_text(as_text(record))
    (RESULTS / f"{name}.md").write_text(table(name, record["runs"]))


def _summary(runs: Sequence[dict], derive: Derive | None) -> dict[str, Any]:
    """Medians of each case, and what is derived from its runs."""
    found: dict[str, Any] = summary(runs)
    if derive is not None:
        found["findings"] = {
            case: derive({name: _of(runs, case, name) for name in rows})
            for case, rows in found.items()
        }
    return found


def _of(runs: Sequence[dict], case: str, method: str) -> list[dict]:
    return [run for run in runs if (run["case"], run["method"]) == (case, method)]


def _variants(method: str, figures: dict) -> dict[str, dict]:
    """Figures of each variant that one run of a method gave; time is shared unless its own."""
    if not figures:
        return {}
    variants = {key: value for key, value in figures.items() if isinstance(value, dict)}
    shared = {key: value for key, value in figures.items() if key not in variants}
    if not variants:
        return {method: figures}
    return {f"{method}, {name}": {**shared, **own} for name, own in variants.items()}


def summary(runs: Sequence[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over seeds, by case and method."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for case, method in dict.fromkeys((r["case"], r["method"]) for r in runs):
        ours = _of(runs, case, method)
        # what is measured once, or is not there to be measured, stands in some of the runs
        figures = {k: v for run in reversed(ours) for k, v in run.items()}
        keys = [k for k, v in figures.items() if isinstance(v, float | int) and k != "seed"]
        medians = {k: float(np.median([r[k] for r in ours if k in r])) for k in keys}
        out.setdefault(case, {})[method] = medians
    return out


def table(name: str, runs: Sequence[dict], note: str | None = None) -> str:
    """Markdown: medians over seeds with the range in brackets; ``note`` says how they came."""
    medians = summary(runs)
    keys = list(dict.fromkeys(k for of in medians.values() for row in of.values() for k in row))
    keys = [k for k in keys if k not in _COSTS] + [k for k in keys if k in _COSTS]
    n = len({r["seed"] for r in runs})
    if note is None:
        where = "one CPU thread" if TRAINER["accelerator"] == "cpu" else "trained on a GPU"
        note = f"Median of {n} seeds, range in brackets; {where}; memory of the whole process."
    lines = [
        f"# {name}",
        "",
        note,
        "",
        "| case | method | " + " | ".join(keys) + " |",
        "| --- | --- |" + " --- |" * len(keys),
    ]
    for case, of in medians.items():
        for method, row in of.items():
            cells = [_cell(row, _of(runs, case, method), key) for key in keys]
            lines.append(f"| {case} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict, runs: Sequence[dict], key: str) -> str:
    if key not in row:
        return "–"
    values = [r[key] for r in runs if key in r]
    if all(isinstance(value, bool) for value in values):
        return " to ".join(sorted({"yes" if value else "no" for value in values}))
    size = abs(row[key])
    form = "{:.0f}" if size >= 100 else "{:.1f}" if size >= 10 else "{:.3f}"
    if 0.0 < size < 1e-3:
        form = "{:.0e}"
    median, low, high = (form.format(v) for v in (row[key], min(values), max(values)))
    return median if low == high else f"{median} ({low}–{high})"
