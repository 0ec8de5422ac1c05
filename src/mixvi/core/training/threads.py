"""Threads on small machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import scvi
import torch

SMALL_MACHINE = 4
# what torch came with, as far as nobody has changed it before the import
_DEFAULT_THREADS = torch.get_num_threads()


@contextmanager
def few_threads() -> Iterator[None]:
    """One thread on a machine of at most four cores, unless the user has chosen a number.

    A minibatch's matrices are small: more threads gain little on idle cores, and on busy ones they
    wait for each other. Chosen: by ``OMP_NUM_THREADS``, ``scvi.settings.num_threads``, or by
    ``torch.set_num_threads`` if it is another number than torch's own.
    """
    before = torch.get_num_threads()
    n_cores = os.cpu_count() or 1
    chosen = (
        "OMP_NUM_THREADS" in os.environ
        or scvi.settings.num_threads is not None
        or before != _DEFAULT_THREADS
    )
    if chosen or n_cores > SMALL_MACHINE:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
