"""As many components as classes: the learning-rate trick with an unsupervised judge."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pandas as pd

from mixvi.cells.gmvae import GMVAE
from mixvi.core.data import checks
from mixvi.metrics import used_components


def train_exact(
    model: GMVAE,
    *,
    settle: Sequence[tuple[float, int]] = ((1e-3, 20),),
    raised: Sequence[float] = (5e-3, 1e-2, 2e-2),
    raised_epochs: int = 3,
    anneal: Sequence[tuple[float, int]] = ((1e-3, 3), (1e-4, 3)),
    finish: Sequence[tuple[float, int]] = ((1e-4, 10),),
    **train_kwargs,
) -> pd.DataFrame:
    """Train without labels; shake assignments loose with high learning rates where that helps.

    After ``settle``, each rate of ``raised`` is tried in turn: some epochs at that rate, then
    ``anneal``. A trial is kept if no fewer components are used and the ELBO is higher, both of the
    training cells; otherwise the weights from before it come back. No label is looked at.

    Parameters
    ----------
    model
        A :class:`mixvi.GMVAE` or :class:`mixvi.CGMVAE` with a likelihood that has an ELBO.
    settle, anneal, finish
        (learning rate, epochs) before, within and after the trials.
    raised
        Rates to try; the thesis used 5e-3 to 5e-2 by hand.
    raised_epochs
        Epochs at each.
    **train_kwargs
        Passed to :meth:`mixvi.GMVAE.train`, e.g. ``init``, ``batch_size``.

    Returns
    -------
    DataFrame with ``lr``, ``elbo``, ``used_components`` and ``kept``, one row a state.

    Raises
    ------
    ValueError
        For ``likelihood="mse"``, which has no ELBO to judge by.

    Notes
    -----
    Source: Kolb 2022, l. 1044-1050, where a person chose when to go on.
    """
    like = model.module.likelihood
    checks.check_has_elbo(like.name, like.has_elbo)
    model.train(mode="unsupervised", stages=settle, **train_kwargs)
    best = _state(model)
    rows = [{"lr": settle[-1][0], **best, "kept": True}]
    for lr in raised:
        weights = deepcopy(model.module.state_dict())
        stages = [(lr, raised_epochs), *anneal]
        try:
            model.train(mode="unsupervised", stages=stages, **train_kwargs)
            trial = _state(model)
        except FloatingPointError:
            trial = {"elbo": float("-inf"), "used_components": 0}
        better = trial["elbo"] > best["elbo"]
        kept = better and trial["used_components"] >= best["used_components"]
        if kept:
            best = trial
        else:
            model.module.load_state_dict(weights)
        rows.append({"lr": lr, **trial, "kept": kept})
    model.train(mode="unsupervised", stages=finish, **train_kwargs)
    rows.append({"lr": finish[-1][0], **_state(model), "kept": True})
    return pd.DataFrame(rows)


def _state(model: GMVAE) -> dict:
    probs = model.predict(soft=True).to_numpy()
    elbo = model.get_elbo()
    return {"elbo": elbo, "used_components": used_components(probs)}
