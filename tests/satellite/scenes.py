"""Made-up scenes."""

from __future__ import annotations

import numpy as np
import xarray as xr

DATES = np.array(["2017-03-01", "2017-03-11", "2017-04-02"], "M8[ns]")
BANDS = ["B02", "B03", "B04", "B08"]


def made_up_scene(height=70, width=60, dtype="float32", dates=DATES) -> xr.Dataset:
    """Three dates and four bands at 10 m, with labels; every value is different."""
    shape = (len(dates), len(BANDS), height, width)
    series = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape)
    labels = np.random.default_rng(1).integers(-1, 4, (height, width))
    return xr.Dataset(
        {
            "series": (("time", "band", "y", "x"), series.astype(dtype)),
            "labels": (("y", "x"), labels),
        },
        {
            "time": dates,
            "band": BANDS,
            "y": 5_100_005.0 - 10 * np.arange(height),
            "x": 500_005.0 + 10 * np.arange(width),
        },
    )
