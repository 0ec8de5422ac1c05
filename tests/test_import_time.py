"""Importing mixvi costs little more than importing scvi."""

from __future__ import annotations

import statistics
import subprocess
import sys

CODE = """
import time, scvi, sys
before = set(sys.modules)
start = time.perf_counter()
import mixvi
print(time.perf_counter() - start)
print(" ".join(m for m in set(sys.modules) - before if "." not in m))
"""


def test_import_time():
    seconds = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True).stdout
        first, new = out.strip().splitlines()[-2:]
        seconds.append(float(first))
    assert statistics.median(seconds) <= 0.3
    assert not set(new.split()) & {"scanpy", "matplotlib", "umap", "typer"}
