"""Classes of stars from 20, 100 and 500 labels a class, beside a random forest on features.

Half of the stars of each class are tested; of the others so many have a label, and the rest teach
LC-VaDE without one. Periods of ASAS were found in ranges by class: rows without the period are
those to be believed. To try: ``--seeds 1 --updates 50 --data synthetic --labels 20 --name
lightcurves/trial``.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.lightcurves.peers import FOREST, random_forest
from benchmarks.lightcurves.stars import stars
from benchmarks.lightcurves.training import SHORT, trained
from benchmarks.record import add_device, use_device
from sklearn.metrics import accuracy_score, f1_score

from mixvi.lightcurves import LCVaDE

SETTINGS: dict = SHORT | {"forest": FOREST}


def prepared(case: str, seed: int) -> tuple[AnnData, AnnData, np.ndarray]:
    """Stars to train on, to test on, and which of the former show their label."""
    data, n_labels = case.split(", ")
    adata, rng = stars(data), np.random.default_rng(seed)
    labels = adata.obs["label"].to_numpy()
    train, shown = [], []
    for name in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == name))
        half = rows[: len(rows) // 2]
        train.append(half)
        shown.append(np.arange(len(half)) < int(n_labels.split()[0]))
    rows = np.concatenate(train)
    rest = np.setdiff1d(np.arange(adata.n_obs), rows)
    return adata[rows].copy(), adata[rest].copy(), np.concatenate(shown)


def _figures(test: AnnData, predicted: np.ndarray) -> dict[str, float]:
    truth = test.obs["label"].to_numpy()
    return {
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
    }


def lcvade(case: str, seed: int, with_period: bool, **options) -> dict:
    """Labels of some stars, all stars in training."""
    train, test, shown = prepared(case, seed)
    train.obs["known"] = train.obs["label"].astype(object).where(shown, "Unknown")
    options = SETTINGS["lcvade"] | options
    updates = SETTINGS["updates"]
    model = trained(LCVaDE, train, seed, updates, with_period, labels_key="known", **options)
    return _figures(test, model.predict(test).astype(str).to_numpy())


def forest(case: str, seed: int, with_period: bool) -> dict:
    """Labelled stars alone."""
    train, test, shown = prepared(case, seed)
    predicted = random_forest(train[shown].copy(), test, seed, with_period)
    return _figures(test, predicted)


def majority(case: str, seed: int) -> dict:
    """The most frequent class of all training stars, those without a shown label too: the floor."""
    train, test, _ = prepared(case, seed)
    names, counts = np.unique(train.obs["label"].to_numpy(), return_counts=True)
    return _figures(test, np.full(test.n_obs, names[counts.argmax()]))


METHODS = {"majority": majority} | {
    f"{name}{suffix}": partial(method, with_period=with_period)
    for name, method in (("LC-VaDE", lcvade), ("random forest", forest))
    for suffix, with_period in (("", True), (" without period", False))
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=1500, help="of models")
    parser.add_argument("--data", choices=("asas", "debosscher", "synthetic"), default="asas")
    parser.add_argument("--labels", nargs="+", type=int, default=[20, 100, 500])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--resume", action="store_true", help="keep the runs of the record")
    parser.add_argument("--name", default="lightcurves/classification", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS["updates"] = given.updates
    methods = {name: METHODS[name] for name in given.methods}
    cases = [f"{given.data}, {n} labels" for n in given.labels]
    compare(given.name, methods, cases, SETTINGS, given.seeds, given.jobs, resume=given.resume)


if __name__ == "__main__":
    main()
