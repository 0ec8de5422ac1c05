"""Knockouts in a replicate that was never seen, and knockouts of nothing.

A case holds one replicate out: half of its non-targeting cells are converted to every knockout, and
the other half is what changes are from. Baselines take changes by replicate, of which the held-out
one saw none. Three knockouts of nothing are made of non-targeting cells: a method that changes them
invents an effect, which ``false_de`` counts, beside that of real ones (``ceiling``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from benchmarks.cells import effects

import mixvi

CONTROL = "non-targeting"
NULL = ("nothing 1", "nothing 2", "nothing 3")
SHARE_NULL = 0.15
FEWEST = 10


def prepared():
    """Cells of one guide, log-normalised to their median total, with knockouts of nothing."""
    cells = mixvi.datasets.papalexi_eccite()
    cells = cells[(cells.obs["guide_fraction"] > 0.8).to_numpy()].copy()
    target = cells.obs["target"].astype(str).to_numpy().astype(object)
    rng = np.random.default_rng(0)
    control = target == CONTROL
    dealt = rng.random(len(target))
    for i, name in enumerate(NULL):
        target[control & (dealt >= i * SHARE_NULL) & (dealt < (i + 1) * SHARE_NULL)] = name
    cells.obs["target"] = pd.Categorical(target.astype(str))
    cells.obs["replicate"] = cells.obs["replicate"].astype(str)
    total = float(np.median(np.asarray(cells.X.sum(axis=1))))
    return effects.log_normalised(cells, total)


CELLS = prepared()
CASES = [f"replicate {name}" for name in np.unique(CELLS.obs["replicate"])]


def split(case: str, seed: int) -> effects.Task:
    """Of a case and a seed."""
    held = (CELLS.obs["replicate"] == case.removeprefix("replicate ")).to_numpy()
    control = (CELLS.obs["target"] == CONTROL).to_numpy()
    first, second = effects.halves(CELLS[held & control], seed)
    train = CELLS[~held | np.isin(CELLS.obs_names, first.obs_names)].copy()
    there = CELLS[held & ~control].copy()
    sizes = there.obs["target"].value_counts()
    targets = sorted(sizes.index[sizes >= FEWEST].astype(str))
    real = there[there.obs["target"].isin(targets).to_numpy()].copy()
    return effects.Task(
        train,
        first,
        real,
        second,
        targets,
        "replicate",
        "target",
        "target",
        batch_key="replicate",
        has_labels=False,
    )


def score(
    task: effects.Task, predicted: effects.Predictions, seed: int
) -> dict[str, dict[str, Any]]:
    """Figures over true knockouts, and what is found in knockouts of nothing."""
    kept = [to for to in task.targets if to not in NULL]
    real = task.real[task.real.obs["target"].isin(kept).to_numpy()].copy()
    true = {
        name: cells[cells.obs["target"].isin(kept).to_numpy()].copy()
        for name, cells in predicted.items()
    }
    found = effects.figures(task._replace(real=real, targets=kept), true, seed)
    wrong = effects.false_effects(task, predicted, NULL)
    real_null = task.real.copy()
    real_null.obs["target_condition"] = real_null.obs["target"].astype(str)
    wrong |= effects.false_effects(task, {"ceiling": real_null}, NULL)
    return {
        name: of | ({"false_de": wrong[name]} if name in wrong else {})
        for name, of in found.items()
    }


def main() -> None:
    """Run all seeds and write the record."""
    settings = {
        "data": "papalexi_eccite, guide fraction above 0.8",
        "null": [len(NULL), SHARE_NULL],
        "settings_chosen_on": "kang both_1556, donor 101",
    }
    effects.main("cells/counterfactual_knockouts", __doc__, split, CASES, settings, score)


if __name__ == "__main__":
    main()
