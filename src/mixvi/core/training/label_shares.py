"""Labelled and unlabelled rows together in each minibatch, where both teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixvi.core.arguments import check_share
from mixvi.core.data.splitting import Split
from mixvi.core.training.fitting import Fit


def check_labelled_fraction(fraction: float) -> None:
    """Raise ValueError unless a share of labelled rows lies between 0 and 1."""
    check_share("labelled_fraction", fraction)


def with_labels(
    fit: Fit, labelled: np.ndarray, fraction: float, early_stopping: bool, rows: str
) -> Fit:
    """A part of training that has labelled rows in each minibatch, and validates those alone.

    Parameters
    ----------
    fit
        The part.
    labelled
        Whether a row has a label, ``(n_obs,)``.
    fraction
        Share of labelled rows in a minibatch, where some rows have none.
    early_stopping
        Whether validation rows are needed.
    rows
        What messages call them.

    Raises
    ------
    ValueError
        If no row that trains, or none that is needed for validation, has a label.
    """
    split = fit.split
    if not labelled[split.train].any():
        raise ValueError(
            f"None of the {len(split.train)} {rows} that are to train has a label. Raise "
            "train_size, or name them by datasplitter_kwargs."
        )
    validation = split.validation[labelled[split.validation]]
    if early_stopping and not len(validation):
        raise ValueError(
            f"early_stopping watches the loss of labels, but none of the {rows} of the validation "
            "set has one. Name labelled ones by datasplitter_kwargs."
        )
    shares = {}
    if not labelled[split.train].all():
        shares = {"labelled": labelled, "labelled_fraction": fraction}
    return replace(
        fit,
        split=Split(split.train, validation, split.test),
        minibatches=fit.minibatches | shares,
    )
