"""What belongs to the machine, not to a model: ``mixvi.settings``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixvi.core.arguments import shown


@dataclass
class Settings:
    """How data on disk are read; set before training, as ``mixvi.settings.backed_memory = 2**31``.

    Attributes
    ----------
    backed_memory
        Bytes that reading may hold, in training, inference and checks. Most of them are rows that
        train and rows that are read meanwhile, so that more memory is a better shuffle.
    backed_chunk_rows
        Neighbouring rows that are read together, if 64 such chunks fit into a window; else fewer.
        Fewer shuffle better, more read faster.
    """

    backed_memory: int = 512 * 2**20
    backed_chunk_rows: int = 1024

    def __setattr__(self, name: str, value: int) -> None:
        if name not in type(self).__dataclass_fields__:
            known = ", ".join(type(self).__dataclass_fields__)
            raise AttributeError(f"mixvi.settings has no {name!r}, but {known}.")
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value <= 0:
            raise ValueError(f"{name} must be a positive whole number, but is {shown(value)}.")
        super().__setattr__(name, value)


settings = Settings()
