"""Series of single pixels with labels of field surveys: the field's default classifiers.

Squares of one degree, or polygons, are split into train, validation and test by the seed; settings
are those of the best accuracy on validation pixels. The 160 samples of Rondonia are left out: they
lie in five squares, of which one would be the test. The models of mixvi.satellite look at
neighbours, of which there are none here, and are not run.
"""

from __future__ import annotations

import argparse

import numpy as np
from benchmarks.compare import compare
from benchmarks.satellite.peers import FOREST, LOGISTIC, QUANTILES, Task, forest, logistic, majority

from mixvi.core.data.keys import UNLABELLED
from mixvi.datasets import mato_grosso_samples, s2_pixel_series, split_blocks

DATA = {
    "MODIS Mato Grosso, 4 bands": lambda: mato_grosso_samples(4),
    "MODIS Mato Grosso, 6 bands": lambda: mato_grosso_samples(6),
    "Sentinel-2 East Africa": lambda: s2_pixel_series("worldcereal_eastafrica_500"),
    "Formosat-2 Toulouse": lambda: s2_pixel_series("formosat2_tempcnn"),
}
SETTINGS = {
    "shares": [0.6, 0.2, 0.2],
    "quantiles": QUANTILES,
    "forest": FOREST,
    "logistic": LOGISTIC,
}


def prepared(case: str, seed: int) -> Task:
    """Pixels of a data set; labels of a part of the blocks are shown."""
    pixels = DATA[case]()
    split = split_blocks(pixels, shares=tuple(SETTINGS["shares"]), seed=seed).to_numpy()
    truth = np.asarray(pixels.obsm["labels"])
    train = (split == "train")[:, None, None]
    pixels.obsm["labels"] = np.where(train, truth, UNLABELLED)
    return Task(pixels, truth, split == "val", split == "test")


METHODS = {
    "majority": lambda case, seed: majority(prepared(case, seed)),
    "logistic regression": lambda case, seed: logistic(prepared(case, seed), seed),
    "random forest": lambda case, seed: forest(prepared(case, seed), seed),
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--name", default="satellite/pixel_series", help="of the record")
    given = parser.parse_args()
    compare(given.name, METHODS, given.cases, SETTINGS, given.seeds, given.jobs)


if __name__ == "__main__":
    main()
