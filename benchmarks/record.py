"""What every benchmark writes beside its figures: machine kind, versions, commit, time."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
# read at the start: the code that runs
COMMIT = subprocess.run(
    ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent
).stdout.strip()
PACKAGES = ("mixvi", "scvi-tools", "torch", "lightning", "anndata", "scanpy", "numpy")


def quiet(threads: int = 1) -> None:
    """One thread (small tensors on several OpenMP threads spin), and no chatter."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


def write(
    name: str,
    settings: dict[str, Any],
    runs: list[dict],
    summary: dict[str, Any],
    echo: bool = True,
) -> None:
    """Write ``results/<name>.json`` and, with ``echo``, print the summary."""
    record = {
        "benchmark": name,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
        },
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": COMMIT,
        "settings": settings,
        "summary": summary,
        "runs": runs,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1, default=_plain) + "\n")
    if echo:
        print(json.dumps(summary, indent=1, default=_plain))


def medians(runs: list[dict], keys: list[str]) -> dict[str, float]:
    """Median over runs of each figure."""
    return {key: float(np.median([run[key] for run in runs])) for key in keys}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
