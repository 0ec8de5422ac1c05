"""One epoch of 10,000 curves of 200 points, what its parts take, and memory by number of curves.

On one thread, in processor time of the process, which other work on the machine does not count in.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from benchmarks.compare import in_child
from benchmarks.record import TRAINER, add_device, quiet, use_device, write

from mixvi.datasets import synthetic_light_curves
from mixvi.lightcurves import LCVaDE, expected_log_likelihood
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.gaussian_process import GaussianProcessDecoder
from mixvi.lightcurves.networks import CurveEncoder, InductionDecoder


def parts(width: int, n_repeats: int = 5) -> dict[str, float]:
    """Seconds of each part of an update of 128 curves, the least of some."""
    shape, zeros = (128, 1, 200), torch.zeros(128, 1)
    curves = Curves(
        phase=torch.rand(shape),
        x=torch.randn(shape),
        error=torch.full(shape, 0.1),
        valid=torch.ones(shape, dtype=torch.bool),
        centre=zeros,
        spread=zeros + 1,
        features=zeros,
        known=zeros > 0,
        labels=zeros[:, 0],
    )
    encoder, decoder, runs = CurveEncoder(1, 12, width), InductionDecoder(1, width=width), []
    for _ in range(n_repeats + 1):
        t = [time.process_time()]
        z, log_var = encoder(curves)
        t.append(time.process_time())
        points = decoder.points(z)
        scale, length = decoder.kernel_parameters(z)
        t.append(time.process_time())
        kernel = decoder.kernel(scale[:, None], length[:, None])
        process = GaussianProcessDecoder(kernel, decoder.times, *points)
        decoded = process(curves.phase)
        observed = curves.x, curves.error, *decoded, curves.valid
        loss = -expected_log_likelihood(*observed).mean() - log_var.mean()
        t.append(time.process_time())
        loss.backward()
        t.append(time.process_time())
        runs.append(np.diff(t))
    names = ("encoder", "induction_points", "process", "backward")
    return dict(zip(names, np.min(runs[1:], axis=0).tolist(), strict=True))


def epoch(n: int, width: int) -> dict[str, float]:
    """Processor time of the second epoch."""
    adata = synthetic_light_curves(n // 8, n_points=(200, 200))
    LCVaDE.setup_anndata(adata, labels_key="label")
    model = LCVaDE(adata, width=width)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        model.train(1, **TRAINER)
        seconds.append(time.process_time() - start)
    return {"n": n, "seconds": seconds[1]}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 288])
    parser.add_argument("--sizes", nargs="+", type=int, default=[2_000, 5_000, 10_000])
    parser.add_argument("--name", default="lightcurves/speed", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    quiet()
    torch.manual_seed(0)
    # a process each, whose peak is its own
    runs = [
        {"width": width} | in_child(epoch, n, width) for n in given.sizes for width in given.widths
    ]
    found = {f"width {width}": parts(width) for width in given.widths}
    write(given.name, {"n_points": 200, "batch_size": 128}, runs, found)


if __name__ == "__main__":
    main()
