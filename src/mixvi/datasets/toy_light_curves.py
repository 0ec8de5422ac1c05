"""Made-up light curves of periodic classes, with a survey's cadence and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_choice, check_positive
from mixvi.core.data.light_curves import padded_curves

_N_TERMS = 8
# share of a year in which a star can be seen at night
_SEASON = 0.6
_DAYS_A_YEAR = 365.25
_FAINTER_BANDS = 0.75


@dataclass(frozen=True)
class _Pulsation:
    """Series whose terms fall by a ratio: towards 1 brightness rises fast and falls slowly."""

    periods: tuple[float, float]
    amplitudes: tuple[float, float]
    ratios: tuple[float, float]

    def __call__(self, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n = len(phase)
        ratio = rng.uniform(*self.ratios, n)[:, None, None]
        k = np.arange(1, _N_TERMS + 1)
        shift = 0.1 * rng.normal(size=(n, 1, _N_TERMS)) * (k > 1)
        terms = ratio ** (k - 1) / k * np.sin(2 * np.pi * k * phase[..., None] + shift)
        return rng.uniform(*self.amplitudes, n)[:, None] * _unit(-terms.sum(-1))


@dataclass(frozen=True)
class _Eclipses:
    """Two eclipses half a period apart on the waves of stars that are not round."""

    periods: tuple[float, float]
    depths: tuple[float, float]
    second: tuple[float, float]
    widths: tuple[float, float]
    waves: tuple[float, float]

    def __call__(self, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n = len(phase)
        depth = rng.uniform(*self.depths, n)[:, None]
        second = depth * rng.uniform(*self.second, n)[:, None]
        width = rng.uniform(*self.widths, n)[:, None]
        wave = depth * rng.uniform(*self.waves, n)[:, None]
        centred = (phase + 0.5) % 1.0 - 0.5
        other = phase % 1.0 - 0.5
        dips = depth * _dip(centred / width) + second * _dip(other / width)
        return dips + 0.5 * wave * (1.0 + np.cos(4 * np.pi * phase))


def _dip(x: np.ndarray) -> np.ndarray:
    """An eclipse with a flat middle and steep sides."""
    return np.exp(-(np.abs(x) ** 3))


def _unit(values: np.ndarray) -> np.ndarray:
    """Each row on a range of 1, about half of it up and down."""
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    return (values - low) / (high - low) - 0.5


# periods in days; amplitudes and depths in magnitudes
_CLASSES: dict[str, Callable] = {
    "RRAB": _Pulsation((0.45, 0.75), (0.5, 1.2), (0.7, 0.9)),
    "RRC": _Pulsation((0.25, 0.42), (0.3, 0.55), (0.1, 0.3)),
    "DSCT": _Pulsation((0.05, 0.2), (0.15, 0.6), (0.35, 0.6)),
    "CEP": _Pulsation((2.0, 40.0), (0.4, 1.0), (0.5, 0.75)),
    "EA": _Eclipses((0.8, 8.0), (0.4, 1.5), (0.05, 0.8), (0.02, 0.05), (0.0, 0.05)),
    "EB": _Eclipses((0.4, 4.0), (0.4, 0.9), (0.3, 0.6), (0.06, 0.09), (0.2, 0.4)),
    "EW": _Eclipses((0.25, 0.6), (0.1, 0.3), (0.85, 1.0), (0.07, 0.1), (1.0, 1.6)),
    "MIRA": _Pulsation((120.0, 450.0), (2.5, 5.5), (0.2, 0.45)),
}
SYNTHETIC_CLASSES = tuple(_CLASSES)


def synthetic_light_curves(
    n_per_class: int | dict[str, int] = 100,
    classes: Sequence[str] = SYNTHETIC_CLASSES,
    *,
    n_points: tuple[int, int] = (80, 200),
    n_bands: int = 1,
    years: float = 6.0,
    error: float = 0.02,
    seed: int = 0,
) -> AnnData:
    """Synthetic light curves of periodic variable stars, seen by a made-up survey.

    RR Lyrae of both kinds, delta Scuti, classical Cepheids, detached, semi-detached and contact
    eclipsing stars and Mira-like ones, with made-up shapes, amplitudes and periods in the ranges of
    their classes. Nights come in seasons; errors grow towards faint magnitudes, and magnitudes
    scatter by them.

    Parameters
    ----------
    n_per_class
        Objects a class, or class to number; classes that are not in it are left out.
    classes
        Which of ``"RRAB", "RRC", "DSCT", "CEP", "EA", "EB", "EW", "MIRA"``.
    n_points
        Fewest and most observations of a band.
    n_bands
        Bands; each further one has three quarters of the amplitude, and times of its own.
    years
        How long the survey lasts.
    error
        Standard error of a star of the 13th magnitude.
    seed
        Of all draws.

    Returns
    -------
    AnnData as of :func:`mixvi.datasets.asas_variables`: ``obsm["time"]``, ``obsm["magnitude"]``,
    ``obsm["error"]``, ``obsm["valid"]``, ``obs["label"]``, ``obs["period"]`` and
    ``obs["epoch"]``, a time of phase zero of the made-up shape; ``obsm["true_magnitude"]`` without
    noise; ``uns["synthetic"]`` is True.

    Raises
    ------
    ValueError
        If a class is unknown, or a number unusable.
    """
    check_positive("n_bands", n_bands)
    check_positive("years", years, integer=False)
    check_positive("error", error, integer=False)
    fewest, most = n_points
    check_positive("n_points", fewest)
    if most < fewest:
        raise ValueError(f"n_points must be the fewest and the most, but is {n_points!r}.")
    counts_of = _counts(n_per_class, classes)
    labels = [name for name, count in counts_of.items() for _ in range(count)]
    classes = list(counts_of)
    rng, n = np.random.default_rng(seed), len(labels)
    codes = np.array([classes.index(name) for name in labels])
    period = np.empty(n)
    for k, name in enumerate(classes):
        low, high = np.log(_CLASSES[name].periods)
        period[codes == k] = np.exp(rng.uniform(low, high, int((codes == k).sum())))
    epoch = period * rng.random(n)
    level = rng.uniform(11.0, 15.0, n)
    counts = rng.integers(fewest, most + 1, (n, n_bands))
    shape = (n, n_bands, most)
    time = _nights(shape, years, rng)
    phase = (time - epoch[:, None, None]) / period[:, None, None]
    form = np.empty(shape)
    for k, name in enumerate(classes):
        rows = codes == k
        # one shape in all bands
        drawn = _CLASSES[name](phase[rows].reshape(rows.sum(), -1), rng)
        form[rows] = drawn.reshape(-1, n_bands, most)
    truth = level[:, None, None] + form * _FAINTER_BANDS ** np.arange(n_bands)[:, None]
    errors = error * 10 ** (0.2 * (truth - 13.0)) * rng.lognormal(0.0, 0.2, shape)
    magnitude = truth + errors * rng.normal(size=shape)
    rows, bands, _ = kept = np.nonzero(np.arange(most) < counts[..., None])
    options = {"n_objects": n, "bands": bands, "n_bands": n_bands}
    obsm = padded_curves(rows, time[kept], magnitude[kept], errors[kept], **options)
    obsm["true_magnitude"] = padded_curves(rows, time[kept], truth[kept], errors[kept], **options)[
        "magnitude"
    ]
    obs = pd.DataFrame(
        {"label": pd.Categorical(labels, list(classes)), "period": period, "epoch": epoch},
        index=[f"star_{i}" for i in range(n)],
    )
    uns = {"synthetic": True} | ({"bands": [str(b) for b in range(n_bands)]} if n_bands > 1 else {})
    return AnnData(obs=obs, obsm=obsm, uns=uns)


def _counts(n_per_class: int | dict[str, int], classes: Sequence[str]) -> dict[str, int]:
    """Number of objects by class, after all checks."""
    classes = list(classes)
    for name in [*classes, *(n_per_class if isinstance(n_per_class, dict) else ())]:
        check_choice("classes", name, _CLASSES)
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes={classes} has a name more than once.")
    if isinstance(n_per_class, dict):
        found = {name: n_per_class[name] for name in classes if name in n_per_class}
    else:
        found = dict.fromkeys(classes, n_per_class)
    if not found:
        raise ValueError("There is no class to make curves of: name some in classes.")
    for count in found.values():
        check_positive("n_per_class", count)
    return found


def _nights(shape: tuple[int, ...], years: float, rng: np.random.Generator) -> np.ndarray:
    """Times in days, at night and in season."""
    year = rng.integers(0, max(round(years), 1), shape)
    night = np.floor(rng.uniform(0.0, _SEASON * _DAYS_A_YEAR, shape))
    return year * _DAYS_A_YEAR + night + rng.normal(0.0, 0.12, shape)
