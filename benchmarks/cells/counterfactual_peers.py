"""The cases of ``counterfactual.py`` by peers' own code beside ours: same cells, same seeds.

scGen is pertpy's, 1.4 or later, which installs beside mixvi (``pip install "pertpy[scgen]"``) and
trains as its tutorial does on Kang's cells. It gets the residual rule of our latent shift. A peer
that is not installed is left out.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
from anndata import AnnData
from benchmarks.cells import counterfactual, effects

from mixvi.cells.mean_shift import carried_over
from mixvi.core.model.counterfactual import converted_cells, match_group_means

SCGEN = {"max_epochs": 100, "batch_size": 32, "early_stopping": True, "early_stopping_patience": 25}
# XLA reads it when it starts; the other methods have one thread, too
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def scgen(task: effects.Task, seed: int) -> effects.Predictions:
    """ScGen by pertpy, with and without the residual, which is that of non-negative values."""
    os.environ["XLA_FLAGS"] = ONE_THREAD
    from pertpy.tools import Scgen

    train, cells = task.train.copy(), task.cells.copy()
    control = str(cells.obs[task.condition_key].astype(str).iloc[0])
    Scgen.setup_anndata(train, batch_key=task.condition_key, labels_key=task.labels_key)
    model = Scgen(train)
    model.train(**SCGEN, seed=seed)
    # the cells that it takes the shift from are drawn without a seed
    shifted = {
        to: model.predict(ctrl_key=control, stim_key=to, adata_to_predict=cells)[0].X
        for to in task.targets
    }
    here, training = model.get_decoded_expression(cells), model.get_decoded_expression(train)
    labels = cells.obs[task.labels_key].astype(str).to_numpy()

    def predict(to: str, keep: bool | str) -> AnnData:
        x = shifted[to]
        if keep:
            x = carried_over(cells.X, here, x, (train.X, training), "non-negative", seed)
        if keep == "centred":
            x = match_group_means(x, np.maximum(shifted[to], 0.0), labels, nonnegative=True)
        note = {"source": "pertpy Scgen", "layer": None, "scale": "non-negative"}
        return converted_cells(x, cells, np.arange(len(x)), task.condition_key, to, **note)

    return {
        kind: task.by_target(lambda to, keep=keep: predict(to, keep))
        for kind, keep in ({"no residual": False} | effects.RESIDUALS).items()
    }


# method, its package, and the packages whose versions the record states
PEERS = {"scGen (pertpy)": (scgen, ("pertpy", "jax", "flax"))}


def main() -> None:
    """Run all seeds and write the record."""
    there = {name: of for name, of in PEERS.items() if find_spec(of[1][0])}
    for name in PEERS.keys() - there.keys():
        print(f"{name} is left out: {PEERS[name][1][0]} is not installed.")
    counterfactual.main(
        "cells/counterfactual_peers",
        __doc__,
        {name: method for name, (method, _) in there.items()},
        peers={own: version(own) for _, packages in there.values() for own in packages},
        scgen=SCGEN,
    )


if __name__ == "__main__":
    main()
