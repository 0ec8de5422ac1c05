"""Made-up tables of observations."""

from __future__ import annotations

import numpy as np
import pandas as pd


def long_table(n_objects=4, n_points=12, bands=("g",), seed=0) -> pd.DataFrame:
    """One row an observation, in the order of objects, bands and times."""
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(
            {
                "object_id": f"star {i}",
                "band": band,
                "time": 2_450_000.0 + np.sort(rng.uniform(0, 300, n_points)),
                "magnitude": rng.normal(13, 0.3, n_points),
                "error": rng.uniform(0.01, 0.05, n_points),
            }
        )
        for i in range(n_objects)
        for band in bands
    ]
    return pd.concat(parts, ignore_index=True)
