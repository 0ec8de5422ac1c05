"""What training says besides its progress bar."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's lines on hardware, tips and ends stay away.

    ``scvi.settings.verbosity = logging.DEBUG`` shows them; its warnings come through always.
    """
    if logging.getLogger("scvi").isEnabledFor(logging.DEBUG):
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            # lightning's own way of reading a minibatch, which torch means to change
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            # scvi-tools' own is; ours sees the sums over all processes
            warnings.filterwarnings("ignore", "early_stopping was automatically disabled")
            # a data module need not validate
            warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")
            # a query's frozen parts are
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
