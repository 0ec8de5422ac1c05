"""Which rows train, which are validated, and which are kept for a test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scvi import settings


class Split(NamedTuple):
    """Numbers of the rows that train, that are validated and that are kept for a test."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(
    indices: np.ndarray,
    train_size: float,
    validation_size: float | None = None,
    shuffle: bool = True,
) -> Split:
    """Share rows out as :class:`scvi.dataloaders.DataSplitter` does.

    The order is drawn by ``scvi.settings.seed`` alone, so that models of one session are compared
    on the same rows; validation rows come first in it, test rows last.

    Parameters
    ----------
    indices
        Rows that may be used.
    train_size, validation_size
        Shares of ``indices``; ``validation_size=None``: what is left of them.
    shuffle
        Whether the order is drawn, or that of ``indices``.
    """
    n = len(indices)
    n_train = math.ceil(train_size * n)
    n_validation = n - n_train
    if validation_size is not None:
        n_validation = min(math.floor(validation_size * n), n_validation)
    if shuffle:
        indices = np.random.RandomState(settings.seed).permutation(indices)
    parts = np.split(indices, [n_validation, n_validation + n_train])
    validation, train, test = (np.sort(part) for part in parts)
    return Split(train, validation, test)


def given_split(parts: Sequence[np.ndarray]) -> Split:
    """The split of which a user names the rows: training, validation, test.

    Raises
    ------
    ValueError
        If two parts share rows.
    """
    split = Split(*(np.sort(part) for part in parts))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        shared = np.intersect1d(split[one], split[other])
        if len(shared):
            raise ValueError(
                f"external_indexing: {len(shared)} rows are in the {Split._fields[one]} and in "
                f"the {Split._fields[other]} set, e.g. number {shared[0]}. Leave them out of one."
            )
    return split
