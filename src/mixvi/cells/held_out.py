"""Labelled cells that training keeps aside, so that probabilities can be measured on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from mixvi.core.data.keys import SOFT_LABELS_KEY

# a label of fewer cells gives none of them away
_FEWEST_OF_LABEL = 10
_SHARE = 0.1
_MOST = 1000
FEWEST = 10
"""Held-out cells below which nothing is fitted to them."""


class HeldOut(NamedTuple):
    """Labelled cells that do not teach their label."""

    rows: np.ndarray
    """Their numbers; empty where labels are too few."""
    are_validated: bool
    """Whether those of the validation set stand for them."""


NONE = HeldOut(np.zeros(0, dtype=np.int64), False)


def held_out_labels(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A tenth of the cells of each label, at most 1,000 in all.

    The same cells at every call, so that training that goes on holds out what it held out before.
    A label of fewer than 10 cells gives none, and if all together give fewer than 10, none do.

    Parameters
    ----------
    codes
        Label code of each cell of the data, -1 without a label, ``(n_obs,)``.
    rows
        Cells that train, by number; a repeated one counts once.

    Returns
    -------
    Their numbers, in order.
    """
    rows = np.unique(rows)
    rows = rows[codes[rows] >= 0]
    share = min(_SHARE, _MOST / max(len(rows), 1))
    place = np.random.RandomState(0).permutation(len(codes))
    chosen = []
    for code in np.unique(codes[rows]):
        own = rows[codes[rows] == code]
        if len(own) >= _FEWEST_OF_LABEL:
            chosen.append(own[np.argsort(place[own])][: max(1, round(share * len(own)))])
    found = np.sort(np.concatenate(chosen)) if chosen else NONE.rows
    return found if len(found) >= FEWEST else NONE.rows


def without_labels(manager: AnnDataManager, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The field of labels as minibatches are to have it: rows without theirs."""
    if SOFT_LABELS_KEY in manager.data_registry:
        soft = np.array(manager.get_from_registry(SOFT_LABELS_KEY))
        soft[rows] = 0.0
        return {SOFT_LABELS_KEY: soft}
    codes = np.array(manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).reshape(-1, 1)
    state = manager.get_state_registry(REGISTRY_KEYS.LABELS_KEY)
    # the last category is the unlabelled one
    codes[rows] = len(state["categorical_mapping"]) - 1
    return {REGISTRY_KEYS.LABELS_KEY: codes}
