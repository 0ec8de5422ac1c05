"""The epoch records of training: one table a figure, as scvi-tools keeps them in ``history``."""

from __future__ import annotations

import lightning.pytorch as pl
import pandas as pd
from scvi.train import Trainer
from scvi.train._logger import SimpleLogger

History = dict[str, pd.DataFrame]


def keep_records(trainer: Trainer) -> None:
    """Let scvi-tools' logger take records beside whatever loggers the user has chosen."""
    if _logger(trainer) is None:
        trainer.loggers = [*trainer.loggers, SimpleLogger()]


def _logger(trainer: pl.Trainer) -> SimpleLogger | None:
    loggers = [logger for logger in trainer.loggers if isinstance(logger, SimpleLogger)]
    return loggers[0] if loggers else None


def records(trainer: pl.Trainer, n_epochs: int | None = None) -> History:
    """The tables so far, of the first ``n_epochs`` epochs; empty but in the first process."""
    logger = _logger(trainer)
    tables = logger.history if logger is not None and trainer.is_global_zero else {}
    if n_epochs is None:
        return dict(tables)
    cut = {
        name: table[table.index < n_epochs] if table.index.name == "epoch" else table
        for name, table in tables.items()
    }
    return {name: table for name, table in cut.items() if len(table)}


def joined(before: History | None, new: History) -> History:
    """Both in one, the epochs and steps of the second counted on from those of the first."""
    out = dict(before or {})
    for name, table in new.items():
        kind = table.index.name
        alike = [t for t in (before or {}).values() if len(t) and t.index.name == kind]
        ends = [t.index.max() + 1 for t in alike]
        table = table.set_axis(table.index + int(max(ends, default=0))).rename_axis(kind)
        out[name] = pd.concat([out[name], table]) if name in out else table
    return out


def to_plain(tables: History) -> dict[str, list]:
    """Tables as numbers and names, for a checkpoint: the index's name, the index, the values."""
    return {
        name: [table.index.name, table.index.tolist(), [float(v) for v in table[name]]]
        for name, table in tables.items()
    }


def take_back(trainer: pl.Trainer, plain: dict[str, list]) -> None:
    """Go on with the records of a checkpoint."""
    logger = _logger(trainer)
    if logger is None or not trainer.is_global_zero:
        return
    for name, (index_name, index, values) in plain.items():
        # dtypes as scvi-tools' logger makes them
        column = pd.Series(values, index=index, dtype=object)
        table = pd.DataFrame({name: column}, index=pd.Index(index, name=index_name))
        logger.experiment.data[name] = table
