"""Predicted stimulated cells of the Kang part beside their baselines, type by type.

Cases "held-out cells" hold a quarter of every type and condition aside; cases "without ..." train
without one type's stimulated cells and predict them from its control cells. Every method sees the
true types. Scored are cells of donor 107; settings are chosen on those of donor 101
(``--fold settings``), and ``--fold all`` is both donors, as earlier records were.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from benchmarks.cells import effects
from benchmarks.cells.kang import held_out, prepared

FOLDS = {"scored": "107", "settings": "101", "all": ""}
HELD_OUT = 0.25


def cells_of(fold: str) -> AnnData:
    """Of a donor."""
    cells = prepared()
    return cells[cells.obs["sample"].astype(str).str.contains(FOLDS[fold])].copy()


def splitter(cells: AnnData):
    """Of a case and a seed, the task."""
    stimulated = (cells.obs["condition"] == "stim").to_numpy()

    def split(case: str, seed: int) -> effects.Task:
        duplicate = None
        if case == "held-out cells":
            test = held_out(cells, HELD_OUT, seed)
            sides = ~test, test & ~stimulated, test & stimulated, ~test & ~stimulated
            duplicate = cells[~test & stimulated].copy()
        else:
            own = (cells.obs["cell_type"] == case.removeprefix("without ")).to_numpy()
            # its control cells are there to learn from: no others are left
            control = own & ~stimulated
            sides = ~(own & stimulated), control, own & stimulated, control
        parts = (cells[side].copy() for side in sides)
        of = ["stim"], "cell_type", "condition", "cell_type"
        return effects.Task(*parts, *of, duplicate=duplicate)

    return split


def main(
    record: str = "cells/counterfactual",
    description: str | None = __doc__,
    more: Mapping[str, Callable] | None = None,
    **settings: Any,
) -> None:
    """Run all seeds and write the record, with ``more`` methods and ``settings`` of theirs."""
    fold = "scored"
    if "--fold" in sys.argv:
        at = sys.argv.index("--fold")
        fold = sys.argv[at + 1]
        del sys.argv[at : at + 2]
    cells = cells_of(fold)
    types = np.unique(cells.obs["cell_type"].astype(str))
    name = record + ("" if fold == "scored" else f"_{fold}")
    settings |= {
        "data": f"kang both_1556, donor {FOLDS[fold] or '101 and 107'}",
        "held_out": HELD_OUT,
        "settings_chosen_on": "donor 101",
    }
    cases = ["held-out cells", *(f"without {name}" for name in types)]
    effects.main(name, description, splitter(cells), cases, settings, more=more)


if __name__ == "__main__":
    main()
