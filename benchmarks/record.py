"""What every benchmark writes beside its figures: machine kind, versions, commit, time."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("mixvi", "scvi-tools", "torch", "lightning", "anndata", "scanpy", "numpy")
DEVICES = {"cpu": "cpu", "cuda": "gpu"}
# what every training of a benchmark is given; see use_device
TRAINER: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


def _said(*command: str) -> str:
    """What a command prints; nothing if it is not there or fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent)
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


# read at the start: the code that runs; a copy whose history lacks its commit is told it
COMMIT = os.environ.get("MIXVI_COMMIT") or _said("git", "rev-parse", "HEAD")


def quiet(threads: int = 1) -> None:
    """One thread (small tensors on several OpenMP threads spin), and no chatter."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device`` of a benchmark's command line; :func:`use_device` takes what it says."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where models train")


def use_device(device: str) -> None:
    """Let every training of this process and its children run on ``"cpu"`` or ``"cuda"``."""
    TRAINER["accelerator"] = DEVICES[device]


def machine() -> dict[str, Any]:
    """What ran; asked of the driver, because CUDA that was begun here would fail in children."""
    uses_gpu = TRAINER["accelerator"] != "cpu"
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "accelerator": _gpu() if uses_gpu else None,
        "threads": torch.get_num_threads(),
    }


@cache
def _gpu() -> dict[str, str] | None:
    """Name, driver and memory of the first GPU, and the CUDA that torch was built for."""
    asked = ("name", "driver_version", "memory.total")
    said = _said("nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader")
    if not said:
        return None
    found = dict(zip(asked, said.splitlines()[0].split(", "), strict=True))
    return found | {"cuda": str(torch.version.cuda)}


def write(
    name: str,
    settings: dict[str, Any],
    runs: list[dict],
    summary: dict[str, Any],
    echo: bool = True,
    folder: Path = RESULTS,
) -> None:
    """Write ``<name>.json`` into the folder of results and, with ``echo``, print the summary."""
    record = {
        "benchmark": name,
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": COMMIT,
        "settings": settings,
        "summary": summary,
        "runs": runs,
    }
    write_whole(folder / f"{name}.json", as_text(record))
    if echo:
        print(json.dumps(summary, indent=1, default=_plain))


def as_text(record: dict[str, Any]) -> str:
    """JSON with a line for each run, of which there may be hundreds with figures by group."""
    head = json.dumps({**record, "runs": []}, indent=1, default=_plain)
    lines = ",\n".join("  " + json.dumps(run, default=_plain) for run in record["runs"])
    return head.replace('"runs": []', f'"runs": [\n{lines}\n ]') + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def medians(runs: list[dict], keys: list[str]) -> dict[str, float]:
    """Median over runs of each figure."""
    return {key: float(np.median([run[key] for run in runs])) for key in keys}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
