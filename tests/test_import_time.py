"""Importing mixvi and its models costs little more than importing scvi."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

CODE = """
import json, sys, time
import scvi
before = set(sys.modules)
start = time.process_time()
import mixvi
mixvi.GMVAE
seconds = time.process_time() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""
HEAVY = {"scanpy", "matplotlib", "sklearn.manifold", "umap", "pooch", "typer"}


def test_import_time():
    """By the processor's clock: other work on the machine does not count."""
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        second, new = json.loads(done.stdout.splitlines()[-1])
        seconds.append(second)
        assert not HEAVY & set(new)
        assert not {"mixvi.datasets", "mixvi.images", "mixvi.pl", "mixvi.cli"} & set(new)
    assert statistics.median(seconds) <= 0.3, f"mixvi.GMVAE took {seconds} s over scvi"
