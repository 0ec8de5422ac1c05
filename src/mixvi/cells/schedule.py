"""Learning rate and epochs by default: low and few where components start from clusters."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from mixvi.core.arguments import check_positive

_LR = 1e-3
_LR_CLUSTERED = 3e-4
_START_STEPS = 500
_STEPS = 800
_FEWEST_EPOCHS, _MOST_EPOCHS = 5, 100
_START_EPOCHS = 10
_LABELLED_CELLS, _LABELLED_EPOCHS = 128_000, (20, 60)


def cluster_start() -> str:
    """Which clusters components start from by default."""
    return "kmeans" if importlib.util.find_spec("igraph") is None else "leiden"


def default_schedule(
    settings: dict[str, Any], n_rows: int, *, clustered: bool, labelled: bool
) -> dict[str, Any]:
    """What of ``lr``, ``max_epochs`` and ``init_epochs`` is None in the settings of ``train``.

    Parameters
    ----------
    settings
        Arguments of ``train``.
    n_rows
        Cells to train on.
    clustered
        Whether components are where clusters have put them, or will be: at high rates and over
        many epochs they drift off, while the ELBO rises.
    labelled
        Whether labels teach: then some 1,000 minibatches of 128 are enough.

    Raises
    ------
    ValueError
        If ``batch_size`` is no positive number.
    """
    check_positive("batch_size", settings["batch_size"])
    plan_kwargs, stages = settings["plan_kwargs"] or {}, settings["stages"]
    given = {name: settings[name] for name in ("lr", "max_epochs", "init_epochs")}
    steps = math.ceil(n_rows / settings["batch_size"])

    def epochs(n_steps: int) -> int:
        return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(n_steps / steps)))

    lr = _LR_CLUSTERED if clustered and stages is None and "lr" not in plan_kwargs else _LR
    max_epochs = None
    if stages is None and settings["datamodule"] is None:
        if clustered:
            max_epochs = epochs(_STEPS)
        elif labelled:
            fewest, most = _LABELLED_EPOCHS
            max_epochs = max(fewest, min(most, round(_LABELLED_CELLS / n_rows)))
    default = {
        "lr": lr,
        "max_epochs": max_epochs,
        "init_epochs": epochs(_START_STEPS) if clustered else _START_EPOCHS,
    }
    return {name: default[name] if value is None else value for name, value in given.items()}
