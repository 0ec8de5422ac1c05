"""What ``import mixvi`` costs over ``import scvi``, each in a fresh process."""

from __future__ import annotations

import argparse
import subprocess
import sys

from record import medians, write

CODE = """
import time
start = time.perf_counter()
import scvi
middle = time.perf_counter()
import mixvi
print(middle - start, time.perf_counter() - middle)
"""


def main() -> None:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = []
    for _ in range(parser.parse_args().runs):
        out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
        scvi_seconds, extra = map(float, out.stdout.split()[-2:])
        runs.append({"scvi": scvi_seconds, "mixvi_over_scvi": extra})
    write("import_time", {"target": 0.3}, runs, medians(runs, ["scvi", "mixvi_over_scvi"]))


if __name__ == "__main__":
    main()
