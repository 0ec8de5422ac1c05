"""Magnitudes of observations that were held out: how far off, and how often inside their band.

A fifth of each tested star's observations are hidden; LC-VaDE is trained on other stars and reads
what is left. Beside it: linear interpolation in phase, a Fourier series whose number of terms is
chosen by a criterion (BIC), and an exact Gaussian process of each star with the periodic kernel,
whose three parameters are fitted by its marginal likelihood. To try: ``--seeds 1 --updates 50
--data synthetic --name lightcurves/trial``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.lightcurves.peers import linear_in_phase
from benchmarks.lightcurves.stars import stars
from benchmarks.lightcurves.training import SHORT, trained
from benchmarks.record import add_device, use_device
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import norm

from mixvi.lightcurves import LCVaDE, fold
from mixvi.lightcurves.fourier import fourier_curve, fourier_fit

SETTINGS: dict = SHORT | {
    "n_test": 200,
    "hidden": 0.2,
    "points": [20, 50, 100],
    "coverage": 0.9,
    "terms": [1, 2, 3, 4, 6, 8],
}


Tested = tuple[AnnData, np.ndarray]


def prepared(data: str, seed: int) -> tuple[AnnData, dict[str, Tested]]:
    """Stars to train on; those to test with so many points left of them, and what was hidden."""
    adata, rng = stars(data), np.random.default_rng(seed)
    order = rng.permutation(adata.n_obs)
    test = adata[np.sort(order[: SETTINGS["n_test"]])].copy()
    train = adata[np.sort(order[SETTINGS["n_test"] :])].copy()
    valid = test.obsm["valid"]
    rank = np.where(valid, rng.random(valid.shape), np.inf).argsort(1).argsort(1)
    hidden = valid & (rank < np.ceil(SETTINGS["hidden"] * valid.sum(1))[:, None])
    kept = np.where(valid & ~hidden, rng.random(valid.shape), np.inf).argsort(1).argsort(1)
    tests = {}
    for n in SETTINGS["points"]:
        left = test.copy()
        left.obsm["valid"] = valid & ~hidden & (kept < n)
        tests[f"{n} points"] = left, hidden
    return train, tests


def _figures(test: AnnData, hidden: np.ndarray, mean: np.ndarray, sd: np.ndarray | None) -> dict:
    """Errors over each star's spread, root of their mean square, and the share inside the band."""
    off = (test.obsm["magnitude"] - mean)[hidden]
    spread = np.nanstd(np.where(test.obsm["valid"], test.obsm["magnitude"], np.nan), axis=1)
    relative = off / np.repeat(spread, hidden.sum(1))
    rmse, median = np.sqrt(np.mean(relative**2)), np.median(np.abs(relative))
    found = {"rmse": float(rmse), "median": float(median)}
    if sd is not None:
        factor = norm.ppf(0.5 + SETTINGS["coverage"] / 2)
        found["inside_90"] = float(np.mean(abs(off) < factor * sd[hidden]))
    return found


def _phases(test: AnnData) -> np.ndarray:
    time = np.nan_to_num(test.obsm["time"])
    return fold(time, test.obs["period"].to_numpy())


def lcvade(data: str, seed: int, **options) -> dict:
    """One model of the other stars."""
    train, tests = prepared(data, seed)
    model = trained(LCVaDE, train, seed, SETTINGS["updates"], **SETTINGS["lcvade"] | options)

    def one(test: AnnData, hidden: np.ndarray) -> dict:
        return _figures(test, hidden, *model.interpolate(np.nan_to_num(test.obsm["time"]), test))

    return {name: one(*tested) for name, tested in tests.items()}


def each(method: Callable[[AnnData, np.ndarray], dict], data: str, seed: int) -> dict:
    """Figures of a method without other stars."""
    return {name: method(*tested) for name, tested in prepared(data, seed)[1].items()}


def linear(test: AnnData, hidden: np.ndarray) -> dict:
    """Between neighbours in phase."""
    phase = _phases(test)
    mean = linear_in_phase(phase, test.obsm["magnitude"], test.obsm["valid"], phase)
    return _figures(test, hidden, mean, None)


def fourier(test: AnnData, hidden: np.ndarray) -> dict:
    """A series a star; its scatter is that of its residuals."""
    phase, valid = _phases(test), test.obsm["valid"]
    magnitude, error = test.obsm["magnitude"], test.obsm["error"]
    n = valid.sum(1)
    best, chosen = np.full(len(n), np.inf), None
    for terms in SETTINGS["terms"]:
        mean = fourier_curve(fourier_fit(phase, magnitude, error, valid, terms), phase)
        squared = np.where(valid, (magnitude - mean) ** 2, 0.0).sum(1)
        left = np.maximum(n - 2 * terms - 1, 1)
        bic = n * np.log(squared / n + 1e-12) + (2 * terms + 1) * np.log(n)
        better = (bic < best) & (n > 2 * terms + 1)
        sd = np.broadcast_to(np.sqrt(squared / left)[:, None], mean.shape)
        if chosen is None:
            chosen = [mean.copy(), sd.copy()]
        for array, new in zip(chosen, (mean, sd), strict=True):
            array[better] = new[better]
        best = np.where(better, bic, best)
    return _figures(test, hidden, *chosen)


def exact_process(test: AnnData, hidden: np.ndarray) -> dict:
    """A Gaussian process a star, on all that is left of it."""
    phase = _phases(test)
    mean, sd = np.zeros(phase.shape), np.ones(phase.shape)
    for i in range(test.n_obs):
        known = test.obsm["valid"][i]
        curve = (test.obsm[key][i, known].astype(float) for key in ("magnitude", "error"))
        mean[i], sd[i] = _process(phase[i, known], *curve, phase[i])
    return _figures(test, hidden, mean, sd)


def _process(t: np.ndarray, y: np.ndarray, error: np.ndarray, at: np.ndarray):
    """Mean and deviation of an observation at phases, by the best of a few starts."""
    centre, spread = y.mean(), y.std()
    y, error = (y - centre) / spread, error / spread

    def covariance(a, b, scale, length):
        sine = np.sin(np.pi * (a[:, None] - b[None]))
        return scale**2 * np.exp(-(sine**2) / (2 * np.pi**2 * length**2))

    def factor(scale, length, noise):
        return cho_factor(covariance(t, t, scale, length) + np.diag(error**2 + noise**2))

    def loss(logs: np.ndarray) -> float:
        try:
            lower = factor(*np.exp(logs))
        except np.linalg.LinAlgError:
            return 1e10
        return float(0.5 * y @ cho_solve(lower, y) + np.log(np.diag(lower[0])).sum())

    bounds = [(-3.0, 2.0), (np.log(0.01), np.log(0.5)), (np.log(1e-3), 0.5)]
    starts = [np.log([1.0, length, 0.1]) for length in (0.03, 0.1)]
    best = min((minimize(loss, s, bounds=bounds) for s in starts), key=lambda found: found.fun)
    scale, length, noise = np.exp(best.x)
    lower, across = factor(scale, length, noise), covariance(at, t, scale, length)
    variance = scale**2 - (across * cho_solve(lower, across.T).T).sum(1)
    # of an observation: with the noise that is fitted and an error as these are
    total = np.maximum(variance, 0.0) + noise**2 + np.median(error) ** 2
    return across @ cho_solve(lower, y) * spread + centre, np.sqrt(total) * spread


METHODS = {
    "LC-VaDE": lcvade,
    "LC-VaDE, periodic": partial(lcvade, periodic=True),
    "linear in phase": partial(each, linear),
    "Fourier series": partial(each, fourier),
    "exact process a star": partial(each, exact_process),
}


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=2000, help="of models")
    parser.add_argument("--data", choices=("asas", "debosscher", "synthetic"), default="asas")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--resume", action="store_true", help="keep the runs of the record")
    parser.add_argument("--name", default="lightcurves/interpolation", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS["updates"] = given.updates
    methods = {name: METHODS[name] for name in given.methods}
    compare(
        given.name, methods, [given.data], SETTINGS, given.seeds, given.jobs, resume=given.resume
    )


if __name__ == "__main__":
    main()
