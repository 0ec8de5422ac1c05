"""Threads: as the user has chosen, and few on small machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import scvi
import torch

SMALL_MACHINE = 4
# what torch came with, as far as nobody has changed it before the import
_DEFAULT_THREADS = torch.get_num_threads()


@contextmanager
def few_threads() -> Iterator[None]:
    """The number of threads that the user has chosen; else one on a machine of at most four cores.

    A minibatch's matrices are small: more threads gain little on idle cores, and on busy ones they
    wait for each other. Chosen: by ``scvi.settings.num_threads``, by ``torch.set_num_threads`` if
    it is another number than torch's own, or by ``OMP_NUM_THREADS``.
    """
    before = torch.get_num_threads()
    number = _chosen(before)
    if number is None:
        number = 1 if (os.cpu_count() or 1) <= SMALL_MACHINE else before
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen(now: int) -> int | None:
    """The number that the user has chosen, of which torch may not know; None: none."""
    if scvi.settings.num_threads is not None:
        return scvi.settings.num_threads
    numba = sys.modules.get("numba")
    # numba's first loop, such as one of scanpy's, gives torch as many threads as there are cores
    by_numba = numba is not None and now == numba.config.NUMBA_NUM_THREADS
    if now != _DEFAULT_THREADS and not by_numba:
        return now
    variable = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(variable) if variable.isdecimal() and int(variable) > 0 else None
